"""Crops, half of them mirrored."""

from __future__ import annotations

from torch import Generator, Tensor

from pipeline.datasets.augmentations.crop import shifted


def crop_flip(pixels: Tensor, generator: Generator) -> Tensor:
    """A randomly shifted copy of each image, half of the time mirrored."""
    return shifted(pixels, generator, mirrored=True)
