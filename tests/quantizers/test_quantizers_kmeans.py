"""Exactness against brute force over all partitions, determinism, no empty cluster, large samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers.mixture import kmeans as module
from quantizers.mixture.kmeans import kmeans


def brute_force(values: np.ndarray, count: int, pin_zero: bool) -> float:
    """Least cost over every cut of the sorted values into at most ``count`` intervals, and every place of the pinned one."""
    x, best = np.sort(values), np.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), count - 1):
        edges = [0, *cuts, len(x)]
        parts = [x[a:b] for a, b in itertools.pairwise(edges)]
        free = [((p - p.mean()) ** 2).sum() if p.size else 0.0 for p in parts]
        if pin_zero:
            best = min(best, min(sum(free) - free[i] + (parts[i] ** 2).sum() for i in range(count)))
        else:
            best = min(best, sum(free))
    return float(best)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-4, 4, allow_subnormal=False).map(lambda v: round(v, 2)), min_size=1, max_size=11),
    st.integers(1, 4),
    st.booleans(),
)
def test_cost_is_the_optimum(values: list[float], count: int, pin_zero: bool) -> None:
    x = np.array(values)
    found = kmeans(x, count, pin_zero=pin_zero)
    assert found.cost == pytest.approx(brute_force(x, count, pin_zero), abs=1e-9)
    assert (np.diff(found.centres) >= 0).all()
    assert found.counts.sum() == len(x)
    free = np.ones(len(found.counts), bool)
    if pin_zero:
        assert found.pinned is not None and found.centres[found.pinned] == 0
        free[found.pinned] = False
    assert (found.counts[free] > 0).all()
    # The cost is that of assigning every value to its nearest centre.
    nearest = ((x[:, None] - found.centres) ** 2).min(1).sum()
    assert nearest == pytest.approx(found.cost, abs=1e-9)


def test_grouping_is_close_to_the_exact_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=6000), rng.standard_t(3, size=6000)):
        for count in (4, 16):
            grouped = kmeans(values, count, pin_zero=True)
            monkeypatch.setattr(module, "EXACT", 10_000)
            exact = kmeans(values, count, pin_zero=True)
            monkeypatch.undo()
            assert exact.cost <= grouped.cost <= exact.cost * 1.001


def test_large_sample_with_outliers_and_ties() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=300_000), np.zeros(100_000), [50.0, -80.0]]).astype(np.float32)
    first, second = kmeans(values, 16, pin_zero=True), kmeans(values[::-1], 16, pin_zero=True)
    np.testing.assert_array_equal(first.centres, second.centres)
    assert len(first.centres) == 16 and first.counts.sum() == len(values)
    assert first.centres[0] == -80 and first.centres[-1] == 50
    assert (first.counts > 0).all() and np.isfinite(first.deviations).all()


@pytest.mark.parametrize("count", [1, 4, 16])
def test_few_distinct_values(count: int) -> None:
    found = kmeans(np.array([0.5, 0.5, -0.25]), count, pin_zero=True)
    assert 0 in found.centres and len(found.centres) <= max(count, 1)
    assert kmeans(np.full(10, 3.0), count).centres.tolist() == [3.0]


def test_bad_input() -> None:
    for values, count in (([], 2), ([1.0, np.nan], 2), ([1.0], 0)):
        with pytest.raises(ValueError):
            kmeans(np.array(values), count)
