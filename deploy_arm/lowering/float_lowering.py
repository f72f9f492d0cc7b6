"""The translation of a network without quantizers: pending results become float operations as soon as somebody reads them.

Until then they absorb what follows, as on the way to integers: batch-norms become part of weights and bias, rectifiers limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g
from deploy_arm.lowering import pending as p
from deploy_arm.lowering.state import Lowering, Unsupported, Value
from foundation.codebook import Codebook
from foundation.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RealFunction(p.Pending):
    """A function of ``float_graph.FUNCTIONS`` of each element of a float tensor; None leaves the element."""

    source: g.Tensor
    function: str | None = None
    parameter: float = 0.0


@singledispatch
def realize(content: p.Pending, emitter: p.Emitter) -> g.Tensor:
    """Emit the float operation of a pending result; returns its output."""
    raise Unsupported(f"no float operation computes what layer {content.layer} does")


def _float_weights(content: p.Sum) -> tuple[f.Float32, f.Float32]:
    """OHWI weights and the bias, with what was absorbed.

    Raises:
        UserError: they are not finite.
    """
    found = content.weights
    values = found.dequantize() if isinstance(found, Codebook) else found.indices
    with np.errstate(over="ignore"):
        weights = (values * content.scale[:, None, None, None]).astype(np.float32)
        bias = content.shift.astype(np.float32)
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise UserError(
            f"layer {content.layer}: weights or bias are not finite (NaN or infinity); the training has diverged"
        )
    return weights, bias


@realize.register
def _(content: p.Sum, emitter: p.Emitter) -> g.Tensor:
    weights, bias = _float_weights(content)
    inputs, layer, limits = (content.source.name,), content.layer, (content.low, content.high)
    stride, padding, dilation, groups = content.stride, content.padding, content.dilation, content.groups
    return emitter.emit(
        lambda name: f.FloatConvolution(
            inputs, name, layer, weights, bias, stride, padding, dilation, groups, *limits
        ),
        content.float_tensor(),
    )


@realize.register
def _(content: p.Addition, emitter: p.Emitter) -> g.Tensor:
    inputs, limits = (content.first.name, content.second.name), (content.low, content.high)
    return emitter.emit(lambda name: f.FloatAdd(inputs, name, content.layer, *limits), content.float_tensor())


@realize.register
def _(content: p.Product, emitter: p.Emitter) -> g.Tensor:
    inputs, limits = (content.first.name, content.second.name), (content.low, content.high)
    return emitter.emit(
        lambda name: f.FloatMultiply(inputs, name, content.layer, *limits), content.float_tensor()
    )


@realize.register
def _(content: p.Function, emitter: p.Emitter) -> g.Tensor:
    """The pixels: the only function that is a table."""
    table = np.clip(content.values, np.float32(content.low), np.float32(content.high))
    inputs = (content.source.name,)
    return emitter.emit(lambda name: f.FloatInput(inputs, name, content.layer, table), content.float_tensor())


@realize.register
def _(content: p.Average, emitter: p.Emitter) -> g.Tensor:
    inputs, windows = (content.source.name,), (content.rows, content.columns)
    tensor = emitter.emit(
        lambda name: f.FloatAveragePool(inputs, name, content.layer, *windows), content.float_tensor()
    )
    return content.clamped(emitter, tensor)


@realize.register
def _(content: RealFunction, emitter: p.Emitter) -> g.Tensor:
    limits, function = (content.low, content.high), content.function
    if function is None:
        return content.clamped(emitter, content.source)
    inputs, parameter = (content.source.name,), content.parameter
    return emitter.emit(
        lambda name: f.FloatFunction(inputs, name, content.layer, function, parameter, *limits),
        content.float_tensor(),
    )


class FloatLowering(Lowering):
    """As ``Lowering``, with float tensors in the place of integer ones and weights in the place of codebooks."""

    floating = True

    def shared(self, value: Value) -> Value:
        return value.holding(self.integer(value))

    def integer(self, value: Value) -> g.Tensor:
        content = value.content
        return content if isinstance(content, g.Tensor) else realize(content, self)

    def pending(self, value: Value) -> p.Pending:
        content = value.content
        if isinstance(content, p.Pending):
            return content
        return RealFunction(name=self.name, layer=self.layer, shape=content.shape, source=content)

    def codebook(self, node: Any) -> p.FloatWeights:
        weights = self.parameter(node)
        if weights is None:
            raise Unsupported("it has no weights")
        return p.FloatWeights(weights)

    def apply(self, input: Value, operator: str, arguments: Sequence[Any]) -> Value:
        """A function of one activation.

        Raises:
            Unsupported: it has no float form.
        """
        if operator not in f.FUNCTIONS:
            known = ", ".join(f.FUNCTIONS)
            raise Unsupported(f"of functions of one activation, float programs know {known}")
        source = self.integer(input)
        parameter = float(arguments[0]) if operator == "leaky_relu" else 0.0
        content = RealFunction(
            name=self.name,
            layer=self.layer,
            shape=source.shape,
            source=source,
            function=operator,
            parameter=parameter,
        )
        return input.holding(content)

    def concatenated(self, images: Sequence[Value]) -> g.Tensor:
        """Channels of images side by side."""
        tensors = [self.integer(image) for image in images]
        height, width, _ = tensors[0].shape
        shape = (height, width, sum(tensor.shape[2] for tensor in tensors))
        names = tuple(tensor.name for tensor in tensors)
        return self.emit(
            lambda name: f.FloatConcatenate(names, name, self.layer),
            g.Tensor(self.name, shape, floating=True),
        )
