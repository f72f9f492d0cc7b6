"""Learned steps: the forward pass of the deployed operation, LSQ's gradients, calibration, steps that stay positive."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.core.activation import ENOUGH, FrozenStep, LeftReLU, TrainableStep, bounds

torch.set_num_threads(1)
KINDS = [(8, True), (8, False), (7, True), (7, False)]


def test_bounds() -> None:
    assert [bounds(kind[0], signed=kind[1]) for kind in KINDS] == [(-128, 127), (0, 255), (-64, 63), (0, 127)]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS), st.floats(1e-4, 10.0), st.integers(0, 2**31), st.sampled_from([500, 32_768]))
def test_forward_is_the_deployed_operation_bit_for_bit(
    kind: tuple[int, bool], step: float, seed: int, count: int
) -> None:
    low, high = bounds(kind[0], signed=kind[1])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) * 200 * step
    x[:8] = torch.tensor([0.5, 1.5, -0.5, 2.5, 1e4, -1e4, 0.0, -0.0]) * step  # halves and clipping
    quantizer = TrainableStep(kind[0], signed=kind[1])
    with torch.no_grad():
        quantizer.step.fill_(step)
    expected = torch.fake_quantize_per_tensor_affine(x, float(quantizer.step), 0, low, high)
    for result in (quantizer(x), quantizer.eval()(x), quantizer.frozen()(x)):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_those_of_learned_step_quantization(
    kind: tuple[int, bool], channels_last: bool
) -> None:
    torch.manual_seed(0)
    low, high = bounds(kind[0], signed=kind[1])
    x = torch.randn(4, 3, 10, 10) * high * 0.05
    upstream = torch.randn_like(x)
    if channels_last:
        x, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x, upstream))
    x.requires_grad_()
    quantizer = TrainableStep(kind[0], signed=kind[1])
    with torch.no_grad():
        quantizer.step.fill_(0.07)
    quantizer(x).backward(upstream)
    v = (x / 0.07).detach().double()
    inside = (v > low - 0.5) & (v < high + 0.5)
    assert 0.02 < inside.double().mean() < 0.999
    slope = torch.where(inside, v.round() - v, v.clamp(low, high))
    expected = (slope * upstream).sum() / (high * x[0].numel()) ** 0.5
    torch.testing.assert_close(quantizer.step.grad.double(), expected, rtol=1e-3, atol=1e-5)
    passed = (v.round() > low) & (v.round() < high)  # what comes out at an end counts as clipped
    assert torch.equal(x.grad, upstream * passed) and passed.double().mean() < inside.double().mean()


def test_calibration_finds_the_least_squared_error() -> None:
    torch.manual_seed(0)
    x = torch.distributions.StudentT(3.0).sample((20_000,)).abs()
    quantizer = TrainableStep(8, signed=False)
    quantizer.calibrate(x)
    errors = {}
    for step in (quantizer.step.item() * factor for factor in (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.6)):
        errors[step] = FrozenStep(step, 0, 255)(x).sub(x).square().sum().item()
    best = min(errors.values())
    assert errors[quantizer.step.item()] <= 1.05 * best


@pytest.mark.parametrize("shape", [(256, 160, 4, 4), (64, 64, 16, 16), (1024, 640, 1, 1), (100, 31, 15, 15)])
@pytest.mark.parametrize("by", ["row", "channel"])
def test_calibration_sees_every_pixel_and_channel(shape: tuple[int, ...], by: str) -> None:
    """What networks give is large in the middle of images, and in some channels."""
    size = torch.ones(shape)
    if by == "row":
        size[:, :, 1 : max(2, shape[2] - 1)] = 20.0
    else:
        size[:, 1::2] = 20.0
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs() * size
    quantizer = TrainableStep(8, signed=False)
    quantizer.calibrate(x)
    errors = {
        step: FrozenStep(step, 0, 255)(x).sub(x).square().sum().item()
        for step in (
            quantizer.step.item(),
            *(float(x.max()) / 255 * share for share in (0.5, 0.7, 0.85, 1.0)),
        )
    }
    assert errors[quantizer.step.item()] <= 1.15 * min(errors.values())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("share", "peak"), [(1e-5, 60.0), (1e-5, -30.0), (1e-7, 60.0), (0.0, 0.0)])
def test_calibration_keeps_peaks_where_that_pays(share: float, peak: float, signed: bool) -> None:
    """However rare they are, and lets them go where it does not."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1_000_000, generator=generator)
    x[torch.randperm(len(x), generator=generator)[: int(share * len(x))]] = peak
    x = x if signed else x.abs()
    quantizer = TrainableStep(8, signed=signed)
    quantizer.calibrate(x)
    low, high = quantizer.range
    errors = {
        step: FrozenStep(step, low, high)(x).sub(x).square().sum().item()
        for step in (
            quantizer.step.item(),
            *(end / high for end in (3.0, 3.5, 4.0, 4.5, 5.0, 20.0, 30.0, 60.0)),
        )
    }
    assert errors[quantizer.step.item()] <= 1.1 * min(errors.values())


