"""Networks that the loader accepts and whose numbers nobody would choose: extreme factors, shifts, weights, what is no number.

Whatever they compute, every implementation computes the same, and none leaves its memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.fuzz.float_networks import FloatBuilder, random_convolutions, random_others
from deploy_arm.fuzz.graphs import Builder
from deploy_arm.fuzz.networks import (
    GROUPED,
    in_blocks,
    random_convolution,
    random_network,
    random_range,
    with_kernel,
    with_middles,
)
from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g

INTEGERS = np.array([-(2**31) + 1, -(2**30), -65536, -1, 0, 1, 255, 65536, 2**30, 2**31 - 1], np.int64)
FLOATS = np.array(
    [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0, 0.0, 1.0, -1e-38, 8388609.0], np.float32
)
SHARE = 0.4  # of the operations, and of the numbers within one, that become hostile


def _replaced(values: NDArray[Any], others: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    chosen = random.choice(others, values.shape).astype(values.dtype)
    return np.where(random.random(values.shape) < SHARE, chosen, values).astype(values.dtype)


def _finish(finish: g.Requantize | g.Dequantize, random: np.random.Generator) -> g.Requantize | g.Dequantize:
    if isinstance(finish, g.Dequantize):
        return g.Dequantize(_replaced(finish.scale, FLOATS, random), _replaced(finish.offset, FLOATS, random))
    left, right = (int(value) for value in random.choice([0, 1, 15, 16, 22, 23, 30, 31], 2))
    return dataclasses.replace(
        finish,
        multiplier=_replaced(finish.multiplier, INTEGERS, random),
        offset=_replaced(finish.offset, np.append(INTEGERS, -(2**31)), random),
        left=left,
        right=right,
    )


def _operation(op: g.Operation, random: np.random.Generator) -> g.Operation:
    if isinstance(op, g.Convolution):
        levels = op.weights.levels.copy()
        if op.weights.bits < 8:
            levels = _replaced(levels, np.array([-128, -127, 127, 0]), random)
        return dataclasses.replace(
            op, weights=dataclasses.replace(op.weights, levels=levels), finish=_finish(op.finish, random)
        )
    if isinstance(op, g.AveragePool | g.LayerNorm):
        op = dataclasses.replace(op, finish=_finish(op.finish, random))
        return dataclasses.replace(op, epsilon=2**60) if isinstance(op, g.LayerNorm) else op
    if isinstance(op, g.Multiply):
        finish = _finish(op.finish, random)
        assert isinstance(finish, g.Requantize)
        return dataclasses.replace(op, finish=finish)
    if isinstance(op, g.Add):
        multipliers = tuple(int(value) for value in random.choice([0, 1, 2**20 - 1, 2**20], 2))
        return dataclasses.replace(
            op, multipliers=(multipliers[0], multipliers[1]), right=int(random.choice([1, 2, 20, 30]))
        )
    if isinstance(op, f.FloatInput | g.FloatTable):
        return dataclasses.replace(op, table=_replaced(op.table, FLOATS, random))
    if isinstance(op, f.FloatConvolution):
        weights, bias = (_replaced(values, FLOATS, random) for values in (op.weights, op.bias))
        return dataclasses.replace(op, weights=weights, bias=bias)
    if isinstance(op, f.FloatFunction):
        return dataclasses.replace(op, parameter=float(random.choice(FLOATS)))
    return op


def make_hostile(graph: g.Graph, random: np.random.Generator) -> g.Graph:
    """The same network with hostile numbers in some of its operations."""
    operations = [_operation(op, random) if random.random() < SHARE else op for op in graph.operations]
    return dataclasses.replace(graph, operations=operations)


def ends_in_floats(random: np.random.Generator) -> g.Graph:
    """Bytes through tables of floats, and sums and products of floats, side by side."""
    builder = Builder(
        random, (int(random.integers(1, 6)), int(random.integers(1, 6)), int(random.integers(1, 20)))
    )
    source = builder.input(*random_range(random))
    other = builder.convolution(source, builder.shape[2], (1, 1), to=random_range(random))
    kinds: tuple[type[g.Operation], ...] = (f.FloatAdd, f.FloatMultiply)
    made = [builder.combine_floats(kind, source, other) for kind in kinds]
    return builder.done(builder.join([builder.look_up_floats(source), builder.look_up_floats(other), *made]))


def hostile_graph(seed: int) -> g.Graph:
    """Of every four one convolution, one float network, two chains of everything; now and then a network that ends in floats."""
    random = np.random.default_rng((seed, 13))
    if seed % 4 == 0:
        graph = random_convolution(seed)[0]
    elif seed % 4 == 1:
        builder = FloatBuilder(random, (int(random.integers(2, 8)), int(random.integers(2, 8)), 3))
        source = builder.float_convolution(builder.pixels(), int(random.integers(2, 13)), (1, 1))
        graph = builder.finished(random_convolutions(builder, source, 6) + random_others(builder, source))
    elif seed % 8 == 2:
        graph = ends_in_floats(random)
    else:
        graph = random_network(seed)[0]
    return make_hostile(graph, random)


def hostile_blobs(first: int, count: int) -> Iterator[bytes]:
    """``count`` blobs, the same ones for the same ``first``; every third asks for the level-grouped kernel where it can,
    every third leaves out blocks, and every third has middle taps of 8 bits."""
    for seed in range(first, first + count):
        graph, random = hostile_graph(seed), np.random.default_rng(seed)
        made = (graph, in_blocks(graph, random), with_middles(graph, random))[seed % 3]
        blob = write_blob(made)
        yield with_kernel(blob, GROUPED) if seed % 3 == 0 else blob
