"""Layers reconstructed from few images: rounding against brute force, patches against convolutions, matched statistics."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.prune import l1_unstructured

from foundation.codebook import entropy
from foundation.dimension import Dimension
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.calibration.channel_scale import with_even_channels
from quantizers.calibration.lockstep import lockstep
from quantizers.calibration.patches import apply, outputs_of, patches, sampled
from quantizers.calibration.reconstruction import (
    Reconstruction,
    _behind,
    _importance,
    learn,
    reconstruct,
    rectified_aim,
    solved,
    work_of,
)
from quantizers.calibration.shelf import Budget, Shelf
from quantizers.core.activation import TrainableStep
from quantizers.core.levels import best_step
from quantizers.network import harden, layer_names, quantize, quantizers_of
from quantizers.registry import QUANTIZERS
from quantizers.tracing.trace import traced
from quantizers.weights.adaptive_rounding import AdaptiveRounding
from quantizers.weights.gaussian_mixture import GaussianMixture
from quantizers.weights.int8 import Int8

HOW = Reconstruction(steps=400, batch=64, solve=False, positions=64)


def rounding(weight: Tensor, bits: int) -> AdaptiveRounding:
    made = AdaptiveRounding.for_layer(
        weight, LayerPlan(bits, 2**bits), AdaptiveRounding.Options(), initialise=True
    )
    assert isinstance(made, AdaptiveRounding)
    return made


def identity(out: Tensor) -> Tensor:
    return out


def error(weight: Tensor, seen: Tensor, wanted: Tensor) -> float:
    return float((apply(weight, seen, 1) - wanted).double().square().mean())


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_no_worse_than_to_nearest_and_close_to_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 8, 1, 1, generator=generator)
    mixing = torch.randn(8, 8, generator=generator)  # correlated inputs: what makes nearest rounding bad
    seen = (torch.randn(512, 8, generator=generator) @ mixing)[:, :, None, None]
    wanted = apply(weight, seen, 1)
    quantizer = rounding(weight, 3)
    nearest = quantizer.eval()(weight)
    step, low, high = float(quantizer.step), quantizer.low, quantizer.high
    assert torch.equal(nearest, (weight / step).round().clamp(low, high) * step)
    learn(quantizer, nn.Parameter(weight), seen, wanted, identity, 1, HOW)
    errors = []
    for ups in itertools.product((0, 1), repeat=8):
        whole = (torch.floor(weight / step) + torch.tensor(ups).view_as(weight)).clamp(low, high)
        errors.append(error(whole * step, seen, wanted))
    found = error(torch.from_numpy(quantizer.codebook(weight).dequantize()), seen, wanted)
    assert min(errors) - 1e-9 <= found <= error(nearest, seen, wanted) + 1e-9
    assert found == pytest.approx(min(errors), rel=1e-3)


@pytest.mark.parametrize(
    ("position", "inputs", "best"), [(0.4, 1.0, 0), (0.6, 1.0, 1), (0.4, 0.5, 1), (0.6, 2.0, 0)]
)
def test_a_single_weight_is_rounded_to_what_the_output_needs(
    position: float, inputs: float, best: int
) -> None:
    """The quantized network gives the layer ``inputs`` times what the fp32 network gave."""
    weight = torch.full((1, 1, 1, 1), position)
    quantizer = rounding(weight, 4)
    with torch.no_grad():
        quantizer.step.fill_(1.0)
        quantizer.choice.zero_()
    seen = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    learn(quantizer, nn.Parameter(weight), inputs * seen, apply(weight, seen, 1), identity, 1, HOW)
    assert quantizer.codebook(weight).integers.item() == best


def test_the_step_is_the_best_that_any_grid_has_to_offer() -> None:
    weight = torch.tensor([-4.0, 3.0, 2.0, -1.0, 0.0]) * 0.37
    step = best_step(weight, -4, 3)
    assert step == pytest.approx(0.37, rel=0.02)
    assert best_step(torch.zeros(5), -4, 3) == 1.0


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2), bias=False),
        nn.Conv2d(4, 8, 3, padding="same", groups=2, bias=False),
        nn.Conv2d(4, 4, 5, stride=3, groups=4, bias=False),
        nn.Linear(7, 3, bias=False),
    ],
    ids=str,
)
def test_patches_give_the_layers_output(module: nn.Module) -> None:
    shape = (3, 4, 9, 8) if isinstance(module, nn.Conv2d) else (5, 7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    out = module(x)
    rows, columns = outputs_of(module, x)
    places = torch.randperm(len(x) * rows * columns, generator=torch.Generator().manual_seed(2))[:20]
    flat = out.permute(0, 2, 3, 1).flatten(0, 2) if out.ndim == 4 else out
    if out.ndim == 4:
        assert (rows, columns) == tuple(out.shape[2:])
    weight = module.weight
    assert isinstance(weight, Tensor)
    torch.testing.assert_close(
        apply(weight, patches(module, x, places), getattr(module, "groups", 1)), flat[places]
    )


@pytest.mark.parametrize(
    "module", [nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Linear(7, 3, bias=False)], ids=str
)
@pytest.mark.parametrize("positions", [1, 5, 40, 99])
def test_no_place_is_seen_twice_where_all_are(module: nn.Module, positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = isinstance(module, nn.Conv2d)
    batches = [torch.randn((n, 2, 5, 8) if conv else (n, 7), generator=generator) for n in (3, 2)]
    seen = sampled(module, batches, positions, 0)
    assert len(seen) == 5 * min(positions, 40 if conv else 1)
    assert torch.equal(seen, sampled(module, batches, positions, 0))
    if positions >= 40:
        assert len(seen.flatten(1).unique(dim=0)) == len(seen)


class Network(nn.Module):
    """A branch, a depthwise layer, a linear layer: what an order of layers may not get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.deep_norm = nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 8, 1, bias=False)
        self.side_norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first_norm(self.first(x)))
        x = self.relu(self.deep_norm(self.deep(x))) + self.side_norm(self.side(x))
        return self.last(x.mean((2, 3)))


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Network()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 2.0)
                nn.init.normal_(module.bias)
        made.train()
        for _ in range(20):
            made(torch.rand(16, 3, 8, 8) + torch.rand(16, 3, 1, 1))
    return made.eval()


