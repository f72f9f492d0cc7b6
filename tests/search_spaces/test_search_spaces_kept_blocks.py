"""Blocks of weights that are left out: which, when, and what training, mixtures and costs make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foundation.codebook import Codebook
from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.network import harden, parameter_groups, quantize, quantizers_of, set_progress
from quantizers.weights.gaussian_mixture import GaussianMixture
from search_spaces.dimensions import asked
from search_spaces.dimensions.kept_blocks import KeptBlocks
from search_spaces.space import Space

LAYERS = (
    Layer("stem", "convolution", (16, 3, 3, 3)),
    Layer("wide", "convolution", (16, 16, 3, 3)),
    Layer("each", "depthwise", (16, 1, 3, 3), groups=16),
    Layer("split", "convolution", (16, 8, 1, 1), groups=2),
    Layer("odd", "convolution", (18, 16, 1, 1)),
    Layer("fc", "linear", (16, 16)),
)


def kept(weight: np.ndarray) -> set[tuple[int, int, int]]:
    """Blocks that hold anything, counted one by one."""
    flat = weight.reshape(*weight.shape[:2], -1)
    return {(o // 4, i // 8, tap) for o, i, tap in np.argwhere(flat != 0).tolist()}


@pytest.mark.parametrize("shape", [(8, 16, 3, 3), (4, 8, 1, 1), (12, 24, 1, 2), (6, 11, 3, 1), (5, 20)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_heaviest_blocks_stay(shape: tuple[int, ...], share: float) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    flat = weight.reshape(*shape[:2], -1)
    sums: dict[tuple[int, int, int], float] = {}
    for (o, i, tap), value in np.ndenumerate(flat):
        block = (o // 4, i // 8, tap)
        sums[block] = sums.get(block, 0.0) + float(value) ** 2
    wanted = set(sorted(sums, key=lambda block: -sums[block])[: max(1, round(share * len(sums)))])
    shaped = KeptBlocks.apply(torch.from_numpy(weight), share).numpy()
    assert kept(shaped) == wanted and np.array_equal(shaped[shaped != 0], weight[shaped != 0])
    levels = np.array([-3, 0, 5], np.int8)
    book = Codebook(np.full(shape, 2, np.uint8), levels, np.ones(1, np.float32), 2)
    made = KeptBlocks.synthesize(book, weight, share, np.random.default_rng(0))
    assert np.array_equal(made.integers != 0, shaped != 0)


def test_a_search_has_it_where_it_is_asked_for_and_can_be() -> None:
    assert "kept_blocks" not in Space(LAYERS).dimensions
    (own,) = asked(["kept_blocks=1,0.5"])
    assert own.values == (None, 0.5)
    space = Space(LAYERS, bits=(2, 8), components={2: (4,)}, zero_share=(None, 0.8), dimensions=[own])
    found = space.layer_plans()
    assert {name for name, plans in found.items() if any(plan.kept_blocks for plan in plans)} == {"wide"}
    assert {(plan.bits, plan.zero_share, plan.kept_blocks) for plan in found["wide"]} == {
        (2, None, None), (2, 0.8, None), (2, None, 0.5), (8, None, None), (8, None, 0.5),
    }  # fmt: skip
    assert any(plan.layers["wide"].kept_blocks == 0.5 for plan in space.warm_starts())
    for wrong in ("0", "1.5", "x"):
        with pytest.raises(UserError, match="above 0 and below 1"):
            Space(LAYERS, dimensions=asked([f"kept_blocks={wrong}"]))
    with pytest.raises(UserError, match="exclude each other"):
        LayerPlan(2, 4, zero_share=0.8, kept_blocks=0.5)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )


def test_blocks_go_one_after_another_and_the_hardened_network_has_what_the_plan_says() -> None:
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    model = network()
    plan = Plan({"0": LayerPlan(8), "2": LayerPlan(2, 4, kept_blocks=0.5), "5": LayerPlan(8)})
    made = quantize(model, plan, images)
    latent = next(weight for name, _, weight in quantizers_of(made) if name == "2")
    optimizer = torch.optim.SGD(parameter_groups(made, lr=0.05, weight_decay=0.0))
    seen = []
    for step in range(20):
        set_progress(made, step / 20)
        optimizer.zero_grad()
        made.train()
        nn.functional.cross_entropy(made(images), labels).backward()
        seen.append(len(kept(latent.detach().numpy())))
        grown = latent.grad
        assert grown is not None and kept(grown.numpy()) >= kept(latent.detach().numpy())
        if step in (2, 19):
            before = latent.detach().clone()
            book = harden(made).codebooks["2"]
            assert len(kept(book.integers)) == 36 and torch.equal(latent, before)  # of 72
        optimizer.step()
    assert seen[0] == 72 and 36 < seen[4] < 72 and seen[8:] == [36] * 12
    assert seen == sorted(seen, reverse=True)
    set_progress(made, 1.0)
    hard = harden(made)
    with torch.no_grad():
        assert torch.equal(made.eval()(images), hard.network(images))


def test_a_mixture_is_fitted_to_what_is_there() -> None:
    weight = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    shaped = KeptBlocks.apply(weight, 0.5)
    layer = LayerPlan(2, 4, kept_blocks=0.5)
    whole, alone = (
        GaussianMixture.for_layer(given, layer, GaussianMixture.Options(), initialise=True)
        for given in (shaped, shaped[shaped != 0])
    )
    assert isinstance(whole, GaussianMixture) and isinstance(alone, GaussianMixture)
    assert torch.equal(whole.means(), alone.means()) and torch.equal(whole.scales(), alone.scales())
    with torch.no_grad():  # a component of its own at zero, which is not the one that prunes
        whole.mean.copy_(torch.tensor([-1.0, 1e-3, 1.0]))
        whole.prior.copy_(torch.tensor([-9.0, 0.0, 9.0, 0.0]))
    book = whole.eval().codebook(shaped)
    assert not book.integers[(shaped == 0).numpy()].any()
