"""What a convolution costs by each kernel that can compute it: quantities of work, and how many cycles each takes on a core.

The quantities follow from the convolution alone (its shapes, bits, which weights are zero or share a level, range of
activations), so a cost is known before anything is trained. A core's model is linear in them, with coefficients that are
not negative, fitted to profiles (``deploy_arm.costs.fit``). Zeros are only in the level-grouped kernel's quantities: with more
zeros its cost falls, and the choice can only change towards it.

Band sizes, segments and planes repeat what ``kernels/convolution.c``, ``dense.c`` and ``grouped.c`` do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from foundation.registry import Registry

BAND_BYTES, SEGMENT_DEPTH, CHUNK_DEPTH = 256 * 1024, 2048, 2304
WIDE, NARROW, WIDE_PIXELS, NARROW_PIXELS = 16, 8, 6, 8
VECTORS, RUN_7, RUN_8, FARTHEST = 4, 510, 254, 65535

Quantities = dict[str, float]


@dataclass(frozen=True)
class Work:
    """A convolution of one group as far as its cost goes.

    ``source`` and ``result`` are (height, width, channels); ``padding`` is top, left, bottom, right; ``nonzeros`` counts
    weights, ``pairs`` the pairs of an output channel and a level other than zero that it has weights of; ``narrow`` says that
    activations fit 7 bits, ``floating`` that the result is float32.
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
            book.bits,
            int(counts.sum()),
            int(np.count_nonzero(counts)),
            (source.low >= -64 and source.high <= 63) or (source.low >= 0 and source.high <= 127),
            result.floating,
        )

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


KERNELS: Registry[Callable[[Work], Quantities]] = Registry("kernel with a cost")


