"""What an integer graph means: every operation, slowly and plainly, in numpy.

Activations are int32 arrays [N, H, W, C] here, whatever their byte type. Sums of products are computed by matrix
products in floating point, which is exact because every partial sum is an integer below the mantissa's limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import float_reference
from deploy_arm.ir import graph as g

Array = NDArray[np.int32]
Float = NDArray[np.float32]
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
    rows = (padded.shape[1] - op.dilation[0] * (height - 1) - 1) // op.stride[0] + 1
    columns = (padded.shape[2] - op.dilation[1] * (width - 1) - 1) // op.stride[1] + 1
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


def _pool(x: Array, op: g.MaxPool | g.AveragePool) -> Array | Float:
    shape = (len(x), len(op.rows), len(op.columns), x.shape[3])
    result = np.zeros(shape, np.int32)
    for i, row in enumerate(op.rows):
        for j, column in enumerate(op.columns):
            steps = op.dilation if isinstance(op, g.MaxPool) else (1, 1)
            window = x[:, row.start : row.end : steps[0], column.start : column.end : steps[1]]
            reduce = np.max if isinstance(op, g.MaxPool) else np.sum
            result[:, i, j] = reduce(window, axis=(1, 2))
    if isinstance(op, g.MaxPool):
        return result
    index = [[op.divisors.index(row.divisor * column.divisor) for column in op.columns] for row in op.rows]
    return _finish(result, op.finish, np.array(index)[None, :, :, None])


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


def execute(op: g.Operation, inputs: Sequence[Any], tensors: Sequence[g.Tensor]) -> Array | Float:
    """One operation on whole arrays; ``tensors`` are the types of the inputs, then of the output."""
    x = inputs[0]
    if isinstance(op, g.InputTable):
        return op.table[np.arange(x.shape[3]), x].astype(np.int32)
    if isinstance(op, g.Convolution):
        magnitude = max(-tensors[0].low, tensors[0].high)
        result = _finish(accumulate(x, op, magnitude), op.finish)
        return add(result, inputs[1], op.residual) if op.residual else result
    if isinstance(op, g.Add):
        return add(x, inputs[1], op)
    if isinstance(op, g.Multiply):
        return requantize(x * inputs[1], op.finish)
    if isinstance(op, g.Concatenate):
        parts = [table[part & 255].astype(np.int32) for table, part in zip(op.tables, inputs, strict=True)]
        return np.concatenate(parts, axis=-1)
    if isinstance(op, g.AveragePool) or (isinstance(op, g.MaxPool) and not tensors[-1].floating):
        return _pool(x, op)
    if isinstance(op, g.FloatTable):
        return op.table[x & 255]
    if isinstance(op, g.Table):
        return op.table[x & 255].astype(np.int32)
    if isinstance(op, g.Gather):
        return x[..., op.indices]
    if isinstance(op, g.LayerNorm):
        return _finish(normalized(x, op.epsilon), op.finish)
    if isinstance(op, g.Limit):
        low, high = np.float32(op.low), np.float32(op.high)
        return np.where(inputs[0] < low, low, np.where(inputs[0] > high, high, inputs[0]))
    if isinstance(op, g.Slice):
        for axis, (start, step) in enumerate(zip(op.starts, op.steps, strict=True)):
            picked = start + step * np.arange(tensors[-1].shape[axis])
            x = np.take(x, picked, axis=axis + 1)
        return x
    if isinstance(op, g.Pad):
        return np.pad(x, ((0, 0), *zip(op.before, op.after, strict=True)))
    if isinstance(op, g.Reshape):
        return x.reshape(len(x), *tensors[-1].shape)
    if isinstance(op, g.Output):
        return x.astype(np.float32) * np.float32(tensors[0].step)
    return float_reference.execute(op, inputs)


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
