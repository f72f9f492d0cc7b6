"""The windows of a pooling as others write them down: kernel, stride, padding and dilation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_arm.ir.graph import Window


@dataclass(frozen=True)
class Regular:
    """Along one axis: window i holds the positions ``i * stride - before + j * dilation``, j below ``kernel``, that exist.

    ``after`` is how far the last window reaches beyond the input, at least 0.
    """

    kernel: int
    stride: int
    before: int
    after: int


def regular(windows: Sequence[Window], size: int, dilation: int = 1) -> Regular | None:
    """What makes these windows of an input of ``size`` positions; None where nothing regular does (an adaptive pooling)."""
    wanted = [(window.start, window.end) for window in windows]
    count = len(wanted)
    strides = range(1, size + 1) if count > 1 else (1,)
    for kernel in range(1, size + 1):
        span = (kernel - 1) * dilation + 1
        for before in range(span):
            for stride in strides:
                if stride > 1 and stride * (count - 1) >= size + before:
                    break
                if all(
                    _reach(i * stride - before, kernel, dilation, size) == wanted[i] for i in range(count)
                ):
                    return Regular(
                        kernel, stride, before, max(0, (count - 1) * stride - before + span - size)
                    )
    return None


def _reach(first: int, kernel: int, dilation: int, size: int) -> tuple[int, int] | None:
    """The first existing position of a window, and one behind its last."""
    there = [first + j * dilation for j in range(kernel) if 0 <= first + j * dilation < size]
    return (there[0], there[-1] + 1) if there else None
