"""Images as they are."""

from __future__ import annotations

from torch import Generator, Tensor


def none(pixels: Tensor, generator: Generator) -> Tensor:
    """The same images."""
    return pixels
