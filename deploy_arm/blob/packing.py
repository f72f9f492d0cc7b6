"""Weights as bytes: the order and the bit layout that FORMAT.md describes, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob import entropy_coding
from deploy_arm.target.kernel_sources import constants
from foundation.codebook import Codebook

GROUP = constants()["TILE"]  # entries packed together
TILE_CHANNELS, TILE_DEPTH = 8, 4
QUAD, OCTET = constants()["QUAD"], constants()["OCTET"]  # output and input channels of a block
GROUP_BYTES = {2: 8, 3: 12, 4: 16, 8: 32}

Bytes = NDArray[np.uint8]


def is_depthwise(weights_shape: tuple[int, ...], groups: int) -> bool:
    """Whether a convolution with OHWI weights reads one input channel per output channel, and more than one in all."""
    return groups > 1 and weights_shape[3] == 1


def pack_groups(entries: Bytes, bits: int) -> Bytes:
    """Entries (a multiple of 32 of them) to bytes."""
    e: Bytes = entries.reshape(-1, GROUP)
    if bits == 8:
        return entries.reshape(-1)
    if bits == 4:
        packed: Bytes = e[:, :16].copy()
        np.bitwise_or(packed, e[:, 16:] << np.uint8(4), out=packed)
        return packed.reshape(-1)
    if bits not in GROUP_BYTES:
        raise ValueError(f"no packing for {bits} bits")
    pairs: Bytes = e & np.uint8(3)  # a 2-bit entry has nothing else
    low: Bytes = pairs[:, :8].copy()
    for position in (1, 2, 3):
        part = pairs[:, 8 * position : 8 * position + 8]
        np.bitwise_or(low, part << np.uint8(2 * position), out=low)
    if bits == 2:
        return low.reshape(-1)
    top = (e >> 2).reshape(-1, 8, 4)
    high = np.zeros((len(e), 4), np.uint8)
    for position in range(8):
        high |= top[:, position] << np.uint8(position)
    return np.concatenate([low, high], axis=1).reshape(-1)


def unpack_groups(packed: Bytes, bits: int) -> Bytes:
    """The inverse of :func:`pack_groups`."""
    p: Bytes = packed.reshape(-1, GROUP_BYTES[bits])
    if bits == 8:
        return p.reshape(-1)
    if bits == 4:
        return np.concatenate([p & 15, p >> 4], axis=1).reshape(-1)
    entries = np.concatenate([(p[:, :8] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    if bits == 3:
        high = np.concatenate([(p[:, 8:] >> position) & 1 for position in range(8)], axis=1)
        entries |= high << 2
    return entries.reshape(-1)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def order(entries: Bytes, groups: int, filler: int) -> Bytes:
    """OHWI entries in the kernel's order, padded with ``filler``; the result is a multiple of 32 long."""
    out, height, width, depth = entries.shape
    if is_depthwise(entries.shape, groups):
        stream = entries.reshape(out, height * width).T.reshape(-1)
        return np.pad(stream, (0, _padded(stream.size, GROUP) - stream.size), constant_values=filler)
    k = height * width * depth
    channels = out // groups
    shape = (groups, _padded(channels, TILE_CHANNELS), _padded(k, TILE_DEPTH))
    if shape == (groups, channels, k):
        padded = entries.reshape(shape)
    else:
        padded = np.full(shape, filler, np.uint8)
        padded[:, :channels, :k] = entries.reshape(groups, channels, k)
    tiles = padded.reshape(
        groups, shape[1] // TILE_CHANNELS, TILE_CHANNELS, shape[2] // TILE_DEPTH, TILE_DEPTH
    )
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4)).reshape(-1)


def reorder(stream: Bytes, shape: tuple[int, int, int, int], groups: int) -> Bytes:
    """The inverse of :func:`order` for OHWI ``shape``."""
    out, height, width, depth = shape
    if is_depthwise(shape, groups):
        return np.ascontiguousarray(stream[: out * height * width].reshape(height * width, out).T).reshape(
            shape
        )
    k, channels = height * width * depth, out // groups
    blocks, depths = _padded(channels, TILE_CHANNELS) // TILE_CHANNELS, _padded(k, TILE_DEPTH) // TILE_DEPTH
    tiles = stream.reshape(groups, blocks, depths, TILE_CHANNELS, TILE_DEPTH).transpose(0, 1, 3, 2, 4)
    rows = tiles.reshape(groups, blocks * TILE_CHANNELS, depths * TILE_DEPTH)[:, :channels, :k]
    return np.ascontiguousarray(rows).reshape(shape)


def has_blocks(weights_shape: tuple[int, ...], groups: int) -> bool:
    """Whether a convolution with OHWI weights is made of whole blocks, so that those of zeros can be left out."""
    return groups == 1 and weights_shape[0] % QUAD == 0 and weights_shape[3] % OCTET == 0


