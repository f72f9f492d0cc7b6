"""A data set that is no folder of images: three shapes in any colour, drawn when they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.datasets import ImageData
from pipeline.datasets.base import Size, halved
from pipeline.datasets.images import ArrayImages

CLASSES = ("disc", "square", "cross")
SIDE = 24


def shapes(image_size: Size | None) -> ImageData:
    """What ``--data shape_images:shapes`` calls: 300 images teach; of 240 others half guide, half report."""
    train, validation = (ArrayImages(*drawn(count, seed), image_size) for count, seed in ((300, 0), (240, 1)))
    return halved("shapes", CLASSES, train, validation, "none")


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [count, SIDE, SIDE, 3] and labels int64 [count]."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    middle = SIDE / 2 + 6 * torch.rand(2, count, 1, 1, generator=chance) - 3
    radius = 5 + 4 * torch.rand(count, 1, 1, generator=chance)
    places = torch.arange(SIDE)
    down, across = (places[:, None] - middle[0]).abs(), (places[None, :] - middle[1]).abs()
    square = (down < radius) & (across < radius)
    thin = radius / 4
    kinds = (down**2 + across**2 < radius**2, square, square & ((down < thin) | (across < thin)))
    inside = torch.stack(kinds)[labels, torch.arange(count)][..., None]
    ink, paper = torch.rand(2, count, 1, 1, 3, generator=chance) * 128 + torch.tensor([128.0, 0.0]).view(
        2, 1, 1, 1, 1
    )
    noise = 20 * torch.randn(count, SIDE, SIDE, 3, generator=chance)
    return (torch.where(inside, ink, paper) + noise).clamp(0, 255).to(torch.uint8), labels
