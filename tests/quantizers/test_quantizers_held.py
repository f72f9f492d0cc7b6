"""Weights held at their levels: what learns, what rests, and what is left when they are free again."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foundation.plan import LayerPlan, Plan
from quantizers.mixture.held import component_of, held_weight
from quantizers.mixture.regions import Regions
from quantizers.network import harden, quantize, quantizers_of
from quantizers.oscillation import Moves
from quantizers.weights.gaussian_mixture import GaussianMixture


def network(zero_share: float | None = None, bits: int = 3) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    )
    layer = LayerPlan(bits, 2**bits, zero_share=zero_share)
    return quantize(model, Plan.uniform(["0", "2", "4"], layer), torch.randn(32, 3, 8, 8))


def assigned(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: quantizer.assigned(weight) for name, quantizer, weight in quantizers_of(net)}


def train(net: nn.Module, steps: int, rate: float = 0.05) -> None:
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        loss = net(torch.randn(16, 3, 8, 8, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()


def test_the_gradient_is_each_component_s_sum() -> None:
    mean = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    component = torch.randint(0, 3, (4, 5))
    rests = torch.randn(4, 5, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: held_weight(m, component), mean)
    held_weight(mean, component, rests).sum().backward()
    assert mean.grad is not None and mean.grad.tolist() == [float((component == k).sum()) for k in range(3)]
    assert rests.grad is not None and not rests.grad.any()  # there is one, for workers that wait for it


@pytest.mark.parametrize("zero_share", [None, 0.7])
def test_no_weight_changes_its_level_whatever_the_levels_do(zero_share: float | None) -> None:
    net = network(zero_share)
    for _, quantizer, _ in quantizers_of(net):
        quantizer.set_progress(1.0)  # so that the share that is wanted is all there
    before, books = assigned(net), {n: q.codebook(w.detach()) for n, q, w in quantizers_of(net)}
    assert all(quantizer.hold(latent) for _, quantizer, latent in quantizers_of(net))
    for name, quantizer, latent in quantizers_of(net):
        assert np.array_equal(quantizer.codebook(latent.detach()).dequantize(), books[name].dequantize())
    moves = Moves(net)
    train(net, 20)
    moves.look()
    held = assigned(net)
    assert all(torch.equal(before[name], held[name]) for name in before)
    assert moves.moved == moves.flipped == 0
    changed = {n: q.codebook(w.detach()).dequantize() for n, q, w in quantizers_of(net)}
    assert any(not np.array_equal(changed[name], books[name].dequantize()) for name in books), (
        "nothing learned"
    )
    for _, quantizer, latent in quantizers_of(net):
        quantizer.release(latent)
    for name, quantizer, latent in quantizers_of(net):
        book = quantizer.codebook(latent.detach())
        assert np.array_equal(book.dequantize(), changed[name])  # released, each is still where it was
        if zero_share is not None:
            assert abs(book.zeros - zero_share) < 0.01


@pytest.mark.parametrize("zero_share", [None, 0.7])
def test_released_half_way_each_keeps_its_level(zero_share: float | None) -> None:
    net = network(zero_share)
    wanted = {name: torch.randn_like(latent) * latent.std() for name, _, latent in quantizers_of(net)}
    for _, quantizer, latent in quantizers_of(net):
        quantizer.set_progress(1.0)
        quantizer.hold(latent)
    before = {name: q.codebook(w.detach()).dequantize() for name, q, w in quantizers_of(net)}
    at = {name: latent.detach().clone() for name, _, latent in quantizers_of(net)}
    for name, quantizer, latent in quantizers_of(net):
        quantizer.release(latent, wanted[name])
        assert np.array_equal(quantizer.codebook(latent.detach()).dequantize(), before[name])
        goal, start = wanted[name], at[name]
        moved = latent.detach() - start
        assert (moved * (goal - start) >= 0).all()  # towards it
        assert (moved.abs() <= (goal - start).abs() / 2 + 1e-6).all()  # at most half way
        assert (moved != 0).double().mean() > 0.5


def test_a_region_s_ends() -> None:
    found = Regions(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([2, 0, 1, 0]))
    weight = torch.tensor([-5.0, -5.0, -5.0, 9.0, 1.0])
    assert found.inside(weight, torch.tensor([0, 1, 2, 1, 3])).tolist() == [-1.0, 0.0, -5.0, 2.0, 1.0]


def test_released_weights_move_again() -> None:
    net = network(bits=2)
    for _, quantizer, latent in quantizers_of(net):
        quantizer.hold(latent)
        quantizer.release(latent)
    moves = Moves(net)
    for _ in range(3):
        train(net, 10, rate=0.5)
        moves.look()
    assert moves.moved > 0


@pytest.mark.parametrize("held", [True, False])
def test_saved_and_loaded_it_is_held_as_before(held: bool) -> None:
    net, other = network(), network()
    train(other, 5)
    if held:
        for _, quantizer, latent in quantizers_of(net):
            quantizer.hold(latent)
        train(net, 3)
    else:
        for _, quantizer, latent in quantizers_of(other):
            quantizer.hold(latent)
    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    for one in (net, other):
        train(one, 4)
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_copy_goes_its_own_way() -> None:
    net = network()
    for _, quantizer, latent in quantizers_of(net):
        quantizer.hold(latent)
    other = copy.deepcopy(net)
    before = harden(net).codebooks
    for _, quantizer, latent in quantizers_of(other):
        quantizer.release(latent)
    train(other, 10, rate=0.5)
    after = harden(net).codebooks
    assert all(np.array_equal(before[name].dequantize(), after[name].dequantize()) for name in before)


def test_nearest_anchor() -> None:
    anchor = torch.tensor([0.0, 2.0, -1.0])
    assert component_of(torch.tensor([[-3.0, -0.4], [0.9, 5.0]]), anchor).tolist() == [[2, 0], [0, 1]]


def test_flips_are_counted_apart_from_moves() -> None:
    """A weight that goes and comes back has flipped and not moved; one that goes for good has moved and not flipped."""
    net = network(bits=2)
    _, quantizer, latent = next(iter(quantizers_of(net)))
    assert isinstance(quantizer, GaussianMixture)
    means = quantizer.means().detach()
    low, high = float(means.min()), float(means.max())
    with torch.no_grad():
        latent.view(-1)[:2] = low
        moves = Moves(net)
        latent.view(-1)[:2] = high
        moves.look()
        latent.view(-1)[0] = low
        moves.look()
    total = sum(weight.numel() for _, _, weight in quantizers_of(net))
    assert (moves.moved * total, moves.flipped * total) == (pytest.approx(1), pytest.approx(1))
