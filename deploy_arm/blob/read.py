"""A blob as a graph again: to run the reference on exactly what the program loads, and to look into a program.

Names of tensors and layers are not in a blob: tensor 5 is called ``t5``, the layer of operation 7 ``operation 7``.
Scales of codebooks are 1, since they went into the requantization.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from deploy_arm.blob.records import KINDS, RECORDS
from deploy_arm.blob.sections import Reader, Words
from deploy_arm.blob.write import TENSOR, WORDS, read_blob
from deploy_arm.ir import graph as g
from deploy_arm.target.kernel_sources import constants
from foundation.errors import UserError

MOST_ELEMENTS = constants("blob_checks.h")["MAXIMUM_ELEMENTS"]  # of one tensor, for the program too
# What sizes that do not go together, numbers that are none of a table's, and shapes of no number come to.
SENSELESS = (ArithmeticError, LookupError, TypeError, ValueError, MemoryError, struct.error)


def read_graph(blob: bytes) -> g.Graph:
    """The graph that ``blob`` holds.

    Whoever wrote it may have been wrong, with a right checksum: what cannot be read is refused. That numbers go together as the
    program demands (ranges, memory) is the program's to check.

    Raises:
        UserError: the blob is damaged (see ``read_blob``), or has an operation that is unknown, reads what is not there, or does
            not make sense.
    """
    header = read_blob(blob)
    records = np.frombuffer(blob, TENSOR, header.tensors, header.tensor_table)
    tensors = [_tensor(number, record) for number, record in enumerate(records)]
    graph = g.Graph(tensors[header.input], tensors[header.output].name, {t.name: t for t in tensors})
    words_of_all = np.frombuffer(blob, "<i4", header.operations * WORDS, header.operation_table)
    written = {graph.input.name}
    for number, words in enumerate(words_of_all.reshape(-1, WORDS).tolist()):
        try:
            operation = _operation(number, words, blob, tensors, written)
        except SENSELESS as error:
            raise UserError(
                f"operation {number} of the blob does not make sense ({error}); compile the candidate again"
            ) from error
        written.add(operation.output)
        graph.operations.append(operation)
    if graph.output not in written:
        raise UserError("no operation of the blob writes its output; compile the candidate again")
    return graph


def _tensor(number: int, record: np.void) -> g.Tensor:
    height, width, channels = (int(side) for side in record["shape"])
    if not 1 <= math.prod((height, width, channels)) <= MOST_ELEMENTS:
        raise UserError(
            f"tensor {number} of the blob has {height} x {width} x {channels} elements; 1 to {MOST_ELEMENTS} "
            "are allowed: compile the candidate again"
        )
    low, high, step = int(record["low"]), int(record["high"]), float(record["step"])
    return g.Tensor(f"t{number}", (height, width, channels), step, low, high, bool(record["floating"]))


def _operation(
    number: int, words: Words, blob: bytes, tensors: list[g.Tensor], written: set[str]
) -> g.Operation:
    """``written`` names the tensors that are there before it."""
    kind = KINDS.get(words[0])
    if kind is None:
        raise UserError(
            f"operation {number} of the blob has the unknown code {words[0]}; compile the candidate again"
        )
    source, second, target = (tensors[i] if i >= 0 else None for i in words[1:4])
    if source is None or target is None:
        raise UserError(f"operation {number} of the blob has no input or output; compile the candidate again")
    record, reader = RECORDS[kind], Reader(blob, source, target)
    if record.listed:
        parts = reader.array(words[5], "<i4", (words[4], record.listed))[:, 0].tolist()
        names = tuple(f"t{part}" for part in parts)
    else:
        names = (source.name,) if second is None else (source.name, second.name)
    if not written.issuperset(names) or target.name in written:
        raise UserError(
            f"operation {number} of the blob reads what is not there yet, or writes again what is; "
            "compile the candidate again"
        )
    return kind(names, target.name, f"operation {number}", *record.read(reader, words))
