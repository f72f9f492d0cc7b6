"""CIFAR-10 as its authors hand it out."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.datasets.base import ImageData, Size, halved, needed
from pipeline.datasets.cifar_files import CLASSES, read_cifar10
from pipeline.datasets.images import ArrayImages


def cifar10(place: str, size: Size | None, fallback: Size) -> ImageData:
    """CIFAR-10 in its standard layout, binary or python version; the test images validate."""
    parts = read_cifar10(Path(needed("cifar10:DIR", place)).expanduser())
    train, validation = (ArrayImages(torch.from_numpy(x), torch.from_numpy(y), size) for x, y in parts)
    return halved(f"cifar10:{place}", CLASSES, train, validation, "crop_flip")
