"""The operators a network may use: one handler per ATen operator, filed under its name without namespace and overload.

``OPERATORS`` is the only list of what is supported: the compiler and the check before training both go through it. A
handler gets the translation's state and the operator's arguments by their schema names, tensors as :class:`Value`,
parameters as graph nodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from deploy_arm import graph as g
from deploy_arm.layout import last_is_channels
from deploy_arm.lowering import Lowering, Unsupported, Value
from deploy_arm.pending import INFINITY, Addition, Concatenation, Function, Pending, Product, Sum, Target
from quantizers.codebook import Codebook
from quantizers.registry import Registry

Handler = Callable[..., Any]
OPERATORS: Registry[Handler] = Registry("operator")
ANY_LAYOUT: set[str] = set()  # the names of handlers that take values in any order of elements


def register(*names: str, any_layout: bool = False) -> Callable[[Handler], Handler]:
    """File one handler under several names. With ``any_layout`` it gets values in whatever order their elements are, else in
    the usual one."""

    def add(handler: Handler) -> Handler:
        for name in names:
            OPERATORS.register(name)(handler)
            if any_layout:
                ANY_LAYOUT.add(name)
        return handler

    return add


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A number for both axes, or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _torch_shape(stored: tuple[int, int, int]) -> tuple[int, int, int]:
    return (stored[2], stored[0], stored[1])


def stored_value(content: g.Tensor | Pending) -> Value:
    return Value(content, _torch_shape(content.shape))


@register("fake_quantize_per_tensor_affine", any_layout=True)
def fake_quantize(
    state: Lowering, input: Value, scale: float, zero_point: int, quant_min: int, quant_max: int
) -> Value:
    """The mark of the quantizer: now the step is known, so a pending result becomes an operation."""
    if zero_point != 0 or not isinstance(scale, float):
        raise Unsupported("a quantizer needs a constant step and no zero point")
    content = input.content
    if isinstance(content, g.Tensor):
        same = content.step == scale and quant_min <= content.low and content.high <= quant_max
        if same:
            return input
        content = state.function(input)
    return input.holding(content.quantize(state, Target(scale, quant_min, quant_max)))


def _convolution(
    state: Lowering,
    source: Value,
    weight: Any,
    bias: Any,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Value:
    tensor = state.integer(state.image(source))
    found = state.codebook(weight)
    weights = dataclasses.replace(found, indices=np.ascontiguousarray(found.indices.transpose(0, 2, 3, 1)))
    out, kernel_height, kernel_width, _ = weights.indices.shape
    height = (tensor.shape[0] + padding[0] + padding[2] - dilation[0] * (kernel_height - 1) - 1) // stride[
        0
    ] + 1
    width = (tensor.shape[1] + padding[1] + padding[3] - dilation[1] * (kernel_width - 1) - 1) // stride[
        1
    ] + 1
    shift = state.parameter(bias)
    return stored_value(
        Sum(
            name=state.name,
            layer=state.layer,
            shape=(height, width, out),
            source=tensor,
            weights=weights,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            scale=np.ones(out),
            shift=np.zeros(out) if shift is None else shift,
        )
    )


@register("conv2d")
def conv2d(
    state: Lowering,
    input: Value,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Value:
    kernel = state.codebook(weight).indices.shape[2:]
    dilations = pair(dilation)
    if padding == "valid":
        padding = (0, 0)
    if padding == "same":  # the extra row or column goes to the end
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        sides = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    else:
        sides = pair(padding) * 2
    return _convolution(state, input, weight, bias, pair(stride), sides, dilations, groups)


@register("linear", any_layout=True)
def linear(state: Lowering, input: Value, weight: Any, bias: Any) -> Value:
    """A convolution whose kernel covers the whole input, weights permuted from (C, H, W) to (H, W, C); or one of 1 x 1 where
    channels are the last dimension."""
    if len(input.shape) != 1:
        return _by_position(state, input, weight, bias)
    input = state.plain(input)
    tensor = state.integer(input)
    height, width, channels = tensor.shape
    found = state.codebook(weight)
    indices = found.indices.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    out, shift = len(indices), state.parameter(bias)
    content = Sum(
        name=state.name,
        layer=state.layer,
        shape=(1, 1, out),
        source=tensor,
        weights=dataclasses.replace(found, indices=np.ascontiguousarray(indices)),
        scale=np.ones(out),
        shift=np.zeros(out) if shift is None else shift,
    )
    return Value(content, (out,))


def _by_position(state: Lowering, input: Value, weight: Any, bias: Any) -> Value:
    channels, strides = input.stored[2], state.strides(input)
    if strides is None or not last_is_channels(input.shape, strides, channels):
        raise Unsupported(
            f"a linear layer on shape {('N', *input.shape)}; flatten to (N, features), or permute to (N, H, W, C), before it"
        )
    tensor, found, shift = state.integer(input), state.codebook(weight), state.parameter(bias)
    out = len(found.indices)
    content = Sum(
        name=state.name,
        layer=state.layer,
        shape=(*tensor.shape[:2], out),
        source=tensor,
        weights=dataclasses.replace(found, indices=found.indices.reshape(out, 1, 1, channels)),
        scale=np.ones(out),
        shift=np.zeros(out) if shift is None else shift,
    )
    moved = (*(stride // channels * out for stride in strides[:-1]), 1)
    return state.laid_out(content, (*input.shape[:-1], out), moved)


@register("batch_norm")
def batch_norm(
    state: Lowering,
    input: Value,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    mean, variance = state.parameter(running_mean), state.parameter(running_var)
    if training or mean is None or variance is None:
        raise Unsupported("batch-norm without running statistics")
    gamma, beta = state.parameter(weight), state.parameter(bias)
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + eps)
    shift = (0.0 if beta is None else beta) - mean * scale
    return _affine(state, input, scale, shift)


def _affine(state: Lowering, input: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
    """``input * scale[c] + shift[c]``, absorbed by what comes before where that is possible."""
    absorbed = input.content.affine(scale, shift) if isinstance(input.content, Pending) else None
    if absorbed is not None:
        return input.holding(absorbed)
    return input.holding(_per_channel(state, state.integer(input), scale, shift))


def _per_channel(state: Lowering, tensor: g.Tensor, scale: np.ndarray, shift: np.ndarray) -> Sum:
    """A batch-norm on its own: a depthwise 1x1 convolution with unit weights."""
    channels = tensor.shape[2]
    ones = Codebook(
        np.ones((channels, 1, 1, 1), np.uint8), np.array([0, 1], np.int8), np.ones(1, np.float32), 2
    )
    return Sum(
        name=state.name,
        layer=state.layer,
        shape=tensor.shape,
        source=tensor,
        weights=ones,
        groups=channels,
        scale=scale,
        shift=shift,
    )


def _clamp(state: Lowering, input: Value, low: float, high: float) -> Value:
    content = input.content
    return input.holding(
        (state.function(input) if isinstance(content, g.Tensor) else content).limited(low, high)
    )


@register("relu", any_layout=True)
def relu(state: Lowering, input: Value) -> Value:
    return _clamp(state, input, 0.0, INFINITY)


@register("relu6", any_layout=True)
def relu6(state: Lowering, input: Value) -> Value:
    return _clamp(state, input, 0.0, 6.0)


@register("hardtanh", any_layout=True)
def hardtanh(state: Lowering, input: Value, min_val: float, max_val: float) -> Value:
    return _clamp(state, input, float(min_val), float(max_val))


@register("clamp", "clip", any_layout=True)
def clamp(state: Lowering, input: Value, min: float | None, max: float | None) -> Value:
    return _clamp(
        state, input, -INFINITY if min is None else float(min), INFINITY if max is None else float(max)
    )


@register("clamp_min", any_layout=True)
def clamp_min(state: Lowering, input: Value, min: float) -> Value:
    return _clamp(state, input, float(min), INFINITY)


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
        "softsign",
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


@register("add", any_layout=True)
def add(state: Lowering, input: Any, other: Any, alpha: float = 1) -> Value:
    if not isinstance(input, Value):
        input, other = other, input
    shift = _by_channel(state, input, other) if alpha == 1 else None
    if shift is not None:
        return _affine(state, input, np.ones_like(shift), shift)
    if not isinstance(other, Value):
        return elementwise(state, input)
    if alpha != 1 or input.shape != other.shape:
        raise Unsupported("an addition of unequal shapes, or with a factor")
    if input.strides != other.strides:
        input, other = state.plain(input), state.plain(other)
    first, second = state.integer(input), state.integer(other)
    if first.shape != second.shape:
        raise Unsupported("an addition of differently stored values")
    content = Addition(name=state.name, layer=state.layer, shape=first.shape, first=first, second=second)
    return input.holding(content)


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
        return _affine(state, input, scale, np.zeros_like(scale))
    if not isinstance(other, Value):
        return elementwise(state, input)
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
    return input.holding(content)


@register("div", "sub", any_layout=True)
def scalar(state: Lowering, input: Value, other: Value | float, **rest: Any) -> Value:
    if isinstance(other, Value | fx.Node):
        raise Unsupported("arithmetic between two activations, other than addition and multiplication")
    return elementwise(state, input)


@register("cat", "concat", "concatenate")
def cat(state: Lowering, tensors: Sequence[Value], dim: int) -> Value:
    images = [state.image(tensor) for tensor in tensors]
    if dim not in (1, -3) or len({image.stored[:2] for image in images}) != 1:
        raise Unsupported("a concatenation along another axis than channels")
    parts = tuple(state.function(image) for image in images)
    shape = (*images[0].stored[:2], sum(image.stored[2] for image in images))
    return stored_value(Concatenation(name=state.name, layer=state.layer, shape=shape, parts=parts))
