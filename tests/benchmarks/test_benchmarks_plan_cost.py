"""The table of foreseen costs: what the code makes of its estimates, and how near that came."""

from __future__ import annotations

import csv
from collections import defaultdict

import pytest

from benchmarks.plan_cost import NETWORKS, RESULT, main
from foundation.errors import UserError
from pipeline.candidate.cost_fit import CostFit


def networks() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    with RESULT.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["network"]].append(row)
    return found


def test_what_was_foreseen_is_what_the_code_foresees() -> None:
    for rows in networks().values():
        seen: list[tuple[float, float]] = []
        for row in rows:
            estimate, real = float(row["estimate_ms"]), float(row["real_ms"])
            told = CostFit.of(seen).foresee(estimate)
            assert float(row["foreseen_ms"]) == pytest.approx(told.point, rel=1e-3)
            assert float(row["ms_off"]) == pytest.approx(100 * (told.point / real - 1), abs=0.1)
            assert (row["inside"] == "True") == (told.low <= real <= told.high)
            seen.append((estimate, real))


def test_once_8_bits_are_profiled_costs_are_known_nearly() -> None:
    found = networks()
    assert found.keys() == NETWORKS.keys()
    for rows in found.values():
        assert rows[0]["plan"] == "8 bits" and len(rows) >= 9
        assert max(abs(float(row["ms_off"])) for row in rows[1:]) < 5
        assert max(abs(float(row["bytes_off"])) for row in rows[1:]) < 3.5
        assert sum(row["inside"] == "True" for row in rows) >= 0.9 * len(rows)


@pytest.mark.parametrize(
    ("words", "message"), [(["--networks", "lenet"], "lenet"), (["--plans", "-1"], "--plans -1")]
)
def test_mistakes_are_a_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words)
