"""The float operations' part of a blob (FORMAT.md): parameters and packed weights, written and read."""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g

OPCODES: dict[type[g.Operation], int] = {
    f.FloatInput: 32,
    f.FloatConvolution: 33,
    f.FloatAdd: 34,
    f.FloatMultiply: 35,
    f.FloatConcatenate: 36,
    f.FloatAveragePool: 37,
    f.FloatFunction: 38,
}
WIDE, NARROW = 16, 8  # output channels whose weights lie side by side


class Writer(Protocol):
    """Where data sections go."""

    def add(self, data: NDArray[Any]) -> int:
        """The offset at which ``data`` will lie."""


class Reader(Protocol):
    """Where data sections come from."""

    def array(self, offset: int, dtype: str, shape: int | tuple[int, ...]) -> NDArray[Any]:
        """An array of the file."""

    def windows(self, offset: int, count: int) -> tuple[g.Window, ...]:
        """The windows of a pooling."""


def _bits(*values: float) -> list[int]:
    """Floats as words."""
    return list(struct.unpack(f"<{len(values)}i", struct.pack(f"<{len(values)}f", *values)))


def _floats(words: list[int]) -> tuple[float, ...]:
    return struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}i", *words))


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


def _windows(windows: tuple[g.Window, ...]) -> NDArray[np.int32]:
    return np.array([(w.start, w.end, w.divisor) for w in windows], np.dtype("<i4"))


def parameters(op: g.Operation, index: dict[str, int], writer: Writer) -> list[int]:
    """Words 4 and following of a float operation."""
    if isinstance(op, f.FloatInput):
        return [writer.add(op.table.astype("<f4"))]
    if isinstance(op, f.FloatConvolution):
        packed = pack_floats(op.weights, op.groups)
        _, height, width, _ = op.weights.shape
        geometry = [height, width, *op.stride, *op.padding, *op.dilation, op.groups]
        data = [writer.add(packed), packed.nbytes, writer.add(op.bias.astype("<f4"))]
        return [*geometry, *data, *_bits(op.low, op.high)]
    if isinstance(op, f.FloatAdd | f.FloatMultiply):
        return _bits(op.low, op.high)
    if isinstance(op, f.FloatConcatenate):
        return [len(op.inputs), writer.add(np.array([index[name] for name in op.inputs], "<i4"))]
    if isinstance(op, f.FloatAveragePool):
        return [writer.add(_windows(op.rows)), writer.add(_windows(op.columns))]
    assert isinstance(op, f.FloatFunction)
    return [f.FUNCTIONS[op.function], *_bits(op.parameter, op.low, op.high)]


def fields(
    kind: type[g.Operation], reader: Reader, words: list[int], source: g.Tensor, target: g.Tensor
) -> tuple[Any, ...]:
    """What the class of a float operation takes after inputs, output and layer."""
    if kind is f.FloatInput:
        return (reader.array(words[4], "<f4", (source.shape[2], 256)),)
    if kind is f.FloatConvolution:
        groups = words[14]
        shape = (target.shape[2], words[4], words[5], source.shape[2] // groups)
        weights = unpack_floats(reader.array(words[15], "<f4", words[16] // 4), shape, groups)
        geometry = (words[6], words[7]), tuple(words[8:12]), (words[12], words[13]), groups
        return (weights, reader.array(words[17], "<f4", shape[0]), *geometry, *_floats(words[18:20]))
    if kind in (f.FloatAdd, f.FloatMultiply):
        return _floats(words[4:6])
    if kind is f.FloatAveragePool:
        return reader.windows(words[4], target.shape[0]), reader.windows(words[5], target.shape[1])
    names = {number: name for name, number in f.FUNCTIONS.items()}
    return (names[words[4]], *_floats(words[5:8])) if kind is f.FloatFunction else ()
