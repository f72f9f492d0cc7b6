"""The float operations' rows of the table in ``records.py``, and how their weights are packed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.sections import (
    OperationRecord,
    Reader,
    Words,
    Writer,
    float_words,
    nothing_read,
    words_float,
)
from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g
from deploy_arm.target.kernel_sources import constants

WIDE, NARROW = (
    constants()["FLOAT_WIDE"],
    constants()["FLOAT_NARROW"],
)  # output channels whose weights lie side by side


def _panels(outs: int) -> list[tuple[int, int]]:
    """First channel and width of each panel of ``outs`` channels."""
    return [(first, WIDE if outs - first > NARROW else NARROW) for first in range(0, outs, WIDE)]


def _depthwise(weights: f.Float32 | tuple[int, ...], groups: int) -> bool:
    out, _, _, depth = weights if isinstance(weights, tuple) else weights.shape
    return groups > 1 and depth == 1 and out == groups


def pack_floats(weights: f.Float32, groups: int) -> NDArray[np.float32]:
    """OHWI weights in the order that the kernels read them (FORMAT.md), as one stream."""
    out = len(weights)
    if _depthwise(weights, groups):
        blocks = np.pad(weights.reshape(out, -1), ((0, -out % 4), (0, 0))).reshape(-(-out // 4), 4, -1)
        return blocks.transpose(0, 2, 1).reshape(-1).astype("<f4")
    parts = []
    for group in weights.reshape(groups, out // groups, -1):
        for first, width in _panels(len(group)):
            panel = group[first : first + width]
            parts.append(np.pad(panel, ((0, width - len(panel)), (0, 0))).T.reshape(-1))
    return np.concatenate(parts).astype("<f4")


def unpack_floats(packed: NDArray[np.float32], shape: tuple[int, ...], groups: int) -> NDArray[np.float32]:
    """The inverse of :func:`pack_floats` for OHWI ``shape``."""
    out = shape[0]
    if _depthwise(shape, groups):
        blocks = packed.reshape(-(-out // 4), -1, 4).transpose(0, 2, 1)
        return blocks.reshape(-(-out // 4) * 4, -1)[:out].reshape(shape)
    outs, k, position = out // groups, int(np.prod(shape[1:])), 0
    rows = []
    for _ in range(groups):
        for first, width in _panels(outs):
            panel = packed[position : position + k * width].reshape(k, width).T
            rows.append(panel[: outs - first])
            position += k * width
    return np.concatenate(rows).reshape(shape)


def _write_convolution(op: f.FloatConvolution, writer: Writer) -> Words:
    packed = pack_floats(op.weights, op.groups)
    _, height, width, _ = op.weights.shape
    geometry = [height, width, *op.stride, *op.padding, *op.dilation, op.groups]
    data = [writer.add(packed), packed.nbytes, writer.add(op.bias.astype("<f4"))]
    return [*geometry, *data, *float_words(op.low, op.high)]


def _read_convolution(reader: Reader, words: Words) -> tuple[Any, ...]:
    shape, *moves, groups = reader.geometry(words)
    weights = unpack_floats(reader.array(words[15], "<f4", words[16] // 4), shape, groups)
    bias = reader.array(words[17], "<f4", shape[0])
    return (weights, bias, *moves, groups, *words_float(words[18:20]))


def _write_limits(op: f.FloatAdd | f.FloatMultiply, writer: Writer) -> Words:
    return float_words(op.low, op.high)


def _read_limits(reader: Reader, words: Words) -> tuple[Any, ...]:
    return words_float(words[4:6])


def _read_function(reader: Reader, words: Words) -> tuple[Any, ...]:
    names = {number: name for name, number in f.FUNCTIONS.items()}
    return (names[words[4]], *words_float(words[5:8]))


RECORDS: dict[type[g.Operation], OperationRecord] = {
    f.FloatInput: OperationRecord(
        "FLOAT_INPUT",
        lambda op, writer: [writer.add(op.table.astype("<f4"))],
        lambda reader, words: (reader.array(words[4], "<f4", (reader.source.shape[2], 256)),),
    ),
    f.FloatConvolution: OperationRecord("FLOAT_CONVOLUTION", _write_convolution, _read_convolution),
    f.FloatAdd: OperationRecord("FLOAT_ADD", _write_limits, _read_limits),
    f.FloatMultiply: OperationRecord("FLOAT_MULTIPLY", _write_limits, _read_limits),
    f.FloatConcatenate: OperationRecord(
        "FLOAT_CONCATENATE",
        lambda op, writer: [
            len(op.inputs),
            writer.add(np.array([writer.index[name] for name in op.inputs], "<i4")),
        ],
        nothing_read,
        listed=1,
    ),
    f.FloatAveragePool: OperationRecord(
        "FLOAT_AVERAGE_POOL",
        lambda op, writer: [writer.windows(op.rows), writer.windows(op.columns)],
        lambda reader, words: (
            reader.windows(words[4], reader.target.shape[0]),
            reader.windows(words[5], reader.target.shape[1]),
        ),
    ),
    f.FloatFunction: OperationRecord(
        "FLOAT_FUNCTION",
        lambda op, writer: [f.FUNCTIONS[op.function], *float_words(op.parameter, op.low, op.high)],
        _read_function,
    ),
}
