"""The pooling operators: maximum, average, adaptive, and the mean over all positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from deploy_arm.ir import graph as g
from deploy_arm.lowering.pending import Average
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.lowering.windows import adaptive_windows, average_windows, pool_windows
from deploy_arm.operators.base import pair, register, stored_value


@register("max_pool2d")
def max_pool2d(
    state: Lowering,
    input: Value,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    ceil_mode: bool,
) -> Value:
    dilations = pair(dilation)
    kernel, paddings = pair(kernel_size), pair(padding)
    strides = pair(stride) if stride else kernel
    tensor = state.integer(state.image(input))
    axes = [
        pool_windows(
            tensor.shape[a], kernel[a], strides[a], paddings[a], ceil_mode=ceil_mode, dilation=dilations[a]
        )
        for a in (0, 1)
    ]
    if any(window.start >= window.end for axis in axes for window in axis):
        raise Unsupported("max pooling with a window that sees nothing but padding")
    return _max_pool(state, tensor, axes[0], axes[1], dilations)


@register("adaptive_max_pool2d")
def adaptive_max_pool2d(state: Lowering, input: Value, output_size: Any) -> tuple[Value]:
    tensor, size = state.integer(state.image(input)), pair(output_size)
    axes = [adaptive_windows(tensor.shape[a], size[a]) for a in (0, 1)]
    return (_max_pool(state, tensor, axes[0], axes[1]),)


@register("upsample_nearest2d", "_upsample_nearest_exact2d")
def upsample_nearest2d(state: Lowering, input: Value, **rest: Any) -> Value:
    """Maxima of single pixels; PyTorch itself says which, asked for an image of row and of column numbers."""
    tensor = state.integer(state.image(input))
    places = torch.meshgrid(*(torch.arange(float(size)) for size in tensor.shape[:2]), indexing="ij")
    assert state.node is not None and callable(state.node.target)
    chosen = state.node.target(torch.stack(places)[None], *state.node.args[1:], **state.node.kwargs).int()
    rows, columns = chosen[0, 0, :, 0].tolist(), chosen[0, 1, 0].tolist()
    windows = [tuple(g.Window(place, place + 1, 1) for place in axis) for axis in (rows, columns)]
    return _max_pool(state, tensor, windows[0], windows[1])


def _max_pool(
    state: Lowering,
    tensor: g.Tensor,
    rows: tuple[g.Window, ...],
    columns: tuple[g.Window, ...],
    dilation: tuple[int, int] = (1, 1),
) -> Value:
    result = dataclasses.replace(tensor, name=state.name, shape=(len(rows), len(columns), tensor.shape[2]))
    layer = state.layer
    return stored_value(
        state.emit(lambda name: g.MaxPool((tensor.name,), name, layer, rows, columns, dilation), result)
    )


def _average(
    state: Lowering, tensor: g.Tensor, rows: tuple[g.Window, ...], columns: tuple[g.Window, ...]
) -> Average:
    shape = (len(rows), len(columns), tensor.shape[2])
    return Average(name=state.name, layer=state.layer, shape=shape, source=tensor, rows=rows, columns=columns)


@register("avg_pool2d")
def avg_pool2d(
    state: Lowering,
    input: Value,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    *,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    kernel, paddings = pair(kernel_size), pair(padding)
    strides = pair(stride) if stride else kernel
    tensor = state.integer(state.image(input))
    rows, columns = (
        average_windows(
            tensor.shape[a],
            kernel[a],
            strides[a],
            paddings[a],
            ceil_mode=ceil_mode,
            count_padding=count_include_pad,
        )
        for a in (0, 1)
    )
    if divisor_override:
        rows = tuple(dataclasses.replace(window, divisor=divisor_override) for window in rows)
        columns = tuple(dataclasses.replace(window, divisor=1) for window in columns)
    return stored_value(_average(state, tensor, rows, columns))


@register("adaptive_avg_pool2d")
def adaptive_avg_pool2d(state: Lowering, input: Value, output_size: Any) -> Value:
    tensor, size = state.integer(state.image(input)), pair(output_size)
    axes = [adaptive_windows(tensor.shape[a], size[a]) for a in (0, 1)]
    return stored_value(_average(state, tensor, axes[0], axes[1]))


@register("mean")
def mean(
    state: Lowering,
    input: Value,
    dim: Sequence[int] | None = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
) -> Value:
    """The mean over all positions."""
    rank = len(input.shape) + 1
    axes = {axis % rank for axis in dim} if dim else set()
    if rank < 3 or axes != set(range(2, rank)):
        raise Unsupported("a mean over other axes than all positions")
    tensor = state.integer(input)
    height, width, channels = tensor.shape
    rows, columns = (g.Window(0, height, height),), (g.Window(0, width, width),)
    shape = (channels, *([1] * (rank - 2))) if keepdim else (channels,)
    return Value(_average(state, tensor, rows, columns), shape)