@pytest.fixture
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(n, 3, 8, 8, generator=generator) for n in (8, 8, 5)]


def plan(quantizer: str, bits: int = 3) -> Plan:
    return Plan.uniform(layer_names(Network()), LayerPlan(bits, 2**bits), quantizer=quantizer)


def test_lockstep_runs_the_network(network: Network, images: list[Tensor]) -> None:
    traced = torch.fx.symbolic_trace(network)
    seen = [(str(node.target), list(values)) for node, values in lockstep(traced, images)]
    assert [name for name, _ in seen] == [
        "first", "first_norm", "relu", "deep", "deep_norm", "relu", "side", "side_norm", "last"
    ]  # fmt: skip
    for x, last in zip(images, seen[-1][1]):
        torch.testing.assert_close(network.last(last), network(x))


@pytest.mark.parametrize("quantizer", ["adaptive_rounding", "gaussian_mixture"])
def test_layers_come_closer_to_the_fp32_network_the_same_way_each_time(
    quantizer: str, network: Network, images: list[Tensor]
) -> None:
    def run(how: Reconstruction | None) -> tuple[float, list[bytes]]:
        made = quantize(network, plan(quantizer), torch.cat(images))
        if how:
            reconstruct(made, network, images, how)
        hardened = harden(made)
        with torch.no_grad():
            off = torch.cat([hardened.network(x) - network(x) for x in images]).square().mean()
        for book in hardened.codebooks.values():
            assert book.levels.dtype == "int8" and len(book.levels) <= 8 and book.scale.shape == (1,)
            if quantizer == "adaptive_rounding":
                assert book.levels.tolist() == list(range(-4, 4))
        return float(off), [book.integers.tobytes() for book in hardened.codebooks.values()]

    how = replace(HOW, steps=40, rate=0.03, positions=48)
    before, _ = run(None)
    after, first = run(how)
    again, second = run(how)
    assert after < 0.7 * before
    assert first == second and after == again
    assert first != run(replace(how, seed=1))[1]


