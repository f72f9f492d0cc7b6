"""A graph as the one file that the program loads (FORMAT.md), and the check of such a file."""

from __future__ import annotations

import struct
import typing
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob import float_blob
from deploy_arm.blob.memory import plan_memory
from deploy_arm.blob.packing import packed_bytes, store_weights
from deploy_arm.ir import graph as g
from deploy_arm.runtime.binding import DEFAULT_MEMORY
from foundation.errors import UserError

MAGIC = b"CNNBLOB1"
VERSIONS = PLAIN, CODED = 2, 3  # CODED where the weights of some convolution are; the program reads both
HEADER = struct.Struct("<8sIIQIIIIIII3I")
TENSOR = np.dtype(
    [
        ("shape", "<u4", 3),
        ("offset", "<u4"),
        ("low", "<i4"),
        ("high", "<i4"),
        ("step", "<f4"),
        ("floating", "<u4"),
    ]
)
WORDS = 32
OPCODES: dict[type[g.Operation], int] = {
    g.InputTable: 1,
    g.Convolution: 2,
    g.Add: 3,
    g.Concatenate: 4,
    g.MaxPool: 5,
    g.AveragePool: 6,
    g.Table: 7,
    g.Slice: 8,
    g.Pad: 9,
    g.Reshape: 10,
    g.Output: 11,
    g.Multiply: 12,
    g.Gather: 13,
    g.LayerNorm: 14,
    g.Limit: 15,
    g.FloatTable: 16,
    **float_blob.OPCODES,
}
KERNELS = typing.get_args(g.Kernel)  # in the order of their numbers


@dataclass(frozen=True)
class Header:
    """What the first 64 bytes say."""

    total_bytes: int
    tensors: int
    operations: int
    tensor_table: int
    operation_table: int
    arena_bytes: int
    input: int
    output: int


class _Writer:
    """Appends data sections at multiples of 16, each distinct content once."""

    def __init__(self, start: int) -> None:
        self.position = start
        self.parts: list[bytes] = []
        self.seen: dict[bytes, int] = {}

    def add(self, data: NDArray[Any]) -> int:
        content = np.ascontiguousarray(data).tobytes()
        if content in self.seen:
            return self.seen[content]
        offset = self.seen[content] = self.position
        padding = -len(content) % 16
        self.parts += [content, bytes(padding)]
        self.position += len(content) + padding
        return offset


def _byte_table(table: NDArray[np.int16]) -> NDArray[np.uint8]:
    return table.astype(np.uint8)  # int16 to its low byte: the two's complement byte


def _windows(windows: Sequence[g.Window]) -> NDArray[np.int32]:
    return np.array([(w.start, w.end, w.divisor) for w in windows], np.dtype("<i4"))


def _finish(finish: g.Requantize | g.Dequantize, writer: _Writer) -> list[int]:
    """finish, two offsets, left, right, low, high."""
    if isinstance(finish, g.Dequantize):
        return [
            1,
            writer.add(finish.scale.astype("<f4")),
            writer.add(finish.offset.astype("<f4")),
            0,
            0,
            0,
            0,
        ]
    arrays = [writer.add(finish.multiplier.astype("<i4")), writer.add(finish.offset.astype("<i4"))]
    return [0, *arrays, finish.left, finish.right, finish.low, finish.high]


def _convolution(op: g.Convolution, writer: _Writer) -> list[int]:
    _, height, width, _ = op.weights.indices.shape
    stored = store_weights(op.weights, op.groups)
    levels, offset = 0, 0
    if op.weights.bits != 8:
        levels = len(op.weights.levels)
        offset = writer.add(np.pad(op.weights.levels, (0, 16 - levels)))
    zeros = int(op.weights.integers.size - np.count_nonzero(op.weights.integers))
    residual = 0
    if op.residual:
        r = op.residual
        residual = writer.add(np.array([*r.multipliers, r.right, r.low, r.high], "<i4"))
    kernel = KERNELS.index(op.kernel)
    return [
        *(height, width, *op.stride, *op.padding, *op.dilation, op.groups, op.weights.bits, levels, offset),
        *(writer.add(stored.content), stored.content.size, *_finish(op.finish, writer)),
        *(kernel, zeros, residual, stored.lanes),
    ]


