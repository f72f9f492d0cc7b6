"""How a PyTorch shape reads a stored tensor: the strides of each dimension in its (height, width, channels) elements."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Shape = tuple[int, ...]


def usual(shape: Shape, stored: tuple[int, int, int]) -> Shape | None:
    """Strides of a shape whose elements in order are the stored ones in the order channels, height, width; None where no
    strides say that (a flattened image of several positions and channels)."""
    height, width, channels = stored
    return viewed((channels, height, width), (1, width * channels, channels), shape)


def viewed(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides under a new shape; None where elements would have to move."""
    try:
        found = torch.empty_strided(shape, strides, device="meta").view(new).stride()
    except RuntimeError:
        return None
    return tuple(found)


def same(shape: Shape, first: Shape, second: Shape | None) -> bool:
    """Whether two strides read the same elements; those of dimensions of size 1 do not matter."""
    return second is not None and all(
        size == 1 or a == b for size, a, b in zip(shape, first, second, strict=True)
    )


def places(shape: Shape, strides: Shape) -> NDArray[np.int64]:
    """The stored element behind each element of the shape."""
    found = np.zeros(shape, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        found += (np.arange(size) * stride).reshape(-1, *[1] * (len(shape) - axis - 1))
    return found


def last_is_channels(shape: Shape, strides: Shape | None, channels: int) -> bool:
    """Whether the last dimension runs over all channels of one position."""
    return strides is not None and shape[-1] == channels and (channels == 1 or strides[-1] == 1)
