"""Fisher information against closed forms and against the divergence that it stands for; what choices do, by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.calibration.choice_errors import SAMPLE, choice_errors, index_entropy, some_rows
from quantizers.calibration.fisher import diagonal_fisher, drawn_answers, drawn_outputs
from quantizers.mixture import start
from quantizers.mixture.kmeans import kmeans
from quantizers.network import harden, quantize, set_progress
from quantizers.registry import QUANTIZERS

DRAWS = 400


def shown(x: Tensor, draws: int = DRAWS) -> list[Tensor]:
    """The same images again and again: what remains of chance is that of the draws."""
    return [x] * draws


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5)
    ).eval()


def test_of_a_linear_classifier_it_is_what_the_formula_says() -> None:
    network, x = nn.Sequential(nn.Linear(3, 4, bias=False)), torch.randn(5, 3)
    found = diagonal_fisher(network, ["0"], shown(x, 4000), drawn_answers())["0"]
    chances = network(x).softmax(1)
    wanted = torch.einsum("ni,nj->ij", chances * (1 - chances), x.square()) / len(x)
    assert torch.allclose(found, wanted, rtol=0.12, atol=1e-4)
    assert found.shape == (4, 3)


def test_of_outputs_without_a_meaning_it_is_that_of_normal_distributions() -> None:
    network, x = nn.Sequential(nn.Linear(3, 4, bias=False)), torch.randn(5, 3)
    found = diagonal_fisher(network, ["0"], shown(x, 2000), drawn_outputs())["0"]
    variance = network(x).var(correction=0)
    wanted = (x.square().mean(0) / variance).expand(4, 3)
    assert torch.allclose(found, wanted, rtol=0.12)


def test_half_of_it_times_squared_changes_is_the_divergence() -> None:
    """Changes of random signs, over which what weights do together cancels."""
    network, x = small(), torch.randn(8, 3, 8, 8)
    fisher = diagonal_fisher(network, ["0", "3", "5"], shown(x), drawn_answers(seed=1))
    generator = torch.Generator().manual_seed(0)
    for name, information in fisher.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        before = weight.detach().clone()
        size = 0.02 * before.std()
        wanted = network(x).detach().double().log_softmax(1)
        divergences = []
        for _ in range(300):
            signs = torch.randint(0, 2, before.shape, generator=generator) * 2 - 1
            weight.data = before + size * signs
            given = network(x).detach().double().log_softmax(1)
            divergences.append((wanted.exp() * (wanted - given)).sum(1).mean())
        weight.data = before
        assert float(torch.stack(divergences).mean()) == pytest.approx(
            float(0.5 * information.sum() * size**2), rel=0.15
        )


def test_images_may_share_a_backward_pass() -> None:
    network, x = small(), torch.randn(8, 3, 8, 8)
    together = diagonal_fisher(network, ["3"], shown(x), drawn_answers())["3"]
    alone = diagonal_fisher(network, ["3"], [*x.split(1)] * DRAWS, drawn_answers())["3"]
    assert torch.allclose(together.sum(), alone.sum(), rtol=0.1)
    assert torch.corrcoef(torch.stack([together.flatten(), alone.flatten()]))[0, 1] > 0.95


def test_the_network_is_as_it_was() -> None:
    network = small().train()
    network[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    calls: list[tuple[int, int]] = []
    diagonal_fisher(
        network,
        ["0", "5"],
        [torch.randn(2, 3, 8, 8)] * 3,
        drawn_answers(),
        lambda done, total: calls.append((done, total)),
    )
    assert calls == [(2, 6), (4, 6), (6, 6)]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training and all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False] + [True] * 7


class Odd(nn.Module):
    """Answers a mapping of a list, beside what is no tensor."""

    def __init__(self, break_it: str = "") -> None:
        super().__init__()
        self.a, self.b, self.break_it = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1), break_it

    def forward(self, x: Tensor) -> Any:
        if self.break_it == "detach":
            return self.a(x).detach()
        if self.break_it == "nan":
            return self.a(x) * float("nan")
        if self.break_it == "words":
            return ["nothing", 3]
        return {"boxes": [self.a(x), self.b(x)], "count": len(x), "index": torch.arange(3)}


def test_outputs_of_any_structure() -> None:
    found = diagonal_fisher(Odd(), ["a", "b"], [torch.randn(2, 3, 4, 4)] * 4, drawn_outputs())
    assert all(bool((information > 0).all()) for information in found.values())


@pytest.mark.parametrize(
    ("how", "message"),
    [("detach", "no gradient"), ("nan", "layer a is not finite"), ("words", "no floating-point tensor")],
)
def test_networks_of_which_nothing_can_be_known(how: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        diagonal_fisher(Odd(how), ["a"], [torch.randn(2, 3, 4, 4)], drawn_outputs())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_choices_do_is_what_the_network_gets(name: str) -> None:
    """Against a network quantized by that plan, weight by weight."""
    network, x = small(), torch.randn(4, 3, 8, 8)
    weight = network[3].weight.detach()
    fisher = torch.rand_like(weight)
    sort = QUANTIZERS[name]
    layers = [LayerPlan(8), *(LayerPlan(bits, 2**bits) for bits in sort.widths if bits < 8)]
    if "zero_share" in sort.dimensions:
        layers.append(LayerPlan(sort.widths[0], 4, zero_share=0.8))
    for layer, found in zip(layers, choice_errors(weight, fisher, layers, name)):
        plan = Plan({"0": LayerPlan(8), "3": layer, "5": LayerPlan(8)}, name)
        made = quantize(network, plan, x)
        set_progress(made, 1.0)
        book = harden(made).codebooks["3"]
        quantized = torch.from_numpy(book.dequantize())
        off = 0.5 * fisher * (weight - quantized).square()
        assert found.quantization == pytest.approx(float(off[quantized != 0].sum()), rel=1e-4, abs=1e-12)
        assert found.pruning == pytest.approx(float(off[quantized == 0].sum()), rel=1e-4, abs=1e-12)
        assert found.zeros == pytest.approx(float((quantized == 0).float().mean()), abs=1e-6)
        shares = np.unique(book.indices, return_counts=True)[1] / book.indices.size
        assert found.entropy == pytest.approx(-(shares * np.log2(shares)).sum()) == index_entropy(book)


def test_of_a_large_layer_some_channels_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (
        torch.randn(300, 16, 3, 3, generator=generator) * torch.linspace(0.2, 2, 300)[:, None, None, None]
    )
    fisher = torch.rand(weight.shape, generator=generator) * torch.linspace(3, 0.1, 300)[:, None, None, None]
    assert weight.numel() > 2 * SAMPLE and len(some_rows(weight.shape, SAMPLE)) * 144 <= SAMPLE
    layers = [LayerPlan(8), LayerPlan(4, 16), LayerPlan(2, 4), LayerPlan(2, 4, zero_share=0.9)]
    quick = choice_errors(weight, fisher, layers, "gaussian_mixture")
    monkeypatch.setattr("quantizers.calibration.choice_errors.SAMPLE", weight.numel())
    exact = choice_errors(weight, fisher, layers, "gaussian_mixture")
    for few, all_ in zip(quick, exact):
        assert sum(few[:2]) == pytest.approx(sum(all_[:2]), rel=0.1)
        assert few[2:] == pytest.approx(all_[2:], rel=0.05, abs=0.01)


def test_what_wide_layers_of_uneven_channels_lose_is_not_told_by_a_few_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They share one step, which is that of the largest."""
    layers = [LayerPlan(3, 8), LayerPlan(4, 16)]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        size = torch.exp(0.7 * torch.randn(64, 1, generator=generator))
        weight = size * torch.randn(64, 8192, generator=generator)
        fisher = torch.ones_like(weight)
        with monkeypatch.context() as patched:
            quick = choice_errors(weight, fisher, layers, "adaptive_rounding")
            patched.setattr("quantizers.calibration.choice_errors.SAMPLE", weight.numel())
            exact = choice_errors(weight, fisher, layers, "adaptive_rounding")
        for few, all_ in zip(quick, exact):
            assert 0.5 < sum(few[:2]) / sum(all_[:2]) < 2


