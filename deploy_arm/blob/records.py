"""The table of all operations as they stand in a blob: one row each, to write and to read it."""

from __future__ import annotations

import dataclasses
import struct
import typing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob import float_blob
from deploy_arm.blob.packing import (
    OCTET,
    QUAD,
    kept_blocks,
    pack_bits,
    store_weights,
    unpack_bits,
    unpack_weights,
)
from deploy_arm.blob.sections import (
    OperationRecord,
    Reader,
    Words,
    Writer,
    float_words,
    nothing_read,
    nothing_written,
    words_float,
)
from deploy_arm.ir import graph as g
from foundation.errors import UserError

KERNELS = typing.get_args(g.Kernel)  # in the order of their numbers, ``enum kernel_number`` of kernels/blob.h


def _write_convolution(op: g.Convolution, writer: Writer) -> Words:
    _, height, width, _ = op.weights.indices.shape
    kept = kept_blocks(op.weights.integers) if op.kernel == "blocks" else None
    stored = store_weights(op.weights, op.groups, coded=writer.coded, kept=kept)
    levels, offset = 0, 0
    if op.weights.bits != 8:
        levels = len(op.weights.levels)
        offset = writer.add(np.pad(op.weights.levels, (0, 16 - levels)))
    zeros = int(op.weights.integers.size - np.count_nonzero(op.weights.integers))
    residual = 0
    if op.residual:
        r = op.residual
        residual = writer.add(np.array([*r.multipliers, r.right, r.low, r.high], "<i4"))
    return [
        *(height, width, *op.stride, *op.padding, *op.dilation, op.groups, op.weights.bits, levels, offset),
        *(writer.add(stored.content), stored.content.size, *writer.finish(op.finish)),
        *(KERNELS.index(op.kernel), zeros, residual, stored.lanes),
        *(writer.add(part) for part in (_kept_bits(kept), op.weights.middle) if part is not None),
    ]


