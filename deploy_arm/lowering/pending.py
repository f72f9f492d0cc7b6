"""Results that have no integer form yet: they wait for the quantizer (or the network's end) that says which step to use.

While they wait they absorb what follows: a batch-norm becomes part of the scale and offset, a ReLU or ReLU6 part of the limits.
Reals are ``float64``; a step is the real value of one integer unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatAdd, FloatConcatenate, FloatMultiply
from deploy_arm.lowering.requantize import check_sums, choose, choose_add, convolution_bound, pool_divisors
from foundation.codebook import Codebook

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
INFINITY = float("inf")


class Emitter(Protocol):
    """What a pending result needs of the graph under construction."""

    def emit(self, make: Callable[[str], g.Operation], tensor: g.Tensor) -> g.Tensor:
        """Add the operation that ``make`` builds for the (made unique) name of ``tensor``; returns the tensor so named."""


@dataclass(frozen=True)
class QuantizedRange:
    """What a quantizer asks for: the step and the range of integers."""

    step: float
    low: int
    high: int


def integers(tensor: g.Tensor) -> NDArray[np.int32]:
    """The integer that each byte 0..255 of ``tensor`` stands for."""
    byte = np.arange(256, dtype=np.int32)
    return byte if tensor.low >= 0 else (byte ^ 128) - 128


def rounded(real: Float32, step: float) -> NDArray[np.float32]:
    """As ``torch.fake_quantize_per_tensor_affine`` rounds on a CPU: times the reciprocal in float32, half to even."""
    whole: NDArray[np.float32] = np.rint(real.astype(np.float32) * (np.float32(1) / np.float32(step)))
    return whole


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A result [height, width, channels] = ``shape`` of ``layer``, limited to ``low``..``high`` (reals)."""

    name: str
    layer: str
    shape: tuple[int, int, int]
    low: float = -INFINITY
    high: float = INFINITY

    def limited(self, low: float, high: float) -> Pending:
        """After a clamp to ``low``..``high``."""
        clipped = [min(max(limit, low), high) for limit in (self.low, self.high)]
        return dataclasses.replace(self, low=clipped[0], high=clipped[1])

    def affine(self, scale: Float64, shift: Float64) -> Pending | None:
        """After a batch-norm ``y = x * scale[c] + shift[c]``; None when it cannot be absorbed."""
        return None

    def bounded(self, target: QuantizedRange) -> tuple[int, int]:
        """The target's integer range within this result's limits."""
        limits = np.array([self.low, self.high], np.float32)
        low, high = np.clip(rounded(limits, target.step), target.low, target.high).astype(int)
        return int(low), int(high)

    def tensor(self, target: QuantizedRange) -> g.Tensor:
        low, high = self.bounded(target)
        # zero belongs to every range, for padding
        return g.Tensor(self.name, self.shape, target.step, min(low, 0), max(high, 0))

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        """Emit the operation with integer output."""
        raise TypeError(f"{type(self).__name__} cannot be emitted")

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        """Emit the operation with float output, at the network's end: what PyTorch computes there is not quantized."""
        raise TypeError(f"{type(self).__name__} has no float output")

    def clamped(self, emitter: Emitter, result: g.Tensor) -> g.Tensor:
        """The float result within this one's limits."""
        if (self.low, self.high) == (-INFINITY, INFINITY):
            return result
        tensor = dataclasses.replace(result, name=result.name + "_limited")
        low, high = float(np.float32(self.low)), float(np.float32(self.high))
        return emitter.emit(lambda name: g.Limit((result.name,), name, self.layer, low, high), tensor)

    def float_tensor(self) -> g.Tensor:
        return g.Tensor(self.name, self.shape, floating=True)


def output(emitter: Emitter, source: g.Tensor, layer: str) -> g.Tensor:
    """The float values of an integer tensor, at the network's end."""
    tensor = g.Tensor(source.name + "_float", source.shape, floating=True)
    return emitter.emit(lambda name: g.Output((source.name,), name, layer), tensor)


def floats(emitter: Emitter, layer: str, first: g.Tensor, second: g.Tensor) -> tuple[str, str]:
    """The names of the float values of two integer tensors, which may be one."""
    names = {tensor.name: output(emitter, tensor, layer).name for tensor in (first, second)}
    return names[first.name], names[second.name]


