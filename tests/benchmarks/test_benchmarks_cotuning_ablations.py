"""The ablation table: what a changed choice changes, and that finished rows are passed over."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import cotuning_ablations as table
from benchmarks.cotuning_table import Cell
from foundation.command import main_guard
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.digits import read_digits
from pipeline.datasets.images import ArrayImages
from pipeline.networks.registry import load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.settings import TrainSettings
from quantizers import QUANTIZERS, layer_names
from quantizers.weights.gaussian_mixture import GaussianMixture

NAMES = ["first", "middle", "last"]
CELL = Cell("resnet8", "ours", 2, 8, None, 1.0, 0.01, 1.0, 4.0, 0, False, "cpu", "digits")


def test_every_choice_gives_a_valid_plan_that_its_quantizer_takes() -> None:
    plans = {}
    for name, ablation in table.ABLATIONS.items():
        plans[name] = plan = table.plan_for(ablation, CELL, NAMES)
        settings = TrainSettings(**ablation.settings, options=ablation.options)
        options = QUANTIZERS[plan.quantizer].options_for(plan, settings.of_quantizer())
        for key, value in ablation.options.items():
            assert getattr(options, key) == value
    assert plans["first and last layer 2 bits"].layers["first"].bits == 2
    assert plans["as it stands"].layers["first"].bits == 8
    assert plans["zeros 70 %"].layers["middle"].zero_share == 0.7
    assert plans["soft weights, temperature on a cosine"].temperature.shape == "cosine"


def test_nearest_mean_is_the_nearest() -> None:
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def mixture(sort: type[GaussianMixture], form: str) -> GaussianMixture:
        made = sort.for_layer(weight, LayerPlan(2, 4), sort.Options(form=form), initialise=True)
        assert isinstance(made, GaussianMixture)
        return made

    unequal = mixture(GaussianMixture, "posterior")
    with torch.no_grad():
        unequal.prior[1] += 3.0
    nearest = mixture(table.NearestMean, "straight")
    nearest.load_state_dict(unequal.state_dict())
    chosen = nearest.means()[nearest.regions().assign(weight)]
    torch.testing.assert_close(nearest.train()(weight), chosen)  # training sees the same
    assert torch.equal(torch.from_numpy(nearest.codebook(weight).dequantize()).sign(), chosen.detach().sign())
    distance = (weight[:, None] - unequal.means()).abs()
    torch.testing.assert_close((weight - chosen).abs(), distance.min(1).values)
    assert not torch.equal(unequal.means()[unequal.regions().assign(weight)], chosen)


def test_a_training_changes_what_it_says() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    pixels = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8)
    images = ArrayImages(pixels, torch.arange(64) % 10)
    data = ImageData("noise", tuple("0123456789"), (8, 8), images, images, images, "crop")
    settings = TrainSettings(
        epochs=1, batch_size=16, distillation=0.0, calibration_images=32, batch_norm_images=32
    )
    plan = Plan.uniform(layer_names(model), LayerPlan(2, 4))

    def made(training: type[Cotuning]) -> Cotuning:
        return training(model, plan, data, settings, [0.5] * 3, [0.25] * 3)

    decays = {group["weight_decay"] for group in made(table.DecayOnEverything).optimizer.param_groups}
    assert decays == {settings.weight_decay} and len(made(Cotuning).optimizer.param_groups) == 4
    refitted, kept = made(Cotuning), made(table.NormsAsTheyAre)
    assert torch.equal(mean_of(kept.hardened().network), mean_of(kept.network))
    assert not torch.equal(mean_of(refitted.hardened().network), mean_of(refitted.network))
    plain = made(table.NormsOnPlainImages)
    assert not torch.equal(mean_of(plain.hardened().network), mean_of(refitted.hardened().network))


def mean_of(network: nn.Module) -> torch.Tensor:
    """The running mean of its batch-norm."""
    found = network.get_submodule("1").running_mean
    assert isinstance(found, torch.Tensor)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, (grey, labels) = tmp_path_factory.mktemp("ablations"), read_digits()
    pixels = np.repeat(np.rint(grey * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    x, y = pixels[:600], labels.astype(np.int64)[:600]
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
