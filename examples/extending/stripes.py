"""A model with a data set: a small network that tells upright stripes from lying ones.

python -m pipeline.search --model stripes:network --data stripes:images --modules examples/extending
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.datasets import ImageData
from pipeline.datasets.base import Size, halved
from pipeline.datasets.images import ArrayImages

SIDE = 16


def network(num_classes: int) -> nn.Module:
    """Three convolutions, an average over all pixels, a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)),
    )


network.image_size = SIDE  # type: ignore[attr-defined]  # without these two, ImageNet's are taken
network.normalization = ((0.5,) * 3, (0.25,) * 3)  # type: ignore[attr-defined]


def images(image_size: Size | None) -> ImageData:
    """200 images to learn from, 120 to judge by; of what size is up to whoever asks."""
    size = image_size or (SIDE, SIDE)
    train, validation = (ArrayImages(*striped(count, seed), size) for count, seed in ((200, 0), (120, 1)))
    return halved("stripes", ("upright", "lying"), train, validation, "none")


def striped(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy waves across each image: pixels uint8 [count, SIDE, SIDE, 3], and whether they lie."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    length = 1 + torch.rand(count, 1, 1, generator=chance)
    phase = 6.28 * torch.rand(count, 1, 1, generator=chance)
    wave = torch.sin(torch.arange(SIDE) / length + phase).expand(-1, SIDE, -1)
    wave = torch.where(labels[:, None, None] == 1, wave.transpose(1, 2), wave)
    noisy = 128 + 60 * wave + 30 * torch.randn(count, SIDE, SIDE, generator=chance)
    return noisy.clamp(0, 255).to(torch.uint8)[..., None].expand(-1, -1, -1, 3).contiguous(), labels
