"""What a convolution costs by each kernel that can compute it: quantities of work, and how many cycles each takes on a core.

The quantities follow from the convolution alone (its shapes, bits, which weights are zero or share a level, range of
activations), so a cost is known before anything is trained. A core's model is linear in them, with coefficients that are
not negative, fitted to profiles (``deploy_arm.costs.fit``). Zeros anywhere are only in the level-grouped kernel's quantities:
with more zeros its cost falls, and the choice can only change towards it; the others' fall where whole blocks or taps are zero.

Bands repeat what ``kernels/plan.c`` does, and the files in ``costs/kernels`` what each kernel does, with the sizes of
``kernels/tiling.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.packing import has_blocks, kept_blocks
from deploy_arm.ir import graph as g
from deploy_arm.target.kernel_sources import constants
from foundation.registry import Registry

BAND_BYTES, PAIRED, MOST_TAPS = (constants()[name] for name in ("BAND_BYTES", "PAIRED", "MOST_TAPS"))

Quantities = dict[str, float]


@dataclass(frozen=True)
class Work:
    """A convolution of one group as far as its cost goes.

    ``source`` and ``result`` are (height, width, channels); ``padding`` is top, left, bottom, right; ``nonzeros`` counts
    weights, ``pairs`` the pairs of an output channel and a level other than zero that it has weights of; ``narrow`` says that
    activations fit 7 bits, ``floating`` that the result is float32; ``blocks`` counts those of 4 output x 8 input channels of one
    tap that are not all zero, None where channels are no whole blocks; ``taps`` says of each tap, row by row, whether it has any
    weights, None where all have or the kernels do not look.
    """

    source: tuple[int, int, int]
    result: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    bits: int
    nonzeros: int
    pairs: int
    narrow: bool
    floating: bool = False
    blocks: int | None = None
    taps: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, operation: g.Convolution, source: g.Tensor, result: g.Tensor) -> Work:
        book = operation.weights
        table = book.integers.reshape(len(book.indices), -1).view(np.uint8)
        counts = np.stack([np.bincount(row, minlength=256) for row in table])[:, 1:]
        return cls(
            source.shape,
            result.shape,
            (book.indices.shape[1], book.indices.shape[2]),
            operation.stride,
            operation.padding,
            operation.dilation,
            book.bits if book.middle is None else 8,  # which all weights have once they are loaded
            int(counts.sum()),
            int(np.count_nonzero(counts)),
            (source.low >= -64 and source.high <= 63) or (source.low >= 0 and source.high <= 127),
            result.floating,
            int(kept_blocks(book.integers).sum())
            if book.middle is None and has_blocks(book.indices.shape, operation.groups)
            else None,
            live_taps(book.integers),
        )

    def runs(self, merged: bool) -> list[int]:  # noqa: FBT001
        """Lengths, in taps, of the runs of taps with weights that lie side by side; where they are not ``merged``, of 1 each."""
        height, width = self.kernel
        there = self.taps or (True,) * (height * width)
        rows = [there[row * width : (row + 1) * width] for row in range(height)]
        if not merged:
            return [1 for row in rows for tap in row if tap]
        return [len(list(run)) for row in rows for live, run in groupby(row) if live]

    def bands(self) -> list[int]:
        """Output rows of each band."""
        height, width, channels = self.result
        line = (self.source[1] + self.padding[1] + self.padding[3]) * self.source[2]
        tall = (self.kernel[0] - 1) * self.dilation[0] + 1
        row = width * channels * (4 if self.floating else 1)
        most = int((BAND_BYTES - (tall - self.stride[0]) * line) / (line * self.stride[0] + row))
        count = math.ceil(height / min(max(most, 1), height))
        rows = math.ceil(height / count)
        return [min(rows, height - first) for first in range(0, height, rows)]


def live_taps(integers: NDArray[np.int8]) -> tuple[bool, ...] | None:
    """Which taps of OHWI weights have any, as ``kernels/plan.c`` finds it, one at least; None: all, or it does not look."""
    _, height, width, depth = integers.shape
    if depth % PAIRED or height * width > MOST_TAPS:
        return None
    there = (integers != 0).any(axis=(0, 3)).flatten()
    if there.all():
        return None
    there[0] |= not there.any()
    return tuple(there.tolist())


@dataclass(frozen=True)
class ProfiledWeights:
    """How a layer's weights are in a profile that a kernel's cost is fitted to: bits, share of zeros, activations of 7 bits, and
    share of the blocks that are not all zero."""

    bits: int
    zeros: float
    narrow: bool
    blocks: float = 1.0


@dataclass(frozen=True)
class CostedKernel:
    """A kernel that the compiler may choose: the quantities of its work, the settings that its cost is fitted to, whether it can
    do work, the bits of weights that it takes, and in a few words what it does."""

    quantities: Callable[[Work], Quantities]
    settings: tuple[ProfiledWeights, ...]
    fits: Callable[[Work], bool] = lambda work: True
    bits: tuple[int, ...] = (2, 3, 4)
    does: str = ""

    def __call__(self, work: Work) -> Quantities:
        return self.quantities(work)


# By the names of ``graph.Kernel``.
KERNELS: Registry[CostedKernel] = Registry("kernel with a cost", "deploy_arm.costs.kernels")


@dataclass(frozen=True)
class CostModel:
    """Cycles (or nanoseconds) per unit of each quantity; ``error`` is the mean relative error over the ``rows`` fitted to."""

    coefficients: Mapping[str, float]
    error: float
    rows: int

    def cost(self, quantities: Mapping[str, float]) -> float:
        """Cycles; a quantity without a coefficient costs nothing."""
        return sum(self.coefficients.get(name, 0.0) * amount for name, amount in quantities.items())


def non_negative_least_squares(
    matrix: NDArray[np.float64], wanted: NDArray[np.float64], tolerance: float = 1e-9
) -> NDArray[np.float64]:
    """The x >= 0 that makes ``|matrix x - wanted|`` least (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23)."""
    count = matrix.shape[1]
    chosen = np.zeros(count, bool)
    x = np.zeros(count)
    limit = tolerance * max(float(np.abs(matrix.T @ wanted).max(initial=0.0)), 1e-300)
    for _ in range(10 * count):
        gradient = np.where(chosen, -np.inf, matrix.T @ (wanted - matrix @ x))
        if chosen.all() or gradient.max() <= limit:
            break
        chosen[int(gradient.argmax())] = True
        while True:
            trial = np.zeros(count)
            trial[chosen] = np.linalg.lstsq(matrix[:, chosen], wanted, rcond=None)[0]
            falling = chosen & (trial <= 0)
            if not falling.any():
                break
            step = float((x[falling] / np.maximum(x[falling] - trial[falling], 1e-300)).min())
            x += step * (trial - x)
            chosen &= x > tolerance * x.max(initial=0.0)
            x[~chosen] = 0.0
        x = trial
    return x


def fit(rows: Sequence[tuple[Mapping[str, float], float]]) -> CostModel:
    """The model of one kernel on one core from (quantities, cycles) of profiled layers; relative errors count.

    Raises:
        ValueError: no rows, or cycles that are not positive.
    """
    if not rows or min(cycles for _, cycles in rows) <= 0:
        raise ValueError("a cost model is fitted to at least one row, and every row's cycles must be above 0")
    names = sorted({name for quantities, _ in rows for name in quantities})
    cycles = np.array([row[1] for row in rows])
    matrix = np.array([[quantities.get(name, 0.0) for name in names] for quantities, _ in rows])
    matrix /= cycles[:, None]
    sizes = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    found = non_negative_least_squares(matrix / sizes, np.ones(len(rows))) / sizes
    error = float(np.abs(matrix @ found - 1).mean())
    kept = {name: float(f"{value:.5g}") for name, value in zip(names, found) if value > 0}
    return CostModel(kept, round(error, 4), len(rows))
