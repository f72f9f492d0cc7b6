"""Activations in 8 or 7 bits with a learned step (LSQ: Esser et al., "Learned Step Size Quantization", ICLR 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from quantizers.core.uncompiled import uncompiled

SAMPLE = 1 << 16  # values that a first step is fitted to
CLIPS = torch.linspace(0.2, 1.0, 41)  # shares of the largest magnitude that are tried as the range's end
FLOOR = 1 / 64  # of the first step: a step never gets smaller
# From so many values of a batch on, a step's gradient is estimated from its first images, at least one in THINNEST of them;
# batches are in random order.
ENOUGH = 1 << 16
THINNEST = 8
# Operations whose backward pass does not read their output.
FORGETFUL = frozenset(
    f"{name}Backward0"
    for name in ("Add", "Addmm", "Convolution", "CudnnBatchNorm", "MkldnnConvolution", "NativeBatchNorm")
)


def bounds(bits: int, *, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer: 0..255, 0..127, -128..127 or -64..63."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class _LearnedStep(torch.autograd.Function):
    """Forward as deployed; gradients of LSQ, equation 3: straight through where nothing is clipped, and for the step.

    In the former what comes out at an end of the range counts as clipped, so that the output, which the next layer keeps
    anyway, tells which values were; the input is kept of those images only that the step's gradient is taken from. Where a
    ReLU's work is done here too (``rectified``), the step's gradient stops at 0, and a value that comes out as 0 passes none
    on. Below its floor a step works as the floor but keeps its gradient, so that it can come back. With ``overwrite`` the output
    takes the input's memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Tensor,
        floor: Tensor,
        low: int,
        high: int,
        rectified: bool,  # noqa: FBT001  autograd hands no names on
        overwrite: bool,  # noqa: FBT001
    ) -> Tensor:
        value, ctx.step = x.float(), _not_below(step, floor)
        ctx.low, ctx.high, ctx.rectified, ctx.share = low, high, rectified, 0.0
        sample = None
        if ctx.needs_input_grad[1]:
            size = len(value)
            part = -(-size // min(THINNEST, max(1, value.numel() // ENOUGH)))
            ctx.share = size / part / (high * value[0].numel()) ** 0.5
            sample = value[:part].clone()
        out = _rounded(value, ctx.step, low, high, overwrite=overwrite)
        if overwrite:
            ctx.mark_dirty(x)
        ctx.save_for_backward(out, sample)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        out, sample = ctx.saved_tensors
        if gradient.stride() != out.stride():  # two layouts in one operation cost more than to copy first
            gradient = torch.empty_like(out, dtype=gradient.dtype).copy_(gradient)
        upstream, step = gradient.float(), ctx.step
        by_x = _between(upstream, out, (ctx.low + 0.5) * step, (ctx.high - 0.5) * step)
        by_step = None
        if sample is not None:
            # d out / d step is (out - x) / step inside and out / step where clipped.
            upstream, out = upstream[: len(sample)], out[: len(sample)]
            low = (0.0 if ctx.rectified else ctx.low - 0.5) * step
            inside = _between(upstream, sample, low, (ctx.high + 0.5) * step)
            total = _dot(upstream, out) - _dot(inside, sample)
            by_step = total * (ctx.share / step)
        return by_x.to(gradient.dtype), by_step, None, None, None, None, None


def _not_below(step: Tensor, floor: Tensor) -> Tensor | float:
    """The larger one; on a CPU a number, since work on tensors of one value would cost more than that on small layers. (Its
    reciprocal rounds to float32 as a float32 division would: float64 has more than twice the digits.)"""
    return max(step.item(), floor.item()) if step.device.type == "cpu" else torch.maximum(step, floor)


def _between(upstream: Tensor, x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """``upstream`` where ``x`` lies between the bounds, 0 elsewhere; in one pass where the bounds are numbers."""
    if isinstance(low, float):
        kept: Tensor = torch.ops.aten.hardtanh_backward(upstream, x, low, high)
        return kept
    return torch.where((x > low) & (x < high), upstream, 0.0)


def _rounded(x: Tensor, step: Tensor | float, low: int, high: int, *, overwrite: bool = False) -> Tensor:
    """The same values, bit for bit, as ``torch.fake_quantize_per_tensor_affine``, which is several times slower on a CPU; in the
    memory of ``x`` with ``overwrite``."""
    inverse = 1.0 / step
    scaled = x.mul_(inverse) if overwrite else x * inverse
    return scaled.round_().clamp_(low, high).mul_(step)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products, in one pass where both lie alike in memory."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()


def some_values(x: Tensor, count: int) -> Tensor:
    """So many of the values, flat, from anywhere, the same places each time; all where there are no more. (At a stride they would
    come from few pixels or channels: sizes are powers of two.)"""
    values = x.detach().flatten()
    if len(values) <= count:
        return values
    generator = torch.Generator().manual_seed(0)
    return values[torch.randint(0, len(values), (count,), generator=generator, device="cpu").to(x.device)]


def fake_quantize(x: Tensor, step: float, low: int, high: int) -> Tensor:
    """``step * clamp(round(x / step), low, high)``, halves to even; in an exported program the one operation that the compiler
    looks for, ``aten.fake_quantize_per_tensor_affine``."""
    if x.dtype != torch.float32:  # an exported program would keep even a cast that does nothing
        return fake_quantize(x.float(), step, low, high).to(x.dtype)
    if torch.compiler.is_compiling():
        return torch.fake_quantize_per_tensor_affine(x, step, 0, low, high)
    return _rounded(x, float(torch.tensor(step, dtype=torch.float32, device="cpu")), low, high)


class FrozenStep(nn.Module):
    """An activation quantizer as deployed: plain numbers, so that ``torch.export`` shows them as constants."""

    def __init__(self, step: float, low: int, high: int) -> None:
        super().__init__()
        self.step, self.low, self.high = step, low, high

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.step, self.low, self.high)

    def extra_repr(self) -> str:
        return f"step={self.step:.4g}, {self.low}..{self.high}"


class TrainableStep(nn.Module):
    """An activation quantizer whose step learns from the task's loss.

    Args:
        bits: 8 or 7.
        signed: whether values can be negative.
        learned: False keeps the step that ``calibrate`` finds (the network's input).

    Attributes:
        rectifies: a ``LeftReLU`` stands before it and leaves clipping at 0 to it.
        alone: nobody else reads its input. Where autograd does not need that either, the output takes its memory.
    """

    low: Tensor
    high: Tensor
    floor: Tensor

    def __init__(self, bits: int, *, signed: bool, learned: bool = True) -> None:
        super().__init__()
        low, high = bounds(bits, signed=signed)
        self.step = nn.Parameter(torch.ones(()), requires_grad=learned)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("floor", torch.tensor(1e-12))
        self.rectifies = False
        self.alone = False
        self._range: tuple[int, int] | None = (
            None  # plain copies: reading a buffer each step would wait for the GPU
        )

    @property
    def range(self) -> tuple[int, int]:
        if self._range is None:
            self._range = (int(self.low), int(self.high))
        return self._range

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        super()._load_from_state_dict(*arguments, **named)
        self._range = None

    @torch.no_grad()
    def calibrate(self, x: Tensor | Iterable[Tensor]) -> None:
        """Take the step that fits ``x``, or all of several batches, with the least squared error; an input that is never negative
        becomes unsigned. Batches are gone through more than once."""
        parts = [x] if isinstance(x, Tensor) else x
        low, high = self.range
        if low < 0 and not self.step.requires_grad and all(part.min() >= 0 for part in parts):
            low, high = 0, high - low
            self.low.fill_(low)
            self.high.fill_(high)
            self._range = None
        largest = torch.stack(
            [(part.abs().max() if low < 0 else part.max()).detach().float() for part in parts]
        ).max()
        if not largest > 0:
            step = torch.ones_like(largest) / high
        elif self.step.requires_grad:
            step = self._fitted(parts, largest)
        else:  # the network's input keeps its whole range
            step = largest / high
        self.step.fill_(float(step))
        self.floor.fill_(float(step) * FLOOR)

    def _fitted(self, parts: Iterable[Tensor], largest: Tensor) -> Tensor:
        """The step with the least squared error. Some of the values stand for all, and what is larger than each of them for
        itself: to keep a rare peak can be worth more than to round all others finely."""
        low, high = self.range
        total = sum(part.numel() for part in parts)
        values = torch.cat([some_values(part, -(-SAMPLE * part.numel() // total)).float() for part in parts])
        common = (values.abs().max() if low < 0 else values.max()).clamp_min(1e-12 * high)
        peaks = torch.cat(
            [part[(part.abs() if low < 0 else part) > common].detach().float() for part in parts]
        )
        ends = CLIPS.to(values) * common
        if len(peaks):
            ends = torch.cat([ends, CLIPS.to(values) * largest])
        steps = (ends / high).clamp_min(1e-12)

        def error(part: Tensor, step: float) -> Tensor:
            return (fake_quantize(part, step, low, high) - part).square().sum()

        share = total / values.numel()
        errors = [share * error(values, step) + error(peaks, step) for step in steps.tolist()]
        return steps[torch.stack(errors).argmin()]

    @uncompiled  # a compiled network calls it as it is
    def forward(self, x: Tensor) -> Tensor:
        overwrite = self.alone and x.grad_fn is not None and x.grad_fn.name() in FORGETFUL
        overwrite = overwrite and x.dtype == torch.float32
        rounded: Tensor = _LearnedStep.apply(x, self.step, self.floor, *self.range, self.rectifies, overwrite)
        return rounded

    def frozen(self) -> FrozenStep:
        """The same as deployed."""
        return FrozenStep(float(torch.maximum(self.step.detach(), self.floor)), *self.range)


class LeftReLU(nn.Module):
    """A ReLU directly before an unsigned ``TrainableStep``, which clips at 0 anyway: in training it costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else torch.relu(x)
