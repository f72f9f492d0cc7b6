"""Layers that are solved: against brute force and closed forms, for every quantizer that has a grid."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foundation.plan import LayerPlan, Plan
from quantizers.calibration.assignment import Problem, _start, compensated, descend, solve
from quantizers.calibration.reconstruction import Reconstruction, reconstruct
from quantizers.core.base import WeightQuantizer
from quantizers.core.grid import WeightGrid
from quantizers.network import harden, layer_names, quantize, quantizers_of
from quantizers.registry import QUANTIZERS


def mixed(seed: int, groups: int, rows: int, columns: int) -> Problem:
    """Weights and strongly correlated inputs, on which rounding to nearest is bad."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, columns, generator=generator)
    mixing = torch.eye(columns) + 0.5 * torch.randn(groups, columns, columns, generator=generator)
    seen = torch.randn(groups, 4 * columns + 64, columns, generator=generator) @ mixing
    importance = 0.5 + torch.rand(groups, rows, generator=generator)
    return Problem.of(weight, seen, seen, importance, damping=1e-3)


def grid(problem: Problem, levels: list[float], free: str = "levels") -> WeightGrid:
    scale = torch.ones(problem.target.shape[:2], dtype=torch.float64)
    zero = levels.index(0.0) if 0.0 in levels else -1
    return WeightGrid(torch.tensor(levels, dtype=torch.float64), scale, free, zero)  # type: ignore[arg-type]


LEVELS = [-1.1, 0.0, 0.9]


@pytest.mark.parametrize("seed", range(6))
def test_close_to_the_best_of_all_assignments_and_never_worse_than_nearest(seed: int) -> None:
    problem = mixed(seed, 1, 1, 7)
    levels = grid(problem, LEVELS)
    every = torch.tensor(list(itertools.product(range(3), repeat=7)))
    off = problem.target[0] - levels.levels[every]
    best = float((((off @ problem.moments[0]) * off).sum(1) * problem.importance[0, 0]).min())
    fixed = replace(levels, free="nothing")
    found = float(problem.error(levels.values(solve(problem, fixed)[1])))
    nearest = float(problem.error(levels.values(levels.nearest(problem.target))))
    assert best - 1e-9 <= found <= min(nearest, 3.0 * best + 1e-9)


def test_close_to_the_best_on_average() -> None:
    ours = nearest = best = 0.0
    for seed in range(30):
        problem = mixed(100 + seed, 1, 1, 7)
        levels = replace(grid(problem, LEVELS), free="nothing")
        every = torch.tensor(list(itertools.product(range(3), repeat=7)))
        off = problem.target[0] - levels.levels[every]
        best += float((((off @ problem.moments[0]) * off).sum(1) * problem.importance[0, 0]).min())
        ours += float(problem.error(levels.values(solve(problem, levels)[1])))
        nearest += float(problem.error(levels.values(levels.nearest(problem.target))))
    assert ours < 1.25 * best and ours < 0.75 * nearest


@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.83])
def test_descending_never_raises_the_error(share: float | None) -> None:
    problem = mixed(1, 2, 5, 40)
    levels = grid(problem, LEVELS)
    owner = levels.nearest(problem.target)
    errors = [float(problem.error(levels.values(owner)))]
    for _ in range(3):
        owner = descend(problem, levels, owner)
        errors.append(float(problem.error(levels.values(owner))))
    assert errors == sorted(errors, reverse=True)
    solved, owner = solve(problem, levels, share)
    if share is None:
        assert float(problem.error(solved.values(owner))) <= errors[-1]
    else:
        assert int((owner == solved.zero).sum()) == round(share * owner.numel())


def test_more_zeros_cost_more_and_less_than_cutting_the_smallest() -> None:
    problem = mixed(2, 1, 8, 48)
    levels = grid(problem, [-1.5, -0.7, 0.0, 0.7, 1.5])
    errors = []
    for share in (0.3, 0.5, 0.7, 0.9):
        solved, owner = solve(problem, levels, share)
        errors.append(float(problem.error(solved.values(owner))))
        smallest = problem.target.abs() < problem.target.abs().flatten().quantile(share)
        cut = torch.where(smallest, levels.zero, levels.nearest_other(problem.target))
        assert errors[-1] < float(problem.error(levels.values(cut)))
    assert errors == sorted(errors)


def test_without_correlation_it_is_rounding_to_nearest_and_means_of_clusters() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 6, 50, generator=generator).double()
    problem = Problem(weight, torch.eye(50, dtype=torch.float64)[None], torch.ones(1, 6, dtype=torch.float64))
    levels = grid(problem, [-1.0, 0.0, 1.0])
    owner = compensated(problem, levels)
    assert torch.equal(owner, levels.nearest(weight))
    solved, owner = solve(problem, levels, rounds=1, start=owner)
    for place in (0, 2):
        first = levels.nearest(weight) == place
        assert solved.levels[place] == pytest.approx(float(weight[first].mean()))
    assert solved.levels[1] == 0


@pytest.mark.parametrize("free", ["levels", "scale", "rows"])
def test_levels_that_start_too_close_together_are_found_farther_apart(free: str) -> None:
    alone = wider = 0.0
    for seed in range(4):
        problem = mixed(seed, 1, 16, 36)
        size = float(problem.target.std())
        near = grid(problem, [-0.8 * size, -0.25 * size, 0.25 * size, 0.8 * size], free)
        (first, owner), (found, chosen) = (
            solve(problem, near, start=_start(problem, near, None)), solve(problem, near)
        )  # fmt: skip
        errors = float(problem.error(first.values(owner))), float(problem.error(found.values(chosen)))
        assert errors[1] <= errors[0]
        alone, wider = alone + errors[0], wider + errors[1]
    assert wider < 0.95 * alone