def test_layers_of_8_bits_and_the_fp32_network_are_left_alone(network: Network, images: list[Tensor]) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    layers = dict.fromkeys(layer_names(network), LayerPlan(8)) | {"side": LayerPlan(3, 8)}
    made = quantize(network, Plan(layers), torch.cat(images))
    reconstruct(made, network, images, replace(HOW, steps=20))
    moved = {
        name for name, _, latent in quantizers_of(made) if not torch.equal(latent, before[f"{name}.weight"])
    }
    assert moved == {"side"}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_matched_batch_norms_keep_mean_and_variance_of_every_channel(
    network: Network, images: list[Tensor]
) -> None:
    made = quantize(network, plan("gaussian_mixture", 2), torch.cat(images)).eval()

    def outputs(of: nn.Module) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        hooks = [
            module.register_forward_hook(lambda m, i, out, name=name: found.setdefault(name, []).append(out))
            for name, module in of.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        with torch.no_grad():
            for x in images:
                of(x)
        for hook in hooks:
            hook.remove()
        return {name: torch.cat(values).transpose(0, 1).flatten(1) for name, values in found.items()}

    wanted = outputs(network)
    unmatched = outputs(made)
    reconstruct(made, network, images, Reconstruction(solve=False))
    given = outputs(made)
    for name, values in wanted.items():
        # eps is added to both variances: hence not exactly.
        torch.testing.assert_close(given[name].mean(1), values.mean(1), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(given[name].std(1), values.std(1), atol=2e-3, rtol=1e-3)
    assert (
        max(float((unmatched[name].mean(1) - values.mean(1)).abs().max()) for name, values in wanted.items())
        > 0.05
    )


def test_even_channels_change_no_answer(network: Network, images: list[Tensor]) -> None:
    with torch.no_grad():
        network.first.weight[0] = 0  # a dead channel has no size to divide by
        network.first.weight[1] *= 1e-3
        network.deep.weight[2] *= 1e3
    even = with_even_channels(network)
    for x in images:
        torch.testing.assert_close(even(x), network(x), atol=1e-4, rtol=1e-4)
    squares = even.get_submodule("deep").weight.square().mean((1, 2, 3))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(squares, network.deep.weight.detach().square().mean().expand(8))
    assert torch.equal(even.get_submodule("last").weight, network.last.weight)  # type: ignore[arg-type]
    assert float(network.deep.weight[2].detach().abs().max()) > 100  # the model itself is not changed


class Half(Dimension):
    """A dimension of someone's: every second output channel is zero."""

    values = (None, "half")

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        assert value == "half"

    @classmethod
    def apply(cls, weight: Tensor, value: Any) -> Tensor:
        kept = torch.arange(len(weight), device=weight.device) % 2
        return weight * kept.reshape(-1, *[1] * (weight.ndim - 1))


@pytest.mark.parametrize("steps", [0, 20])
def test_what_a_dimension_wants_of_weights_holds_and_the_others_make_up_for_it(
    network: Network, images: list[Tensor], steps: int
) -> None:
    half, whole = LayerPlan(4, 16, values={Half.name: "half"}), LayerPlan(8)
    layers = dict.fromkeys(layer_names(network), whole) | {"side": half}
    made = quantize(network, Plan(layers), torch.cat(images))
    before = harden(made)
    reconstruct(made, network, images, replace(HOW, steps=steps, solve=True))
    after = harden(made)
    zeros = after.codebooks["side"].dequantize() == 0
    assert zeros[::2].all() and not zeros[1::2].all()
    with torch.no_grad():
        wanted = torch.cat([network(x) for x in images])
        off = [
            float((torch.cat([one.network(x) for x in images]) - wanted).square().mean())
            for one in (before, after)
        ]
    assert off[1] < off[0]


@pytest.mark.parametrize("memory", [0, 50_000])
def test_activations_on_the_disk_change_nothing(network: Network, images: list[Tensor], memory: int) -> None:
    def run(how: Reconstruction) -> dict[str, Tensor]:
        made = quantize(network, plan("gaussian_mixture"), torch.cat(images))
        reconstruct(made, network, images, how)
        return made.state_dict()

    usual, small = run(Reconstruction()), run(Reconstruction(memory=memory))
    assert all(torch.equal(value, small[key]) for key, value in usual.items())


def test_no_more_is_kept_in_memory_than_asked_for_and_what_nobody_reads_goes() -> None:
    budget = Budget(100)
    first, second = Shelf(budget), Shelf(budget)
    values = [torch.arange(10.0) + i for i in range(4)]
    for value in values:
        first.put(value)
    assert budget.left == 100 - 2 * 40
    assert all(torch.equal(a, b) for a, b in zip(first, values, strict=True))
    assert torch.equal(first.take(3), values[3]) and torch.equal(first.take(0), values[0])
    assert budget.left == 60
    second.put(torch.zeros(1000)[:10])  # what it is a view of stays nowhere
    assert second[0].untyped_storage().nbytes() == 40 and budget.left == 20


class Cut(Exception):
    """The process dies."""


class InMemory:
    """Keeps states until so many are there."""

    def __init__(self, most: int = 1000) -> None:
        self.states: dict[str, dict[str, Tensor]] = {}
        self.most, self.given = most, 0

    def get(self, name: str) -> dict[str, Tensor] | None:
        self.given += name in self.states
        return self.states.get(name)

    def put(self, name: str, state: dict[str, Tensor]) -> None:
        if len(self.states) == self.most:
            raise Cut
        self.states[name] = {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("most", [0, 1, 4, 6])
@pytest.mark.parametrize("quantizer", ["gaussian_mixture", "adaptive_rounding"])
def test_what_was_cut_off_goes_on_and_ends_the_same(
    network: Network, images: list[Tensor], most: int, quantizer: str
) -> None:
    def run(kept: InMemory) -> list[bytes]:
        made = quantize(network, plan(quantizer), torch.cat(images))
        reconstruct(made, network, images, how, kept=kept)
        hardened = harden(made)
        return [hardened.network(images[0]).detach().numpy().tobytes()]

    how = Reconstruction(steps=5)
    whole = run(InMemory())
    kept = InMemory(most)
    with pytest.raises(Cut):
        run(kept)
    kept.most = 1000
    assert run(kept) == whole
    assert kept.given == most and len(kept.states) == 7


class Twice(nn.Module):
    """A convolution and a batch-norm that are called twice, or as many of their own each time."""

    def __init__(self, network: Network, *, shared: bool) -> None:
        super().__init__()
        self.first, self.first_norm, self.last = network.first, network.first_norm, network.last
        self.deep, self.deep_norm = network.deep, network.deep_norm
        self.again, self.again_norm = (
            each if shared else copy.deepcopy(each) for each in (self.deep, self.deep_norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep_norm(self.deep(F.relu(self.first_norm(self.first(x))))))
        return self.last(F.relu(self.again_norm(self.again(x))).mean((2, 3)))


@pytest.mark.parametrize("quantizer", ["gaussian_mixture", "adaptive_rounding"])
def test_what_is_called_twice_is_settled_once_for_its_first_call(
    network: Network, images: list[Tensor], quantizer: str
) -> None:
    told: list[tuple[int, int]] = []

    def run(*, shared: bool, kept: InMemory | None = None) -> fx.GraphModule:
        original = Twice(network, shared=shared).eval()
        wanted = Plan.uniform(layer_names(original), LayerPlan(2, 4), quantizer=quantizer)
        made = quantize(original, wanted, torch.cat(images))
        told.clear()
        reconstruct(made, original, images, Reconstruction(steps=5), lambda *seen: told.append(seen), kept)
        return made

    apart, made = run(shared=False), run(shared=True)
    assert told == [(1, 3), (2, 3), (3, 3)]
    for name in ("deep", "deep_norm"):
        for key, value in made.get_submodule(name).state_dict().items():
            assert torch.equal(value, apart.get_submodule(name).state_dict()[key])
    kept = InMemory(4)
    with pytest.raises(Cut):
        run(shared=True, kept=kept)
    kept.most = 1000
    again = run(shared=True, kept=kept)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in made.state_dict().items())


class Perceptron(nn.Module):
    """Batch-norms behind linear layers; the second norms rows, of which there are as many as asked for."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.first, self.first_norm = nn.Linear(192, 12 * rows), nn.BatchNorm1d(12 * rows)
        self.second, self.second_norm = nn.Linear(12, 12), nn.BatchNorm1d(rows)
        self.last = nn.Linear(12 * rows, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first_norm(self.first(x.flatten(1))))
        x = F.relu(self.second_norm(self.second(x.unflatten(1, (self.rows, 12)))))
        return self.last(x.flatten(1))


def test_batch_norms_behind_linear_layers_are_seen_and_matched(images: list[Tensor]) -> None:
    torch.manual_seed(0)
    original = Perceptron(4)
    for _ in range(20):
        original(torch.rand(64, 3, 8, 8))
    original.eval()
    made = quantize(original, Plan.uniform(layer_names(original), LayerPlan(2, 4)), torch.cat(images)).eval()
    graph = traced(original)
    at = {str(node.target): node for node in graph.graph.nodes}
    out = torch.randn(50, 48)
    torch.testing.assert_close(
        _behind(graph, at["first"])(out), F.relu(original.first_norm(out + original.first.bias))
    )
    assert torch.equal(_behind(graph, at["second"])(out[:, :12]), out[:, :12] + original.second.bias)

    def given(network: nn.Module, name: str) -> Tensor:
        seen: list[Tensor] = []
        hook = network.get_submodule(name).register_forward_hook(lambda m, i, out: seen.append(out))
        with torch.no_grad():
            for x in images:
                network(x)
        hook.remove()
        return torch.cat(seen).transpose(0, 1).flatten(1)

    biases = original.first.bias.detach().clone()
    reconstruct(made, original, images, Reconstruction())
    assert torch.equal(
        cast(Tensor, made.get_submodule("first").bias), biases
    )  # the batch-norm takes up any mean
    for name in ("first_norm", "second_norm"):
        wanted, found = given(original, name), given(made, name)
        torch.testing.assert_close(found.mean(1), wanted.mean(1), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(found.std(1), wanted.std(1), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("quantizer", [*QUANTIZERS])
def test_nothing_is_made_on_another_device(network: Network, images: list[Tensor], quantizer: str) -> None:
    """Where tensors made without saying where would not lie with the network's."""
    if quantizer == "int8":
        made = quantize(network, Plan.uniform(layer_names(network), LayerPlan(8)), torch.cat(images))
    else:
        bits = min(QUANTIZERS[quantizer].widths, key=lambda width: abs(width - 3))
        made = quantize(network, plan(quantizer, bits), torch.cat(images))
    again = copy.deepcopy(made)
    reconstruct(made, network, images, Reconstruction(steps=3))
    with torch.device("meta"):
        reconstruct(again, network, images, Reconstruction(steps=3))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in made.state_dict().items())


def test_work_is_told_in_the_order_of_execution(network: Network, images: list[Tensor]) -> None:
    """The layer whose weights are most and depend on most others takes longest, a depthwise one shortest."""
    made = quantize(network, plan("gaussian_mixture"), torch.cat(images))
    first, deep, side, last = work_of(made)
    assert first > side > last > 0 and deep < first


@pytest.mark.parametrize("seed", range(3))
def test_what_is_aimed_at_is_an_upper_bound_of_the_error_behind_a_relu(seed: int) -> None:
    """And equal to it at the outputs that it was made for, but where the ReLU stops what it should pass."""
    generator = torch.Generator().manual_seed(seed)
    shift, slope = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    shift, slope = shift.double(), slope.double()
    slope[0] = 0.0
    out, wanted = torch.randn(2, 50, 8, generator=generator).double()

    def behind(x: Tensor) -> Tensor:
        return torch.relu(slope * x + shift)

    bound = torch.where(slope == 0, -shift, -shift / slope)
    aim = rectified_aim(out, wanted, bound, slope)
    exact = (behind(out) - behind(wanted)).square()
    tight = (behind(wanted) == 0) | (behind(out) > 0)
    torch.testing.assert_close((slope * (out - aim)).square()[tight], exact[tight], atol=1e-9, rtol=1e-6)
    assert 0.5 < tight.double().mean() < 1
    for size in (0.01, 0.3, 3.0):
        other = out + size * torch.randn(out.shape, generator=generator)
        assert ((slope * (other - aim)).square() >= (behind(other) - behind(wanted)).square() - 1e-9).all()


def test_ranges_of_int8_end_where_the_error_is_least_and_solving_settles_them(
    network: Network, images: list[Tensor]
) -> None:
    weight = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    weight[0, 0], weight[3] = 6.0, 0.0
    quantizer = Int8.for_layer(weight, LayerPlan(8), Int8.Options(), initialise=True)
    assert isinstance(quantizer, Int8)
    quantizer.eval()
    by_largest = (quantizer(weight) - weight).square().sum(1)
    quantizer.clip(weight)
    clipped = (quantizer(weight) - weight).square().sum(1)
    assert (clipped <= by_largest).all() and clipped[0] < by_largest[0]
    for share in np.linspace(0.5, 1, 51):
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127 * share
        tried = ((weight / scale).round().clamp(-127, 127) * scale - weight).square().sum(1)
        assert (clipped <= tried + 1e-5).all()

    def off(how: Reconstruction) -> float:
        made = quantize(network, Plan.uniform(layer_names(network), LayerPlan(8)), torch.cat(images))
        reconstruct(made, network, images, how)
        hardened = harden(made)
        again = quantize(network, Plan.uniform(layer_names(network), LayerPlan(8)), torch.cat(images))
        again.load_state_dict(made.state_dict())
        with torch.no_grad():
            assert all(torch.equal(hardened.network(x), harden(again).network(x)) for x in images)
            return float(torch.cat([hardened.network(x) - network(x) for x in images]).square().mean())

    assert off(Reconstruction(solve_int8=True)) < 1.5 * off(Reconstruction())


def test_a_quantizer_that_says_it_is_fine_is_solved_only_where_that_is_asked_for(
    network: Network, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuilt(how: Reconstruction) -> Mapping[str, Tensor]:
        made = quantize(network, plan("learned_step"), torch.cat(images))
        reconstruct(made, network, images, replace(how, match_biases=False))
        return made.state_dict()

    def alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        return all(torch.equal(value, other[key]) for key, value in one.items())

    plain, solved = rebuilt(Reconstruction(solve=False)), rebuilt(Reconstruction())
    assert not alike(plain, solved)
    monkeypatch.setattr(QUANTIZERS["learned_step"], "fine", True)
    assert alike(rebuilt(Reconstruction()), plain)
    assert alike(rebuilt(Reconstruction(solve_int8=True)), solved)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("coded", [1.2, 1.8, 2.6])
def test_indices_are_as_short_as_asked_for_where_weights_have_to_be_much_larger(
    coded: float, zeros: bool
) -> None:
    """Inputs that arrive at a quarter of their size, want weights of four times."""
    generator = torch.Generator().manual_seed(0)
    latent = nn.Parameter(torch.randn(64, 16, 3, 3, generator=generator))
    mixture = GaussianMixture.for_layer(
        latent.detach(), LayerPlan(4, 16, coded_bits=coded), GaussianMixture.Options(), initialise=True
    )
    if zeros:
        mixture.effect = lambda weight: weight * (torch.arange(16) % 4 != 0)[None, :, None, None]
    given, fp32 = torch.randn(2000, 16, 3, 3, generator=generator), latent.detach().clone()
    solved(mixture, latent, given / 4, given, torch.ones(64), 1, Reconstruction())
    indices = mixture.eval().codebook(latent.detach()).indices.ravel()
    chosen = indices[(mixture.effect(torch.ones_like(latent)) != 0).numpy().ravel()] if zeros else indices
    assert entropy(np.bincount(chosen).astype(float)) == pytest.approx(coded, abs=0.1)
    if zeros:
        assert (mixture(latent)[:, ::4] == 0).all()
    else:
        off = error(mixture(latent).detach(), given / 4, wanted := apply(fp32, given, 1))
        # Of normal weights 1.42 at many bits (Gish and Pierce, 1968), less at few.
        assert off < 1.42 * 4**-coded * float(wanted.square().mean())


def test_a_state_from_before_scales_were_settled_is_read() -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    quantizer = Int8.for_layer(weight, LayerPlan(8), Int8.Options(), initialise=True)
    quantizer.load_state_dict({})
    assert torch.equal(quantizer.state_dict()["scale"], torch.zeros(4))


def test_activation_steps_are_fitted_to_what_rebuilt_layers_give(
    network: Network, images: list[Tensor]
) -> None:
    """A step that calibration got wrong is put right."""
    made = quantize(network, plan("gaussian_mixture", 4), torch.cat(images))
    broken = copy.deepcopy(made)
    for each in broken.modules():
        if isinstance(each, TrainableStep) and each.step.requires_grad:
            each.step.data.mul_(4)
    off = []
    for how in (Reconstruction(), Reconstruction(match_steps=True)):
        again = copy.deepcopy(broken)
        reconstruct(again, network, images, how)
        hardened = harden(again).network
        with torch.no_grad():
            off.append(float(torch.cat([hardened(x) - network(x) for x in images]).square().mean()))
    assert off[1] < 0.7 * off[0]


def test_steps_that_are_fitted_anew_keep_rare_peaks_and_the_inputs_range() -> None:
    """More values than are looked at, among them a negative pixel and a large one."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1)).eval()
    images = torch.rand(96, 3, 32, 32)
    images[3, 0, 5, 5], images[9, 1, 7, 7] = -40.0, 3000.0
    made = quantize(network, Plan.uniform(["0", "1"], LayerPlan(8)), images)
    steps = {name: module for name, module in made.named_modules() if isinstance(module, TrainableStep)}
    before = {name: (float(step.step.detach()), step.range) for name, step in steps.items()}
    reconstruct(made, network, list(images.split(32)), Reconstruction(match_steps=True, match_norms=False))
    for name, step in steps.items():
        assert step.range == before[name][1] and float(step.step.detach()) == pytest.approx(
            before[name][0], rel=0.05
        )


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_borders_are_rebuilt_as_they_are_padded(mode: str) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 5, 5, padding=2, padding_mode=mode)
    x = torch.randn(4, 3, 4, 4)
    places = torch.arange(4 * 16)
    wanted = module(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(apply(module.weight, patches(module, x, places), 1) + module.bias, wanted)


def test_layers_that_are_called_by_keyword_and_those_that_share_a_weight_are_rebuilt(
    network: Network, images: list[Tensor]
) -> None:
    class Named(Twice):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.deep_norm(input=self.deep(input=F.relu(self.first_norm(self.first(x))))))
            return self.last(F.relu(self.again_norm(self.again(x))).mean((2, 3)))

    def run(sort: type[Twice], *, tied: bool, quantizer: str) -> list[Tensor]:
        original = sort(network, shared=False).eval()
        if tied:
            original.again.weight = original.deep.weight
        made = quantize(
            original,
            Plan.uniform(layer_names(original), LayerPlan(3, 8), quantizer=quantizer),
            torch.cat(images),
        )
        reconstruct(made, original, images, Reconstruction())
        assert not tied or original.again.weight is original.deep.weight
        return [torch.from_numpy(book.dequantize()) for book in harden(made).codebooks.values()]

    for quantizer in ("gaussian_mixture", "adaptive_rounding"):
        plain = run(Twice, tied=False, quantizer=quantizer)
        for other in (
            run(Named, tied=False, quantizer=quantizer),
            run(Twice, tied=True, quantizer=quantizer),
        ):
            assert all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))


def test_norms_without_statistics_have_a_slope() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, track_running_stats=False).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.1, 2, 6))
        norm.bias.fill_(3.0)
    network = traced(nn.Sequential(nn.Conv2d(3, 6, 1), norm, nn.Conv2d(6, 2, 1)).eval())
    (node,) = (node for node in network.graph.nodes if str(node.target) == "0")
    out = torch.randn(500, 6) * torch.linspace(0.5, 3, 6)
    found = _importance(_behind(network, node), out)
    wanted = norm.weight.detach().double().square() / out.double().var(0, correction=0)
    torch.testing.assert_close(found / found.sum(), wanted / wanted.sum(), rtol=0.02, atol=1e-3)


def test_frozen_weights_are_solved_and_not_learned(network: Network, images: list[Tensor]) -> None:
    network.requires_grad_(False)
    made = quantize(network, plan("gaussian_mixture"), torch.cat(images))
    reconstruct(made, network, images, Reconstruction(steps=3))
    with torch.no_grad():
        off = [(made.eval()(x) - network(x)).square().mean() / network(x).var() for x in images]
    assert max(off) < 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_kind_are_refused_by_name(network: Network, dtype: torch.dtype) -> None:
    network.side.weight.data = network.side.weight.data.to(dtype)
    with pytest.raises(UserError, match=r"layer side: its weight is \w+; only float32 .* float\(\)"):
        quantize(network, plan("gaussian_mixture"), None)


@pytest.mark.parametrize("ran", [False, True])
def test_a_mask_of_pruning_is_named(network: Network, images: list[Tensor], *, ran: bool) -> None:
    l1_unstructured(network.side, "weight", amount=0.5)
    if ran:
        network(images[0])
    with pytest.raises(UserError, match=r"layer side: .* torch\.nn\.utils\.prune\.remove"):
        quantize(network, plan("gaussian_mixture"), None)


def test_even_channels_leave_dead_ones_and_shared_weights_alone(
    network: Network, images: list[Tensor]
) -> None:
    twin = Twice(network, shared=False).eval()
    with torch.no_grad():
        twin.first.weight[2] *= 1e-24
    twin.again.weight = twin.deep.weight
    even = with_even_channels(twin)
    with torch.no_grad():
        torch.testing.assert_close(even(images[0]), twin(images[0]), rtol=1e-4, atol=1e-5)


def test_steps_that_are_fitted_anew_see_the_middle_of_images() -> None:
    """Where images have their objects; their corners are empty."""
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 1)).eval()
    image = torch.zeros(512, 3, 8, 8)
    image[:, :, 3:5, 3:5] = torch.randn(512, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    batches = list(image.split(256))
    made = quantize(network, Plan.uniform(["0", "2"], LayerPlan(8)), image)
    for how in (Reconstruction(match_steps=False), Reconstruction(match_steps=True)):
        again = copy.deepcopy(made)
        reconstruct(again, network, batches, how)
        with torch.no_grad():
            wanted, found = network(image), harden(again).network(image)
        assert (found - wanted).square().mean() < 1e-3 * wanted.var()


class Spelled(nn.Module):
    """A convolution, a batch-norm where one is wanted, and an activation as it is given."""

    def __init__(self, activation: Callable[[Tensor], Tensor], *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8) if norm else None
        self.activation = activation
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.last(self.activation(out if self.norm is None else self.norm(out)))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.LeakyReLU(0.3), F.relu, torch.relu, F.relu6, F.silu,
        lambda x: x.relu(), lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: F.leaky_relu(x, negative_slope=0.3),
        lambda x: F.leaky_relu(x, 0.3, True), lambda x: F.silu(input=x, inplace=True), nn.SiLU(inplace=True), nn.Identity(),
    ],
)  # fmt: skip
def test_what_follows_a_layer_is_seen_in_both_networks_however_it_is_spelled(
    activation: Callable[[Tensor], Tensor], *, norm: bool
) -> None:
    network = Spelled(activation, norm=norm).eval()
    images = torch.randn(8, 3, 8, 8)
    made = quantize(network, Plan.uniform(["conv", "last"], LayerPlan(8)), images)
    out = torch.randn(50, 8) * 4
    before = out.clone()
    for each in (traced(network), made):
        (node,) = (node for node in each.graph.nodes if str(node.target) == "conv")
        shifted = out + cast(Tensor, network.conv.bias).detach()
        shifted = shifted[:, :, None, None]
        expected = activation(shifted if network.norm is None else network.norm(shifted)).flatten(1)
        torch.testing.assert_close(_behind(each, node)(out), expected)
        assert torch.equal(out, before)


@pytest.mark.parametrize("activation", [nn.SiLU(inplace=True), lambda x: F.leaky_relu(x, 0.3, True)])
def test_what_follows_a_layer_without_a_bias_leaves_its_output_alone(
    activation: Callable[[Tensor], Tensor],
) -> None:
    network = Spelled(activation, norm=False)
    network.conv.bias = None
    graph = traced(network.eval())
    (node,) = (node for node in graph.graph.nodes if str(node.target) == "conv")
    out = torch.randn(50, 8)
    before = out.clone()
    expected = activation(out[:, :, None, None].clone()).flatten(1)
    torch.testing.assert_close(_behind(graph, node)(out), expected)
    assert torch.equal(out, before)
