"""The benchmark of the kernels: its rows, its roofline and its table of results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks import arm_kernels
from benchmarks.untrained import SETTINGS, untrained
from deploy_arm.target.toolchain import complete_route


@pytest.fixture(autouse=True)
def _needs_tools() -> None:
    if complete_route() is None:
        pytest.skip("no tool chain for ARM on this machine")


def test_rows_and_rooflines_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--models",
        "resnet8",
        "--settings",
        "4bit",
        "--cores",
        "a76",
        "x2",
        "--layers",
        "--format",
        "json",
    ]
    assert arm_kernels.main(arguments) == 0
    slow, fast = json.loads(capsys.readouterr().out)
    assert slow["source"].startswith("modelled") and slow["core"] == "a76"
    for row in (slow, fast):
        assert 0 < row["low_cycles_per_mac"] <= row["cycles_per_mac"] <= row["high_cycles_per_mac"]
        convolutions = [layer for layer in row["layers"] if layer["megamacs"]]
        assert sum(layer["megamacs"] for layer in convolutions) == pytest.approx(row["megamacs"], abs=0.1)
        assert sum(layer["share_of_time"] for layer in row["layers"]) == pytest.approx(1, abs=0.01)
        for layer in convolutions:  # nothing is faster than the vector units allow
            assert layer["instructions_per_mac"] >= layer["least_instructions_per_mac"]
            assert 0 < layer["share_of_peak"] <= 1
    # Twice the products per instruction, where the processor has them.
    assert slow["layers"][1]["least_instructions_per_mac"] == 1 / 16
    assert fast["layers"][1]["least_instructions_per_mac"] == 1 / 32
    assert fast["instructions_per_mac"] < slow["instructions_per_mac"]


def test_records_replace_those_of_the_same_label(tmp_path: Path) -> None:
    def row(label: str, core: str, ms: float) -> arm_kernels.Row:
        return arm_kernels.Row(label, "resnet8", "4bit", core, 1.0, 0.1, 0.1, 0.2, 0.3, ms, "modelled")

    path = tmp_path / "results" / "table.csv"
    arm_kernels.record([row("before", "a76", 2.0), row("before", "x1", 1.0)], path)
    arm_kernels.record([row("after", "a76", 1.0), row("before", "x1", 3.0)], path)
    with path.open(newline="") as file:
        found = [(line["label"], line["core"], float(line["ms"])) for line in csv.DictReader(file)]
    assert sorted(found) == [("after", "a76", 1.0), ("before", "a76", 2.0), ("before", "x1", 3.0)]


def test_unknown_models_are_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert arm_kernels.main(["--models", "resnet21"]) == 2
    assert "resnet21" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_blob() -> None:
    network = untrained("resnet8", SETTINGS["2bit-80"])
    assert network.image.shape == (32, 32, 3) and len(network.layers) > 10
    assert untrained("resnet8", SETTINGS["2bit-80"]).blob("a76") == network.blob("a76")