def _kept_bits(kept: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    return None if kept is None else pack_bits(kept)


def _read_convolution(reader: Reader, words: Words) -> tuple[Any, ...]:
    shape, *moves, groups = reader.geometry(words)
    bits, count, levels_at, packed_at, size = words[15:20]
    levels = reader.array(levels_at, "<i1", count)
    kept = None
    if not 0 <= words[27] < len(KERNELS):
        raise UserError(
            f"a convolution of the blob asks for the unknown kernel {words[27]}; compile the candidate again"
        )
    kernel = KERNELS[words[27]]
    if words[31] and kernel == "blocks":
        row = -(-shape[1] * shape[2] * (shape[3] // OCTET) // 8)
        kept = unpack_bits(reader.array(words[31], "<u1", shape[0] // QUAD * row), shape)
    packed = reader.array(packed_at, "<u1", size)
    weights = unpack_weights(packed, levels, bits, shape, groups, words[30], kept)
    if words[31] and kernel != "blocks":
        middle = reader.array(words[31], "<i1", (shape[0], 1, 1, shape[3]))
        weights = dataclasses.replace(weights, middle=middle)
    finish = reader.finish(words[20:27], reader.target.shape[2])
    residual = None
    if words[29]:
        first, second, *rest = reader.array(words[29], "<i4", 5).tolist()
        residual = g.FusedAdd((first, second), *rest)
    return weights, *moves, groups, finish, residual, kernel


def _write_multiply(op: g.Multiply, writer: Writer) -> Words:
    f = op.finish
    return [int(f.multiplier[0]), int(f.offset[0]), f.left, f.right, f.low, f.high]


def _read_multiply(reader: Reader, words: Words) -> tuple[Any, ...]:
    one = np.array(words[4:6], np.int32)
    return (g.Requantize(one[:1], one[1:], *words[6:10]),)


def _write_concatenate(op: g.Concatenate, writer: Writer) -> Words:
    tables = [writer.table(table) for table in op.tables]
    records = [(writer.index[name], table) for name, table in zip(op.inputs, tables, strict=True)]
    return [len(tables), writer.add(np.array(records, "<i4"))]


def _read_concatenate(reader: Reader, words: Words) -> tuple[Any, ...]:
    offsets = reader.array(words[5], "<i4", (words[4], 2))[:, 1].tolist()
    return (tuple(reader.table(offset, 256) for offset in offsets),)


def _read_max_pool(reader: Reader, words: Words) -> tuple[Any, ...]:
    height, width, _ = reader.target.shape
    windows = reader.windows(words[4], height), reader.windows(words[5], width)
    return (*windows, (words[6] + 1, words[7] + 1))


def _write_average_pool(op: g.AveragePool, writer: Writer) -> Words:
    windows = [writer.windows(op.rows), writer.windows(op.columns)]
    divisors = writer.add(np.array(op.divisors, "<i4"))
    return [*windows, len(op.divisors), divisors, *writer.finish(op.finish)]


def _read_average_pool(reader: Reader, words: Words) -> tuple[Any, ...]:
    height, width, _ = reader.target.shape
    windows = reader.windows(words[4], height), reader.windows(words[5], width)
    divisors = tuple(reader.array(words[7], "<i4", words[6]).tolist())
    return (*windows, divisors, reader.finish(words[8:15], words[6]))


def _write_layer_norm(op: g.LayerNorm, writer: Writer) -> Words:
    return [*struct.unpack("<2i", struct.pack("<Q", op.epsilon)), *writer.finish(op.finish)]


def _read_layer_norm(reader: Reader, words: Words) -> tuple[Any, ...]:
    epsilon = struct.unpack("<Q", struct.pack("<2i", *words[4:6]))[0]
    return (epsilon, reader.finish(words[6:13], reader.target.shape[2]))


RECORDS: dict[type[g.Operation], OperationRecord] = {
    g.InputTable: OperationRecord(
        "INPUT_TABLE",
        lambda op, writer: [writer.table(op.table)],
        lambda reader, words: (reader.table(words[4], (reader.target.shape[2], 256)),),
    ),
    g.Convolution: OperationRecord("CONVOLUTION", _write_convolution, _read_convolution),
    g.Add: OperationRecord(
        "ADD",
        lambda op, writer: [*op.multipliers, op.right, op.low, op.high],
        lambda reader, words: ((words[4], words[5]), words[6], words[7], words[8]),
    ),
    g.Concatenate: OperationRecord("CONCATENATE", _write_concatenate, _read_concatenate, listed=2),
    g.MaxPool: OperationRecord(
        "MAX_POOL",
        lambda op, writer: [
            *(writer.windows(op.rows), writer.windows(op.columns)),
            *(step - 1 for step in op.dilation),
        ],
        _read_max_pool,
    ),
    g.AveragePool: OperationRecord("AVERAGE_POOL", _write_average_pool, _read_average_pool),
    g.Table: OperationRecord(
        "TABLE",
        lambda op, writer: [writer.table(op.table)],
        lambda reader, words: (reader.table(words[4], 256),),
    ),
    g.Slice: OperationRecord(
        "SLICE",
        lambda op, writer: [*op.starts, *op.steps],
        lambda reader, words: (tuple(words[4:7]), tuple(words[7:10])),
    ),
    g.Pad: OperationRecord(
        "PAD",
        lambda op, writer: [*op.before, *op.after],
        lambda reader, words: (tuple(words[4:7]), tuple(words[7:10])),
    ),
    g.Reshape: OperationRecord("RESHAPE", nothing_written, nothing_read),
    g.Output: OperationRecord("OUTPUT", nothing_written, nothing_read),
    g.Multiply: OperationRecord("MULTIPLY", _write_multiply, _read_multiply),
    g.Gather: OperationRecord(
        "GATHER",
        lambda op, writer: [writer.add(op.indices.astype("<i4"))],
        lambda reader, words: (reader.array(words[4], "<i4", reader.target.shape[2]),),
    ),
    g.LayerNorm: OperationRecord("LAYER_NORM", _write_layer_norm, _read_layer_norm),
    g.Limit: OperationRecord(
        "LIMIT",
        lambda op, writer: float_words(op.low, op.high),
        lambda reader, words: words_float(words[4:6]),
    ),
    g.FloatTable: OperationRecord(
        "FLOAT_TABLE",
        lambda op, writer: [writer.add(op.table.astype("<f4"))],
        lambda reader, words: (reader.array(words[4], "<f4", 256),),
    ),
    **float_blob.RECORDS,
}
KINDS = {record.opcode: kind for kind, record in RECORDS.items()}
