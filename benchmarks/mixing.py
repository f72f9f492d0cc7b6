"""What a rebuilt network may be trained with instead: frozen batch-norms, and images with a part of another in them.

Frozen, a norm keeps the statistics that rebuilding has settled, which are those that are deployed. And the fp32 network has
learned the training images and is sure of nearly all of them, so there is little to be learned from its answers to them; of two
in one picture it has not made up its mind. The rectangle is CutMix's (Yun et al., ICCV 2019, arXiv:1905.04899), without its
labels: the fp32 network sees the same picture (Beyer et al., "Knowledge distillation: A good teacher is patient and consistent",
CVPR 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from pipeline.training.cotuning import Cotuning
from pipeline.training.task import Classification


class FrozenNorms(Classification):
    """Classification of which a rebuilt network is trained so."""

    frozen_norms = True


class Frozen(Cotuning):
    """Co-tuning of a classifier with frozen norms."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.task = FrozenNorms()


class Mixed(Frozen):
    """The same, and each image of a step has a part of another in it."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        images, labels = super().batch(step)
        return pasted(images, self._generator("mix", step, self.rank)), labels


def pasted(images: Tensor, generator: Generator) -> Tensor:
    """Copies of images [n, C, H, W], each with a rectangle of its neighbour's pixels in it, where they are there: sides of an
    eighth to seven eighths of the image's, anywhere. The generator is the CPU's and decides everything."""
    count, _, height, width = images.shape
    inside = (
        _span(count, height, generator)[:, None, :, None] & _span(count, width, generator)[:, None, None, :]
    )
    return torch.where(inside.to(images.device), images.roll(1, 0), images)


def _span(count: int, length: int, generator: Generator) -> Tensor:
    """A part of ``length`` places for each of ``count`` images, bool [count, length]."""
    least = max(1, length // 8)
    most = max(least, length - least)
    size = torch.randint(least, most + 1, (count, 1), generator=generator)
    share = torch.rand((count, 1), generator=generator, dtype=torch.float64)
    start = (share * (length - size + 1)).long()
    place = torch.arange(length)
    return (place >= start) & (place < start + size)
