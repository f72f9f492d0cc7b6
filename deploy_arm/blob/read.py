"""A blob as a graph again: to run the reference on exactly what the program loads, and to look into a program.

Names of tensors and layers are not in a blob: tensor 5 is called ``t5``, the layer of operation 7 ``operation 7``.
Scales of codebooks are 1, since they went into the requantization.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob import float_blob
from deploy_arm.blob.packing import unpack_weights
from deploy_arm.blob.write import KERNELS, OPCODES, TENSOR, WORDS, read_blob
from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatConcatenate
from foundation.errors import UserError

KINDS = {opcode: kind for kind, opcode in OPCODES.items()}


@dataclass(frozen=True)
class _Reader:
    blob: bytes

    def array(self, offset: int, dtype: str, shape: int | tuple[int, ...]) -> NDArray[Any]:
        count = int(np.prod(shape))
        return np.frombuffer(self.blob, dtype, count, offset).reshape(shape)

    def table(self, offset: int, signed: bool, shape: int | tuple[int, ...]) -> NDArray[np.int16]:
        return self.array(offset, "<i1" if signed else "<u1", shape).astype(np.int16)

    def windows(self, offset: int, count: int) -> tuple[g.Window, ...]:
        return tuple(g.Window(*row) for row in self.array(offset, "<i4", (count, 3)).tolist())

    def finish(self, words: list[int], count: int) -> g.Requantize | g.Dequantize:
        kind, first, second, *rest = words
        if kind == 1:
            return g.Dequantize(self.array(first, "<f4", count), self.array(second, "<f4", count))
        return g.Requantize(self.array(first, "<i4", count), self.array(second, "<i4", count), *rest[:4])


def _convolution(reader: _Reader, words: list[int], source: g.Tensor, target: g.Tensor) -> tuple[Any, ...]:
    height, width = words[4:6]
    groups, bits, count, levels_at, packed_at, size = words[14:20]
    shape = (target.shape[2], height, width, source.shape[2] // groups)
    levels = reader.array(levels_at, "<i1", count)
    weights = unpack_weights(reader.array(packed_at, "<u1", size), levels, bits, shape, groups, words[30])
    finish = reader.finish(words[20:27], target.shape[2])
    top, left, bottom, right = words[8:12]
    if not 0 <= words[27] < len(KERNELS):
        raise UserError(
            f"a convolution of the blob asks for the unknown kernel {words[27]}; compile the candidate again"
        )
    geometry = ((words[6], words[7]), (top, left, bottom, right), (words[12], words[13]))
    residual = None
    if words[29]:
        first, second, *rest = reader.array(words[29], "<i4", 5).tolist()
        residual = g.FusedAdd((first, second), *rest)
    return weights, *geometry, groups, finish, residual, KERNELS[words[27]]


def _fields(reader: _Reader, words: list[int], source: g.Tensor, target: g.Tensor) -> tuple[Any, ...]:
    """What the operation's class takes after inputs, output and layer (not for concatenations)."""
    kind, signed = KINDS[words[0]], target.low < 0
    if kind in float_blob.OPCODES:
        return float_blob.fields(kind, reader, words, source, target)
    if kind is g.InputTable:
        return (reader.table(words[4], signed, (target.shape[2], 256)),)
    if kind is g.Table:
        return (reader.table(words[4], signed, 256),)
    if kind is g.FloatTable:
        return (reader.array(words[4], "<f4", 256),)
    if kind is g.Convolution:
        return _convolution(reader, words, source, target)
    if kind is g.Add:
        return ((words[4], words[5]), words[6], words[7], words[8])
    if kind is g.Multiply:
        one = np.array(words[4:6], np.int32)
        return (g.Requantize(one[:1], one[1:], *words[6:10]),)
    if kind in (g.MaxPool, g.AveragePool):
        windows = (reader.windows(words[4], target.shape[0]), reader.windows(words[5], target.shape[1]))
        if kind is g.MaxPool:
            return (*windows, (words[6] + 1, words[7] + 1))
        divisors = tuple(reader.array(words[7], "<i4", words[6]).tolist())
        return (*windows, divisors, reader.finish(words[8:15], words[6]))
    if kind is g.Gather:
        return (reader.array(words[4], "<i4", target.shape[2]),)
    if kind is g.LayerNorm:
        epsilon = struct.unpack("<Q", struct.pack("<2i", *words[4:6]))[0]
        return (epsilon, reader.finish(words[6:13], target.shape[2]))
    if kind is g.Limit:
        return struct.unpack("<2f", struct.pack("<2i", *words[4:6]))
    if kind in (g.Slice, g.Pad):
        return tuple(words[4:7]), tuple(words[7:10])
    return ()


def read_graph(blob: bytes) -> g.Graph:
    """The graph that ``blob`` holds.

    Raises:
        UserError: the blob is damaged (see ``read_blob``) or has an unknown operation.
    """
    header = read_blob(blob)
    reader = _Reader(blob)
    records = np.frombuffer(blob, TENSOR, header.tensors, header.tensor_table)
    tensors = [
        g.Tensor(
            f"t{number}",
            (int(record["shape"][0]), int(record["shape"][1]), int(record["shape"][2])),
            float(record["step"]),
            int(record["low"]),
            int(record["high"]),
            bool(record["floating"]),
        )
        for number, record in enumerate(records)
    ]
    graph = g.Graph(tensors[header.input], tensors[header.output].name, {t.name: t for t in tensors})
    rows = reader.array(header.operation_table, "<i4", (header.operations, WORDS)).tolist()
    for number, words in enumerate(rows):
        kind = KINDS.get(words[0])
        if kind is None:
            raise UserError(
                f"operation {number} of the blob has the unknown code {words[0]}; compile the candidate again"
            )
        source, second, target = (tensors[i] if i >= 0 else None for i in words[1:4])
        if source is None or target is None:
            raise UserError(
                f"operation {number} of the blob has no input or output; compile the candidate again"
            )
        names = (source.name,) if second is None else (source.name, second.name)
        layer = f"operation {number}"
        if kind is g.Concatenate:
            parts = reader.array(words[5], "<i4", (words[4], 2)).tolist()
            names = tuple(tensors[part].name for part, _ in parts)
            tables = tuple(reader.table(offset, target.low < 0, 256) for _, offset in parts)
            graph.operations.append(g.Concatenate(names, target.name, layer, tables))
        elif kind is FloatConcatenate:
            parts = reader.array(words[5], "<i4", words[4]).tolist()
            names = tuple(tensors[part].name for part in parts)
            graph.operations.append(FloatConcatenate(names, target.name, layer))
        else:
            graph.operations.append(kind(names, target.name, layer, *_fields(reader, words, source, target)))
    return graph
