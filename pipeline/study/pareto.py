"""Pareto dominance: numbers in, decisions out. Every objective is minimized."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better. Equal points do not dominate each other.

    Raises:
        ValueError: the points have different numbers of objectives.
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point | None]) -> list[int]:
    """Indices of the non-dominated points, ascending. None and points holding a NaN never belong to it.

    Of equal points all are kept.

    Raises:
        ValueError: the points have different numbers of objectives.
    """
    known = [i for i, p in enumerate(points) if p is not None and not any(math.isnan(x) for x in p)]
    if not known:
        return []
    if len({len(_at(points, i)) for i in known}) > 1:
        raise ValueError("points of different numbers of objectives")
    # In lexicographic order a point is dominated only by those before it: it is enough to look at those on the front by then.
    values = np.array([tuple(_at(points, i)) for i in known], dtype=np.float64)
    kept = np.empty_like(values)
    found: list[int] = []
    for place in np.lexsort(values.T[::-1]).tolist():
        before, point = kept[: len(found)], values[place]
        if not bool(((before <= point).all(1) & (before < point).any(1)).any()):
            kept[len(found)] = point
            found.append(known[place])
    return sorted(found)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume that ``points`` dominate within the box that ends at ``reference``; exact for 1, 2 and 3 objectives.

    Points that are not better than the reference everywhere add nothing.

    Raises:
        ValueError: more than 3 objectives.
    """
    if not 1 <= len(reference) <= 3:
        raise ValueError(f"hypervolume of {len(reference)} objectives: 1 to 3 are supported")
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    if len(reference) == 2:
        return _area(inside, reference)
    # Sweep over the third objective: between two neighbouring values the slice is the area of the points so far.
    inside.sort(key=lambda p: p[2])
    ends = [p[2] for p in inside[1:]] + [reference[2]]
    volume = 0.0
    for count, (point, end) in enumerate(zip(inside, ends), start=1):
        if end > point[2]:
            volume += _area(inside[:count], reference) * (end - point[2])
    return volume


def can_enter(
    latency: float | None,
    size: float | None,
    best_error: float | None,
    points: Sequence[Sequence[float]],
    objectives: Sequence[str] = ("error", "latency", "size"),
) -> bool:
    """Whether a candidate of known latency and size could be non-dominated among ``points`` if it reached ``best_error``.

    Args:
        latency: milliseconds; None when unknown, which is taken as better than anything.
        size: bytes; None when unknown, likewise.
        best_error: the best error anyone may hope for; None while nothing is known, then anything can enter.
        points: the front so far, in the order of ``objectives``.
        objectives: which of error, latency, size the points hold.
    """
    if best_error is None:
        return True
    known = {"error": best_error, "latency": latency, "size": size}
    hope = [-math.inf if known[name] is None else float(known[name] or 0.0) for name in objectives]
    return not any(dominates(point, hope) for point in points)


def _area(points: Sequence[tuple[float, ...]], reference: Point) -> float:
    area, height = 0.0, float(reference[1])
    ordered = sorted((p[0], p[1]) for p in points)
    for x, y in ordered[: bisect.bisect_left(ordered, (reference[0],))]:
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area


def _at(points: Sequence[Point | None], index: int) -> Point:
    point = points[index]
    assert point is not None
    return point