@dataclass(frozen=True)
class FloatWeights:
    """Weights of an uncompressed layer, in the tensor's shape, under the name that a codebook gives what has this shape."""

    indices: Float64

    def transposed(self, axes: Sequence[int]) -> FloatWeights:
        """The same with its axes in another order, contiguous in memory."""
        return FloatWeights(np.ascontiguousarray(self.indices.transpose(axes)))


@dataclass(frozen=True, kw_only=True)
class Sum(Pending):
    """A convolution or linear layer: ``acc * source.step * weights.scale[c] * scale[c] + shift[c]``."""

    source: g.Tensor
    weights: Codebook | FloatWeights
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    scale: Float64
    shift: Float64

    def affine(self, scale: Float64, shift: Float64) -> Pending | None:
        if (self.low, self.high) != (-INFINITY, INFINITY):
            return None
        return dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def _emit(self, emitter: Emitter, tensor: g.Tensor, finish: g.Requantize | g.Dequantize) -> g.Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        source, weights = (self.source.name,), self._codebook
        return emitter.emit(
            lambda name: g.Convolution(source, name, self.layer, weights, *geometry, finish), tensor
        )

    @property
    def _codebook(self) -> Codebook:
        assert isinstance(self.weights, Codebook)  # others become float operations
        return self.weights

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        factor = self.source.step * self._codebook.scale.astype(np.float64) * self.scale / target.step
        bound = convolution_bound(self._codebook, self.source.low, self.source.high)
        finish = choose(self.layer, factor, self.shift / target.step, bound, *self.bounded(target))
        return self._emit(emitter, self.tensor(target), finish)

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        factor = self.source.step * self._codebook.scale.astype(np.float64) * self.scale
        bound = convolution_bound(self._codebook, self.source.low, self.source.high)
        check_sums(self.layer, factor, self.shift, bound)
        finish = g.Dequantize(factor.astype(np.float32), self.shift.astype(np.float32))
        return self.clamped(emitter, self._emit(emitter, self.float_tensor(), finish))


@dataclass(frozen=True, kw_only=True)
class Addition(Pending):
    """``first + second``."""

    first: g.Tensor
    second: g.Tensor

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        inputs = (self.first.name, self.second.name)
        ratios = (self.first.step / target.step, self.second.step / target.step)
        multipliers, right = choose_add(self.layer, ratios)
        limits = self.bounded(target)
        return emitter.emit(
            lambda name: g.Add(inputs, name, self.layer, multipliers, right, *limits), self.tensor(target)
        )

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        inputs, limits = floats(emitter, self.layer, self.first, self.second), (self.low, self.high)
        return emitter.emit(lambda name: FloatAdd(inputs, name, self.layer, *limits), self.float_tensor())


@dataclass(frozen=True, kw_only=True)
class Product(Pending):
    """``first * second``, of which the second may be a vector (1, 1, C)."""

    first: g.Tensor
    second: g.Tensor

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        inputs = (self.first.name, self.second.name)
        factor = np.array([self.first.step * self.second.step / target.step])
        bound = max(-self.first.low, self.first.high) * max(-self.second.low, self.second.high)
        finish = choose(self.layer, factor, np.zeros(1), bound, *self.bounded(target))
        return emitter.emit(lambda name: g.Multiply(inputs, name, self.layer, finish), self.tensor(target))

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        inputs, limits = floats(emitter, self.layer, self.first, self.second), (self.low, self.high)
        return emitter.emit(
            lambda name: FloatMultiply(inputs, name, self.layer, *limits), self.float_tensor()
        )


@dataclass(frozen=True, kw_only=True)
class Function(Pending):
    """An elementwise function of ``source``: ``values`` float32 [256] by byte, or [channels, 256] for the pixels."""

    source: g.Tensor
    values: Float32
    exact: bool = False  # the values are the source's own, so clamping them needs no new step

    def table(
        self, target: QuantizedRange, low: float = -INFINITY, high: float = INFINITY
    ) -> NDArray[np.int16]:
        """The integer by byte (and channel), further limited to ``low``..``high``."""
        low, high = self.limited(low, high).bounded(target)
        return np.clip(rounded(self.values, target.step), low, high).astype(np.int16)

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        table, source = self.table(target), (self.source.name,)
        kind = g.InputTable if table.ndim == 2 else g.Table
        return emitter.emit(lambda name: kind(source, name, self.layer, table), self.tensor(target))

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        if self.exact:
            return self.clamped(emitter, output(emitter, self.source, self.layer))
        if self.values.ndim == 2:
            raise TypeError("pixels are no output")
        table = np.clip(self.values, np.float32(self.low), np.float32(self.high)).astype(np.float32)
        source = (self.source.name,)
        return emitter.emit(lambda name: g.FloatTable(source, name, self.layer, table), self.float_tensor())