def in_pairs(work: Work) -> Quantities:
    """What SMMLA does besides: the band's pixels are laid side by side in pairs (``kernels/matrix.c``), products are of whole
    pairs and eights of weights. Cores without it hardly need these."""
    height, width, _ = work.result
    depth, odd, reach = work.source[2], width % 2, (work.kernel[1] - 1) * work.dilation[1]
    if height * width == 1:  # such layers use dot products everywhere
        return dict.fromkeys(
            ("records", "bytes in pairs", "products in pairs", "weights rearranged in eights"), 0.0
        )
    by_input = ((width - 2) * work.stride[1] + reach + 1 if width > 1 else 0) + odd * (reach + 1)
    by_output = width - 1 + odd if odd else width // 2
    record, wide_record = -(-depth // 8) * 8, -(-depth * work.kernel[1] // 8) * 8
    merged = work.dilation[1] == 1 or work.kernel[1] == 1
    wide = merged and by_output * wide_record <= by_input * record
    records, size = (by_output, wide_record) if wide else (by_input, record)
    together = wide or (merged and depth % 8 == 0)
    read = work.kernel[0] * (wide_record if together else work.kernel[1] * record)
    unaligned = (depth * work.kernel[1] if together else depth) % 8 != 0
    tall = (work.kernel[0] - 1) * work.dilation[0] + 1
    rows = sum((band - 1) * work.stride[0] + tall for band in work.bands())
    pairs = sum(-(-band * width // 2) for band in work.bands())
    lanes = -(-work.result[2] // NARROW) * NARROW
    return {
        "records": float(rows * records),
        "bytes in pairs": float(rows * records * 2 * size),
        "products in pairs": float(2 * pairs * read * lanes),
        "weights rearranged in eights": float(len(work.bands()) * read * lanes * unaligned),
    }


@KERNELS.register("dense")
def dense(work: Work) -> Quantities:
    """Tiles of channels and pixels in registers, over weights that are decoded once per band."""
    outs, width = work.result[2], work.result[1]
    merged = work.dilation[1] == 1 or work.kernel[1] == 1
    real = work.source[2] * (work.kernel[1] if merged else 1)
    pieces = [min(SEGMENT_DEPTH, real - first) for first in range(0, real, SEGMENT_DEPTH)]
    lines = work.kernel[0] * (1 if merged else work.kernel[1])
    read = lines * sum(-(-piece // 4) * 4 for piece in pieces)
    read_8 = lines * sum(-(-piece // 8) * 8 for piece in pieces)
    chunks = math.ceil(read / CHUNK_DEPTH)
    wide, rest = divmod(outs, WIDE)
    wide, narrow = (wide + 1, 0) if rest > NARROW else (wide, int(rest > 0))
    lanes = wide * WIDE + narrow * NARROW
    pixels = [rows * width for rows in work.bands()]
    tiles = sum(wide * -(-count // WIDE_PIXELS) + narrow * -(-count // NARROW_PIXELS) for count in pixels)
    loads = sum(
        wide * WIDE * -(-count // WIDE_PIXELS) + narrow * NARROW * -(-count // NARROW_PIXELS)
        for count in pixels
    )
    partial = lanes if chunks > 1 else WIDE if rest > NARROW else NARROW if 0 < rest < NARROW else 0
    total, unaligned = sum(pixels), real % 4 != 0
    padded = any(work.padding)
    row = (work.source[1] + work.padding[1] + work.padding[3]) * work.source[2]
    tall = (work.kernel[0] - 1) * work.dilation[0] + 1
    copied = sum((rows - 1) * work.stride[0] + tall for rows in work.bands()) if padded else 0
    return {
        **in_pairs(work),
        "call": 1.0,
        "products": float(total * read * lanes),
        "products of 8": float(total * read_8 * lanes),
        "weights loaded": float(loads * read),
        "activations loaded": float(total * read * (wide + narrow)),
        "segments": float(tiles * lines * len(pieces)),
        "tiles": float(tiles),
        "panels": float(len(pixels) * (wide + narrow)),
        "outputs": float(total * lanes * (not work.floating)),
        "outputs of partial tiles": float(total * partial * (not work.floating)),
        "floats": float(total * outs * work.floating),
        "sums kept": float(total * lanes * (chunks - 1)),
        f"weights of {work.bits} bits decoded": float(len(pixels) * read * lanes),
        "weights rearranged": float(len(pixels) * read * lanes * unaligned),
        "places": float(total),
        "lines copied": float(copied),
        "bytes copied": float(copied * row),
    }


def tile_sizes(vectors: Sequence[int]) -> dict[int, int]:
    """How many tiles of 1 to VECTORS vectors the bands are split into; those of a band differ by one at most."""
    sizes = dict.fromkeys(range(1, VECTORS + 1), 0)
    for count in vectors:
        tiles = -(-count // VECTORS)
        smaller, larger = divmod(count, tiles)
        sizes[smaller] += tiles - larger
        if larger:
            sizes[smaller + 1] += larger
    return sizes


@KERNELS.register("level-grouped")
def level_grouped(work: Work) -> Quantities:
    """Planes of the input, one vector of 16 outputs per load, one multiplication per level.

    A pair of channel and level is taken to have as many weights as they have on average.
    """
    outs, width = work.result[2], work.result[1]
    reach = [(work.kernel[i] - 1) * work.dilation[i] // work.stride[i] for i in (0, 1)]
    phases = math.prod(
        len({tap * work.dilation[i] % work.stride[i] for tap in range(work.kernel[i])}) for i in (0, 1)
    )
    bands = work.bands()
    rows, across = bands[0] + reach[0], width + reach[1]
    vectors = [-(-((count - 1) * across + width) // 16) for count in bands]
    tiles = tile_sizes(vectors)
    total, channels = sum(vectors), work.source[2]
    nonzeros, pairs = work.nonzeros, max(work.pairs, 1)
    runs = work.pairs + nonzeros / (RUN_7 if work.narrow else RUN_8)
    far = rows * across * channels * phases / FARTHEST
    if far > 1:  # distances of independent weights are exponential: some do not fit 16 bits
        runs += nonzeros * math.exp(-nonzeros / (pairs * far))
    size, calls = (7 if work.narrow else 8), sum(tiles.values())
    filled = len(bands) * phases * rows * -(-across // 16)
    blocks = -(-outs // 16)
    return {
        "call": 1.0,
        **{f"nonzeros of {size} bits x tiles of {q}": float(nonzeros * tiles[q]) for q in tiles},
        "levels x vectors": runs * total,
        "levels x tiles": runs * calls,
        "channels x vectors": float(outs * total * (not work.floating)),
        "channels x tiles": float(outs * calls),
        "floats": float(outs * math.prod(work.result[:2]) * work.floating),
        "floats passed over": float(outs * total * 16 * work.floating),
        "blocks stored": float(blocks * total * (not work.floating)),
        "blocks transposed": float(filled * -(-channels // 16)),
        "vectors laid out": float(filled * channels),
        "places": float(total),
    }


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