@pytest.mark.parametrize("free", ["nothing", "at last"])
def test_levels_that_are_not_free_start_where_they_are(free: str) -> None:
    problem = mixed(0, 1, 8, 36)
    near = grid(problem, [-0.3, -0.1, 0.1, 0.3], free)
    once = solve(problem, near, start=_start(problem, near, None))
    found = solve(problem, near)
    assert torch.equal(found[0].levels, once[0].levels) and torch.equal(found[1], once[1])


@pytest.mark.parametrize("importance", [float("nan"), float("inf")])
def test_errors_that_are_no_numbers_still_give_an_index_of_each_weight(importance: float) -> None:
    problem = mixed(0, 1, 4, 9)
    problem = replace(problem, importance=torch.full_like(problem.importance, importance))
    owner = solve(problem, grid(problem, LEVELS))[1]
    assert owner.dtype == torch.int64 and owner.shape == problem.target.shape


def test_groups_are_independent() -> None:
    problem = mixed(4, 3, 4, 9)
    levels = grid(problem, LEVELS)
    owner = descend(problem, levels, compensated(problem, levels))
    for group in range(3):
        one = Problem(
            *(part[group : group + 1] for part in (problem.target, problem.moments, problem.importance))
        )
        alone = replace(levels, scale=levels.scale[group : group + 1])
        assert torch.equal(owner[group : group + 1], descend(one, alone, compensated(one, alone)))


def test_inputs_that_are_wrong_are_made_up_for() -> None:
    """The target gives, from inputs that are all too small by a third, what the weights gave from the right ones."""
    generator = torch.Generator().manual_seed(5)
    weight, meant = torch.randn(1, 4, 8, generator=generator), torch.randn(1, 500, 8, generator=generator)
    importance = torch.ones(1, 4)
    same = Problem.of(weight, meant, meant, importance)
    assert torch.allclose(same.target, weight.double(), atol=1e-6)
    smaller = Problem.of(weight, meant * 2 / 3, meant, importance, damping=1e-9)
    assert torch.allclose(smaller.target, weight.double() * 1.5, atol=1e-4)


@pytest.mark.parametrize("free", ["scale", "rows"])
def test_scales_follow_by_least_squares(free: str) -> None:
    problem = mixed(6, 1, 3, 20)
    levels = grid(problem, [-2.0, -1.0, 0.0, 1.0, 2.0], free)
    solved, owner = solve(problem, levels)
    error = float(problem.error(solved.values(owner)))
    for factor in (0.98, 1.02):
        assert error < float(problem.error(solved.values(owner) * factor))
    assert free == "rows" or len(solved.scale.unique()) == 1


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    for module in made:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # plain averages
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    with torch.no_grad():
        made.train()(torch.cat(images(9)))
    return made.eval()


def images(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(64, 3, 4, 4, generator=generator)
    return list(nn.functional.interpolate(smooth, size=(12, 12), mode="bilinear").split(32))


WITH_GRID = [name for name in QUANTIZERS if QUANTIZERS[name].grid is not WeightQuantizer.grid]


@pytest.mark.parametrize(
    ("bits", "name"),
    [(bits, name) for bits in (2, 3) for name in WITH_GRID if bits in QUANTIZERS[name].widths],
)
def test_a_solved_network_is_closer_to_fp32_on_other_images(name: str, bits: int) -> None:
    original = network()
    components = 2**bits if "components" in QUANTIZERS[name].dimensions else None
    plan = Plan.uniform(layer_names(original), LayerPlan(bits, components), quantizer=name)
    unseen = torch.cat(images(2))
    off = []
    for how in (Reconstruction(solve=False), Reconstruction()):
        made = quantize(original, plan, torch.cat(images()))
        reconstruct(made, original, images(), how)
        with torch.no_grad():
            off.append(float((harden(made).network(unseen) - original(unseen)).square().mean()))
    assert off[1] < 0.8 * off[0]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_zeros_are_reached_and_held_when_training_goes_on(share: float) -> None:
    original = network()
    plan = Plan.uniform(layer_names(original), LayerPlan(2, 4, zero_share=share))
    made = quantize(original, plan, torch.cat(images()))
    reconstruct(made, original, images(), Reconstruction())
    for name, book in harden(made).codebooks.items():
        assert book.zeros == pytest.approx(share, abs=0.5 / book.indices.size + 1e-9), name
    made.train()
    for _, quantizer, latent in quantizers_of(made):
        for progress in (0.0, 0.1, 0.5):
            quantizer.set_progress(progress)
            quantizer(latent)
            book = quantizer.codebook(latent.detach())
            assert book.zeros == pytest.approx(share, abs=0.5 / latent.numel() + 1e-3)


def test_progress_is_told_and_the_original_is_left_alone() -> None:
    original = network()
    before = {key: value.clone() for key, value in original.state_dict().items()}
    told: list[tuple[int, int]] = []
    plan = Plan.uniform(layer_names(original), LayerPlan(4, 16))
    made = quantize(original, plan, torch.cat(images()))
    reconstruct(made, original, images(), Reconstruction(), lambda done, all: told.append((done, all)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())
