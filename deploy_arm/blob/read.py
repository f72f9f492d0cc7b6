"""A blob as a graph again: to run the reference on exactly what the program loads, and to look into a program.

Names of tensors and layers are not in a blob: tensor 5 is called ``t5``, the layer of operation 7 ``operation 7``.
Scales of codebooks are 1, since they went into the requantization.
"""

from __future__ import annotations

import numpy as np

from deploy_arm.blob.records import KINDS, RECORDS
from deploy_arm.blob.sections import Reader
from deploy_arm.blob.write import TENSOR, WORDS, read_blob
from deploy_arm.ir import graph as g
from foundation.errors import UserError


def read_graph(blob: bytes) -> g.Graph:
    """The graph that ``blob`` holds.

    Raises:
        UserError: the blob is damaged (see ``read_blob``) or has an unknown operation.
    """
    header = read_blob(blob)
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
    words_of_all = np.frombuffer(blob, "<i4", header.operations * WORDS, header.operation_table)
    for number, words in enumerate(words_of_all.reshape(-1, WORDS).tolist()):
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
        record, reader = RECORDS[kind], Reader(blob, source, target)
        if record.listed:
            parts = reader.array(words[5], "<i4", (words[4], record.listed))[:, 0].tolist()
            names = tuple(tensors[part].name for part in parts)
        else:
            names = (source.name,) if second is None else (source.name, second.name)
        graph.operations.append(kind(names, target.name, f"operation {number}", *record.read(reader, words)))
    return graph
