"""The table of what each part of rebuilding is worth: its rows, and that the same command goes on."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import rebuilding
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import load_model
from quantizers.calibration.reconstruction import Reconstruction


def test_every_choice_changes_one_thing_that_there_is() -> None:
    as_it_is = {"images": rebuilding.IMAGES, "ends": rebuilding.ENDS, **dataclasses.asdict(Reconstruction())}
    first, *changed = rebuilding.CHOICES.values()
    assert first == {}
    for choice in changed:
        [(name, value)] = choice.items()
        assert as_it_is[name] != value, name


def test_rows_are_made_once_and_what_a_choice_changes_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "IMAGES", 64)
    threads = torch.get_num_threads()
    size = load_data("digits").image_size
    torch.save(load_model("vgg_tiny", classes=10, image_size=size).state_dict(), tmp_path / "weights.pt")
    command = ["--data", "digits", "--network", "vgg_tiny", "--weights", str(tmp_path / "weights.pt")]
    command += ["--bits", "2", "--out", str(tmp_path / "rows.csv"), "--choices"]
    command += ["as it stands", "levels to the nearest", "first and last layer as planned"]
    try:
        assert rebuilding.main(command) == 0 and rebuilding.main(command) == 0
    finally:
        torch.set_num_threads(threads)
    assert len(capsys.readouterr().out.splitlines()) == 3  # the second time nothing was left
    rows = {row["choice"]: row for row in csv.DictReader((tmp_path / "rows.csv").open())}
    solved, nearest, ends = (float(row["divergence"]) for row in rows.values())
    assert 0 < solved < nearest and solved < ends
    for row in rows.values():
        assert int(row["images"]) == 599 and float(row["zeros"]) < 0.5 and float(row["seconds"]) > 0