def test_whoever_asks_keeps_the_threads_that_they_had() -> None:
    weight, before = torch.randn(4, 3), torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        choice_errors(weight, torch.ones(4, 3), [LayerPlan(8)], "gaussian_mixture")
        with pytest.raises(UserError):
            choice_errors(weight, torch.ones(4, 3), [LayerPlan(2, 4)], "no_such_quantizer")
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_rows_are_whole_and_spread() -> None:
    assert some_rows((10, 4), 10_000).tolist() == list(range(10))
    assert some_rows((10, 4), 12).tolist() == [0, 4, 9]
    assert some_rows((10, 4000), 12).tolist() == [0]
    assert some_rows((10, 4000), 12, 3).tolist() == [0, 4, 9] and len(some_rows((2, 4000), 12, 3)) == 2


def test_clusters_are_kept_and_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = kmeans
    monkeypatch.setattr(start, "kmeans", lambda *given, **named: calls.append(1) or original(*given, **named))
    monkeypatch.setattr(start, "_kept", type(start._kept)())
    weights = np.random.default_rng(0).normal(size=500).astype(np.float32)
    first = start.clustered(weights, 4)
    first.means[:] = 7  # whoever gets it may do what they like
    again = start.clustered(weights.copy(), 4)
    assert calls == [1] and not np.array_equal(again.means, first.means)
    start.clustered(weights, 3)
    start.clustered(np.roll(weights, 1), 4)
    assert len(calls) == 3
    monkeypatch.setattr(start, "KEPT", 2)
    for seed in range(5):
        start.clustered(np.random.default_rng(seed).normal(size=50).astype(np.float32), 3)
    assert len(start._kept) <= 3
