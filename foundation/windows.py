"""How many places a window has on what it slides over: the size of a convolution's or a pooling's output."""

from __future__ import annotations

from collections.abc import Sequence


def places_along(size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> int:
    """Along one axis; ``padding`` is that before and behind together."""
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> tuple[int, int]:
    """Height and width of what a kernel gives on an input of ``size``; ``padding`` is top, left, bottom, right."""
    height, width = (
        places_along(
            size[axis], kernel[axis], stride[axis], padding[axis] + padding[axis + 2], dilation[axis]
        )
        for axis in (0, 1)
    )
    return height, width
