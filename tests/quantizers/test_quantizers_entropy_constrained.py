"""Levels chosen by distance and by what they cost coded: against a search over all levels, and what relevance changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers import QUANTIZERS, quantize, set_progress
from quantizers.network import quantizers_of
from quantizers.weights.entropy_constrained import Ecq, Ecqx, information, needed_price, price_for


def made(sort: type[Ecq], weight: torch.Tensor, layer: LayerPlan, **options: Any) -> Ecq:
    quantizer = sort.for_layer(weight, layer, sort.Options(**options), initialise=True)
    assert isinstance(quantizer, sort)
    quantizer.set_progress(1.0)
    return quantizer


def entropy(indices: np.ndarray[Any, Any]) -> float:
    share = np.unique(indices, return_counts=True)[1] / indices.size
    return float(-(share * np.log2(share)).sum())


def test_information_is_the_logarithm_of_shares_and_zero_is_never_the_dearer_one() -> None:
    nearest = torch.tensor([0] * 89 + [1] * 7 + [-1])
    assert information(nearest, 1).exp2().reciprocal().tolist() == pytest.approx([0.02, 0.9, 0.08])
    rare = information(torch.tensor([1] * 97), 1)  # 1, 1 and 98 of 100
    assert rare.exp2().reciprocal().tolist() == pytest.approx([0.5 / 99, 0.5, 0.5 * 98 / 99])
    assert torch.isfinite(rare).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("price", [0.0, 0.03, 0.4])
def test_every_weight_takes_the_cheapest_level(bits: int, price: float) -> None:
    weight = torch.randn(4000, generator=torch.Generator().manual_seed(bits)) * 0.1
    quantizer = made(Ecq, weight, LayerPlan(bits), price=price)
    position, high = weight.double() / quantizer.step.detach().double(), quantizer.high
    levels = torch.arange(-high, high + 1)
    costs = (position[:, None] - levels).square() + price * information(
        position.round().clamp(-high, high).long(), high
    )
    assert torch.equal(quantizer.levels_of(weight), levels[costs.argmin(1)])
    if price == 0:
        assert torch.equal(quantizer.levels_of(weight), position.round().clamp(-high, high).long())


def test_a_price_shortens_the_code() -> None:
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    made_of = [made(Ecq, weight, LayerPlan(4), price=price) for price in (0, 0.05, 0.5)]
    coded = [entropy(quantizer.codebook(weight).indices) for quantizer in made_of]
    assert coded[0] > coded[1] > coded[2]


def test_the_needed_price_is_where_zero_becomes_the_cheapest() -> None:
    generator = torch.Generator().manual_seed(3)
    position, high = 3 * torch.randn(500, generator=generator).double(), 3
    factor = 2 * torch.rand(500, generator=generator).double()
    bits = information(position.round().clamp(-high, high).long(), high)
    needed = needed_price(position, high, bits, factor)
    levels = torch.arange(-high, high + 1)

    def zero_wins(price: torch.Tensor) -> torch.Tensor:
        costs = (position[:, None] - levels).square() + price[:, None] * bits
        own = factor * (position.square() + price * bits[high])
        costs[:, high] = math.inf
        return own <= costs.min(1).values

    there = needed.isfinite() & (needed > 0)
    assert there.sum() > 200
    assert zero_wins(needed * (1 + 1e-9))[there].all() and not zero_wins(needed * (1 - 1e-9))[there].any()


@pytest.mark.parametrize(("share", "got"), [(0.0, 0), (0.3, 3), (0.4, 3), (0.5, 6), (0.6, 6), (1.0, 10)])
def test_weights_at_one_place_go_together(share: float, got: int) -> None:
    needed = torch.tensor([-1.0, -0.5, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, math.inf])
    assert int((needed <= price_for(needed, share)).sum()) == got


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.9])
def test_relevance_says_which_weights_are_zero_not_how_many(bits: int, share: float) -> None:
    """The mechanism of ECQx, at equal zeros: what is zeroed matters less."""
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(1))
    relevance = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) ** 4
    plain, relevant = (made(sort, weight, LayerPlan(bits, zero_share=share)) for sort in (Ecq, Ecqx))
    relevant.get_buffer("relevance").copy_(relevance)
    zeros = [quantizer.levels_of(weight) == 0 for quantizer in (plain, relevant)]
    assert [float(zero.double().mean()) for zero in zeros] == pytest.approx([share] * 2, abs=1e-3)
    assert float(relevance[zeros[1]].mean()) < 0.97 * float(relevance[zeros[0]].mean())


def test_without_a_target_relevance_keeps_the_number_of_zeros() -> None:
    weight = torch.randn(32, 16, 3, 3)
    plain, relevant = (made(sort, weight, LayerPlan(4), price=0.1) for sort in (Ecq, Ecqx))
    relevant.get_buffer("relevance").copy_(torch.rand(weight.shape))
    zeros = [int((quantizer.levels_of(weight) == 0).sum()) for quantizer in (plain, relevant)]
    assert abs(zeros[0] - zeros[1]) <= 1


def test_relevance_is_learned_from_gradients_and_weights() -> None:
    weight = nn.Parameter(torch.randn(200))
    quantizer = made(Ecqx, weight.detach(), LayerPlan(3))
    pull, kept = torch.randn(200), []
    for _ in range(2):
        quantizer.train()
        seen = quantizer(weight)
        (seen * pull).sum().backward()
        kept.append((quantizer.get_buffer("relevance").clone(), (weight.detach() * pull).abs()))
    assert torch.allclose(kept[0][0], kept[0][1])
    assert torch.allclose(kept[1][0], 0.9 * kept[0][1] + 0.1 * kept[1][1])
    quantizer.eval()(weight)
    assert torch.equal(quantizer.get_buffer("relevance"), kept[1][0])


def test_a_zero_that_the_loss_wants_back_comes_back() -> None:
    """Who is zero has a relevance too, so it is not zero for ever."""
    weight = nn.Parameter(torch.full((64,), 0.2))
    weight.data[:8] = 1.0
    quantizer = made(Ecqx, weight.detach(), LayerPlan(2, zero_share=0.5), ramp_end=0.0).train()
    pull = torch.full((64,), 0.01)
    wanted = int((quantizer.levels_of(weight.detach()) == 0).nonzero()[0])
    pull[wanted] = 10.0
    for _ in range(3):
        (quantizer(weight) * pull).sum().backward()
    assert int(quantizer.levels_of(weight.detach())[wanted]) != 0


def test_gradients_go_straight_through_with_the_right_sign() -> None:
    weight = nn.Parameter(torch.linspace(-2, 2, 41))
    quantizer = made(Ecq, weight.detach(), LayerPlan(2)).train()
    quantizer(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(41))
    levels = quantizer.levels_of(weight).double()
    assert float(quantizer.step.grad) == pytest.approx(float(levels.sum()) / 41**0.5, abs=1e-6)


def test_a_share_of_zeros_grows_in_training_and_a_solved_layer_keeps_its_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    images = torch.randn(4, 3, 8, 8)
    network = quantize(model, Plan({"0": LayerPlan(2, zero_share=0.9)}, quantizer="ecq"), images)
    ((_, quantizer, latent),) = quantizers_of(network)
    shares = []
    for progress in (0.0, 0.1, 0.3, 1.0):
        set_progress(network, progress)
        shares.append(quantizer.codebook(latent.detach()).zeros)
    assert shares == sorted(shares) and shares[0] < 0.7 and shares[-1] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"price": -1.0}, "price -1.0: give a number of at least 0"),
        ({"price": math.nan}, "price nan"),
        ({"ramp_end": 2}, "ramp_end 2: give a number from 0 to 1"),
        ({"strength": 1}, "strength 1: no option of ecq; its options: price, ramp_end"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        QUANTIZERS["ecq"].options_for(Plan({}, quantizer="ecq"), given)
