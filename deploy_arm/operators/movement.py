"""Operators that move values without changing them: shapes, slices, padding, and what does nothing at run time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from deploy_arm.ir import graph as g
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.operators.base import register

AXES = {1: 2, 2: 0, 3: 1}  # PyTorch's dimension to the stored axis


@register(
    *("dropout", "feature_dropout", "alpha_dropout", "alias", "clone", "contiguous", "detach", "detach_copy"),
    any_layout=True,
)
def identity(state: Lowering, input: Value, **rest: Any) -> Value:
    return input


@register("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", any_layout=True)
def reshape(state: Lowering, input: Value, **rest: Any) -> Value:
    """Any change of shape: the exported program already knows the result's."""
    return state.reshaped(input, state.result_shape())


@register("permute", any_layout=True)
def permute(state: Lowering, input: Value, dims: Sequence[int]) -> Value:
    """Another order of the dimensions: nothing moves until an operation needs channels first again."""
    rank, strides = len(input.shape) + 1, state.strides(input)
    axes = [axis % rank for axis in dims]
    if axes[0] != 0 or strides is None:
        raise Unsupported("a permutation of the batch, or of a flattened image")
    order = [axis - 1 for axis in axes[1:]]
    return state.laid_out(
        input.content, tuple(input.shape[axis] for axis in order), tuple(strides[axis] for axis in order)
    )


@register("transpose", "swapaxes", "swapdims", any_layout=True)
def transpose(state: Lowering, input: Value, **axes: int) -> Value:
    rank = len(input.shape) + 1
    first, second = (axis % rank for axis in axes.values())
    dims = list(range(rank))
    dims[first], dims[second] = dims[second], dims[first]
    return permute(state, input, dims)


@register("channel_shuffle")
def channel_shuffle(state: Lowering, input: Value, groups: int) -> Value:
    channels, height, width = input.shape
    split = state.reshaped(input, (groups, channels // groups, height, width))
    return state.reshaped(permute(state, split, [0, 2, 1, 3, 4]), input.shape)


@register("getitem")
def getitem(state: Lowering, items: Any, index: int) -> Value | None:
    """One of several results; None for what is no activation (the places of a max pooling's maxima)."""
    return items[index] if index < len(items) else None


def _slice(state: Lowering, input: Value, dim: int, start: int, step: int, count: int) -> Value:
    """``count`` places of dimension ``dim`` from ``start``."""
    rank = len(input.shape) + 1
    dim %= rank
    if dim == 0:
        raise Unsupported("a slice of the batch")
    if start == 0 and step == 1 and count == input.shape[dim - 1]:
        return input
    if len(input.shape) == 1 and input.stored[:2] != (1, 1):
        raise Unsupported("a slice of flattened positions")
    if len(input.shape) == 2:
        raise Unsupported("a slice of flattened positions")
    source = state.integer(input)
    axis = AXES[dim]
    starts, steps, shape = [0, 0, 0], [1, 1, 1], list(source.shape)
    starts[axis], steps[axis], shape[axis] = start, step, count
    tensor = dataclasses.replace(source, name=state.name, shape=(shape[0], shape[1], shape[2]))
    operation = (starts[0], starts[1], starts[2]), (steps[0], steps[1], steps[2])
    tensor = state.emit(lambda name: g.Slice((source.name,), name, state.layer, *operation), tensor)
    new = list(input.shape)
    new[dim - 1] = count
    return Value(tensor, tuple(new))


@register("slice")
def slice_tensor(
    state: Lowering, input: Value, dim: int, start: int | None, end: int | None, step: int
) -> Value:
    size = state.batch if dim == 0 else input.shape[dim % (len(input.shape) + 1) - 1]
    first, last, step = slice(start, end, step).indices(size)
    count = len(range(first, last, step))
    if dim == 0 and (first, count) == (0, size):
        return input
    return _slice(state, input, dim, first, step, count)


@register("narrow")
def narrow(state: Lowering, input: Value, dim: int, start: int, length: int) -> Value:
    return _slice(state, input, dim, start, 1, length)


@register("chunk", "split", "split_with_sizes", "tensor_split")
def split(state: Lowering, input: Value, dim: int, **rest: Any) -> tuple[Value, ...]:
    """Consecutive parts, whose sizes the exported program knows."""
    position, parts = 0, []
    for shape in state.result_shapes():
        count = shape[dim % (len(input.shape) + 1) - 1]
        parts.append(_slice(state, input, dim, position, 1, count))
        position += count
    return tuple(parts)


@register("pad", "constant_pad_nd")
def pad(
    state: Lowering, input: Value, pad: list[int], mode: str = "constant", value: float | None = None
) -> Value:
    if mode != "constant" or value or min(pad, default=0) < 0:
        raise Unsupported("padding with other values than zero, or with a negative size")
    if len(input.shape) != 3 or len(pad) > 6:
        raise Unsupported("padding of other shapes than (N, C, H, W)")
    sides = [*pad, *([0] * (6 - len(pad)))]  # width, height, channels; before and after of each
    if not any(sides):
        return input
    source = state.integer(state.image(input))
    before, after = (sides[2], sides[0], sides[4]), (sides[3], sides[1], sides[5])
    sizes = [b + size + a for b, size, a in zip(before, source.shape, after, strict=True)]
    tensor = dataclasses.replace(source, name=state.name, shape=(sizes[0], sizes[1], sizes[2]))
    tensor = state.emit(lambda name: g.Pad((source.name,), name, state.layer, before, after), tensor)
    return Value(tensor, (sizes[2], sizes[0], sizes[1]))
