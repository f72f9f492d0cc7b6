"""A graph as the one file that the program loads (FORMAT.md), and the check of such a file."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.memory import plan_memory
from deploy_arm.blob.packing import GROUP_BYTES, kept_blocks, packed_bytes
from deploy_arm.blob.records import RECORDS
from deploy_arm.blob.sections import Writer
from deploy_arm.ir import graph as g
from deploy_arm.runtime.binding import DEFAULT_MEMORY
from foundation.errors import UserError

MAGIC = b"CNNBLOB1"
# CODED where the weights of some convolution are, BLOCKS where some have blocks left out, MIDDLE where the middle tap of some has
# 8 bits; the program reads all of them.
VERSIONS = PLAIN, CODED, BLOCKS, MIDDLE = 2, 3, 4, 5
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


def _packed_bytes(op: g.Convolution) -> int:
    if op.kernel == "blocks":
        return int(kept_blocks(op.weights.integers).sum()) * GROUP_BYTES[op.weights.bits]
    return packed_bytes(op.weights.indices.shape, op.groups, op.weights.bits)


def _version(graph: g.Graph, words: NDArray[np.int32]) -> int:
    """The least that a program must know to read such records."""
    convolutions = [op for op in graph.operations if isinstance(op, g.Convolution)]
    if any(op.weights.middle is not None for op in convolutions):
        return MIDDLE
    if any(op.kernel == "blocks" for op in convolutions):
        return BLOCKS
    coded = words[[isinstance(op, g.Convolution) for op in graph.operations], 30].any()
    return CODED if coded else PLAIN


def _decoded_bytes(graph: g.Graph, words: NDArray[np.int32]) -> list[int]:
    """What each convolution makes of its weights when it is loaded, where they are coded or have a middle tap of 8 bits."""
    return [
        _packed_bytes(op)
        if op.weights.middle is None
        else packed_bytes(op.weights.indices.shape, op.groups, 8)
        for op, row in zip(graph.operations, words, strict=True)
        if isinstance(op, g.Convolution) and (row[30] or op.weights.middle is not None)
    ]


def write_blob(graph: g.Graph, *, coded: bool = True) -> bytes:
    """Everything the program needs to run ``graph``: header, memory plan, operations, packed weights and tables.

    Without ``coded`` no weights are entropy-coded: sooner written, larger, and the same while it runs.
    """
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
    writer = Writer(operation_table + words.nbytes, index, coded=coded)
    for row, operation in zip(words, graph.operations, strict=True):
        second = index[operation.inputs[1]] if len(operation.inputs) > 1 else -1
        kind = RECORDS[type(operation)]
        parameters = kind.write(operation, writer)
        row[:4] = kind.opcode, index[operation.inputs[0]], second, index[operation.output]
        row[4 : 4 + len(parameters)] = parameters
    total = writer.position
    decoded = _decoded_bytes(graph, words)
    weights = total + sum(decoded)
    if weights + memory.size > DEFAULT_MEMORY:
        raise UserError(
            f"the program would need {weights} bytes for its weights and {memory.size} for activations; both together "
            f"may be {DEFAULT_MEMORY} (1 GiB): use smaller images, or fewer channels"
        )
    header = HEADER.pack(
        *(
            MAGIC,
            _version(graph, words),
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
            f"blob of format version {version}; this program reads {PLAIN} to {MIDDLE}: compile the candidate again"
        )
    if total != len(blob):
        raise UserError(f"the blob says it has {total} bytes, the file has {len(blob)}: copy it again")
    if checksum != zlib.crc32(memoryview(blob)[16:]):
        raise UserError("the blob's checksum is wrong, so the file is damaged: copy or compile it again")
    inside = tensor_table + 32 * tensors <= total and operation_table + 4 * WORDS * operations <= total
    if not inside or first >= tensors or last >= tensors or not operations:
        raise UserError("the blob's tables do not lie inside the file: compile the candidate again")
    return Header(total, tensors, operations, tensor_table, operation_table, arena, first, last)
