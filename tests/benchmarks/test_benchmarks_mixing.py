"""Images with a part of another in them, and norms that training leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.mixing import Frozen, Mixed, pasted
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.settings import TrainSettings
from pipeline.training.stages import Stage
from quantizers.network import layer_names

MEAN, STD = find_network("resnet8").normalization
SETTINGS = TrainSettings(
    epochs=1, batch_size=32, images_per_epoch=96, rebuild_images=64, held_steps=2, seed=3
)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("resnet8", classes=10, image_size=8)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int, width: int) -> Tensor:
    """Images whose pixels all say which image they are of, and where they are."""
    place = torch.arange(height * width).reshape(1, 1, height, width)
    return torch.arange(count).reshape(-1, 1, 1, 1) * height * width + place.expand(count, 3, -1, -1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (5, 23), (1, 1), (2, 3)])
def test_a_rectangle_of_the_next_image_is_in_its_own_place(height: int, width: int) -> None:
    images = numbered(4000, height, width)
    found = pasted(images, drawn(0))
    foreign, area = found != images, height * width
    assert torch.equal(found % area, images % area)  # every pixel is where it was
    assert torch.equal(found[foreign], images.roll(1, 0)[foreign])
    assert torch.equal(foreign, foreign[:, :1].expand_as(foreign))  # all colours alike
    for one in foreign[:200, 0]:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns)  # a rectangle
        for sides, length in ((rows, height), (columns, width)):
            places = sides.nonzero().flatten()
            assert int(places[-1] - places[0]) + 1 == len(places)
            assert max(1, length // 8) <= len(places) <= max(1, length - length // 8)
    if min(height, width) > 1:
        assert foreign[:, 0].any(0).all() and not foreign[:, 0].all(0).any()  # every place, sometimes


def test_the_generator_decides_and_the_images_stay() -> None:
    images = torch.randn(16, 3, 9, 7)
    before = images.clone()
    first = pasted(images, drawn(1))
    assert torch.equal(first, pasted(images, drawn(1))) and not torch.equal(first, pasted(images, drawn(2)))
    assert torch.equal(images, before)


def made(kind: type[Cotuning], model: nn.Module, digits: ImageData) -> Cotuning:
    run = kind(model, Plan.uniform(layer_names(model), LayerPlan(2, 4)), digits, SETTINGS, MEAN, STD)
    run.reach(Stage("rebuilt"))
    return run


def statistics(network: nn.Module) -> list[Tensor]:
    return [
        b.clone() for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))
    ]


def test_a_network_is_trained_and_judged_with_the_norms_that_rebuilding_settled(
    digits: ImageData, model: nn.Module
) -> None:
    usual, frozen, mixed = (made(kind, model, digits) for kind in (Cotuning, Frozen, Mixed))
    settled = statistics(frozen.network)
    for run in (usual, frozen, mixed):
        run.reach(Stage("held"))
        run.reach(Stage("free", 1.0))
    for run in (frozen, mixed):
        assert all(map(torch.equal, settled, statistics(run.network)))
        assert all(map(torch.equal, settled, statistics(run.hardened().network)))
    assert not all(map(torch.equal, settled, statistics(usual.network)))


def test_only_mixed_images_are_mixed(digits: ImageData, model: nn.Module) -> None:
    usual, frozen, mixed = (made(kind, model, digits).batch(0) for kind in (Cotuning, Frozen, Mixed))
    assert torch.equal(usual[0], frozen[0]) and not torch.equal(usual[0], mixed[0])
    assert torch.equal(usual[1], mixed[1])
