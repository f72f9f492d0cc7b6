"""How a share of zeros grows in training."""

from __future__ import annotations


def share_at(progress: float, end: float, natural: float, wanted: float) -> float:
    """The share (0..1) at a progress of 0..1: from the ``natural`` one to the ``wanted`` one, reached at ``end``, fast at first
    (the cubic schedule of Zhu and Gupta, "To prune, or not to prune", 2017). An ``end`` of 0 wants it from the first step on.

    >>> [round(share_at(progress, 0.4, 0.5, 0.8), 4) for progress in (0, 0.2, 0.4, 1)]
    [0.5, 0.7625, 0.8, 0.8]
    """
    left = 1 - min(progress / end, 1.0) if end else 0.0
    return wanted + (natural - wanted) * left**3
