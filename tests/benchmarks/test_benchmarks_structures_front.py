"""Fronts with and without structures: who is compared with whom."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks import structures_front
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan


def rows(*points: tuple[str, float, float]) -> list[dict[str, str]]:
    return [{"run": run, "error": str(error), "x2_ms": str(latency)} for run, error, latency in points]


def test_a_point_is_compared_with_the_fastest_that_loses_at_most_half_a_point_more() -> None:
    with_, without = "programme+dimensions", "programme"
    found = structures_front.compared(
        rows(
            (with_, 0.10, 4.0), (with_, 0.11, 5.0), (with_, 0.08, 6.0), (with_, 0.05, 7.0),
            (without, 0.1049, 6.0), (without, 0.1051, 4.5), (without, 0.09, 8.0), (without, 0.084, 9.0),
        ),
        "x2",
    )  # fmt: skip
    # What is dominated is no point of the front, and what nobody comes near in error is not compared.
    assert [(each.error, each.other_error, each.times) for each in found] == [
        (0.10, 0.1049, 1.5),
        (0.08, 0.084, 1.5),
    ]


def test_trials_are_those_that_each_run_asked_for(tmp_path: Path) -> None:
    plain, blocks = (Plan({"conv": LayerPlan(4, 16, values=values)}) for values in ({}, {"kept_blocks": 0.5}))
    with (tmp_path / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["plan", "error", "report_error", "latency_ms", "size_bytes"])
        writer.writerow([plain.to_json(), 0.1, 0.11, 3.0, 900])
        writer.writerow([blocks.to_json(), 0.1, 0.112, 2.0, 500])
    (tmp_path / "runs").mkdir()
    for run, plans in (("programme", [plain]), ("programme+dimensions", [plain, blocks])):
        ended = [{"plan": plan.hash, "status": "finished"} for plan in plans] + [
            {"plan": "gone", "status": "finished"}
        ]
        (tmp_path / "runs" / f"{run}.0.10.json").write_text(json.dumps(ended))
    found = structures_front.collected(tmp_path, lambda plan: 2.0 if plan == plain else 1.5)
    # Sorted by the files' names.
    assert [(row["run"], row["plan"]) for row in found] == [
        ("programme+dimensions", plain.hash), ("programme+dimensions", blocks.hash), ("programme", plain.hash)
    ]  # fmt: skip
    assert [row["x2_ms"] for row in found] == ["2", "1.5", "2"]
    assert [each.times for each in structures_front.compared(found, "a76")] == [1.5, 1.0]


def test_another_folder_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trials\.csv.*name the folder"):
        structures_front.collected(tmp_path, lambda plan: 1.0)
