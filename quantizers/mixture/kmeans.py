"""One-dimensional k-means: exact and deterministic by dynamic programming, no empty cluster.

In one dimension optimal clusters are intervals of the sorted values, so the optimum over all clusterings is a shortest
path over cut positions (Wang and Song, "Ckmeans.1d.dp", The R Journal 2011). The cost of an interval is Monge, hence the
best cut moves monotonically and each layer of the recursion is solved by divide and conquer in O(M log M).

Up to ``EXACT`` distinct values the result is the exact optimum. Beyond that, values are grouped on a grid of equal steps
joined with one of equal counts, the groups are clustered exactly, and Lloyd's iteration on all the values (sorted, with
prefix sums: O(K log N) a round) takes the centres to a local optimum of the full problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EXACT = 4096


@dataclass(frozen=True)
class Clusters:
    """K clusters of a sample, ascending.

    Attributes:
        centres: [K] means; the pinned one is exactly 0.
        counts: [K] values in each cluster; only the pinned cluster can have none.
        deviations: [K] root mean square distance to the centre within each cluster.
        pinned: index of the centre pinned at 0, or None.
        cost: sum of squared distances of all values to their centres.
    """

    centres: Floats
    counts: Ints
    deviations: Floats
    pinned: int | None
    cost: float


class _Sums:
    """Prefix sums of sorted, weighted values: interval costs in O(1). Values are centred to keep differences exact."""

    def __init__(self, values: Floats, weights: Floats, origin: float) -> None:
        shifted = values - origin
        self.origin = origin
        self.weight = np.concatenate([[0.0], np.cumsum(weights)])
        self.first = np.concatenate([[0.0], np.cumsum(weights * shifted)])
        self.second = np.concatenate([[0.0], np.cumsum(weights * shifted * shifted)])

    def free(self, start: Ints, end: Ints) -> Floats:
        """Cost of [start, end) around its own mean; infinite when empty."""
        weight = self.weight[end] - self.weight[start]
        first = self.first[end] - self.first[start]
        second = self.second[end] - self.second[start]
        with np.errstate(invalid="ignore", divide="ignore"):
            cost = second - first * first / weight
        return np.where(end > start, np.maximum(cost, 0.0), np.inf)

    def fixed(self, start: Ints, end: Ints) -> Floats:
        """Cost of [start, end) around 0; an empty interval costs nothing."""
        weight = self.weight[end] - self.weight[start]
        first = self.first[end] - self.first[start]
        second = self.second[end] - self.second[start]
        cost: Floats = np.maximum(second + 2 * self.origin * first + self.origin * self.origin * weight, 0.0)
        return cost


def kmeans(values: ArrayLike, count: int, *, pin_zero: bool = False) -> Clusters:
    """Cluster ``values`` (any shape) into at most ``count`` intervals with the least sum of squared distances.

    There are fewer clusters than ``count`` only when there are fewer distinct values. With ``pin_zero`` one of the
    ``count`` centres is held at 0 (also when no value is near 0: then its cluster is empty).

    Raises:
        ValueError: no values, a value that is not finite, or a count below 1.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not sample.size or not np.isfinite(sample[[0, -1]]).all() or count < 1:
        raise ValueError(
            f"k-means needs finite values and a positive count, got {sample.size} values, count {count}"
        )
    distinct, repeats = np.unique(sample, return_counts=True)
    weights = repeats.astype(np.float64)
    grouped = distinct.size > EXACT
    points = distinct
    if grouped:
        points, weights = _group(sample)
    nonzero = distinct.size - int(pin_zero and bool(np.any(distinct == 0)))
    free = min(count - int(pin_zero), nonzero)
    cuts, pinned = _solve(_Sums(points, weights, float(sample.mean())), len(points), free, pin_zero=pin_zero)
    edges = np.searchsorted(sample, points[np.minimum(cuts, len(points) - 1)])
    if grouped:  # a group's mean lies inside the group: cut between neighbouring group means instead
        middle = 0.5 * (points[np.maximum(cuts - 1, 0)] + points[np.minimum(cuts, len(points) - 1)])
        edges = np.searchsorted(sample, middle)
    edges[0], edges[-1] = 0, sample.size
    edges[cuts == len(points)] = sample.size
    sums = _Sums(sample, np.ones_like(sample), float(sample.mean()))
    if pinned is not None and edges[pinned] == edges[pinned + 1]:
        edges, pinned = _place_empty(sums, edges, pinned)
    if grouped:
        edges = _lloyd(sample, sums, edges, pinned)
    return _clusters(sums, edges, pinned)


def _group(sample: Floats) -> tuple[Floats, Floats]:
    """Means and sizes of about ``EXACT`` groups of a sorted sample: a grid of equal steps joined with one of equal counts,
    so that neither the bulk nor the tails are coarse."""
    half = EXACT // 2
    steps = np.searchsorted(sample, np.linspace(sample[0], sample[-1], half + 1)[1:-1])
    equal = np.linspace(0, sample.size, half + 1).astype(np.int64)[1:-1]
    starts = np.unique(np.concatenate([[0], steps, equal]))
    starts = starts[starts < sample.size]
    sizes = np.diff(np.append(starts, sample.size)).astype(np.float64)
    means = np.add.reduceat(sample, starts) / sizes
    means, first = np.unique(means, return_index=True)  # equal means happen for runs of one repeated value
    return means, np.add.reduceat(sizes, first)