def _parameters(op: g.Operation, index: dict[str, int], writer: _Writer) -> list[int]:
    """Words 4 and following of one operation."""
    if type(op) in float_blob.OPCODES:
        return float_blob.parameters(op, index, writer)
    if isinstance(op, g.InputTable | g.Table):
        return [writer.add(_byte_table(op.table))]
    if isinstance(op, g.FloatTable):
        return [writer.add(op.table.astype("<f4"))]
    if isinstance(op, g.Convolution):
        return _convolution(op, writer)
    if isinstance(op, g.Add):
        return [*op.multipliers, op.right, op.low, op.high]
    if isinstance(op, g.Multiply):
        f = op.finish
        return [int(f.multiplier[0]), int(f.offset[0]), f.left, f.right, f.low, f.high]
    if isinstance(op, g.Concatenate):
        tables = [writer.add(_byte_table(table)) for table in op.tables]
        records = np.array(
            [(index[name], table) for name, table in zip(op.inputs, tables, strict=True)], "<i4"
        )
        return [len(tables), writer.add(records)]
    if isinstance(op, g.MaxPool):
        skipped = [step - 1 for step in op.dilation]
        return [writer.add(_windows(op.rows)), writer.add(_windows(op.columns)), *skipped]
    if isinstance(op, g.AveragePool):
        windows = [writer.add(_windows(op.rows)), writer.add(_windows(op.columns))]
        divisors = writer.add(np.array(op.divisors, "<i4"))
        return [*windows, len(op.divisors), divisors, *_finish(op.finish, writer)]
    if isinstance(op, g.Gather):
        return [writer.add(op.indices.astype("<i4"))]
    if isinstance(op, g.LayerNorm):
        return [*struct.unpack("<2i", struct.pack("<Q", op.epsilon)), *_finish(op.finish, writer)]
    if isinstance(op, g.Limit):
        return list(struct.unpack("<2i", struct.pack("<2f", op.low, op.high)))
    if isinstance(op, g.Slice):
        return [*op.starts, *op.steps]
    if isinstance(op, g.Pad):
        return [*op.before, *op.after]
    return []


def _decoded_bytes(graph: g.Graph, words: NDArray[np.int32]) -> list[int]:
    """What each convolution whose weights are coded decodes them to."""
    convolutions = [op for op, row in zip(graph.operations, words, strict=True) if row[0] == 2 and row[30]]
    return [
        packed_bytes(op.weights.indices.shape, op.groups, op.weights.bits)
        for op in convolutions
        if isinstance(op, g.Convolution)
    ]


def write_blob(graph: g.Graph) -> bytes:
    """Everything the program needs to run ``graph``: header, memory plan, operations, packed weights and tables."""
    memory = plan_memory(graph)
    names = list(graph.tensors)
    index = {name: number for number, name in enumerate(names)}
    tensors = np.zeros(len(names), TENSOR)
    for record, tensor in zip(tensors, graph.tensors.values(), strict=True):
        record["shape"] = tensor.shape
        record["offset"] = memory.offsets[tensor.name]
        record["low"], record["high"], record["step"] = tensor.low, tensor.high, tensor.step
        record["floating"] = tensor.floating
    tensor_table = HEADER.size
    operation_table = tensor_table + tensors.nbytes
    words = np.zeros((len(graph.operations), WORDS), "<i4")
    writer = _Writer(operation_table + words.nbytes)
    for row, operation in zip(words, graph.operations, strict=True):
        second = index[operation.inputs[1]] if len(operation.inputs) > 1 else -1
        parameters = _parameters(operation, index, writer)
        row[:4] = OPCODES[type(operation)], index[operation.inputs[0]], second, index[operation.output]
        row[4 : 4 + len(parameters)] = parameters
    total = writer.position
    coded = _decoded_bytes(graph, words)
    if total + sum(coded) + memory.size > DEFAULT_MEMORY:
        raise UserError(
            f"the program would need {total + sum(coded)} bytes for its weights and {memory.size} for activations; both together "
            f"may be {DEFAULT_MEMORY} (1 GiB): use smaller images, or fewer channels"
        )
    header = HEADER.pack(
        *(
            MAGIC,
            CODED if coded else PLAIN,
            0,
            total,
            len(names),
            len(words),
            tensor_table,
            operation_table,
            memory.size,
        ),
        *(index[graph.input.name], index[graph.output], 0, 0, 0),
    )
    blob = bytearray(b"".join([header, tensors.tobytes(), words.tobytes(), *writer.parts]))
    struct.pack_into("<I", blob, 12, zlib.crc32(memoryview(blob)[16:]))
    return bytes(blob)


def read_blob(blob: bytes) -> Header:
    """Check a blob and return what its header says.

    Raises:
        UserError: not a blob, another version, truncated, or damaged.
    """
    if len(blob) < HEADER.size or blob[:8] != MAGIC:
        raise UserError(
            "this is not a network blob (a blob starts with CNNBLOB1); give the weights.blob of a candidate"
        )
    fields = HEADER.unpack_from(blob)
    version, checksum, total, tensors, operations, tensor_table, operation_table = fields[1:8]
    arena, first, last = fields[8:11]
    if version not in VERSIONS:
        raise UserError(
            f"blob of format version {version}; this program reads {PLAIN} and {CODED}: compile the candidate again"
        )
    if total != len(blob):
        raise UserError(f"the blob says it has {total} bytes, the file has {len(blob)}: copy it again")
    if checksum != zlib.crc32(memoryview(blob)[16:]):
        raise UserError("the blob's checksum is wrong, so the file is damaged: copy or compile it again")
    inside = tensor_table + 32 * tensors <= total and operation_table + 4 * WORDS * operations <= total
    if not inside or first >= tensors or last >= tensors or not operations:
        raise UserError("the blob's tables do not lie inside the file: compile the candidate again")
    return Header(total, tensors, operations, tensor_table, operation_table, arena, first, last)
