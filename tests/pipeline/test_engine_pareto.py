"""Dominance, fronts and hypervolume against slow definitions, Monte Carlo and Optuna's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.study.pareto import can_enter, front, hypervolume

numbers = st.integers(0, 6).map(float)
points2 = st.lists(st.tuples(numbers, numbers), max_size=12)
points3 = st.lists(st.tuples(numbers, numbers, numbers), max_size=12)


@given(points3)
def test_front_holds_exactly_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    chosen = front(points)
    for i, p in enumerate(points):
        beaten = any(all(x <= y for x, y in zip(q, p)) and q != p for q in points)
        assert (i in chosen) != beaten


@given(points3, st.permutations(range(3)))
def test_front_does_not_depend_on_the_order_of_objectives(
    points: list[tuple[float, ...]], order: list[int]
) -> None:
    assert front(points) == front([tuple(p[i] for i in order) for p in points])


def test_front_leaves_out_what_is_unknown() -> None:
    assert front([None, (1.0, 2.0), (math.nan, 0.0), (2.0, 1.0)]) == [1, 3]
    assert front([]) == []
    with pytest.raises(ValueError, match="different numbers of objectives"):
        front([(1.0, 2.0), None, (1.0, 2.0, 3.0)])


@given(points2)
def test_hypervolume_in_2d_counts_unit_squares(points: list[tuple[float, float]]) -> None:
    squares = sum(any(p[0] <= x and p[1] <= y for p in points) for x in range(5) for y in range(5))
    assert hypervolume(points, (5.0, 5.0)) == squares


@given(points3)
def test_hypervolume_in_3d_counts_unit_cubes(points: list[tuple[float, ...]]) -> None:
    grid = [(x, y, z) for x in range(4) for y in range(4) for z in range(4)]
    cubes = sum(any(all(a <= b for a, b in zip(p, cell)) for p in points) for cell in grid)
    assert hypervolume(points, (4.0, 4.0, 4.0)) == cubes


@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_agrees_with_monte_carlo_and_optuna(objectives: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    rng = np.random.default_rng(objectives)
    for _ in range(5):
        points = rng.random((15, objectives))
        reference = np.full(objectives, 1.1)
        exact = hypervolume([tuple(p) for p in points], tuple(reference))
        assert exact == pytest.approx(compute_hypervolume(points, reference), rel=1e-12)
        samples = rng.random((20000, objectives)) * 1.1
        share = (points[None] <= samples[:, None]).all(2).any(1).mean()
        deviation = math.sqrt(share * (1 - share) / len(samples))
        assert abs(exact / 1.1**objectives - share) < 5 * deviation


def test_hypervolume_of_one_and_of_too_many_objectives() -> None:
    assert hypervolume([(3.0,), (2.0,)], (10.0,)) == 8.0
    with pytest.raises(ValueError, match="4 objectives"):
        hypervolume([], (1.0,) * 4)


def test_can_enter_hopes_for_the_best_error() -> None:
    points = [(0.1, 5.0, 100.0), (0.3, 1.0, 10.0)]
    assert can_enter(4.0, 120.0, 0.1, points)  # faster than the accurate one
    assert not can_enter(6.0, 100.0, 0.1, points)  # slower than it, and not smaller
    assert can_enter(6.0, 100.0, 0.05, points)  # unless more accurate
    assert can_enter(5.0, 100.0, 0.1, points)  # a tie is not dominated
    assert can_enter(6.0, 100.0, None, points)
    assert can_enter(None, 200.0, 0.1, points)
    assert can_enter(6.0, None, 0.1, points, ("error", "latency", "size"))
    assert not can_enter(6.0, None, 0.1, [(0.1, 5.0)], ("error", "latency"))
    assert can_enter(0.0, 0.0, 0.0, [(0.0, 0.0, 0.0)])
    assert can_enter(1.0, 1.0, 0.1, [])
