"""Random networks that the program must run like its reference: integer convolutions, and chains of every integer operation."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.packing import OCTET, QUAD, has_blocks
from deploy_arm.compiler.passes import fuse_additions
from deploy_arm.fuzz.graphs import RANGES, Builder
from deploy_arm.ir import graph as g


def random_range(random: np.random.Generator) -> tuple[int, int]:
    low, high = RANGES[random.integers(len(RANGES))]
    return low, high


def random_convolution(seed: int) -> tuple[g.Graph, NDArray[np.uint8]]:
    """One convolution of random shape; every kind of it occurs."""
    random = np.random.default_rng(seed)
    kind = random.choice(["general", "pointwise", "groups", "depthwise", "multiplier", "linear"])
    channels = int(random.choice([1, 2, 3, 4, 5, 8, 12, 16, 17, 20, 24, 28, 32, 40, 64]))
    outs = int(random.choice([1, 3, 7, 8, 9, 10, 15, 16, 17, 24, 31, 32, 40]))
    groups, height, width = 1, int(random.integers(1, 14)), int(random.integers(1, 14))
    kernel = (int(random.integers(1, 5)), int(random.integers(1, 5)))
    if kind == "pointwise":
        kernel = (1, 1)
    elif kind == "linear":
        kernel = (height, width)
    elif kind == "groups":
        groups = int(random.integers(2, 5))
        channels, outs = groups * int(random.integers(1, 10)), groups * int(random.integers(1, 20))
    elif kind in ("depthwise", "multiplier"):
        channels = max(channels, 2)
        groups, outs = channels, channels * (1 if kind == "depthwise" else int(random.integers(2, 4)))
        kernel = (3, 3) if random.random() < 0.5 else kernel
    dilation = (1, 1) if random.random() < 0.7 else (int(random.integers(1, 4)), int(random.integers(1, 4)))
    tall, wide = (dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1))
    padding = (0, 0, 0, 0)
    if random.random() < 0.7:
        top, left, bottom, right = (int(value) for value in random.integers(0, 3, 4))
        padding = (top, left, bottom, right)
    height, width = max(height, tall), max(width, wide)
    builder = Builder(random, (height, width, channels))
    source = builder.input(*random_range(random))
    last = builder.convolution(
        source, outs, kernel, groups=groups, dilation=dilation,
        padding=padding if kind != "linear" else (0, 0, 0, 0),
        stride=(int(random.integers(1, 4)), int(random.integers(1, 4))),
        bits=int(random.choice([2, 3, 4, 8])), to=random_range(random) if random.random() < 0.85 else None,
        zeros=float(random.choice([0, 0.3, 0.6, 0.9, 1.0], p=[0.2, 0.3, 0.2, 0.25, 0.05])),
        skewed=bool(random.random() < 0.2),
    )  # fmt: skip
    return builder.done(last), builder.images(2)


def random_network(seed: int, length: int = 8) -> tuple[g.Graph, NDArray[np.uint8]]:
    """A chain with branches of every operation."""
    random = np.random.default_rng(seed)
    channels = int(random.choice([1, 3, 4, 16, 19]))
    builder = Builder(random, (int(random.integers(5, 15)), int(random.integers(5, 15)), channels))
    last = builder.input(*random_range(random))
    for _ in range(length):
        last = _random_step(builder, last)
    if random.random() < 0.2:  # as of a detector
        branches = [builder.convolution(last, outs, (1, 1), bits=4, to=None) for outs in (1, 4, 9)]
        last = builder.join([*branches, builder.average_pool(last, 1, 1, 0, None)])
    elif random.random() < 0.3:
        last = builder.average_pool(last, 1, 1, 0, None)
    elif random.random() < 0.2:
        last = builder.layer_norm(last, None)
    elif random.random() < 0.5:
        height, width, _ = builder.graph.tensors[last].shape
        last = builder.convolution(last, 10, (height, width), bits=8, to=None)
    if builder.graph.tensors[last].floating and random.random() < 0.5:
        last = builder.limit(last, 0.0, float(random.choice([np.inf, 1.0])))
    graph = builder.done(last)
    return fuse_additions(graph) if random.random() < 0.6 else graph, builder.images(3)


def _random_step(builder: Builder, last: str) -> str:
    random = builder.random
    height, width, channels = builder.graph.tensors[last].shape
    to = random_range(random)
    bits = int(random.choice([2, 3, 4, 8]))
    choice = random.integers(13)
    if choice == 0:
        return builder.convolution(
            last, int(random.integers(1, 40)), (3, 3), bits=bits, padding=(1, 1, 1, 1), to=to
        )
    if choice == 1:
        other = builder.convolution(last, channels, (1, 1), bits=bits, to=random_range(random))
        return builder.add(last, other, *to)
    if choice == 2:
        other = builder.convolution(last, 5, (1, 1), bits=bits, to=random_range(random))
        return builder.concatenate([last, other, last], *to) if channels < 40 else other
    if choice == 3:
        dilation = 2 if min(height, width) > 3 and random.random() < 0.3 else 1
        return builder.max_pool(last, 3, int(random.integers(1, 3)), 1, dilation)
    if choice == 4:
        return builder.average_pool(
            last, 3, int(random.integers(1, 3)), 1, to, count=bool(random.random() < 0.5)
        )
    if choice == 5:
        return builder.look_up(last, *to)
    if choice == 6:
        starts = tuple(int(random.integers(0, min(size, 2))) for size in (height, width, channels))
        steps = (1, int(random.integers(1, 3)), int(random.integers(1, 3)))
        return builder.slice(last, (starts[0], starts[1], starts[2]), steps)
    if choice == 7:
        before, after = (tuple(int(value) for value in random.integers(0, 3, 3)) for _ in range(2))
        return builder.pad(last, (before[0], before[1], before[2]), (after[0], after[1], after[2]))
    if choice == 8:
        return builder.reshape(last, (width, height, channels))
    if choice == 9:
        return builder.layer_norm(last, to)
    if choice == 10:
        return builder.shuffle(last, int(random.integers(2, 4)))
    if choice == 11 and max(height, width) < 20:
        rows, columns = np.arange(2 * height) // 2, random.integers(0, width, width + 3)
        return builder.resize(last, rows.tolist(), columns.tolist())
    other = last
    if random.random() < 0.7:  # as in squeeze-excitation, or all positions
        kernel = (height, width) if random.random() < 0.7 and height * width < 200 else (1, 1)
        other = builder.convolution(last, channels, kernel, bits=bits, to=random_range(random))
    return builder.multiply(last, other, *to)


def in_blocks(graph: g.Graph, random: np.random.Generator) -> g.Graph:
    """The graph with blocks of zeros in every convolution that is made of whole blocks, computed and stored without them."""

    def emptied(op: g.Operation) -> g.Operation:
        if not isinstance(op, g.Convolution) or not has_blocks(op.weights.indices.shape, op.groups):
            return op
        indices, zero = op.weights.indices.copy(), np.flatnonzero(op.weights.levels == 0)
        if len(zero):
            blocks = indices.reshape(len(indices) // QUAD, QUAD, -1, OCTET).transpose(0, 2, 1, 3)
            blocks[random.random(blocks.shape[:2]) >= random.choice([0, 0.25, 0.5, 0.75, 1])] = zero[0]
        return dataclasses.replace(
            op, weights=dataclasses.replace(op.weights, indices=indices), kernel="blocks"
        )

    return dataclasses.replace(graph, operations=[emptied(op) for op in graph.operations])


def with_middles(graph: g.Graph, random: np.random.Generator) -> g.Graph:
    """The graph with a middle tap of 8 bits in every convolution that can have one, extreme weights among them."""

    def added(op: g.Operation) -> g.Operation:
        if not isinstance(op, g.Convolution) or op.weights.bits == 8 or op.kernel == "blocks":
            return op
        outs, height, width, depth = op.weights.indices.shape
        if height % 2 == 0 or width % 2 == 0:
            return op
        middle = random.integers(-128, 128, (outs, 1, 1, depth), dtype=np.int8)
        middle[random.random(middle.shape) < random.choice([0, 0.5, 1])] = 0
        return dataclasses.replace(op, weights=dataclasses.replace(op.weights, middle=middle))

    return dataclasses.replace(graph, operations=[added(op) for op in graph.operations])


def without_taps(graph: g.Graph, random: np.random.Generator) -> g.Graph:
    """The graph with zeros in all weights of some taps of every convolution, perhaps of all."""

    def emptied(op: g.Operation) -> g.Operation:
        if not isinstance(op, g.Convolution) or not len(zero := np.flatnonzero(op.weights.levels == 0)):
            return op
        indices = op.weights.indices.copy()
        indices[:, random.random(indices.shape[1:3]) >= random.choice([0, 0.3, 0.6, 1])] = zero[0]
        return dataclasses.replace(op, weights=dataclasses.replace(op.weights, indices=indices))

    return dataclasses.replace(graph, operations=[emptied(op) for op in graph.operations])


def _random_window(random: np.random.Generator, channels: int, outs: int) -> tuple[Builder, str]:
    """One convolution with a window of random size, stride, dilation and padding, that can have zeros."""
    kernel = (int(random.integers(1, 4)), int(random.integers(1, 4)))
    dilation = (1, 1) if random.random() < 0.7 else (int(random.integers(1, 3)), int(random.integers(1, 3)))
    least = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    height, width = (max(size, int(random.integers(1, 14))) for size in least)
    padding = (0, 0, 0, 0)
    if random.random() < 0.7:
        top, left, bottom, right = (int(value) for value in random.integers(0, 3, 4))
        padding = (top, left, bottom, right)
    builder = Builder(random, (height, width, channels))
    last = builder.convolution(
        builder.input(*random_range(random)), outs, kernel, dilation=dilation,
        padding=padding, stride=(int(random.integers(1, 3)), int(random.integers(1, 3))),
        bits=int(random.choice([2, 3, 4, 8])), to=random_range(random) if random.random() < 0.85 else None,
        zeros=float(random.choice([0, 0.3, 0.9])),
    )  # fmt: skip
    return builder, last


def random_blocks(seed: int) -> tuple[g.Graph, NDArray[np.uint8]]:
    """One convolution of random shape with a random mask of blocks."""
    random = np.random.default_rng((seed, 4))
    builder, last = _random_window(
        random, OCTET * int(random.integers(1, 6)), QUAD * int(random.integers(1, 9))
    )
    return in_blocks(builder.done(last), random), builder.images(1)


def random_middle(seed: int) -> tuple[g.Graph, NDArray[np.uint8]]:
    """One convolution of random shape, of one group, several, or as many as channels, with a middle tap of 8 bits."""
    random = np.random.default_rng((seed, 6))
    kernel = (int(random.choice([1, 3, 3, 5])), int(random.choice([1, 3, 3, 5])))
    groups, depth = int(random.choice([1, 1, 2, 3])), int(random.integers(1, 40))
    if random.random() < 0.25:
        groups, depth = depth + 1, 1
    top, left, bottom, right = (int(value) for value in random.integers(0, 3, 4))
    height, width = (max(size, int(random.integers(1, 14))) for size in kernel)
    builder = Builder(random, (height, width, depth * groups))
    last = builder.convolution(
        builder.input(*random_range(random)), groups * int(random.integers(1, 20 if groups < 4 else 3)), kernel,
        groups=groups, padding=(top, left, bottom, right), bits=int(random.choice([2, 3, 4])),
        stride=(int(random.integers(1, 3)), int(random.integers(1, 3))),
        to=random_range(random) if random.random() < 0.85 else None, zeros=float(random.choice([0, 0.3, 0.9])),
    )  # fmt: skip
    graph = with_middles(builder.done(last), random)
    return without_taps(graph, random) if random.random() < 0.2 else graph, builder.images(1)


def random_taps(seed: int) -> tuple[g.Graph, NDArray[np.uint8]]:
    """One convolution of random shape with a random mask of taps."""
    random = np.random.default_rng((seed, 5))
    whole = random.random() < 0.8  # whole tiles belong to a tap: those without weights are left out
    channels = 8 * int(random.integers(1, 40)) if whole else int(random.integers(1, 40))
    builder, last = _random_window(random, channels, int(random.integers(1, 40)))
    return without_taps(builder.done(last), random), builder.images(1)


GROUPED = 3  # the kernel's number in the blob


def with_kernel(blob: bytes, kernel: int) -> bytes:
    """The blob with ``kernel`` asked for in every convolution of one group."""
    changed = bytearray(blob)
    operations, table = struct.unpack_from("<I", blob, 28)[0], struct.unpack_from("<I", blob, 36)[0]
    for start in range(table, table + 128 * operations, 128):
        words = struct.unpack_from("<32i", blob, start)
        if words[0] == 2 and words[14] == 1:
            struct.pack_into("<i", changed, start + 27 * 4, kernel)
    return with_checksum(changed)


def with_checksum(blob: bytearray) -> bytes:
    """The blob with the checksum that its bytes have now."""
    struct.pack_into("<I", blob, 12, zlib.crc32(memoryview(blob)[16:]))
    return bytes(blob)