@dataclass(frozen=True, kw_only=True)
class Concatenation(Pending):
    """Channels side by side. Each part is an elementwise function of a tensor; at the network's end it may be any result."""

    parts: tuple[Pending, ...]

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        functions = [part for part in self.parts if isinstance(part, Function)]
        if len(functions) < len(self.parts):
            raise ValueError(f"{self.name} in layer {self.layer} joins results before they are quantized")
        names = tuple(part.source.name for part in functions)
        tables = tuple(part.table(target, self.low, self.high) for part in functions)
        return emitter.emit(lambda name: g.Concatenate(names, name, self.layer, tables), self.tensor(target))

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        names = tuple(part.dequantize(emitter).name for part in self.parts)
        joined = emitter.emit(lambda name: FloatConcatenate(names, name, self.layer), self.float_tensor())
        return self.clamped(emitter, joined)


@dataclass(frozen=True, kw_only=True)
class Average(Pending):
    """An average pooling."""

    source: g.Tensor
    rows: tuple[g.Window, ...]
    columns: tuple[g.Window, ...]

    def _emit(
        self,
        emitter: Emitter,
        tensor: g.Tensor,
        divisors: tuple[int, ...],
        finish: g.Requantize | g.Dequantize,
    ) -> g.Tensor:
        source = (self.source.name,)
        return emitter.emit(
            lambda name: g.AveragePool(source, name, self.layer, self.rows, self.columns, divisors, finish),
            tensor,
        )

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        divisors = pool_divisors(self.rows, self.columns)
        factor = self.source.step / target.step / np.array(divisors, np.float64)
        pixels = max(w.end - w.start for w in self.rows) * max(w.end - w.start for w in self.columns)
        bound = pixels * max(-self.source.low, self.source.high)
        finish = choose(self.layer, factor, np.zeros_like(factor), bound, *self.bounded(target))
        return self._emit(emitter, self.tensor(target), divisors, finish)

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        divisors = pool_divisors(self.rows, self.columns)
        scale = (self.source.step / np.array(divisors, np.float64)).astype(np.float32)
        finish = g.Dequantize(scale, np.zeros_like(scale))
        return self.clamped(emitter, self._emit(emitter, self.float_tensor(), divisors, finish))


NORM_BITS = 16  # fraction bits of a normalized value (graph.py)


@dataclass(frozen=True, kw_only=True)
class LayerNormalization(Pending):
    """A layer norm over channels: ``(x - mean) / sqrt(variance + epsilon) * scale[c] + shift[c]``."""

    source: g.Tensor
    scale: Float64
    shift: Float64
    epsilon: float

    def _emit(self, emitter: Emitter, tensor: g.Tensor, finish: g.Requantize | g.Dequantize) -> g.Tensor:
        squared = self.epsilon * (self.source.shape[2] / self.source.step) ** 2
        epsilon = min(max(round(squared), 1), 2**60)
        names = (self.source.name,)
        return emitter.emit(lambda name: g.LayerNorm(names, name, self.layer, epsilon, finish), tensor)

    def quantize(self, emitter: Emitter, target: QuantizedRange) -> g.Tensor:
        bound = (math.isqrt(self.source.shape[2]) + 1) << NORM_BITS
        factor = np.ldexp(self.scale, -NORM_BITS) / target.step
        finish = choose(self.layer, factor, self.shift / target.step, bound, *self.bounded(target))
        return self._emit(emitter, self.tensor(target), finish)

    def dequantize(self, emitter: Emitter) -> g.Tensor:
        scale = np.ldexp(self.scale, -NORM_BITS).astype(np.float32)
        finish = g.Dequantize(scale, self.shift.astype(np.float32))
        return self.clamped(emitter, self._emit(emitter, self.float_tensor(), finish))
