"""Channels that nobody reads are not computed: where all weights of a convolution's input channel are zero, the convolution
before it leaves that output channel out, and so does what lies between them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.packing import OCTET, is_depthwise
from deploy_arm.ir import graph as g
from foundation.codebook import Codebook

Channels = NDArray[np.int64]


def drop_unread_channels(graph: g.Graph) -> g.Graph:
    """An equal graph without them; their number falls by whole eights, which is what kernels are made for.

    Only what one reader alone reads is looked at, so additions and concatenations keep all of their channels.
    """
    readers = Counter(name for op in graph.operations for name in op.inputs)
    made = {op.output: index for index, op in enumerate(graph.operations)}
    operations, tensors = list(graph.operations), dict(graph.tensors)
    for index, op in enumerate(graph.operations):
        if not isinstance(op, g.Convolution) or op.groups > 1:
            continue
        kept = channels_read(op.weights.integers)
        path = (
            _path(operations, made, readers, op.inputs[0], graph.output) if len(kept) < _depth(op) else None
        )
        if path is None:
            continue
        current = operations[index]
        assert isinstance(current, g.Convolution)
        operations[index] = dataclasses.replace(current, weights=_take(current, kept, axis=3))
        for place in path:
            before = operations[place]
            if isinstance(before, g.Convolution):
                before = dataclasses.replace(
                    before,
                    weights=_take(before, kept, axis=0),
                    finish=_finish(before.finish, kept),
                    groups=len(kept) if before.groups > 1 else 1,
                )
                operations[place] = before
            tensor = tensors[before.output]
            tensors[before.output] = dataclasses.replace(tensor, shape=(*tensor.shape[:2], len(kept)))
    return g.Graph(graph.input, graph.output, tensors, operations)


def _depth(op: g.Convolution) -> int:
    return int(op.weights.indices.shape[3])


def makers_of(graph: g.Graph) -> dict[str, tuple[str, ...]]:
    """For the layer of each convolution whose input is made for it alone: the layers whose channels are as many as it reads."""
    readers = Counter(name for op in graph.operations for name in op.inputs)
    made = {op.output: index for index, op in enumerate(graph.operations)}
    found = {}
    for op in graph.operations:
        if isinstance(op, g.Convolution) and op.groups == 1:
            path = _path(graph.operations, made, readers, op.inputs[0], graph.output) or []
            layers = [graph.operations[place] for place in path]
            found[op.layer] = tuple(each.layer for each in layers if isinstance(each, g.Convolution))
    return {reader: makers for reader, makers in found.items() if makers}


def channels_read(integers: NDArray[Any]) -> Channels:
    """The input channels of OHWI weights that are not all zero there, and of the others as many as make whole eights."""
    heavy = (integers != 0).any(axis=(0, 1, 2))
    count = min(len(heavy), -(-max(1, int(heavy.sum())) // OCTET) * OCTET)
    return np.sort(np.argsort(~heavy, kind="stable")[:count])


def _path(
    operations: list[g.Operation], made: dict[str, int], readers: Counter[str], name: str, output: str
) -> list[int] | None:
    """Places of the operations that make a tensor channel by channel, up to the convolution that makes its channels; None where
    somebody else reads one of their results, or no such convolution is there."""
    path = []
    while name in made and readers[name] == 1 and name != output:
        op = operations[made[name]]
        path.append(made[name])
        if isinstance(op, g.Convolution):
            if op.residual is not None:
                return None
            if op.groups == 1:
                return path
            if not is_depthwise(op.weights.indices.shape, op.groups) or len(op.weights.indices) != op.groups:
                return None
        elif not isinstance(op, g.Table | g.MaxPool | g.AveragePool):
            return None
        name = op.inputs[0]
    return None


def _take(op: g.Convolution, kept: Channels, axis: int) -> Codebook:
    book = op.weights
    scale = book.scale[kept] if axis == 0 and len(book.scale) > 1 else book.scale
    middle = None if book.middle is None else np.take(book.middle, kept, axis)
    return dataclasses.replace(book, indices=np.take(book.indices, kept, axis), scale=scale, middle=middle)


def _finish(finish: g.Requantize | g.Dequantize, kept: Channels) -> g.Requantize | g.Dequantize:
    if isinstance(finish, g.Dequantize):
        return g.Dequantize(finish.scale[kept], finish.offset[kept])
    return dataclasses.replace(finish, multiplier=finish.multiplier[kept], offset=finish.offset[kept])
