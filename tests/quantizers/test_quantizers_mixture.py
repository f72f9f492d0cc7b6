"""The weight quantizers: deployed values bit for bit, zero shares, dead components, resuming, odd layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from quantizers.mixture import soft_weight
from quantizers.network import prepare, quantize, set_progress
from quantizers.weights import gaussian_mixture as module
from quantizers.weights.gaussian_mixture import GaussianMixture
from quantizers.weights.int8 import Int8

ANNEALED = TemperatureSchedule(1.0, 0.02, "exponential")

torch.set_num_threads(1)


def mixture_for(
    weight: torch.Tensor,
    layer: LayerPlan,
    schedule: TemperatureSchedule,
    form: str,
    initialise: bool = True,
    pinned: bool | None = True,
) -> GaussianMixture:
    options = GaussianMixture.Options(schedule, form, pinned=pinned)
    made = GaussianMixture.for_layer(weight, layer, options, initialise=initialise)
    assert isinstance(made, GaussianMixture)
    return made


def mixture_of(
    weight: torch.Tensor, components: int = 4, zero_share: float | None = None, form: str = "posterior"
) -> GaussianMixture:
    bits = max(2, int(np.ceil(np.log2(components))))
    layer = LayerPlan(bits, components, zero_share=zero_share)
    return mixture_for(weight, layer, ANNEALED, form)


def weights(*shape: int, seed: int = 0, heavy: bool = False) -> torch.Tensor:
    torch.manual_seed(seed)
    return 0.05 * (torch.distributions.StudentT(3.0).sample(shape) if heavy else torch.randn(shape))


def assert_deployed(quantizer: GaussianMixture | Int8, weight: torch.Tensor) -> np.ndarray:
    """Evaluation and codebook agree bit for bit; returns the deployed weights."""
    hard = quantizer.eval()(weight).detach()
    book = quantizer.codebook(weight)
    deployed = book.dequantize()
    assert hard.dtype == torch.float32 and np.array_equal(hard.numpy(), deployed)
    assert (np.diff(book.levels.astype(int)) > 0).all()
    assert 0 in book.levels or not getattr(quantizer, "pinned", True)
    return deployed


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 16),
    st.sampled_from(["posterior", "paper"]),
    st.sampled_from([None, 0.0, 0.3, 0.7, 0.9]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_evaluation_is_the_codebook(
    components: int, form: str, zero_share: float | None, heavy: bool, seed: int
) -> None:
    weight = weights(12, 8, 3, 3, seed=seed, heavy=heavy)
    quantizer = mixture_of(weight, components, zero_share, form)
    with torch.no_grad():  # anywhere training might have taken it
        quantizer.mean.add_(0.02 * torch.randn(components - 1))
        quantizer.raw_scale.add_(torch.randn(components))
    quantizer.set_progress(0.7)
    assert_deployed(quantizer, weight)


@pytest.mark.parametrize("shape", [(64, 8, 3, 3), (128, 64, 3, 3)])  # each weight a value; a histogram
@pytest.mark.parametrize("components", [2, 4, 16])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 0.95])
def test_zero_share_is_met_within_a_point(shape: tuple[int, ...], components: int, share: float) -> None:
    weight = weights(*shape, heavy=True)
    quantizer = mixture_of(weight, components, share)
    for progress in (0.4, 1.0):
        quantizer.set_progress(progress)
        assert quantizer.codebook(weight).zeros == pytest.approx(share, abs=0.01)
    # The largest weights are never among the zeros.
    deployed = torch.from_numpy(quantizer.codebook(weight).dequantize()).flatten()
    if components > 2:  # with two there is nothing on one side of zero
        assert (deployed[weight.flatten().abs().topk(5).indices] != 0).all()


def test_zero_share_grows_gradually_and_weights_come_back() -> None:
    weight = weights(64, 64, 3, 3)
    quantizer = mixture_of(weight, 4, 0.8)
    natural = quantizer.codebook(weight).zeros
    assert natural == pytest.approx(float(quantizer.natural_share), abs=0.01)
    shares = []
    for progress in np.linspace(0, 0.5, 11):
        quantizer.set_progress(float(progress))
        quantizer.train()(weight)
        shares.append(quantizer.codebook(weight).zeros)
    assert (
        (np.diff(shares) >= -1e-3).all()
        and natural < shares[3] < 0.8
        and shares[-1] == pytest.approx(0.8, abs=0.005)
    )
    index = int(np.flatnonzero(quantizer.codebook(weight).dequantize() == 0)[0])
    grown = weight.clone()
    grown.view(-1)[index] = 0.3
    assert quantizer.codebook(grown).dequantize().flat[index] != 0


def test_natural_share_is_left_alone() -> None:
    quantizer = mixture_of(weights(32, 16, 3, 3), 4)
    quantizer.set_progress(1.0)
    quantizer.train()(weights(32, 16, 3, 3))
    assert float(quantizer.zero_shift) == 0


def test_dead_component_gets_weights_again() -> None:
    weight = weights(64, 64, 3, 3)
    quantizer = mixture_of(weight, 8)
    with torch.no_grad():
        quantizer.mean[3] = quantizer.mean[4]  # dominated by its neighbour
        quantizer.prior[4] -= 20
    assert len(np.unique(quantizer.codebook(weight).indices)) == 7
    quantizer.set_progress(0.5)
    quantizer.train()(weight)
    assert len(np.unique(quantizer.codebook(weight).indices)) == 8


@pytest.mark.parametrize("form", ["posterior", "paper"])
@pytest.mark.parametrize("share", [None, 0.6])
def test_training_resumes_exactly(form: str, share: float | None) -> None:
    start = weights(32, 16, 3, 3)

    def train(quantizer: GaussianMixture, weight: torch.Tensor, steps: range) -> None:
        optimizer = torch.optim.SGD([weight, *quantizer.parameters()], lr=0.01)
        for step in steps:
            quantizer.set_progress(step / 20)
            optimizer.zero_grad()
            (
                quantizer.train()(weight) - 0.03 * torch.sin(torch.arange(weight.numel()).view_as(weight))
            ).square().sum().backward()
            optimizer.step()

    whole, weight = mixture_of(start, 4, share, form), start.clone().requires_grad_()
    train(whole, weight, range(20))
    first, part = mixture_of(start, 4, share, form), start.clone().requires_grad_()
    train(first, part, range(9))
    layer = LayerPlan(2, 4, zero_share=share)
    second = mixture_for(start, layer, ANNEALED, form, initialise=False)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rest = part.detach().clone().requires_grad_()
    train(second, rest, range(9, 20))
    assert torch.equal(rest, weight) and not torch.equal(weight, start)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_temperature_follows_the_schedule_and_paper_keeps_its_own() -> None:
    weight = weights(16, 16, 3, 3)
    annealed, paper = mixture_of(weight), mixture_of(weight, form="paper")
    gaps = []
    for progress in (0.0, 0.5, 1.0):
        annealed.set_progress(progress)
        paper.set_progress(progress)
        assert float(annealed.temperature) == pytest.approx(ANNEALED.at(progress))
        assert float(paper.temperature) == 0.01
        gaps.append((annealed.train()(weight) - annealed.eval()(weight)).norm().item())
    assert gaps[0] > gaps[1] > gaps[2]
    with pytest.raises(UserError, match="form"):
        mixture_of(weight, form="linear")


def test_evaluation_is_projected_once_until_something_changes() -> None:
    weight = weights(16, 16, 3, 3).requires_grad_()
    quantizer = mixture_of(weight).eval()
    first = quantizer(weight)
    assert quantizer(weight) is first
    with torch.no_grad():
        weight.mul_(1.5)
    second = quantizer(weight)
    assert second is not first and quantizer(weight) is second
    with torch.no_grad():
        quantizer.mean.mul_(1.1)
    assert quantizer(weight) is not second
    assert not quantizer(weight).requires_grad
    assert "_hard" not in "".join(quantizer.state_dict())
    twin = copy.deepcopy(quantizer)
    assert torch.equal(twin(weight), quantizer(weight))


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 3),
        torch.full((4, 3), 0.7),
        torch.tensor([[0.1, -0.2, 0.3]]),
        torch.tensor([[1e-12, -1e-12]]),
    ],
    ids=["zeros", "constant", "three", "tiny"],
)
@pytest.mark.parametrize("components", [4, 16])
def test_layers_with_fewer_values_than_components(weight: torch.Tensor, components: int) -> None:
    quantizer = mixture_of(weight, components)
    deployed = assert_deployed(quantizer, weight)
    assert np.abs(deployed - weight.numpy()).max() <= 0.02 * float(weight.abs().max()) + 1e-12
    latent = weight.clone().requires_grad_()
    quantizer.set_progress(0.3)
    quantizer.train()(latent).sum().backward()
    assert latent.grad.isfinite().all() and all(p.grad.isfinite().all() for p in quantizer.parameters())


def test_kmeans_start_is_close_to_the_weights() -> None:
    weight = weights(64, 32, 3, 3)
    relative = [
        float(
            (torch.from_numpy(mixture_of(weight, k).codebook(weight).dequantize()) - weight).square().mean()
            / weight.var()
        )
        for k in (4, 8, 16)
    ]
    # The optimum of a scalar quantizer of a normal variable is 0.1175, 0.0345, 0.0095 (Max, 1960); a centre at 0 costs some.
    assert relative[0] < 0.15 and relative[1] < 0.042 and relative[2] < 0.0115


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_int8(seed: int, linear: bool) -> None:
    weight = weights(*((6, 10) if linear else (6, 4, 3, 3)), seed=seed, heavy=True)
    weight[2] = 0.0  # a channel pruned before
    quantizer = Int8.for_layer(weight, LayerPlan(8), Int8.Options(), initialise=True)
    deployed = torch.from_numpy(assert_deployed(quantizer, weight))
    scale = torch.from_numpy(quantizer.codebook(weight).scale).reshape(-1, *([1] * (weight.ndim - 1)))
    assert ((deployed - weight).abs() <= 0.5001 * scale).all()
    latent = weight.clone().requires_grad_()
    out = quantizer.train()(latent)
    torch.testing.assert_close(out.detach(), deployed)
    out.backward(torch.ones_like(out) * 3)
    assert torch.equal(latent.grad, torch.full_like(weight, 3.0))


@pytest.mark.parametrize("count", [500, 200_000])  # the weights as knots, and a table
def test_straight_sees_hard_weights_and_learns_by_the_soft_ones(count: int) -> None:
    weight = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 0.05
    schedule = TemperatureSchedule(0.5, 0.5, "constant")
    upstream = torch.randn(count, generator=torch.Generator().manual_seed(2))
    results = {}
    for form in ("straight", "posterior"):
        mixture = mixture_for(weight, LayerPlan(2, 4), schedule, form)
        latent = weight.clone().requires_grad_()
        value = mixture.train()(latent)
        value.backward(upstream)
        results[form] = (value.detach(), latent.grad, *(p.grad for p in mixture.parameters()))
        hard = mixture.means().detach()[mixture.regions().assign(weight)]
    straight, posterior = results["straight"], results["posterior"]
    torch.testing.assert_close(straight[0], hard)
    assert not torch.allclose(posterior[0], hard)
    for mine, other in zip(straight[1:], posterior[1:], strict=True):
        torch.testing.assert_close(mine, other)


def test_a_hard_finish_sees_soft_weights_first_and_hard_ones_at_the_end() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 0.05
    schedule = TemperatureSchedule(1.0, 0.1, "exponential")
    mixtures = {
        form: mixture_for(weight, LayerPlan(2, 4), schedule, form)
        for form in ("hard_finish", "posterior", "straight")
    }
    for progress, twin in ((0.0, "posterior"), (0.79, "posterior"), (0.8, "straight"), (1.0, "straight")):
        for mixture in mixtures.values():
            mixture.train().set_progress(progress)
        other = "straight" if twin == "posterior" else "posterior"
        assert torch.equal(mixtures["hard_finish"](weight), mixtures[twin](weight))
        assert not torch.equal(mixtures["hard_finish"](weight), mixtures[other](weight))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UserError, match="straight, hard_finish, posterior, paper"):
        GaussianMixture.Options(form="magic")


@pytest.mark.parametrize("form", ["straight", "posterior", "paper"])
def test_mixtures_prepared_together_train_as_each_alone(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(soft_weight, "DIRECT", 50)  # tables for small layers too
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(6)))
    images = torch.randn(8, 3, 16, 16)
    kinds = [
        LayerPlan(2, 4),
        LayerPlan(3, 8),
        LayerPlan(2, 4, zero_share=0.5),
        LayerPlan(2, 4),
        LayerPlan(2, 4, zero_share=0.7),
        LayerPlan(2, 4),
    ]
    network = quantize(model, Plan({str(i): kind for i, kind in enumerate(kinds)}), images, form=form).train()
    set_progress(network, 0.3)
    twin = copy.deepcopy(network)
    twin._forward_pre_hooks.clear()
    calls: list[int] = []
    look_ups = soft_weight.look_ups

    def counted(weights: list[Tensor], *rest: object, **named: object) -> object:
        calls.append(len(weights))
        return look_ups(weights, *rest, **named)

    for place in (soft_weight, module):
        monkeypatch.setattr(place, "look_ups", counted)
    network(images).square().mean().backward()
    assert sorted(calls) == [1, 2, 3]  # 8 components; a zero share; none
    twin(images).square().mean().backward()
    assert sorted(calls) == [1, 1, 1, 1, 1, 1, 1, 2, 3]
    alone = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert any("raw_scale" in name for name in alone)
    for name, p in network.named_parameters():
        if name in alone:
            atol = 1e-6 * float(alone[name].abs().max())
            torch.testing.assert_close(p.grad, alone[name], rtol=1e-4, atol=atol)
    # What was prepared holds for one forward pass and for these weights; copies do without.
    prepare(network)
    layer = network.get_submodule("0")
    copied = copy.deepcopy(network).get_submodule("0")
    with torch.no_grad():
        for each in (layer, copied):
            each.parametrizations["weight"].original.mul_(-1.0)
    torch.testing.assert_close(layer.weight, copied.weight)
    network(images).sum().backward()
    network(images).sum().backward()


@pytest.mark.parametrize(
    ("layer", "form", "pinned"),
    [
        (LayerPlan(2, 4), "straight", False),
        (LayerPlan(3, 8), "straight", True),
        (LayerPlan(2, 4), "paper", True),
        (LayerPlan(2, 4, zero_share=0.5), "straight", True),
        (LayerPlan(2, 4, values={"kept_blocks": 0.5}), "straight", True),
    ],
)
def test_zero_is_pinned_unless_components_are_few_and_nobody_asks_for_zeros(
    layer: LayerPlan, form: str, pinned: bool
) -> None:
    weight = weights(16, 16, 3, 3)
    mixture = mixture_for(weight, layer, ANNEALED, form, pinned=None)
    assert mixture.pinned == pinned == (0 in mixture.codebook(weight).levels)
    assert len(mixture.means()) == layer.components and len(mixture.components()) == layer.components
    assert_deployed(mixture, weight)
    pruned = torch.where(weight.abs() < 0.02, 0.0, weight)
    kept = mixture_for(pruned, layer, ANNEALED, form, pinned=None).codebook(pruned).dequantize()
    assert (kept[pruned.numpy() == 0] == 0).all()  # who brings zeros keeps them


def entropy(indices: np.ndarray) -> float:
    shares = np.bincount(indices.ravel()) / indices.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(("bits", "coded"), [(2, 0.5), (2, 1.2), (3, 1.5), (4, 0.25), (4, 1.8), (4, 2.2)])
def test_evenly_spaced_values_have_the_entropy_that_is_wanted(bits: int, coded: float, heavy: bool) -> None:
    weight = weights(64, 16, 3, 3, heavy=heavy)
    layer = LayerPlan(bits, 2**bits, coded_bits=coded)
    mixture = mixture_for(weight, layer, ANNEALED, "straight", pinned=None)
    deployed = assert_deployed(mixture, weight)
    assert entropy(mixture.codebook(weight).indices) == pytest.approx(coded, abs=0.05)
    spaces = np.diff(mixture.means().detach().sort().values.numpy())
    assert 0 in deployed and spaces == pytest.approx(spaces.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("bits", "heavy", "most"), [(2, False, 0.95), (3, False, 0.85), (2, True, 0.6), (3, True, 0.85)]
)
def test_evenly_spaced_values_err_less_than_clusters_that_cost_as_much_in_the_file(
    bits: int, heavy: bool, most: float
) -> None:
    """Lloyd's clusters against an entropy-constrained quantizer (Gish and Pierce, 1968): normal weights, and some of which a few
    are far from all others."""
    weight = weights(64, 32, 3, 3, heavy=heavy)

    def off(layer: LayerPlan) -> tuple[float, float]:
        mixture = mixture_for(weight, layer, ANNEALED, "straight", pinned=None)
        error = float((mixture.eval()(weight) - weight).detach().square().mean() / weight.square().mean())
        return entropy(mixture.codebook(weight).indices), error

    cost, clusters = off(LayerPlan(bits, 2**bits))
    same, even = off(LayerPlan(4, 16, coded_bits=cost))
    assert same == pytest.approx(cost, abs=0.02) and even < most * clusters


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(
    ("bits", "components", "coded"), [(2, 3, 1.5), (2, 4, 1.9), (3, 8, 2.6), (4, 16, 3.2), (4, 16, 3.9)]
)
def test_no_step_of_as_many_coded_bits_or_fewer_errs_less(
    bits: int, components: int, coded: float, heavy: bool
) -> None:
    weight = weights(64, 16, 3, 3, heavy=heavy)
    layer = LayerPlan(bits, components, coded_bits=coded)
    found = mixture_for(weight, layer, ANNEALED, "straight", pinned=None).means().detach().double().numpy()
    values, places = weight.double().numpy().ravel(), np.arange(components) - components // 2

    def judged(step: float) -> tuple[float, float]:
        index = np.abs(values[:, None] - step * places).argmin(1)
        return entropy(index), float(np.square(values - step * places[index]).mean())

    bits_taken, error = judged(np.diff(np.sort(found)).mean())
    assert bits_taken < coded + 0.02
    others = [judged(step) for step in np.abs(values).max() * np.linspace(0.02, 1.5, 60)]
    assert error <= 1.01 * min(other for taken, other in others if taken <= coded)


def test_the_entropy_is_that_of_the_whole_of_a_large_layer_whatever_its_taps_are() -> None:
    taps = torch.tensor([[0.3, 0.6, 0.3], [0.6, 1.5, 0.6], [0.3, 0.6, 0.3]])
    weight = weights(256, 256, 3, 3) * taps
    for coded in (1.5, 2.5):
        mixture = mixture_for(weight, LayerPlan(4, 16, coded_bits=coded), ANNEALED, "straight", pinned=None)
        assert entropy(mixture.codebook(weight).indices) == pytest.approx(coded, abs=0.05)


def test_values_of_one_sign_have_levels_of_that_sign() -> None:
    weight = weights(16, 16, 3, 3).abs() + 0.01
    for sign in (1, -1):
        mixture = mixture_for(
            sign * weight, LayerPlan(2, 2, coded_bits=0.9), ANNEALED, "straight", pinned=None
        )
        assert (assert_deployed(mixture, sign * weight) * sign > 0).any()


def test_of_zeros_no_step_can_be_told() -> None:
    nothing = torch.zeros(8, 4, 3, 3)
    mixture = mixture_for(nothing, LayerPlan(4, 16, coded_bits=2.0), ANNEALED, "straight", pinned=None)
    assert not assert_deployed(mixture, nothing).any()


def test_values_without_weights_stay_without_them_where_indices_are_to_be_short() -> None:
    weight = weights(64, 16, 3, 3)
    mixture = mixture_for(weight, LayerPlan(4, 16, coded_bits=1.0), ANNEALED, "straight", pinned=None)
    before = mixture.codebook(weight).indices
    mixture.train()
    for step in range(1, 11):
        mixture.set_progress(step / 10)
        mixture(weight)
    assert entropy(mixture.codebook(weight).indices) == pytest.approx(entropy(before), abs=1e-3)


def test_four_free_values_are_found_where_one_at_zero_would_be_lost() -> None:
    torch.manual_seed(0)
    places = torch.tensor([-0.3, -0.1, 0.1, 0.3])
    weight = places[torch.randint(0, 4, (16, 16, 3, 3))] + 0.005 * torch.randn(16, 16, 3, 3)

    def off(*, pinned: bool) -> float:
        mixture = mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", pinned=pinned)
        return float((mixture.eval()(weight) - weight).detach().square().mean())

    assert off(pinned=False) < 1e-4 < off(pinned=True)


def test_a_state_says_itself_whether_zero_is_pinned() -> None:
    weight = weights(16, 16, 3, 3)
    free, pinned = (
        mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", pinned=pinned) for pinned in (False, True)
    )
    for source in (pinned, free):
        target = mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", initialise=False, pinned=None)
        trained = target.mean
        target.load_state_dict(source.state_dict())
        assert target.mean is trained and target.pinned == source.pinned
        assert torch.equal(target.eval()(weight), source.eval()(weight))


@pytest.mark.parametrize("alive", range(4))
def test_dead_components_of_free_mixtures_revive(alive: int) -> None:
    weight = weights(32, 16, 3, 3)
    mixture = mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", pinned=False)
    with torch.no_grad():
        mixture.mean[[k for k in range(4) if k != alive]] = torch.tensor([100.0, 200.0, 300.0])
    assert len(mixture.assigned(weight).unique()) < 4
    for progress in (0.1, 0.2, 0.3):
        mixture.train().set_progress(progress)
        mixture(weight)
    assert len(mixture.assigned(weight).unique()) == 4


def test_a_channel_that_is_zero_stays_so() -> None:
    weight = weights(128, 3, 3, 3)
    weight[7] = 0
    mixture = mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", pinned=None)
    assert not mixture.codebook(weight).dequantize()[7].any()


@pytest.mark.parametrize("value", ["maybe", 2, [], float("nan")])
def test_an_option_that_is_neither_yes_nor_no_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"pinned .*: give true or false"):
        GaussianMixture.Options(pinned=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("mean", [torch.zeros(()), torch.zeros(2), 3, "x"])
def test_a_state_that_does_not_fit_changes_nothing(mean: object) -> None:
    weight = weights(16, 16, 3, 3)
    mixture = mixture_for(weight, LayerPlan(2, 4), ANNEALED, "straight", pinned=None)
    before = mixture.eval()(weight)
    with pytest.raises(RuntimeError):
        mixture.load_state_dict({**mixture.state_dict(), "mean": mean})
    assert not mixture.pinned and torch.equal(mixture(weight), before)
    zeros = mixture_for(weight, LayerPlan(2, 4, zero_share=0.5), ANNEALED, "straight")
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        zeros.load_state_dict(mixture.state_dict())
