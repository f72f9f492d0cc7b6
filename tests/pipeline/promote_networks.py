"""A network small enough to be trained within a test, named by the tests as ``promote_networks:tiny``."""

from __future__ import annotations

from torch import nn


def tiny(classes: int = 10, image_size: tuple[int, int] = (8, 8)) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, classes),
    )  # fmt: skip