def test_the_range_of_the_networks_input_is_that_of_all_its_values() -> None:
    pixels = TrainableStep(8, signed=True, learned=False)
    images = torch.zeros(64, 3, 96, 96)
    images[17, 1, 33, 77] = 3.0
    pixels.calibrate(images)
    assert pixels.step.item() == pytest.approx(3.0 / 255) and pixels.range == (0, 255)


def test_input_step_is_the_range_and_does_not_learn() -> None:
    quantizer = TrainableStep(8, signed=True, learned=False)
    quantizer.calibrate(torch.linspace(-2.0, 1.5, 100))
    assert quantizer.step.item() == pytest.approx(2.0 / 127) and not quantizer.step.requires_grad
    assert quantizer.range == (-128, 127)
    pixels = TrainableStep(8, signed=True, learned=False)
    pixels.calibrate(torch.linspace(0, 1, 100))  # never negative, so the sign bit is put to use
    assert pixels.range == (0, 255) and pixels.step.item() == pytest.approx(1 / 255)
    copy = TrainableStep(8, signed=True, learned=False)
    copy.load_state_dict(pixels.state_dict())
    assert copy.range == (0, 255) and copy.frozen().high == 255


def test_step_stays_positive_and_comes_back() -> None:
    quantizer = TrainableStep(8, signed=True)
    x = torch.randn(1000)
    quantizer.calibrate(x)
    first = quantizer.step.item()
    with torch.no_grad():
        quantizer.step.fill_(-5.0)
    out = quantizer(x.requires_grad_())
    assert out.isfinite().all() and quantizer.frozen().step > 0
    out.sum().backward()
    assert quantizer.step.grad.isfinite()
    with torch.no_grad():
        quantizer.step.fill_(first)
    assert quantizer.frozen().step == first


def test_half_precision_and_zeros() -> None:
    quantizer = TrainableStep(8, signed=False)
    quantizer.calibrate(torch.zeros(10))
    assert quantizer.frozen().step > 0
    x = torch.rand(2, 50, dtype=torch.bfloat16, requires_grad=True)
    out = quantizer(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("count", [500, 32_768])
def test_what_is_not_a_number_stays_one_and_the_infinite_is_clipped(value: float, count: int) -> None:
    x = torch.randn(count)
    x[7] = value
    out = TrainableStep(8, signed=True)(x)[7]
    assert out.isnan() if value != value else out in (-128.0, 127.0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_relu_left_to_the_step_changes_neither_value_nor_gradient(channels_last: bool) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(4, 8, 16, 40)
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.01, 0.01])
    upstream = torch.randn_like(x)
    if channels_last:
        x, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x, upstream))
    results = []
    for left in (False, True):
        quantizer, value = TrainableStep(8, signed=False), x.clone().requires_grad_()
        quantizer.rectifies = left
        with torch.no_grad():
            quantizer.step.fill_(0.02)
        out = quantizer((LeftReLU() if left else torch.nn.ReLU())(value))
        out.backward(upstream)
        results.append((out.detach(), value.grad, quantizer.step.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(results[0][1], results[1][1]) and (x > 5.11).any()
    assert torch.equal(LeftReLU().eval()(x), x.relu())


@pytest.mark.parametrize("operation", ["norm", "sum", "convolution", "linear", "sigmoid", "leaf"])
def test_the_memory_of_an_input_that_nobody_else_needs_is_taken_and_nothing_changes(operation: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8, 8)
    layer = {
        "norm": torch.nn.BatchNorm2d(6),
        "convolution": torch.nn.Conv2d(6, 5, 3),
        "linear": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(384, 7)),
        "sigmoid": torch.nn.Sigmoid(),  # reads its output in the backward pass
    }.get(operation)
    results = []
    for alone in (False, True):
        value = x.clone().requires_grad_()
        before = value + 0.5 * value if operation == "sum" else layer(value) if layer else value
        kept = before.detach().clone()
        quantizer = TrainableStep(8, signed=True)
        quantizer.alone = alone
        with torch.no_grad():
            quantizer.step.fill_(0.01)
        out = quantizer(before)
        taken = alone and operation not in ("sigmoid", "leaf")
        assert (out.data_ptr() == before.data_ptr()) == taken
        assert torch.equal(before.detach(), kept) != taken
        out.square().sum().backward()
        results.append((out.detach(), value.grad, quantizer.step.grad))
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_a_large_batch_gives_the_gradient_of_its_first_images_times_their_rarity() -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(64, ENOUGH // 16), torch.randn(64, ENOUGH // 16)
    gradients = []
    for images in (64, 16):  # of the 64 a quarter is looked at
        quantizer = TrainableStep(8, signed=True)
        quantizer(x[:images].clone().requires_grad_()).backward(upstream[:images])
        gradients.append(quantizer.step.grad)
    torch.testing.assert_close(gradients[0], 4 * gradients[1], rtol=1e-4, atol=1e-6)


def test_a_gradient_has_the_layout_of_what_it_is_of_and_the_values_of_any_other() -> None:
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(4, 3, 5, 5)
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        quantizer = TrainableStep(8, signed=True)
        quantizer.calibrate(x)
        given = x.clone(memory_format=torch.preserve_format).requires_grad_(True)
        quantizer(given).backward(upstream.contiguous(memory_format=layout))
        assert given.grad is not None and given.grad.is_contiguous(memory_format=torch.channels_last)
        found.append((given.grad, quantizer.step.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
