"""Crops out of images padded with black by an eighth of their size (4 pixels at 32 x 32)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def crop(pixels: Tensor, generator: Generator) -> Tensor:
    """A randomly shifted copy of each image."""
    return shifted(pixels, generator, mirrored=False)


def shifted(pixels: Tensor, generator: Generator, *, mirrored: bool) -> Tensor:
    """A randomly shifted, and where ``mirrored`` half of the time mirrored, copy of each image; uint8 [n, H, W, C]."""
    count, height, width, _ = pixels.shape
    rows = _shifts(height, count, generator)
    columns = _shifts(width, count, generator)
    if mirrored:
        turned = torch.randint(0, 2, (count, 1), generator=generator).bool()
        columns = torch.where(turned, columns.flip(1), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    picked = pixels[
        torch.arange(count)[:, None, None],
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ]
    return picked * inside[..., None]


def _shifts(size: int, count: int, generator: Generator) -> Tensor:
    """Source coordinates [count, size], each row shifted by at most an eighth of the size."""
    limit = max(1, size // 8)
    shifts = torch.randint(-limit, limit + 1, (count, 1), generator=generator)
    return torch.arange(size)[None, :] + shifts
