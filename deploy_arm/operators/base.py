"""The operators a network may use: one handler per ATen operator, filed under its name without namespace and overload.

``OPERATORS`` is the only list of what is supported; ``docs/operators.md`` says it to people. A handler gets the translation's
state and the operator's arguments by their schema names, tensors as :class:`Value`, parameters as graph nodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from deploy_arm.lowering.layout import last_is_channels
from deploy_arm.lowering.pending import INFINITY, FloatWeights, Pending, QuantizedRange, Sum
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from foundation.codebook import Codebook
from foundation.registry import Registry
from foundation.windows import output_size

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)
OPERATORS: Registry[Handler] = Registry("operator")
ANY_LAYOUT: set[str] = set()  # the names of handlers that take values in any order of elements


def register(*names: str, any_layout: bool = False) -> Callable[[H], H]:
    """File one handler under several names. With ``any_layout`` it gets values in whatever order their elements are, else in
    the usual one."""

    def add(handler: H) -> H:
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
    if state.floating:
        raise Unsupported("a float program is compiled from a network without quantizers")
    if zero_point != 0 or not isinstance(scale, float):
        raise Unsupported("a quantizer needs a constant step and no zero point")
    content = input.content
    if isinstance(content, g.Tensor):
        same = content.step == scale and quant_min <= content.low and content.high <= quant_max
        if same:
            return input
        content = state.function(input)
    return input.holding(content.quantize(state, QuantizedRange(scale, quant_min, quant_max)))


def _arranged(weights: Any, indices: NDArray[Any]) -> Codebook | FloatWeights:
    """The same weights in another arrangement of the same values."""
    arranged: Codebook | FloatWeights = dataclasses.replace(weights, indices=np.ascontiguousarray(indices))
    return arranged


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
    weights = found.transposed((0, 2, 3, 1))
    out, *kernel, _ = weights.indices.shape
    height, width = output_size(tensor.shape, kernel, stride, padding, dilation)
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
        weights=_arranged(found, indices),
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
        weights=_arranged(found, found.indices.reshape(out, 1, 1, channels)),
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
    *,
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
    return affine(state, input, scale, shift)


def affine(state: Lowering, input: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
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
    return input.holding(state.pending(input).limited(low, high))


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
