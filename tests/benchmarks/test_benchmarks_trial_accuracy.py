"""The table of whole trials: its rows, and that the same command goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import trial_accuracy as table
from benchmarks.shrinking import shrink_what_is_left_out
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import load_model
from quantizers.network import layer_names, quantize, quantizers_of, set_progress


def test_cells_are_measured_once_and_a_row_says_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "seconds_of_a_step", lambda run: 0.01)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    size = load_data("digits").image_size
    model = load_model("vgg_tiny", classes=10, image_size=size)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    command = ["--data", "digits", "--network", "vgg_tiny", "--weights", str(tmp_path / "weights.pt")]
    command += ["--seconds", "0.1", "--methods", "dkm", "int8", "--out", str(tmp_path / "rows.csv")]
    try:
        assert table.main(command) == 0 and table.main(command) == 0
    finally:
        torch.set_num_threads(threads)
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [row["method"] for row in rows] == ["dkm", "int8"]
    assert len(capsys.readouterr().out.splitlines()) == 2  # the second time nothing was left
    taught, *untrained = rows
    assert int(taught["steps"]) == 10 and taught["kept"].startswith("at ")
    assert all(row["kept"] == "untrained" and row["steps"] == "0" for row in untrained)
    for row in rows:
        lost = float(row["fp32_error"]) + -float(row["difference"])
        assert float(row["error"]) == pytest.approx(lost, abs=1e-4) and float(row["divergence"]) >= 0


def test_plans_of_cells() -> None:
    names = layer_names(load_model("resnet8", classes=10, image_size=(32, 32)))
    plan = table.plan_of(table.Cell("resnet8", "ours", 2, 0.8, 60.0, 0.005, 0), names)
    assert plan.layers[names[0]].bits == plan.layers[names[-1]].bits == 8
    assert {(plan.layers[n].bits, plan.layers[n].zero_share) for n in names[1:-1]} == {(2, 0.8)}
    eight = table.plan_of(table.Cell("resnet8", "int8", 2, None, 60.0, 0.005, 0), names)
    assert {layer.bits for layer in eight.layers.values()} == {8}


@pytest.mark.parametrize("shrink", [0.0, 0.5])
def test_what_a_plan_leaves_out_is_remembered_shrunk(shrink: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1, bias=False))
    plan = Plan({"0": LayerPlan(4, 16, values={"kept_blocks": 0.5})})
    with torch.no_grad():
        model[0].weight[:4] = 0.5
        model[0].weight[4:] = -0.25
    network = quantize(model, plan, torch.randn(4, 8, 3, 3)).train()
    set_progress(network, 1.0)
    shrink_what_is_left_out(network, shrink)
    ((_, _, latent),) = quantizers_of(network)
    network(torch.randn(1, 8, 3, 3))
    assert bool((latent[4:] == 0).all()) and bool((latent[:4] == 0.5).all())
    with torch.no_grad():
        latent[:4] = 0.01  # as if training had made them the smaller ones
    network(torch.randn(1, 8, 3, 3))
    kept, gone = (latent[4:], latent[:4]) if shrink else (latent[:4], latent[4:])
    assert bool((kept == (shrink * -0.25 if shrink else 0.01)).all()) and bool((gone == 0).all())
