"""What was learned and packed, layer by layer: written beside a candidate for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foundation.files import json_text

FILE = "layers.json"
OLD_ZEROS = "zero_share"  # what ``zeros`` was called in older candidates
BINS = (20, 72)  # few weights make few bins


@dataclass(frozen=True)
class LayerDetail:
    """One layer of one packed candidate, as the report draws it.

    Attributes:
        weights: how many.
        zeros: share of packed weights that are exactly zero.
        levels: the codebook's values, in units of the weights, ascending; empty for int8 with a scale per channel.
        shares: share of the weights on each level.
        low, high, counts: histogram of the learned weights before they were made hard; counts may be empty.
        mixture: (weight, mean, scale) of each Gaussian component in units of the weights; empty for int8.
    """

    weights: int
    zeros: float
    levels: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    counts: tuple[int, ...] = ()
    mixture: tuple[tuple[float, float, float], ...] = ()

    @classmethod
    def from_arrays(
        cls,
        integers: ArrayLike,
        levels: ArrayLike = (),
        weights: ArrayLike | None = None,
        mixture: Sequence[tuple[float, float, float]] = (),
    ) -> LayerDetail:
        """From a layer's packed integers, its codebook and, where kept, its weights before hardening.

        Args:
            integers: the packed int8 weights, any shape.
            levels: the codebook's values [K] as (integer, real value) pairs; empty for int8.
            weights: float weights before hardening, any shape.
        """
        packed = np.asarray(integers).ravel()
        pairs = np.asarray(levels, dtype=float).reshape(-1, 2)
        shares = [float(np.mean(packed == integer)) if packed.size else 0.0 for integer, _ in pairs]
        low = high = 0.0
        counts: list[int] = []
        if weights is not None:
            values = np.asarray(weights, dtype=float).ravel()
            values = values[np.isfinite(values)]
            if values.size:
                # Outliers would squeeze everything into a few bins; what lies outside is counted in the last one.
                low, high = (float(v) for v in np.quantile(values, [0.0005, 0.9995]))
                low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
                bins = int(np.clip(2 * values.size**0.5, *BINS))
                counts = [int(c) for c in np.histogram(np.clip(values, low, high), bins, (low, high))[0]]
        return cls(
            packed.size,
            float(np.mean(packed == 0)) if packed.size else 0.0,
            tuple(float(value) for _, value in pairs),
            tuple(shares),
            low,
            high,
            tuple(counts),
            tuple((float(w), float(m), float(s)) for w, m, s in mixture),
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LayerDetail:
        """The inverse of ``dataclasses.asdict``, also after JSON, and of older candidates."""
        values = {"zeros" if key == OLD_ZEROS else key: value for key, value in record.items()}
        values["mixture"] = tuple(tuple(component) for component in values.get("mixture", ()))
        for name in ("levels", "shares", "counts"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def dump_details(details: Mapping[str, LayerDetail]) -> str:
    """As JSON text."""
    return json_text({name: dataclasses.asdict(detail) for name, detail in details.items()})


@cache
def mean_zeros(candidate: Path) -> float | None:
    """Share of all packed weights of a candidate folder that are exactly zero; None where it was not kept."""
    details = read_details(candidate).values()
    weights = sum(detail.weights for detail in details)
    return sum(d.weights * d.zeros for d in details) / weights if weights else None


def read_details(candidate: Path) -> dict[str, LayerDetail]:
    """Of a candidate folder; empty where it was not kept."""
    path = candidate / FILE
    if not path.is_file():
        return {}
    return {name: LayerDetail.from_dict(record) for name, record in json.loads(path.read_text()).items()}
