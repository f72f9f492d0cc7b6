"""The table of what each part of a trial is worth: its rows, and that the same command goes on."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import trial_accuracy, trial_parts
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import load_model
from pipeline.training.settings import TrainSettings
from quantizers.network import quantize, quantizers_of


def test_every_part_is_something_else_than_a_trial_as_it_stands() -> None:
    first, *others = trial_parts.PARTS.values()
    assert first == ("ours", trial_accuracy.TrialPart())
    usual = TrainSettings(learning_rate=trial_parts.RATE)
    for name, (method, part) in zip(list(trial_parts.PARTS)[1:], others, strict=True):
        same = all(getattr(usual, key) == value for key, value in part.settings.items())
        assert method != "ours" or part.change or part.plan or part.cotuning or part.ends_alike or not same, (
            name
        )


def test_what_is_fixed_does_not_learn() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    network = quantize(model, Plan({"0": LayerPlan(2, 4)}), torch.randn(2, 3, 8, 8))
    trial_parts.fix("raw_scale", "prior")(network)
    ((_, mixture, _),) = quantizers_of(network)
    learns = {name: parameter.requires_grad for name, parameter in mixture.named_parameters()}
    assert learns == {"mean": True, "raw_scale": False, "prior": False}


def test_rows_are_made_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["rebuilt alone", "then held alone", "scales and priors fixed"]
    for name in asked:  # fewer images than a trial rebuilds from
        method, part = trial_parts.PARTS[name]
        few = {"rebuild_images": 32, "batch_norm_images": 32}
        quick = dataclasses.replace(part, settings={**part.settings, **few})
        monkeypatch.setitem(trial_parts.PARTS, name, (method, quick))
    threads = torch.get_num_threads()
    size = load_data("digits").image_size
    torch.save(load_model("vgg_tiny", classes=10, image_size=size).state_dict(), tmp_path / "weights.pt")
    command = ["--data", "digits", "--network", "vgg_tiny", "--weights", str(tmp_path / "weights.pt")]
    command += ["--steps", "4", "--seeds", "0", "--out", str(tmp_path / "rows.csv"), "--parts"]
    command += asked
    try:
        assert trial_parts.main(command) == 0 and trial_parts.main(command) == 0
    finally:
        torch.set_num_threads(threads)
    assert len(capsys.readouterr().out.splitlines()) == 3  # the second time nothing was left
    rows = {row["part"]: row for row in csv.DictReader((tmp_path / "rows.csv").open())}
    assert rows["rebuilt alone"]["kept"] == "rebuilt" and rows["then held alone"]["flipped"] == "0"
