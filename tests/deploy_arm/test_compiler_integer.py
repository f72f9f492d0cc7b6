"""The integer reference against plain loops and big integers, and the choice of fixed-point parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import accumulate, execute, normalized, requantize, run, trace
from deploy_arm.lowering.pending import LayerNormalization, Product, QuantizedRange
from deploy_arm.lowering.requantize import choose, choose_add, convolution_bound
from deploy_arm.lowering.windows import adaptive_windows, average_windows, pool_windows
from foundation.codebook import Codebook
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import random_convolution

INT32 = st.integers(-(2**31), 2**31 - 1)
MULTIPLIER = st.integers(-(2**31) + 1, 2**31 - 1)


class Recorder:
    """Keeps the one operation that a pending result emits."""

    operation: g.Operation

    def emit(self, make: Callable[[str], g.Operation], tensor: g.Tensor) -> g.Tensor:
        self.operation = make(tensor.name)
        return tensor


def saturate(value: int) -> int:
    return min(max(value, -(2**31)), 2**31 - 1)


@given(INT32, MULTIPLIER, INT32, st.integers(0, 30), st.integers(0, 31), st.booleans())
@settings(max_examples=500, deadline=None)
def test_requantize_is_the_rule_in_big_integers(
    acc: int, multiplier: int, offset: int, left: int, right: int, signed: bool
) -> None:
    low, high = (-128, 127) if signed else (0, 255)
    finish = g.Requantize(
        np.array([multiplier], np.int32), np.array([offset], np.int32), left, right, low, high
    )
    t = saturate(acc * 2**left)
    t = (2 * t * multiplier + 2**31) // 2**32
    t = saturate(t + offset)
    if right:
        t = (t + 2 ** (right - 1)) // 2**right
    assert requantize(np.array([acc]), finish)[0] == min(max(t, low), high)


@given(
    st.integers(1, 2**31 - 1),
    st.lists(st.tuples(st.floats(1e-9, 30.0), st.floats(-3000, 3000), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 2**16),
)
@settings(max_examples=300, deadline=None)
def test_chosen_parameters_are_close_to_the_real_factor(
    bound: int, channels: list[tuple[float, float, bool]], seed: int
) -> None:
    factor = np.array([-f if negative else f for f, _, negative in channels])
    offset = np.array([o for _, o, _ in channels])
    assume(np.abs(factor).max() * bound < 2**28)  # beyond that the step has collapsed
    finish = choose("layer", factor, offset, bound, -128, 127)
    acc = np.random.default_rng(seed).integers(-bound, bound + 1, (50, len(channels)))
    # half of the sums where the result is not clamped
    near = ((np.random.default_rng(seed).uniform(-128, 127, acc.shape) - offset) / factor).round()
    acc[::2] = np.clip(near, -bound, bound)[::2].astype(np.int64)
    found = requantize(acc, finish)
    error = 1.5 * 2.0**-finish.right
    for row in range(len(acc)):
        for c in range(len(channels)):
            real = Fraction(int(acc[row, c])) * Fraction(factor[c]) + Fraction(offset[c])
            clamped = min(max(real, Fraction(-128)), Fraction(127))
            assert abs(found[row, c] - clamped) <= Fraction(1, 2) + Fraction(error)
    assert (
        finish.right
        >= min(22, 31 - 12, 31 - bound.bit_length() - int(np.ceil(np.log2(np.abs(factor).max())))) - 1
    )


def test_typical_layers_keep_fourteen_fraction_bits() -> None:
    finish = choose("layer", np.array([0.004, 0.0001]), np.array([20.0, -3.0]), 255 * 40 * 1152, 0, 255)
    assert finish.right >= 14


def test_parameters_that_are_impossible_are_refused_by_name() -> None:
    good = np.array([0.01])
    with pytest.raises(UserError, match=r"conv1.*32 bits"):
        choose("conv1", good, good, 2**31, 0, 255)
    with pytest.raises(UserError, match=r"conv1.*finite"):
        choose("conv1", np.array([np.nan]), good, 100, 0, 255)
    with pytest.raises(UserError, match=r"conv1.*step"):
        choose("conv1", np.array([1e9]), good, 2**30, 0, 255)
    with pytest.raises(UserError, match=r"add.*step"):
        choose_add("add", (1e6, 1.0))
    for ratio in (np.nan, np.inf, -1.0):
        with pytest.raises(UserError, match=r"add.*not finite"):
            choose_add("add", (1.0, ratio))


@given(st.floats(1e-6, 1000.0), st.floats(1e-6, 1000.0))
@settings(max_examples=200, deadline=None)
def test_addition_is_close_to_the_real_sum_and_fits_32_bits(first: float, second: float) -> None:
    multipliers, right = choose_add("add", (first, second))
    assert max(multipliers) <= 2**20 and min(multipliers) >= 0 and 1 <= right <= 30
    assert 255 * sum(multipliers) + (1 << (right - 1)) < 2**31
    op = g.Add(("a", "b"), "c", "add", multipliers, right, -128, 127)
    a, b = np.meshgrid(np.arange(-128, 256, 5, dtype=np.int32), np.arange(-128, 256, 7, dtype=np.int32))
    real = np.clip(a * first + b * second, -128, 127)
    # multipliers are rounded to 1/2**right, so the sum may be wrong by that times the operands
    error = 0.5 + 0.5 * (256 + 256) * 2.0**-right + 1e-9
    assert np.abs(execute(op, [a, b], []) - real).max() <= error


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[np.ndarray, g.Convolution, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depth, share = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    padding = (
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
    )
    size = [dilation[a] * (kernel[a] - 1) + 1 + draw(st.integers(0, 5)) for a in (0, 1)]
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    low, high = draw(st.sampled_from([(0, 255), (-128, 127), (0, 127)]))
    x = random.integers(low, high + 1, (2, *size, groups * depth)).astype(np.int32)
    levels = np.arange(-127, 128).astype(np.int8)
    indices = random.integers(0, 255, (groups * share, *kernel, depth)).astype(np.uint8)
    weights = Codebook(indices, levels, np.ones(1, np.float32), 8)
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    finish = g.Dequantize(np.ones(groups * share, np.float32), np.zeros(groups * share, np.float32))
    return (
        x,
        g.Convolution(("x",), "y", "conv", weights, stride, padding, dilation, groups, finish),
        max(-low, high),
    )


@given(convolutions())
@settings(max_examples=60, deadline=None)
def test_convolution_sums_equal_plain_loops(example: tuple[np.ndarray, g.Convolution, int]) -> None:
    x, op, magnitude = example
    found = accumulate(x, op, magnitude)
    top, left, bottom, right = op.padding
    weights = op.weights.integers.astype(int)
    out, kernel_height, kernel_width, depth = weights.shape
    height, width = x.shape[1:3]
    rows = (height + top + bottom - op.dilation[0] * (kernel_height - 1) - 1) // op.stride[0] + 1
    columns = (width + left + right - op.dilation[1] * (kernel_width - 1) - 1) // op.stride[1] + 1
    assert found.shape == (len(x), rows, columns, out)
    largest = 0
    for o in range(out):
        first = o // (out // op.groups) * depth
        for i in range(rows):
            for j in range(columns):
                total = np.zeros(len(x), int)
                for kh in range(kernel_height):
                    for kw in range(kernel_width):
                        y = i * op.stride[0] + kh * op.dilation[0] - top
                        z = j * op.stride[1] + kw * op.dilation[1] - left
                        if 0 <= y < height and 0 <= z < width:
                            total += x[:, y, z, first : first + depth] @ weights[o, kh, kw]
                assert np.array_equal(found[:, i, j, o], total)
                largest = max(largest, int(np.abs(total).max()))
    assert largest <= convolution_bound(op.weights, -magnitude, magnitude)


@given(
    st.integers(1, 14),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_pool_windows_are_those_of_pytorch(
    size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, count_padding: bool, dilation: int
) -> None:
    padding = min(padding, kernel // 2)
    if size + 2 * padding < kernel:
        return
    x = torch.rand(1, 1, size, 1, dtype=torch.float64)
    wanted = F.max_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), ceil_mode=ceil_mode)[0, 0, :, 0]
    windows = pool_windows(size, kernel, stride, padding, ceil_mode=ceil_mode)
    assert [float(x[0, 0, w.start : w.end].max()) for w in windows] == wanted.tolist()
    if size + 2 * padding > dilation * (kernel - 1):
        apart = F.max_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), ceil_mode)[0, 0, :, 0]
        windows = pool_windows(size, kernel, stride, padding, ceil_mode=ceil_mode, dilation=dilation)
        found = [max(x[0, 0, w.start : w.end : dilation, 0].tolist(), default=-math.inf) for w in windows]
        assert found == apart.tolist()
    wanted = F.avg_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), ceil_mode, count_padding)[0, 0, :, 0]
    windows = average_windows(size, kernel, stride, padding, ceil_mode=ceil_mode, count_padding=count_padding)
    found = [float(x[0, 0, w.start : w.end].sum()) / w.divisor for w in windows]
    assert np.allclose(found, wanted.numpy(), rtol=1e-12)


@given(st.integers(1, 20), st.integers(1, 9))
def test_adaptive_windows_are_those_of_pytorch(size: int, outputs: int) -> None:
    x = torch.rand(1, 1, size, 1, dtype=torch.float64)
    wanted = F.adaptive_avg_pool2d(x, (outputs, 1))[0, 0, :, 0]
    found = [float(x[0, 0, w.start : w.end].sum()) / w.divisor for w in adaptive_windows(size, outputs)]
    assert np.allclose(found, wanted.numpy(), rtol=1e-12)


@given(
    st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0), st.floats(1e-3, 10.0)),
    st.booleans(),
    st.sampled_from([(0, 255), (-128, 127), (0, 127), (-64, 63)]),
)
@settings(max_examples=100, deadline=None)
def test_product_is_close_to_the_real_one(
    steps: tuple[float, float, float], vector: bool, range_: tuple[int, int]
) -> None:
    random = np.random.default_rng(1)
    first = g.Tensor("a", (3, 4, 5), steps[0], -128, 127)
    second = g.Tensor("b", (1, 1, 5) if vector else (3, 4, 5), steps[1], *range_)
    target = QuantizedRange(max(steps[2], steps[0] * steps[1] / 100), -128, 127)
    lowering = Recorder()
    Product(name="y", layer="product", shape=first.shape, first=first, second=second).quantize(
        lowering, target
    )
    a = random.integers(-128, 128, (2, *first.shape)).astype(np.int32)
    b = random.integers(range_[0], range_[1] + 1, (2, *second.shape)).astype(np.int32)
    real = np.clip(a.astype(float) * b * (steps[0] * steps[1] / target.step), -128, 127)
    assert np.abs(execute(lowering.operation, [a, b], []) - real).max() <= 0.5 + 1e-3


@given(
    st.integers(1, 3000), st.floats(1e-3, 1.0), st.floats(0.05, 128), st.sampled_from([1e-6, 1e-5, 1e-3, 1.0])
)
@settings(max_examples=100, deadline=None)
def test_layer_norm_is_close_to_the_real_one(
    channels: int, step: float, spread: float, epsilon: float
) -> None:
    random = np.random.default_rng(channels)
    q = np.clip(np.rint(random.normal(0, spread, (2, 2, 3, channels))), -128, 127).astype(np.int32)
    scale, shift = random.normal(size=(2, channels))
    source = g.Tensor("x", (2, 3, channels), step, -128, 127)
    norm = LayerNormalization(
        name="y", layer="norm", shape=source.shape, source=source, scale=scale, shift=shift, epsilon=epsilon
    )
    lowering = Recorder()
    target = QuantizedRange(0.04, -128, 127)
    norm.quantize(lowering, target)
    x = torch.from_numpy(q.astype(np.float64) * step)
    real = F.layer_norm(x, (channels,), torch.from_numpy(scale), torch.from_numpy(shift), epsilon).numpy()
    wanted = np.clip(real / target.step, -128, 127)
    # epsilon is rounded to a whole number in units of the variance times channels squared
    unit = max(epsilon * (channels / step) ** 2, 1)
    error = 0.51 + (0.5 / unit) * np.abs(wanted).max() + 2**-16 * np.abs(scale).max() / target.step
    assert np.abs(execute(lowering.operation, [q], []) - wanted).max() <= error


@given(st.integers(1, 2**15), st.integers(1, 2**60), st.sampled_from([(0, 0), (0, 1), (0, 255), (254, 255)]))
@settings(max_examples=100, deadline=None)
def test_layer_norm_is_the_rule_in_big_integers(channels: int, epsilon: int, ends: tuple[int, int]) -> None:
    x = np.random.default_rng(epsilon % 1000).choice(ends, channels)
    if epsilon % 3 == 0:
        x[1:] = ends[0]
    total, squares = int(x.sum()), int((x * x).sum())
    spread = channels * squares - total * total + epsilon
    shift = next(e for e in range(0, 62, 2) if 2**60 <= spread << e < 2**62)
    factor = min(2**61 // math.isqrt(spread << shift), 2**31 - 1)
    right = 45 - shift // 2
    wanted = [((channels * int(q) - total) * factor + (1 << (right - 1))) >> right for q in x]
    assert normalized(x, epsilon).tolist() == wanted
    assert max(map(abs, wanted)) <= (math.isqrt(channels) + 1) << 16


def test_the_reference_holds_a_graph_to_what_it_declares() -> None:
    """Images of another kind, a tensor of another shape and values beyond a range are named, never computed with."""
    graph, images = random_convolution(3)
    output = graph.operations[-1].inputs[0]
    known = trace(graph, images)
    assert known[graph.output].reshape(len(images), -1).tobytes() == run(graph, images).tobytes()
    for wrong in (images.astype(np.int8), images[:, :, :-1]):
        with pytest.raises(ValueError, match="the graph wants uint8"):
            run(graph, wrong)
    tensor = graph.tensors[output]
    narrow = dataclasses.replace(tensor, high=int(known[output].max()) - 1)
    longer = dataclasses.replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] + 1))
    for lie, said in ((narrow, "values outside"), (longer, "output of shape")):
        with pytest.raises(ValueError, match=said):
            run(dataclasses.replace(graph, tensors={**graph.tensors, output: lie}), images)
