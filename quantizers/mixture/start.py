"""Where a mixture starts: the clusters of a layer's weights, one of them at zero where it is pinned."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantizers.mixture.kmeans import Floats, kmeans


class Start(NamedTuple):
    """The clusters, that at zero first where one is pinned.

    Attributes:
        means, deviations, counts: [K]; a component with no weights has a count of 0.
    """

    means: Floats
    deviations: Floats
    counts: Floats


KEPT = 1024  # results; a few hundred bytes each
_kept: OrderedDict[tuple[bytes, str, int, bool], Start] = OrderedDict()


def clustered(weights: NDArray[np.floating], components: int, *, pin_zero: bool = True) -> Start:
    """The best clusters of ``weights`` (any shape). Where there are fewer distinct weights than components, the rest start beyond
    them.

    The last results are kept: plan after plan of a search begins with the same fp32 weights.
    """
    key = (
        hashlib.blake2b(np.ascontiguousarray(weights).data).digest(),
        weights.dtype.str,
        components,
        pin_zero,
    )
    if key not in _kept:
        _kept[key] = _clustered(weights, components, pin_zero=pin_zero)
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    return Start(*(part.copy() for part in _kept[key]))


def _clustered(weights: NDArray[np.floating], components: int, *, pin_zero: bool) -> Start:
    clusters = kmeans(weights, components, pin_zero=pin_zero)
    first = () if clusters.pinned is None else (clusters.pinned,)
    order = [*first, *(i for i in range(len(clusters.centres)) if i not in first)]
    means, deviations = clusters.centres[order], clusters.deviations[order]
    counts = clusters.counts[order].astype(np.float64)
    spare = components - len(means)
    if spare:
        outermost = float(np.abs(means).max()) or 1.0
        means = np.concatenate([means, outermost * (1 + np.arange(1, spare + 1) / spare)])
        deviations, counts = (np.concatenate([a, np.zeros(spare)]) for a in (deviations, counts))
    return Start(means, deviations, counts)