def kept_blocks(integers: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which blocks of OHWI weights hold anything but zeros: [out / 4, blocks of four channels]."""
    blocks: NDArray[np.bool_] = (integers.reshape(len(integers) // QUAD, QUAD, -1, OCTET) != 0).any(
        axis=(1, 3)
    )
    return blocks


def order_blocks(entries: Bytes, kept: NDArray[np.bool_]) -> Bytes:
    """OHWI entries of the kept blocks in the kernel's order: a multiple of 32 long."""
    blocks = entries.reshape(len(kept), QUAD, kept.shape[1], OCTET).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks[kept]).reshape(-1)


def reorder_blocks(
    stream: Bytes, kept: NDArray[np.bool_], shape: tuple[int, int, int, int], filler: int
) -> Bytes:
    """The inverse of :func:`order_blocks` for OHWI ``shape``."""
    blocks = np.full((*kept.shape, QUAD, OCTET), filler, np.uint8)
    blocks[kept] = stream.reshape(-1, QUAD, OCTET)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(shape)


def pack_bits(kept: NDArray[np.bool_]) -> Bytes:
    """One bit a block, those of four channels from a byte on."""
    return np.packbits(kept, axis=1, bitorder="little").reshape(-1)


def unpack_bits(stored: Bytes, shape: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The inverse of :func:`pack_bits` for OHWI ``shape``."""
    count = shape[1] * shape[2] * shape[3] // OCTET
    rows = stored.reshape(shape[0] // QUAD, -1)
    return np.unpackbits(rows, axis=1, count=count, bitorder="little").astype(bool)


def packed_bytes(shape: tuple[int, int, int, int], groups: int, bits: int) -> int:
    """Length of the packed weights of a convolution with OHWI ``shape``."""
    out, height, width, depth = shape
    if is_depthwise(shape, groups):
        entries = _padded(out * height * width, GROUP)
    else:
        entries = groups * _padded(out // groups, TILE_CHANNELS) * _padded(height * width * depth, TILE_DEPTH)
    return entries // GROUP * GROUP_BYTES[bits]


def _zero(levels: NDArray[np.int8]) -> int:
    """The index that padding has."""
    zero = np.flatnonzero(levels == 0)
    return int(zero[0]) if zero.size else 0


def _entries(weights: Codebook, groups: int, kept: NDArray[np.bool_] | None) -> Bytes:
    """Indices, or int8 values at 8 bits, in the kernel's order."""
    entries = weights.integers.view(np.uint8) if weights.bits == 8 else weights.indices
    if kept is not None:
        return order_blocks(entries, kept)
    return order(entries, groups, 0 if weights.bits == 8 else _zero(weights.levels))


def pack_weights(weights: Codebook, groups: int) -> Bytes:
    """A convolution's weights (OHWI) as FORMAT.md wants them: indices, or int8 values at 8 bits."""
    return pack_groups(_entries(weights, groups, None), weights.bits)


@dataclass(frozen=True)
class Stored:
    """A convolution's weights as they lie in the blob: packed, or coded in ``lanes`` lanes (0: packed)."""

    content: Bytes
    lanes: int


def store_weights(
    weights: Codebook, groups: int, *, coded: bool = True, kept: NDArray[np.bool_] | None = None
) -> Stored:
    """The smaller form of a convolution's weights (OHWI), of the ``kept`` blocks alone where given. Those of 8 bits stay
    packed, since each differs from most others, and so do all without ``coded``."""
    entries, bits = _entries(weights, groups, kept), weights.bits
    packed = Stored(pack_groups(entries, bits), 0)
    if (
        not coded
        or bits == 8
        or not entries.size
        or entropy_coding.estimated_bytes(entries, bits) >= packed.content.size
    ):
        return packed
    short = Stored(entropy_coding.encode(entries, bits), entropy_coding.lanes_of(entries.size))
    return short if short.content.size < packed.content.size else packed


def unpack_weights(
    stored: Bytes,
    levels: NDArray[np.int8],
    bits: int,
    shape: tuple[int, int, int, int],
    groups: int,
    lanes: int = 0,
    kept: NDArray[np.bool_] | None = None,
) -> Codebook:
    """The codebook (scale 1, since the scale went into the requantization) that packed (or coded, by ``lanes``) weights, of the
    ``kept`` blocks alone or of all, and ``levels`` stand for.

    Raises:
        UserError: the coded weights are damaged.
    """
    if lanes:
        groups_of_entries = packed_bytes(shape, groups, bits) // GROUP_BYTES[bits]
        count = (groups_of_entries if kept is None else int(kept.sum())) * GROUP
        stream = entropy_coding.decode(stored, bits, lanes, count)
    else:
        stream = unpack_groups(stored, bits)
    if kept is None:
        entries = reorder(stream, shape, groups)
    else:
        entries = reorder_blocks(stream, kept, shape, 0 if bits == 8 else _zero(levels))
    scale = np.ones(1, np.float32)
    if bits != 8:
        return Codebook(entries, levels, scale, bits)
    every = np.arange(-128, 128, dtype=np.int8)
    return Codebook((entries + np.uint8(128)).astype(np.uint8), every, scale, 8)
