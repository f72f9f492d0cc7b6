"""The ablation table: what a changed choice changes, and that finished rows are passed over."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks import cotuning_ablations as table
from benchmarks.cotuning_table import Cell
from foundation.command import main_guard
from foundation.plan import LayerPlan, TemperatureSchedule
from pipeline.networks.registry import load_model
from pipeline.training import cotuning
from quantizers import network
from quantizers.mixture.quantizer import GaussianMixture

NAMES = ["first", "middle", "last"]
CELL = Cell("resnet8", "ours", 2, 8, None, 1.0, 0.01, 1.0, 4.0, 0, False, "cpu", "digits")


def test_every_choice_gives_a_valid_plan_and_is_undone() -> None:
    before = (
        network.MIXTURE_RATE,
        cotuning.parameter_groups,
        GaussianMixture.regions,
        GaussianMixture._revive,
    )
    plans = {}
    for name, ablation in table.ABLATIONS.items():
        with ablation.patch():
            plans[name] = table.plan_for(ablation, CELL, NAMES)
    after = (
        network.MIXTURE_RATE,
        cotuning.parameter_groups,
        GaussianMixture.regions,
        GaussianMixture._revive,
    )
    assert before == after
    assert plans["first and last layer 2 bits"].layers["first"].bits == 2
    assert plans["as it stands"].layers["first"].bits == 8
    assert plans["zeros 70 %"].layers["middle"].zero_share == 0.7
    assert plans["soft weights, temperature on a cosine"].temperature.shape == "cosine"


def test_nearest_mean_is_the_nearest() -> None:
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    schedule = TemperatureSchedule()
    unequal = GaussianMixture.for_layer(weight, LayerPlan(2, 4), schedule, "posterior", initialise=True)
    with torch.no_grad():
        unequal.prior[1] += 3.0
    with table.ABLATIONS["nearest mean instead of most probable"].patch():
        chosen = unequal.means()[unequal.regions().assign(weight)]
        straight = GaussianMixture.for_layer(weight, LayerPlan(2, 4), schedule, "straight", initialise=False)
        straight.load_state_dict(unequal.state_dict())
        torch.testing.assert_close(straight.train()(weight), chosen)  # training sees the same
    distance = (weight[:, None] - unequal.means()).abs()
    torch.testing.assert_close((weight - chosen).abs(), distance.min(1).values)
    assert not torch.equal(unequal.means()[unequal.regions().assign(weight)], chosen)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, digits = tmp_path_factory.mktemp("ablations"), load_digits()
    pixels = np.repeat(np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    x, y = pixels[:600], digits.target.astype(np.int64)[:600]
    np.savez(folder / "digits.npz", x_train=x[:300], y_train=y[:300], x_val=x[300:], y_val=y[300:])
    torch.save(load_model("resnet8", classes=10, image_size=(8, 8)).state_dict(), folder / "weights.pt")
    return folder


def test_rows_are_made_once(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    command = [
        "--data", f"npz:{place / 'digits.npz'}", "--network", "resnet8", "--weights", str(place / "weights.pt"),
        "--epochs", "1", "--out", str(out),
        "--choices", "as it stands", "mixtures fixed after k-means", "zeros 80 %",
    ]  # fmt: skip
    assert table.main(command) == 0
    capsys.readouterr()
    assert table.main(command) == 0
    assert capsys.readouterr().out == ""
    with out.open(newline="") as file:
        rows = {row["choice"]: row for row in csv.DictReader(file)}
    assert len(rows) == 3
    assert float(rows["zeros 80 %"]["zeros"]) > float(rows["as it stands"]["zeros"])
    assert rows["as it stands"]["divergence"] != rows["mixtures fixed after k-means"]["divergence"]


def test_an_unknown_choice_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data", "digits", "--weights", "none", "--choices", "magic"]
    assert main_guard(lambda: table.main(command)) == 2
    assert "'magic'" in capsys.readouterr().err
