"""Which taps of a layer's window have weights: the others are neither multiplied nor read, on any core, at any bits.

After the search for sizes and shapes of kernels of arXiv 2106.14776 (2021): a layer keeps its trained weights inside the shape.
That a layer may keep the taps that weigh most is ours.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.codebook import Codebook
from foundation.dimension import Dimension, Layer
from foundation.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

WHOLE = 8  # input channels: the kernels leave out taps of whole eights only
LEAST = 3  # side of a window that has a shape
SHAPES = ("plus", "cross", "row", "column", "corner")  # as ``mask_of`` has them


class Taps(Dimension):
    """A shape of the window: ``plus`` (the middle row and column), ``cross`` (the diagonals), ``row``, ``column`` (the middle
    one), ``corner`` (all but the last row and column); a mask of the taps row by row, like ``"010111010"``; or a number: so
    many, those with the largest sums of squares. Absent: all. Instead of zeros anywhere and of blocks."""

    values = (None, "plus", "cross", "row", "column", "corner", 5, 3)
    on_request = True
    after = ("bits", "zero_share", "kept_blocks")
    excludes = ("zero_share", "kept_blocks")
    title = "Taps"
    noun = "shape of a window"
    most = 9

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not number and value not in SHAPES and not _is_mask(value):
            raise UserError(
                f"taps {value!r}: give {', '.join(SHAPES)}, a mask of a square window such as 010111010, a number of taps "
                "from 1 on, or leave it out for all"
            )

    @classmethod
    def typed(cls, text: str) -> Any:
        if re.fullmatch("[01]{4,}", text):  # a mask, or the attempt at one
            return text
        return None if text == "all" else super().typed(text)

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return "all" if value is None else f"best {value}" if isinstance(value, int) else str(value)

    @classmethod
    def number(cls, value: Any) -> float | None:
        """Taps, of a window of 3x3 where the value does not say how large it is."""
        if value is None or isinstance(value, int):
            return value
        return int(mask_of(value, _side(value), _side(value)).sum())

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        if layer.kind != "convolution" or layer.groups != 1 or len(layer.weight_shape) != 4:
            return False
        _, ins, height, width = layer.weight_shape
        return height == width >= LEAST and ins % WHOLE == 0

    def choices(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[Any]:
        """Those that the window has: masks of its size, and fewer taps than all."""
        side = layer.weight_shape[-1] if layer.weight_shape else LEAST
        return [value for value in self.values if _suits(value, side)]

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[Any]:
        return [value for value in self.choices(chosen, layer) if value in ("plus", "row")]

    @classmethod
    def apply(cls, weight: Tensor, value: Any) -> Tensor:
        if weight.ndim != 4:
            return weight
        height, width = weight.shape[-2:]
        if isinstance(value, int):
            if value >= height * width:
                return weight
            there = weight.new_zeros(height * width)
            there[weight.detach().float().square().sum((0, 1)).flatten().topk(value).indices] = 1
        else:
            there = weight.new_tensor(mask_of(value, height, width).flatten())
        return weight * there.reshape(height, width).to(weight.dtype)

    @classmethod
    def synthesize(
        cls, book: Codebook, weight: NDArray[np.float32], value: Any, generator: np.random.Generator
    ) -> Codebook:
        """The taps without weights at the zero level."""
        zero = np.flatnonzero(book.levels == 0)
        if not len(zero) or weight.ndim != 4:
            return book
        height, width = weight.shape[-2:]
        if isinstance(value, int):
            order = np.argsort(-np.square(weight).sum((0, 1)), axis=None, kind="stable")
            there = np.zeros(height * width, bool)
            there[order[:value]] = True
            there = there.reshape(height, width)
        else:
            there = mask_of(value, height, width)
        indices = np.where(there, book.indices, np.uint8(zero[0]))
        return dataclasses.replace(book, indices=indices)


def mask_of(value: str, height: int, width: int) -> NDArray[np.bool_]:
    """Which taps of a window of this size a shape has, [height, width].

    Raises:
        UserError: a mask of another size.
    """
    rows, columns = np.indices((height, width))
    shapes = {
        "plus": (rows == height // 2) | (columns == width // 2),
        "cross": (rows == columns) | (rows == width - 1 - columns),
        "row": rows == height // 2,
        "column": columns == width // 2,
        "corner": (rows < max(height - 1, 1)) & (columns < max(width - 1, 1)),
    }
    if value in shapes:
        found: NDArray[np.bool_] = shapes[value]
        return found
    if len(value) != height * width:
        raise UserError(f"taps {value!r}: a mask of {len(value)} taps, but the window has {height}x{width}")
    return np.array([tap == "1" for tap in value]).reshape(height, width)


def _is_mask(value: Any) -> bool:
    """Whether it is one of a square window, with a tap at least."""
    if not isinstance(value, str) or not re.fullmatch("[01]*1[01]*", value):
        return False
    return math.isqrt(len(value)) ** 2 == len(value) >= LEAST**2


def _side(value: str) -> int:
    return math.isqrt(len(value)) if _is_mask(value) else LEAST


def _suits(value: Any, side: int) -> bool:
    if isinstance(value, int):
        return value < side * side
    return not _is_mask(value) or _side(value) == side
