"""Networks of torchvision compile, and their programs are exact; the table of all of them says so too."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.arm_coverage import DETECTORS, RESULT, cover, is_transformer, main
from pipeline.networks.from_torchvision import torchvision_names

# What these have and others have not; resnet, mobilenet_v2 and squeezenet are in test_compiler_networks.py, the layer norms
# of convnext in test_runtime_exact.py.
QUICK = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "fastestdet")
FAMILIES = {
    *("alexnet", "convnext", "densenet", "efficientnet", "efficientnet_v2", "googlenet", "inception_v3"),
    *(
        "mnasnet",
        "mobilenet_v2",
        "mobilenet_v3",
        "regnet_x",
        "regnet_y",
        "resnet",
        "resnext",
        "shufflenet_v2",
    ),
    *("squeezenet", "vgg", "wide_resnet"),
}


@pytest.mark.parametrize("name", [*QUICK, pytest.param("regnet_y_400mf", marks=pytest.mark.slow)])
def test_networks_are_exact(name: str) -> None:
    row = cover(name, images=1)
    assert (row.compiles, row.exact, row.missing_operator) == ("yes", 1, "")
    assert row.operations > 30 and row.blob_bytes > row.parameters


def test_the_table_names_every_network(tmp_path: Path) -> None:
    """The committed table, made by ``python -m benchmarks.arm_coverage``: nothing convolutional is missing."""
    with RESULT.open(encoding="utf-8", newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*torchvision_names(), *DETECTORS}
    for name, row in rows.items():
        if is_transformer(name):
            assert row["covered"] == "not covered" and row["missing_operator"]
        else:
            assert name in DETECTORS or any(name.startswith(family) for family in FAMILIES)
            assert row["covered"] == "yes" and row["exact"] == row["images"] != "0", name
            assert row["different"] == row["images"], name  # the images' results are not all alike


def test_unknown_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "squeezenet9", "--out", str(tmp_path / "table.csv")]) == 2
    assert "squeezenet" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_adds_to_a_table(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert main(["--models", "squeezenet1_1", "--images", "1", "--out", str(out)]) == 0
    assert main(["--models", "swin_t", "--images", "1", "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert rows["squeezenet1_1"]["covered"] == "yes"
    assert rows["swin_t"]["covered"] == "not covered" and rows["swin_t"]["layer"].startswith("features.1.0")
