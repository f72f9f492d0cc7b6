"""``compile_network``: what a person hands it wrongly is told before anything is compiled or run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.compiled import CompiledNetwork, compile_network
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.network import harden, quantize

MEAN, STD = (0.5,) * 3, (0.25,) * 3


def network() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    return quantize(model, Plan.uniform(("0", "3"), LayerPlan(8)), torch.randn(16, 3, 8, 8))


@pytest.fixture(scope="module")
def compiled() -> CompiledNetwork:
    return compile_network(harden(network()), (3, 8, 8), MEAN, STD)


class Unused:
    """A device that nobody is to ask."""


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 3, 8, 8), np.uint8),  # PyTorch's order: whole images' worth of bytes
        np.zeros((2, 8, 8, 6), np.uint8),
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        torch.zeros((4, 8, 8, 3), dtype=torch.uint8),
        None,
        "photo.png",
    ],
    ids=lambda images: f"{type(images).__name__} {getattr(images, 'shape', '')}",
)
def test_images_of_another_shape_or_kind_are_not_answered(compiled: CompiledNetwork, images: Any) -> None:
    device: Any = Unused()
    with pytest.raises(UserError, match=r"give a NumPy array, uint8 \[N, 8, 8, 3\]"):
        compiled.run(images, device)


def test_neither_is_an_image_profiled_that_it_cannot_take(compiled: CompiledNetwork) -> None:
    device: Any = Unused()
    for image in (np.zeros((9, 9, 3), np.uint8), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(UserError, match="give a NumPy array"):
            compiled.profile(image, device)
    with pytest.raises(UserError, match="no image"):
        compiled.run(np.zeros((0, 8, 8, 3), np.uint8), device)


def test_what_is_not_hardened_is_told() -> None:
    for given in (network(), nn.Conv2d(3, 8, 3)):
        with pytest.raises(UserError, match="is not a hardened network: give what"):
            compile_network(given, (3, 8, 8), MEAN, STD)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (MEAN, (0.0, 1.0, 1.0)),
        (MEAN, (float("nan"), 1.0, 1.0)),
        (MEAN, (-1.0, 1.0, 1.0)),
        ((float("inf"), 0.0, 0.0), STD),
    ],
)
def test_a_normalization_that_there_cannot_be_is_told(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(UserError, match="give finite means and deviations above 0"):
        compile_network(harden(network()), (3, 8, 8), mean, std)
