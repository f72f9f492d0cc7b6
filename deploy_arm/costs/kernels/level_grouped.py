"""One multiplication per level, additions alone for every weight that is not zero (``kernels/grouped.c``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy_arm.costs.model import CostedKernel, ProfiledWeights, Quantities, Work
from deploy_arm.target.kernel_sources import constants

ENTRIES = ("level-grouped",)
VECTORS, FARTHEST = constants()["VECTORS"], constants()["FARTHEST"]
RUN_7, RUN_8 = constants()["RUN_7"], constants()["RUN_8"]
SETTINGS = (
    (2, 0.3, True), (2, 0.5, True), (2, 0.6, True), (2, 0.7, True), (2, 0.8, True), (2, 0.9, True), (2, 0.97, True),
    (2, 0.5, False), (2, 0.85, False), (3, 0.5, True), (3, 0.75, True), (3, 0.9, False), (4, 0.5, True),
    (4, 0.8, True), (4, 0.9, True), (4, 0.97, True), (4, 0.8, False),
)  # fmt: skip


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


def quantities(work: Work) -> Quantities:
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


level_grouped = CostedKernel(
    quantities,
    tuple(ProfiledWeights(*setting) for setting in SETTINGS),
    does="adds first and multiplies once per level; pays with many zeros",
)
