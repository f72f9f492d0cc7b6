"""The picture of the accuracy table: what it averages, what it leaves out, and that everything drawn lies inside."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import cotuning_plot as plot
from benchmarks.rows import read
from foundation.command import main_guard
from foundation.errors import UserError

RESULTS = Path(plot.__file__).parent / "results" / "cotuning_accuracy.csv"


def row(
    method: str,
    size: int,
    top1: float,
    seed: int = 0,
    zeros: str = "",
    epochs: str = "1",
    bfloat16: str = "False",
) -> dict[str, str]:
    return {
        "network": "net<1>", "method": method, "bytes": str(size), "report_top1": str(top1), "seed": str(seed),
        "fp32_report_top1": "0.95", "zero_share": zeros, "activation_bits": "8", "epochs": epochs,
        "distillation": "1", "distillation_temperature": "4", "bfloat16": bfloat16,
    }  # fmt: skip


ROWS = [
    row("ours", 1000, 0.90), row("ours", 1000, 0.92, seed=1), row("ours", 2000, 0.94),
    row("ours", 1000, 0.10, zeros="0.8"), row("kmeans", 1000, 0.2, epochs="0"), row("int8", 4000, 0.95, epochs="0"),
]  # fmt: skip


def test_a_point_is_the_mean_over_seeds_without_forced_zeros() -> None:
    ((_, lines),) = plot.panels(ROWS).items()
    first, second = lines["ours"]
    assert (first.bytes, second.bytes) == (1000, 2000)
    assert first.error == pytest.approx(9) and (first.low, first.high) == pytest.approx((8, 10))
    assert [point.bytes for point in lines["int8"]] == [4000]


def test_arithmetics_are_not_averaged() -> None:
    other = [row("ours", size, 0.5, bfloat16="True") for size in (1000, 2000)]
    found = plot.panels([*ROWS, *other])
    assert [lines["ours"][0].error for lines in found.values()] == pytest.approx([9, 50])
    assert ["float32" in panel.title() for panel in found] == [True, False]


def test_everything_lies_inside_and_names_are_escaped() -> None:
    picture = plot.chart(ROWS)
    root = ET.fromstring(picture)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    circles = [
        (float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter() if c.tag.endswith("circle")
    ]
    assert len(circles) == 4 + 3  # points, and the legend's
    assert all(0 < x < width and 0 < y < height for x, y in circles)
    assert "net&lt;1&gt;" in picture and "kmeans 80.0" in picture


def test_the_kept_table_is_drawn_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    assert plot.chart(read(RESULTS)).count("<circle") > 20
    with pytest.raises(UserError, match="two sizes"):
        plot.chart(ROWS[:1])
    assert main_guard(lambda: plot.main([str(tmp_path / "none.csv")])) == 2
