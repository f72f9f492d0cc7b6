"""Where a mixture starts: the clusters of a layer's weights, one of them at zero where it is pinned."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foundation.codebook import entropy
from quantizers.mixture.kmeans import Floats, kmeans


class Start(NamedTuple):
    """The clusters, that at zero first where one is pinned.

    Attributes:
        means, deviations, counts: [K]; a component with no weights has a count of 0.
    """

    means: Floats
    deviations: Floats
    counts: Floats


SAMPLE = 1 << 16  # weights of a large layer that an entropy is counted of
# Bits by which an entropy may be too large: of normal weights, neighbouring steps differ by less.
BETWEEN = 0.03
# Steps that are tried, of the largest weight: neighbours differ by little more than a hundredth.
STEPS = np.logspace(-3, 0.5, 701)
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


def evenly_spaced(weights: NDArray[np.floating], components: int, coded_bits: float) -> Start:
    """Whole multiples of one step, 0 the first of them, with the least squared error among those of which the index of the
    nearest to each of ``weights`` (any shape) has an entropy of about ``coded_bits`` or less. It is less where finer steps would
    leave the outermost weights too far from any.

    Raises:
        ValueError: a weight is not finite.
    """
    values = weights.astype(np.float64).ravel()
    if not np.isfinite(values).all():
        raise ValueError("evenly spaced levels need finite values")
    largest = float(np.abs(values).max()) or 1.0
    low = 0 if values.min() >= 0 else 1 - components if values.max() <= 0 else -(components // 2)
    high = low + components - 1
    if values.size > 2 * SAMPLE:  # anywhere: at a stride all might be of one tap
        values = values[np.random.default_rng(0).integers(0, values.size, SAMPLE)]

    def nearest(step: float) -> tuple[Floats, float]:
        """How many weights each multiple has, and the squared error."""
        places = np.clip(np.rint(values / step), low, high)
        counts = np.bincount((places - low).astype(np.int64), minlength=components).astype(np.float64)
        return counts, float(np.square(values - step * places).sum())

    step, least = STEPS[-1] * largest, math.inf  # so wide that all are zero
    for each in largest * STEPS[::-1]:  # coarse ones first: of too fine ones the entropy falls again
        counts, error = nearest(each)
        if entropy(counts) > coded_bits + BETWEEN:
            break
        if error < least:
            step, least = float(each), error
        if entropy(counts) >= coded_bits:
            break
    counts = nearest(step)[0]
    places = np.array([0, *(place for place in range(low, high + 1) if place)])
    return Start(step * places, np.full(components, step / 12**0.5), counts[places - low])


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
