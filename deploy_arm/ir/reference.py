"""What an integer graph means: every operation, slowly and plainly, in numpy.

Activations are int32 arrays [N, H, W, C] here, whatever their byte type. Sums of products are computed by matrix
products in floating point, which is exact because every partial sum is an integer below the mantissa's limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import float_reference
from deploy_arm.ir import graph as g
from deploy_arm.ir.execute import Array, Float, Inputs, Tensors
from deploy_arm.ir.execute import execute as execute  # the whole table, once this module is imported
from foundation.windows import output_size

LOWEST, HIGHEST = -(2**31), 2**31 - 1


def requantize(
    acc: NDArray[np.integer], finish: g.Requantize, index: NDArray[np.intp] | None = None
) -> Array:
    """The fixed-point rule of graph.py. Multiplier and offset go with the last axis, or are picked by ``index``."""
    multiplier, offset = finish.multiplier.astype(np.int64), finish.offset.astype(np.int64)
    if index is not None:
        multiplier, offset = multiplier[index], offset[index]
    t = np.clip(acc.astype(np.int64) << finish.left, LOWEST, HIGHEST)
    t = (t * multiplier * 2 + 2**31) >> 32
    t = np.clip(t + offset, LOWEST, HIGHEST)
    if finish.right:
        t = (t + (1 << (finish.right - 1))) >> finish.right
    return np.clip(t, finish.low, finish.high).astype(np.int32)


def _finish(
    acc: NDArray[np.integer], finish: g.Requantize | g.Dequantize, index: NDArray[np.intp] | None = None
) -> Array | Float:
    if isinstance(finish, g.Requantize):
        return requantize(acc, finish, index)
    scale, offset = finish.scale, finish.offset
    if index is not None:
        scale, offset = scale[index], offset[index]
    return (acc.astype(np.int32).astype(np.float32) * scale).astype(np.float32) + offset


def accumulate(x: Array, op: g.Convolution, magnitude: int) -> NDArray[np.int64]:
    """Convolution sums [N, OH, OW, out] of ``x`` whose values are at most ``magnitude`` in size."""
    weights = op.weights.integers
    out, height, width, _ = weights.shape
    bound = magnitude * int(np.abs(weights.astype(np.int64)).reshape(out, -1).sum(axis=1).max(initial=0))
    if bound > HIGHEST:
        raise OverflowError(f"{op.layer}: sums up to {bound} do not fit 32 bits")
    real: type[Any] = np.float32 if bound < 2**24 else np.float64
    top, left, bottom, right = op.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(real)
    rows, columns = output_size(x.shape[1:3], (height, width), op.stride, op.padding, op.dilation)
    total: NDArray[Any] = np.zeros((len(x), rows, columns, out), real)
    for kh in range(height):
        for kw in range(width):
            y, z = kh * op.dilation[0], kw * op.dilation[1]
            tap = padded[
                :, y : y + rows * op.stride[0] : op.stride[0], z : z + columns * op.stride[1] : op.stride[1]
            ]
            tap = tap[:, :rows, :columns]
            total += _products(tap, weights[:, kh, kw].astype(real), op.groups)
    return total.astype(np.int64)


def _products(tap: NDArray[Any], weights: NDArray[Any], groups: int) -> NDArray[Any]:
    """[N, H, W, in] times weights [out, in/groups], group by group."""
    out, depth = weights.shape
    if groups == 1:
        return tap @ weights.T
    if depth == 1:
        return np.repeat(tap, out // groups, axis=-1) * weights[:, 0]
    share = out // groups
    parts = [
        tap[..., i * depth : (i + 1) * depth] @ weights[i * share : (i + 1) * share].T for i in range(groups)
    ]
    return np.concatenate(parts, axis=-1)


def _pool(
    x: Array, op: g.MaxPool | g.AveragePool, steps: tuple[int, int], reduce: Callable[..., Any]
) -> Array:
    """``reduce`` over every window, of whose rows and columns every ``steps``-th counts."""
    result = np.zeros((len(x), len(op.rows), len(op.columns), x.shape[3]), np.int32)
    for i, row in enumerate(op.rows):
        for j, column in enumerate(op.columns):
            window = x[:, row.start : row.end : steps[0], column.start : column.end : steps[1]]
            result[:, i, j] = reduce(window, axis=(1, 2))
    return result


def normalized(x: Array, epsilon: int) -> NDArray[np.int64]:
    """The layer norm's ``acc`` of graph.py."""
    q, count = x.astype(np.int64), x.shape[-1]
    total, squares = q.sum(-1, keepdims=True), (q * q).sum(-1, keepdims=True)
    spread = count * squares - total * total + epsilon
    length = np.frexp(spread.astype(np.float64))[1].astype(
        np.int64
    )  # bits; one too many just below a power of two
    length -= spread >> np.maximum(length - 1, 0) == 0
    shift = (62 - length) & ~1
    square = spread << shift
    root = np.sqrt(square.astype(np.float64)).astype(np.int64)
    root -= root * root > square
    root += (root + 1) ** 2 <= square
    reciprocal = np.minimum(2**61 // root, HIGHEST)
    right = 45 - shift // 2
    return ((count * q - total) * reciprocal + (np.int64(1) << (right - 1))) >> right


def add(first: Any, second: Any, op: g.Add | g.FusedAdd) -> Array:
    """The weighted sum of two activations, as ``graph.Add`` says."""
    total = first * op.multipliers[0] + second * op.multipliers[1]
    return np.clip((total + (1 << (op.right - 1))) >> op.right, op.low, op.high)


@execute.register
def _(op: g.InputTable, inputs: Inputs, tensors: Tensors) -> Array:
    return op.table[np.arange(inputs[0].shape[3]), inputs[0]].astype(np.int32)


@execute.register
def _(op: g.Convolution, inputs: Inputs, tensors: Tensors) -> Array | Float:
    magnitude = max(-tensors[0].low, tensors[0].high)
    result = _finish(accumulate(inputs[0], op, magnitude), op.finish)
    return add(result, inputs[1], op.residual) if op.residual else result


@execute.register
def _(op: g.Add, inputs: Inputs, tensors: Tensors) -> Array:
    return add(inputs[0], inputs[1], op)


@execute.register
def _(op: g.Multiply, inputs: Inputs, tensors: Tensors) -> Array:
    return requantize(inputs[0] * inputs[1], op.finish)


@execute.register
def _(op: g.Concatenate, inputs: Inputs, tensors: Tensors) -> Array:
    parts = [table[part & 255].astype(np.int32) for table, part in zip(op.tables, inputs, strict=True)]
    return np.concatenate(parts, axis=-1)


@execute.register
def _(op: g.MaxPool, inputs: Inputs, tensors: Tensors) -> Array | Float:
    if tensors[-1].floating:
        return float_reference.maximum(inputs[0], op)
    return _pool(inputs[0], op, op.dilation, np.max)


@execute.register
def _(op: g.AveragePool, inputs: Inputs, tensors: Tensors) -> Array | Float:
    index = [[op.divisors.index(row.divisor * column.divisor) for column in op.columns] for row in op.rows]
    return _finish(_pool(inputs[0], op, (1, 1), np.sum), op.finish, np.array(index)[None, :, :, None])


@execute.register
def _(op: g.Table, inputs: Inputs, tensors: Tensors) -> Array:
    return op.table[inputs[0] & 255].astype(np.int32)


@execute.register
def _(op: g.FloatTable, inputs: Inputs, tensors: Tensors) -> Float:
    return op.table[inputs[0] & 255]


@execute.register
def _(op: g.Gather, inputs: Inputs, tensors: Tensors) -> Array | Float:
    return inputs[0][..., op.indices]


@execute.register
def _(op: g.LayerNorm, inputs: Inputs, tensors: Tensors) -> Array | Float:
    return _finish(normalized(inputs[0], op.epsilon), op.finish)


@execute.register
def _(op: g.Limit, inputs: Inputs, tensors: Tensors) -> Float:
    x, low, high = inputs[0], np.float32(op.low), np.float32(op.high)
    return np.where(x < low, low, np.where(x > high, high, x))


@execute.register
def _(op: g.Slice, inputs: Inputs, tensors: Tensors) -> Array | Float:
    x = inputs[0]
    for axis, (start, step) in enumerate(zip(op.starts, op.steps, strict=True)):
        picked = start + step * np.arange(tensors[-1].shape[axis])
        x = np.take(x, picked, axis=axis + 1)
    return x


@execute.register
def _(op: g.Pad, inputs: Inputs, tensors: Tensors) -> Array | Float:
    return np.pad(inputs[0], ((0, 0), *zip(op.before, op.after, strict=True)))


@execute.register
def _(op: g.Reshape, inputs: Inputs, tensors: Tensors) -> Array | Float:
    return inputs[0].reshape(len(inputs[0]), *tensors[-1].shape)


@execute.register
def _(op: g.Output, inputs: Inputs, tensors: Tensors) -> Float:
    return inputs[0].astype(np.float32) * np.float32(tensors[0].step)


def trace(graph: g.Graph, images: NDArray[np.uint8]) -> dict[str, Array | Float]:
    """Every tensor of the graph for uint8 images [N, H, W, C]; for finding where two implementations part."""
    values: dict[str, Array | Float] = {graph.input.name: images.astype(np.int32)}
    for op in graph.operations:
        values[op.output] = _checked(graph, op, values)
    return values


def _checked(graph: g.Graph, op: g.Operation, values: dict[str, Array | Float]) -> Array | Float:
    """The operation's output, which must have the shape and the range that the graph declares."""
    inputs = [values[name] for name in op.inputs]
    tensor = graph.tensors[op.output]
    result = execute(op, inputs, [*(graph.tensors[name] for name in op.inputs), tensor])
    if result.shape[1:] != tensor.shape:
        raise ValueError(f"{op.layer}: output of shape {result.shape[1:]}, the graph says {tensor.shape}")
    if not tensor.floating and result.size and not tensor.low <= result.min() <= result.max() <= tensor.high:
        raise ValueError(f"{op.layer}: values outside {tensor.low}..{tensor.high}")
    return result


def run(graph: g.Graph, images: NDArray[np.uint8], batch: int = 32) -> Float:
    """Outputs float32 [N, K] (every element of the output tensor) for uint8 images [N, H, W, C]."""
    if images.dtype != np.uint8 or images.shape[1:] != graph.input.shape:
        raise ValueError(
            f"images {images.dtype} {images.shape}; the graph wants uint8 [N, {graph.input.shape}]"
        )
    last = {name: index for index, op in enumerate(graph.operations) for name in op.inputs}
    results = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        values: dict[str, Array | Float] = {graph.input.name: part.astype(np.int32)}
        for index, op in enumerate(graph.operations):
            values[op.output] = _checked(graph, op, values)
            for name in {*op.inputs} - {graph.output}:
                if last[name] == index:
                    del values[name]
        results.append(values[graph.output].reshape(len(part), -1).astype(np.float32))
    size = int(np.prod(graph.tensors[graph.output].shape))
    return np.concatenate(results) if results else np.zeros((0, size), np.float32)
