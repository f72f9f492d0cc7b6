"""Four output channels x up to 16 pixels over the blocks of weights that are not all zero (``kernels/blocks.c``)."""

from __future__ import annotations

import math

from deploy_arm.blob.packing import GROUP, OCTET, QUAD
from deploy_arm.costs.kernels.dense import in_pairs
from deploy_arm.costs.model import CostedKernel, ProfiledWeights, Quantities, Work
from deploy_arm.target.kernel_sources import constants

PIXELS = constants()["BLOCK_PIXELS"]
SETTINGS = (
    (2, 0.0, 0.5), (3, 0.0, 0.5), (4, 0.0, 0.25), (4, 0.0, 0.5), (4, 0.0, 0.75), (4, 0.0, 0.95),
)  # fmt: skip


def fits(work: Work) -> bool:
    """Whether there are blocks, and not all of them are needed."""
    if work.blocks is None:
        return False
    return work.blocks < math.prod(work.kernel) * (work.source[2] // OCTET) * (work.result[2] // QUAD)


def quantities(work: Work) -> Quantities:
    """Every kept block meets every tile; outputs, tiles and copies cost what they do, however few blocks there are."""
    blocks, quads = work.blocks or 0, work.result[2] // QUAD
    pixels = [rows * work.result[1] for rows in work.bands()]
    whole = sum(count // PIXELS for count in pixels)
    rests = [-(-(count % PIXELS) // 4) * 4 for count in pixels]
    tiles = {PIXELS: whole, **{size: rests.count(size) for size in range(4, PIXELS, 4)}}
    tiles[PIXELS] += rests.count(PIXELS)
    count, total = sum(tiles.values()), sum(pixels)
    pairs = in_pairs(work)
    row = (work.source[1] + work.padding[1] + work.padding[3]) * work.source[2]
    tall = (work.kernel[0] - 1) * work.dilation[0] + 1
    copied = sum((rows - 1) * work.stride[0] + tall for rows in work.bands()) if any(work.padding) else 0
    return {
        "call": 1.0,
        **{f"blocks x tiles of {size}": float(blocks * tiles[size]) for size in tiles},
        "quads x tiles": float(quads * count),
        "quads x bands": float(quads * len(pixels)),
        "outputs": float(quads * QUAD * total * (not work.floating)),
        "floats": float(quads * QUAD * total * work.floating),
        f"weights of {work.bits} bits decoded": float(len(pixels) * blocks * GROUP),
        "weights decoded": float(len(pixels) * blocks * GROUP),
        "places": float(total),
        "lines copied": float(copied),
        "bytes copied": float(copied * row),
        "records": pairs["records"],
        "bytes in pairs": pairs["bytes in pairs"],
    }


blocks = CostedKernel(
    quantities,
    tuple(ProfiledWeights(bits, zeros, narrow=True, blocks=kept) for bits, zeros, kept in SETTINGS),
    fits,
    (2, 3, 4, 8),
    does="skips blocks that are all zero",
)
