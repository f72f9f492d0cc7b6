"""The quantizers that mixtures are compared with: learned steps, element-wise scaling, differentiable k-means."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from quantizers import QUANTIZERS
from quantizers.core.base import WeightQuantizer
from quantizers.network import (
    harden,
    layer_names,
    parameter_groups,
    quantize,
    quantizers_of,
    set_progress,
)
from quantizers.weights.differentiable_kmeans import ITERATIONS, DifferentiableKMeans, attention
from quantizers.weights.element_wise_scaling import DELTA, ElementWiseScaling
from quantizers.weights.learned_step import LearnedStep

torch.set_num_threads(1)
SOFT = TemperatureSchedule(0.5, 0.5, "constant")
METHODS = ("learned_step", "element_wise_scaling", "differentiable_kmeans")


def made(method: str, weight: Tensor, bits: int = 2, schedule: TemperatureSchedule = SOFT) -> WeightQuantizer:
    sort, layer = QUANTIZERS[method], LayerPlan(bits, 2**bits)
    options = sort.options_for(Plan({}, temperature=schedule, quantizer=method), {})
    return sort.for_layer(weight, layer, options, initialise=True)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4]), seed=st.integers(0, 2**31), size=st.floats(1e-6, 1e3), tail=st.booleans()
)
def test_evaluation_is_the_codebook_bit_for_bit(
    method: str, bits: int, seed: int, size: float, tail: bool
) -> None:
    weight = size * torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    weight = weight**3 / size**2 if tail else weight
    quantizer = made(method, weight, bits).eval()
    book = quantizer.codebook(weight)
    assert torch.equal(quantizer(weight), torch.from_numpy(book.dequantize()))
    assert len(book.levels) <= 2**bits
    assert (np.diff(book.levels.astype(int)) > 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [torch.zeros(4, 3), torch.full((4, 3), 0.5), torch.eye(4)])
def test_few_distinct_weights_do_not_break_it(method: str, weight: Tensor) -> None:
    quantizer = made(method, weight, 4)
    assert torch.isfinite(quantizer(weight)).all()
    quantizer.eval()
    assert torch.equal(quantizer(weight), torch.from_numpy(quantizer.codebook(weight).dequantize()))


def test_the_learned_step_has_the_papers_start_and_gradient() -> None:
    weight = torch.tensor([[-5.0, -0.3, 0.2, 0.9, 3.0]], requires_grad=True)
    quantizer = made("learned_step", weight, 3)
    assert isinstance(quantizer, LearnedStep)
    step = quantizer.quantize.step
    start = 2 * weight.detach().abs().mean().item() / 3**0.5
    assert step.item() == pytest.approx(start)
    with torch.no_grad():
        step.fill_(0.5)
    upstream = torch.tensor([[1.0, 2.0, -1.0, 0.5, 3.0]])
    (quantizer(weight) * upstream).sum().backward()
    # w / step = -10, -0.6, 0.4, 1.8, 6 in -4..3: clipped low, -1, 0, 2, clipped high (equation 3).
    by_step = np.array([-4, -1 + 0.6, 0 - 0.4, 2 - 1.8, 3])
    assert step.grad is not None and weight.grad is not None
    assert step.grad.item() == pytest.approx(
        float((by_step * upstream.numpy()).sum()) / (5 * 3) ** 0.5, rel=1e-5
    )
    assert weight.grad.tolist() == [[0.0, 2.0, -1.0, 0.5, 0.0]]


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from([2, 3, 4]), seed=st.integers(0, 2**31), delta=st.sampled_from([0.0, DELTA, 0.5]))
def test_element_wise_scaling_matches_a_slow_reference(bits: int, seed: int, delta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 8, generator=generator)
    upstream = torch.randn(5, 8, generator=generator)
    quantizer = ElementWiseScaling(LayerPlan(bits), weight.shape, ElementWiseScaling.Options(delta))
    with torch.no_grad():
        quantizer.lower.fill_(-0.9)
        quantizer.upper.fill_(1.2)
        quantizer.scale.fill_(0.7)
    weight.requires_grad_()
    out = quantizer(weight)
    (out * upstream).sum().backward()

    low, high, scale, steps = -0.9, 1.2, 0.7, 2**bits - 1
    by_weight, by_low, by_high, by_scale = [], 0.0, 0.0, 0.0
    for w, g, o in zip(weight.flatten().tolist(), upstream.flatten().tolist(), out.flatten().tolist()):
        normal = min(max((w - low) / (high - low), 0.0), 1.0)
        level = round(normal * steps) / steps
        assert o == pytest.approx(scale * (2 * level - 1), abs=1e-6)
        by_scale += g * (2 * level - 1)
        by_level = g * 2 * scale
        sign = (by_level > 0) - (by_level < 0)
        by_normal = by_level * (1 + delta * sign * (normal - level)) * (low < w < high)
        by_weight.append(by_normal / (high - low))
        by_low += by_normal * (w - high) / (high - low) ** 2
        by_high -= by_normal * (w - low) / (high - low) ** 2
    assert weight.grad is not None
    assert np.allclose(weight.grad.flatten(), by_weight, atol=1e-5)
    for parameter, wanted in (
        (quantizer.lower, by_low),
        (quantizer.upper, by_high),
        (quantizer.scale, by_scale),
    ):
        assert parameter.grad is not None
        assert float(parameter.grad) == pytest.approx(wanted / 40**0.5, abs=1e-4)


def test_element_wise_scaling_starts_at_three_deviations_and_never_has_an_empty_interval() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(6))
    quantizer = made("element_wise_scaling", weight, 3)
    assert isinstance(quantizer, ElementWiseScaling)
    assert quantizer.upper.item() == pytest.approx(3 * float(weight.std()), rel=1e-3)
    assert float(quantizer(weight).detach().abs().mean()) == pytest.approx(
        float(weight.abs().mean()), rel=1e-5
    )
    with torch.no_grad():
        quantizer.upper.fill_(-5.0)
        quantizer.scale.fill_(-1.0)
    out = quantizer(weight)
    assert torch.isfinite(out).all() and out.unique().numel() <= 8
    out.square().sum().backward()
    assert quantizer.scale.grad is not None and torch.isfinite(quantizer.scale.grad)


def test_soft_clusters_match_a_slow_reference_and_their_gradient_is_exact() -> None:
    weight = (
        torch.linspace(-2, 2, 40).double() + torch.linspace(0, 1, 40).square().float().double()
    )  # no lone centre
    quantizer = made("differentiable_kmeans", weight.reshape(4, 10), 2)
    assert isinstance(quantizer, DifferentiableKMeans)
    unit, start = float(weight.std(correction=0)), quantizer.centres.double().clone()

    def reference(values: Tensor) -> Tensor:
        centres = start
        for _ in range(ITERATIONS):
            rows = []
            for w in values:
                likeness = torch.exp(-(w - centres).abs() / (0.5 * unit))
                rows.append(likeness / likeness.sum())
            share = torch.stack(rows)
            centres = torch.stack([(share[:, k] * values).sum() / share[:, k].sum() for k in range(4)])
        return attention(values, centres, torch.tensor(0.5 * unit)) @ centres

    slow, fast = weight.clone().requires_grad_(), weight.float().requires_grad_()
    out, wanted = quantizer(fast), reference(slow)
    assert torch.allclose(out.double(), wanted, atol=1e-5)
    upstream = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (out * upstream.float()).sum().backward()
    (wanted * upstream).sum().backward()
    assert fast.grad is not None and slow.grad is not None
    assert torch.allclose(fast.grad.double(), slow.grad, atol=1e-4)


def test_at_a_low_temperature_the_clusters_are_those_of_k_means() -> None:
    weight = torch.cat([torch.randn(50) * 0.01 + centre for centre in (-2.0, -1.0, 0.5, 3.0)])
    quantizer = made(
        "differentiable_kmeans", weight.reshape(20, 10), 2, TemperatureSchedule(1e-3, 1e-3, "constant")
    )
    out = quantizer(weight.reshape(20, 10)).flatten().detach()
    for place in range(4):
        group = slice(50 * place, 50 * place + 50)
        assert torch.allclose(out[group], weight[group].mean().expand(50), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_trains_hardens_and_resumes(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    images, labels = torch.randn(32, 3, 10, 10), torch.randint(0, 5, (32,))
    plan = Plan.uniform(layer_names(model), LayerPlan(3, 8), quantizer=method, temperature=SOFT)
    network = quantize(model, plan, images)
    optimizer = torch.optim.SGD(parameter_groups(network, 0.05, 0.0), lr=0.05, momentum=0.9)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> float:
        set_progress(network, progress)
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    losses = [step(network, optimizer, i / 60) for i in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    again = quantize(model, plan, None)
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    restored = torch.optim.SGD(parameter_groups(again, 0.05, 0.0), lr=0.05, momentum=0.9)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for progress in (0.9, 0.95):
        assert step(again, restored, progress) == step(network, optimizer, progress)
    hardened = harden(network)
    network.eval()
    assert torch.equal(network(images), hardened.network(images))
    before = [float(p.detach().abs().sum()) for p in network.parameters()]
    assert all(np.isfinite(before))
    assert {name for name, _, _ in quantizers_of(network)} == set(hardened.codebooks)


def test_groups_hold_every_parameter_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for method in METHODS:
        network = quantize(
            model,
            Plan.uniform(layer_names(model), LayerPlan(2, 4), quantizer=method),
            torch.randn(4, 3, 8, 8),
        )
        taken = [id(p) for group in parameter_groups(network, 0.1, 0.1) for p in group["params"]]
        assert len(taken) == len(set(taken))
        assert set(taken) == {id(p) for p in network.parameters() if p.requires_grad}


def test_untrained_it_is_k_means() -> None:
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    book = made("differentiable_kmeans", weight, 2).codebook(weight)
    centres = sorted(float(weight[torch.from_numpy(book.indices == k)].mean()) for k in range(4))
    # Each rounded level lies within half a grid step of the mean of the weights that have it.
    assert np.allclose(centres, book.levels * book.scale, atol=float(book.scale[0]))
    for left, right in pairwise(sorted(book.levels.tolist())):
        border = (left + right) / 2 * float(book.scale[0])
        assert abs(border) < weight.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_nothing(method: str) -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(4))
    upstream = torch.randn(8, 40, generator=torch.Generator().manual_seed(5))
    results = []
    for enabled in (False, True):
        latent = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = made(method, weight)(latent)
        (out * upstream).sum().backward()
        assert latent.grad is not None
        results.append((out.detach(), latent.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
