"""How much a plan is expected to add to the volume that a front dominates, when its error is known with an uncertainty only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

Floats = NDArray[np.float64]


def expected_gain(
    front: Floats, reference: Floats, error: Floats, deviation: Floats, costs: Floats
) -> Floats:
    """The expected hypervolume improvement of each candidate by itself, all objectives to be made small.

    With normally distributed errors and certain costs it has a closed form: over every cell of the plane of costs, how far the
    candidate's error is expected below the least error that the front has there.

    Args:
        front: [n, 1 + d], the error first, then d = 1 or 2 costs; points beyond the reference add nothing.
        reference: [1 + d], the corner of the volume.
        error, deviation: of each of m candidates, [m].
        costs: [m, d].

    Returns:
        [m].
    """
    if not 1 <= costs.shape[1] <= 2:
        raise ValueError(f"{costs.shape[1]} costs: 1 or 2 are supported")
    if costs.shape[1] == 1:  # a second cost that all have alike
        front = np.concatenate([front, np.zeros((len(front), 1))], 1)
        reference = np.append(reference, 1.0)
        costs = np.concatenate([costs, np.zeros((len(costs), 1))], 1)
    front = front[(front < reference).all(1)]
    front = front[undominated(front)]  # the others add nothing but work, which grows with their cube
    edges = [np.unique(front[:, axis]) for axis in (1, 2)]
    # Below the front's least cost nothing of it is reached; the cell there begins wherever the candidate does.
    starts = [np.concatenate([[-np.inf], edge]) for edge in edges]
    ends = [np.append(edge, corner) for edge, corner in zip(edges, reference[1:])]
    reached = (front[:, 1, None, None] <= starts[0][None, :, None]) & (
        front[:, 2, None, None] <= starts[1][None, None, :]
    )
    height = np.where(reached, front[:, 0, None, None], reference[0]).min(0, initial=reference[0])
    width = [
        np.clip(end[None] - np.maximum(start[None], cost[:, None]), 0, None)
        for start, end, cost in zip(starts, ends, costs.T)
    ]
    below = _expected_below(height[None], error[:, None, None], deviation[:, None, None])
    gains: Floats = np.einsum("mi,mj,mij->m", width[0], width[1], below)
    return gains


def undominated(points: Floats) -> list[int]:
    """Rows of [n, d] that no other row is nowhere worse than, all to be made small; of equal rows the first."""
    kept: list[int] = []
    best = np.empty((0, points.shape[1]))
    for row in np.lexsort(points.T[::-1]):  # who comes later dominates nobody before
        if not (best <= points[row]).all(1).any():
            kept.append(int(row))
            best = np.concatenate([best, points[row][None]])
    return sorted(kept)


def _expected_below(height: Floats, mean: Floats, deviation: Floats) -> Floats:
    """E[max(0, height - x)] of normal x."""
    deviation = np.maximum(deviation, 1e-12)
    z = (height - mean) / deviation
    density = np.exp(-0.5 * np.minimum(z**2, 1400)) / np.sqrt(2 * np.pi)
    expected: Floats = (height - mean) * 0.5 * erfc(-z / np.sqrt(2)) + deviation * density
    return np.maximum(expected, 0)
