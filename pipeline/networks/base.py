"""What a network is before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.datasets.normalization import IMAGENET, Normalization, Statistics

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSpec:
    """A network that can be built.

    Attributes:
        build: gives it with random weights, for so many classes and images of (height, width).
        image_size: height and width of the images that it was designed for, in pixels.
        normalization: mean and standard deviation of each channel, of pixels in 0..1, that its input is normalized with.
        detects: its output are boxes (see ``pipeline.detection``), not one number per class; its images' channels are blue,
            green, red.
        name: as it was typed; empty until it is found by a name.
        declared: who says its normalization, in words.
        published: torchvision knows weights of it by name.
    """

    build: Callable[[int, tuple[int, int]], nn.Module]
    image_size: int
    normalization: Normalization = IMAGENET
    detects: bool = False
    name: str = ""
    declared: str = ""
    published: bool = False

    def normalized(
        self, mean: Statistics | None = None, std: Statistics | None = None
    ) -> tuple[Statistics, Statistics, str]:
        """Mean, standard deviation and who says so: what was asked for, else what the network declares."""
        source = self.declared
        if mean is not None or std is not None:
            asked = (("--mean", mean), ("--std", std))
            given = " and ".join(flag for flag, value in asked if value is not None)
            source = f"{given} given" if mean and std else f"{given} given, the other {source}"
        return mean or self.normalization[0], std or self.normalization[1], source
