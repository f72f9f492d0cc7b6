"""Where a mixture starts: the clusters of a layer's weights, one of them at zero."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantizers.mixture.kmeans import Floats, kmeans


class Start(NamedTuple):
    """The clusters, that at zero first.

    Attributes:
        means, deviations, counts: [K]; a component with no weights has a count of 0.
    """

    means: Floats
    deviations: Floats
    counts: Floats


def clustered(weights: NDArray[np.floating], components: int) -> Start:
    """The best clusters of ``weights`` (any shape). Where there are fewer distinct weights than components, the rest start beyond
    them."""
    clusters = kmeans(weights, components, pin_zero=True)
    assert clusters.pinned is not None
    order = [clusters.pinned, *(i for i in range(len(clusters.centres)) if i != clusters.pinned)]
    means, deviations = clusters.centres[order], clusters.deviations[order]
    counts = clusters.counts[order].astype(np.float64)
    spare = components - len(means)
    if spare:
        outermost = float(np.abs(means).max()) or 1.0
        means = np.concatenate([means, outermost * (1 + np.arange(1, spare + 1) / spare)])
        deviations, counts = (np.concatenate([a, np.zeros(spare)]) for a in (deviations, counts))
    return Start(means, deviations, counts)