def _solve(sums: _Sums, size: int, free: int, *, pin_zero: bool) -> tuple[Ints, int | None]:
    """Cut positions [K + 1] of the best partition and the index of the pinned interval."""
    start = np.full(size + 1, np.inf)
    start[0] = 0.0
    plain = [start]  # plain[k][j]: best cost of the first j points in k free clusters
    backs: list[Ints] = []
    for _ in range(free):
        best, back = _layer(plain[-1], sums.free, size)
        plain.append(best)
        backs.append(back)
    if not pin_zero:
        cuts = [size]
        for back in reversed(backs):
            cuts.append(int(back[cuts[-1]]))
        return np.array(cuts[::-1], dtype=np.int64), None
    # pinned[k][j]: the same with k free clusters and the pinned one somewhere among them.
    pinned_cost, pinned_back = _layer(plain[0], sums.fixed, size)
    choices: list[tuple[Ints, NDArray[np.bool_]]] = [(pinned_back, np.ones(size + 1, dtype=np.bool_))]
    for k in range(1, free + 1):
        after, after_back = _layer(pinned_cost, sums.free, size)
        here, here_back = _layer(plain[k], sums.fixed, size)
        is_here = here < after
        pinned_cost = np.where(is_here, here, after)
        choices.append((np.where(is_here, here_back, after_back), is_here))
    cuts, k, position = [size], free, None
    while k > 0 or position is None:
        if position is None:
            back, is_here = choices[k]
            if is_here[cuts[-1]]:
                position = k
            else:
                k -= 1
            cuts.append(int(back[cuts[-1]]))
        else:
            k -= 1
            cuts.append(int(backs[k][cuts[-1]]))
    return np.array(cuts[::-1], dtype=np.int64), position


def _layer(previous: Floats, cost: Callable[[Ints, Ints], Floats], size: int) -> tuple[Floats, Ints]:
    """``best[j] = min over i <= j of previous[i] + cost(i, j)`` and the smallest minimiser, all j at once.

    Divide and conquer by levels: positions at odd multiples of a halving stride, each searched only between the minimisers
    of its two solved neighbours; the ragged searches of a level are one flat evaluation.
    """
    best = np.full(size + 1, np.inf)
    back = np.zeros(size + 1, dtype=np.int64)
    stride = 1
    while stride < size + 1:
        stride *= 2
    solved_low = np.zeros(size + 2, dtype=np.int64)
    while stride >= 1:
        ends = np.arange(stride, size + 1, 2 * stride) if stride <= size else np.empty(0, dtype=np.int64)
        if ends.size:
            left = ends - stride
            right = ends + stride
            low = solved_low[left]
            high = np.where(right <= size, back[np.minimum(right, size)], size)
            high = np.maximum(np.minimum(high, ends), low)
            lengths = high - low + 1
            offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            owner = np.repeat(np.arange(ends.size), lengths)
            begin = np.arange(lengths.sum()) - offsets[owner] + low[owner]
            value = previous[begin] + cost(begin, ends[owner])
            least = np.minimum.reduceat(value, offsets)
            where = np.where(value == least[owner], begin, size + 1)
            back[ends] = np.minimum.reduceat(where, offsets)
            best[ends] = least
            solved_low[ends] = np.where(np.isfinite(least), back[ends], low)
            back[ends] = np.where(np.isfinite(least), back[ends], high)
        stride //= 2
    begin = np.zeros(1, dtype=np.int64)
    best[0] = (previous[:1] + cost(begin, begin))[0]
    back[0] = 0
    return best, back


def _centres(sums: _Sums, edges: Ints, pinned: int | None) -> Floats:
    weight = np.diff(sums.weight[edges])
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.diff(sums.first[edges]) / weight + sums.origin
    if pinned is not None:
        centres[pinned] = 0.0
    return centres


def _place_empty(sums: _Sums, edges: Ints, pinned: int) -> tuple[Ints, int]:
    """Move an empty pinned cluster to where 0 stands among the other centres."""
    edges = np.delete(edges, pinned)
    place = int(np.searchsorted(_centres(sums, edges, None), 0.0))
    return np.insert(edges, place, edges[place]), place


def _lloyd(sample: Floats, sums: _Sums, edges: Ints, pinned: int | None) -> Ints:
    """Alternate means and midpoints until the edges rest. The cost falls at every change, so this ends; a step that would
    empty a free cluster is not taken."""
    for _ in range(1000):
        centres = _centres(sums, edges, pinned)
        inner = np.searchsorted(sample, 0.5 * (centres[1:] + centres[:-1]))
        moved = np.concatenate([[0], inner, [sample.size]])
        empty = np.diff(moved) <= 0
        if pinned is not None:
            empty[pinned] = False
        if np.array_equal(moved, edges) or empty.any():
            break
        edges = moved
    return edges


def _clusters(sums: _Sums, edges: Ints, pinned: int | None) -> Clusters:
    centres = _centres(sums, edges, pinned)
    costs = sums.free(edges[:-1], edges[1:])
    if pinned is not None:
        costs[pinned] = sums.fixed(edges[pinned : pinned + 1], edges[pinned + 1 : pinned + 2])[0]
    counts = np.diff(edges)
    return Clusters(centres, counts, np.sqrt(costs / np.maximum(counts, 1)), pinned, float(costs.sum()))
