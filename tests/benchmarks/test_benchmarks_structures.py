"""Structures of zeros side by side: which of them nobody else matches, among cells of equal training."""

from __future__ import annotations

import csv

from benchmarks.structures import CHOICES, CORES, JUDGED, RESULT, StructureCell, fronts
from foundation.plan import LayerPlan


def row(error: str, a76: float, x2: float, start: str = "directly", steps: int = 60) -> dict[str, str]:
    return {
        "network": "resnet20", "start": start, "steps": str(steps), "seed": "0",
        "error": error, "a76_ms": str(a76), "x2_ms": str(x2),
    }  # fmt: skip


def test_a_front_is_of_one_core_and_of_equal_training() -> None:
    rows = [
        row("0.1", 0.7, 0.2),
        row("0.1", 0.6, 0.3),  # faster than the first on one core alone
        row("0.2", 0.6, 0.25),  # no better than the second on that core, nor than the first on the other
        row("0.2", 0.4, 0.1),
        row("", 0.1, 0.1, start="untrained"),
        row("0.3", 9.0, 9.0, steps=100),
    ]
    assert fronts(rows) == ["x2", "a76", "", "a76 x2", "", "a76 x2"]


def test_its_cells_are_plans_and_its_rows_are_complete() -> None:
    for bits, zeros, blocks, channels, taps in CHOICES:
        plan = StructureCell("resnet20", bits, zeros, blocks, channels, taps, "untrained", 0, 0).plan
        assert isinstance(plan, LayerPlan) and (plan.kept_blocks, plan.kept_channels) == (blocks, channels)
        assert str(plan["taps"]) == str(taps)
    with RESULT.open(newline="") as file:
        found = list(csv.DictReader(file))
    costs = [row for row in found if (row["network"], row["start"]) == ("resnet20", "untrained")]
    assert len(costs) == len(CHOICES) and all(row[f"{core}_ms"] for row in found for core in CORES)
    assert all(bool(row[name]) == (row["start"] != "untrained") for row in found for name in JUDGED)
