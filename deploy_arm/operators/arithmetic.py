"""Functions of one activation (tables of 256 values), arithmetic between two, with weights, and concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from deploy_arm.ir import graph as g
from deploy_arm.lowering.float_lowering import FloatLowering
from deploy_arm.lowering.pending import Addition, Concatenation, Function, Pending, Product
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from deploy_arm.operators.base import affine, register, stored_value


@register(
    *(
        "leaky_relu",
        "hardswish",
        "hardsigmoid",
        "silu",
        "sigmoid",
        "tanh",
        "gelu",
        "elu",
        "celu",
        "selu",
        "mish",
    ),
    *(
        "softplus",
        "log_sigmoid",
        "abs",
        "neg",
        "square",
        "sqrt",
        "exp",
        "hardshrink",
        "softshrink",
        "threshold",
    ),
    any_layout=True,
)
def elementwise(state: Lowering, input: Value, **rest: Any) -> Value:
    """Any function of one number: evaluated by PyTorch itself for each of the 256 values that a byte can stand for."""
    if isinstance(state, FloatLowering):
        return state.apply(input, state.operator, list(rest.values()))
    function = state.function(input)
    low, high = function.low, function.high
    assert state.node is not None and callable(state.node.target)
    if any(isinstance(argument, fx.Node) for argument in (*state.node.args[1:], *state.node.kwargs.values())):
        raise Unsupported("a function with weights or of two activations")
    reals = torch.from_numpy(function.values).clamp(low, high)
    values = state.node.target(reals, *state.node.args[1:], **state.node.kwargs).numpy()
    return input.holding(
        Function(
            name=state.name, layer=state.layer, shape=function.shape, source=function.source, values=values
        )
    )


def _with_number(state: Lowering, input: Value, scale: float, shift: float) -> Value:
    """``input * scale + shift``: of integers a table, of floats part of what comes before."""
    if not state.floating:
        return elementwise(state, input)
    channels = input.stored[2]
    return affine(state, input, np.full(channels, float(scale)), np.full(channels, float(shift)))


@register("add", any_layout=True)
def add(state: Lowering, input: Any, other: Any, alpha: float = 1) -> Value:
    if not isinstance(input, Value):
        input, other = other, input
    shift = _by_channel(state, input, other) if alpha == 1 else None
    if shift is not None:
        return affine(state, input, np.ones_like(shift), shift)
    if not isinstance(other, Value):
        return _with_number(state, input, 1.0, other * alpha)
    if alpha != 1 or input.shape != other.shape:
        raise Unsupported("an addition of unequal shapes, or with a factor")
    if input.strides != other.strides:
        input, other = state.plain(input), state.plain(other)
    first, second = state.integer(input), state.integer(other)
    if first.shape != second.shape:
        raise Unsupported("an addition of differently stored values")
    content = Addition(name=state.name, layer=state.layer, shape=first.shape, first=first, second=second)
    return Value.holding(input, content)


def _by_channel(state: Lowering, input: Value, weights: Any) -> np.ndarray | None:
    """A weight of the model that is broadcast over the batch and all positions, as one number per channel; None where it
    is no weight.

    Raises:
        Unsupported: a weight that differs by position.
    """
    if not isinstance(weights, fx.Node):
        return None
    found = state.parameter(weights)
    assert found is not None
    channels = input.stored[2]
    if found.size == 1:
        return np.broadcast_to(found.reshape(-1), (channels,))
    strides = state.strides(input)
    shape = (1,) * (len(input.shape) + 1 - found.ndim) + found.shape
    along = [axis for axis, size in enumerate(shape[1:]) if size > 1]
    if (
        len(shape) != len(input.shape) + 1
        or strides is None
        or len(along) != 1
        or (found.size, strides[along[0]]) != (channels, 1)
    ):
        raise Unsupported(
            f"weights of shape {found.shape} on {('N', *input.shape)}, that are not one per channel"
        )
    return found.reshape(-1)


@register("mul", any_layout=True)
def multiply(state: Lowering, input: Any, other: Any) -> Value:
    """By a number, by a weight per channel, or of two activations of which one may be a vector."""
    if not isinstance(input, Value):
        input, other = other, input
    scale = _by_channel(state, input, other)
    if scale is not None:
        return affine(state, input, scale, np.zeros_like(scale))
    if not isinstance(other, Value):
        return _with_number(state, input, other, 0.0)
    if math.prod(other.shape) > math.prod(input.shape):
        input, other = other, input
    if input.strides != other.strides:
        input, other = state.plain(input), state.plain(other)
    vector = len(input.shape) == 3 and input.strides is None and other.shape == (input.shape[0], 1, 1)
    if not vector and input.shape != other.shape:
        raise Unsupported(
            f"a product of shapes {('N', *input.shape)} and {('N', *other.shape)}; they must be equal, or one (N, C, 1, 1)"
        )
    first, second = state.integer(input), state.integer(other)
    if second.shape not in (first.shape, (1, 1, first.shape[2])):
        raise Unsupported("a product of differently stored values")
    content = Product(name=state.name, layer=state.layer, shape=first.shape, first=first, second=second)
    return Value.holding(input, content)


@register("div", "sub", any_layout=True)
def scalar(state: Lowering, input: Value, other: Any, **rest: Any) -> Value:
    """By a number, or by a weight per channel."""
    weights = _by_channel(state, input, other) if rest.get("rounding_mode") is None else None
    if weights is not None and "alpha" in rest:
        return affine(state, input, np.ones_like(weights), -rest["alpha"] * weights)
    if weights is not None:
        if not weights.all():
            raise Unsupported("a division by weights of which some are zero")
        return affine(state, input, 1.0 / weights, np.zeros_like(weights))
    if isinstance(other, Value | fx.Node):
        raise Unsupported("arithmetic between two activations, other than addition and multiplication")
    if rest.get("rounding_mode") is not None:
        return elementwise(state, input)
    if "alpha" in rest:  # of a subtraction
        return _with_number(state, input, 1.0, -other * rest["alpha"])
    return _with_number(state, input, 1.0 / other if other else math.inf, 0.0)


def _part(state: Lowering, image: Value) -> Pending:
    """What has no step yet stays so, since at the network's end it needs none."""
    content = image.content
    if isinstance(content, g.Tensor | Function):
        return state.function(image)
    return content


@register("cat", "concat", "concatenate")
def cat(state: Lowering, tensors: Sequence[Value], dim: int) -> Value:
    if not all(isinstance(tensor, Value) for tensor in tensors):
        raise Unsupported("a concatenation with weights")
    images = [state.image(tensor) for tensor in tensors]
    if dim not in (1, -3) or len({image.stored[:2] for image in images}) != 1:
        raise Unsupported("a concatenation along another axis than channels")
    if isinstance(state, FloatLowering):
        return stored_value(state.concatenated(images))
    parts = tuple(_part(state, image) for image in images)
    shape = (*images[0].stored[:2], sum(image.stored[2] for image in images))
    return stored_value(Concatenation(name=state.name, layer=state.layer, shape=shape, parts=parts))
