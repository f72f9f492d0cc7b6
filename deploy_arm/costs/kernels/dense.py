"""Tiles of channels and pixels in registers (``kernels/dense.c``, ``matrix.c``)."""

from __future__ import annotations

import math

from deploy_arm.costs.model import CostedKernel, ProfiledWeights, Quantities, Work
from deploy_arm.target.kernel_sources import constants

SEGMENT_DEPTH, CHUNK_DEPTH, PAIRED = (
    constants()[name] for name in ("SEGMENT_BYTES", "CHUNK_DEPTH", "PAIRED")
)
WIDE, NARROW = constants()["WIDE"], constants()["NARROW"]
WIDE_PIXELS, NARROW_PIXELS = constants()["WIDE_PIXELS"], constants()["NARROW_PIXELS"]


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
    record, wide_record = -(-depth // PAIRED) * PAIRED, -(-depth * work.kernel[1] // PAIRED) * PAIRED
    merged = work.dilation[1] == 1 or work.kernel[1] == 1
    wide = merged and by_output * wide_record <= by_input * record
    records, size = (by_output, wide_record) if wide else (by_input, record)
    together = wide or (merged and depth % PAIRED == 0)
    read = sum(-(-taps * depth // PAIRED) * PAIRED for taps in work.runs(together))
    unaligned = (depth * work.kernel[1] if together else depth) % PAIRED != 0
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


def quantities(work: Work) -> Quantities:
    """Tiles of channels and pixels in registers, over weights that are decoded once per band."""
    outs, width = work.result[2], work.result[1]
    merged = work.dilation[1] == 1 or work.kernel[1] == 1
    pieces = [
        min(SEGMENT_DEPTH, taps * work.source[2] - first)
        for taps in work.runs(merged)
        for first in range(0, taps * work.source[2], SEGMENT_DEPTH)
    ]
    real = work.source[2] * (work.kernel[1] if merged else 1)
    read = sum(-(-piece // 4) * 4 for piece in pieces)
    read_8 = sum(-(-piece // PAIRED) * PAIRED for piece in pieces)
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
        "segments": float(tiles * len(pieces)),
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


dense = CostedKernel(
    quantities,
    tuple(ProfiledWeights(bits, 0.5, narrow=True) for bits in (2, 3, 4)),
    bits=(2, 3, 4, 8),
    does="multiplies every weight",
)
