"""The levels of one column of weights after another. A column is so little that calls of PyTorch cost ten times what they do, and
a GPU's more: here NumPy does them, on the host, in the same double precision and order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quantizers.core.grid import WeightGrid

Doubles = NDArray[np.float64]
Owners = NDArray[np.int64]


def host(tensor: Tensor) -> NDArray[Any]:
    """The same numbers for NumPy; on the CPU the same memory."""
    return tensor.detach().cpu().numpy()


def by_column(tensor: Tensor) -> NDArray[Any]:
    """A copy of [G, O, n] as [n, G, O]."""
    return host(tensor).transpose(2, 0, 1).copy()


@dataclass(frozen=True)
class ColumnGrid:
    """A ``WeightGrid`` for columns [G, O], and what a weight has to gain to be other than zero.

    Attributes:
        levels: ascending, [L].
        between: half way between neighbours, [L - 1].
        others: the indices of the levels that are not zero, ascending.
        between_others: half way between those.
        scale, importance: of each output channel, [G, O].
        zero: the index of the level 0; -1 where there is none.
        price: what not to be zero costs; None where it costs nothing.
    """

    levels: Doubles
    between: Doubles
    others: Owners
    between_others: Doubles
    scale: Doubles
    importance: Doubles
    zero: int
    price: float | None

    @classmethod
    def of(cls, grid: WeightGrid, importance: Tensor, price: Tensor | None) -> ColumnGrid:
        """That of a layer whose squared errors count by ``importance`` [G, O]."""
        return cls(
            host(grid.levels),
            host(grid.between),
            host(grid.others),
            host(grid.between_others),
            host(grid.scale),
            host(importance),
            grid.zero,
            None if price is None else float(price),
        )

    def values(self, owner: Owners) -> Doubles:
        """The weights of these levels' indices."""
        found: Doubles = self.levels[owner] * self.scale
        return found

    def nearest_other(self, values: Doubles) -> Owners:
        """The index of the nearest level that is not zero."""
        found: Owners = self.others[self.between_others.searchsorted(values / self.scale)]
        return found

    def choose(self, best: Doubles, size: Doubles) -> Owners:
        """The level for weights that would best be ``best``; being off costs the square times ``size`` [G, 1]."""
        if self.price is None:
            return self.between.searchsorted(best / self.scale)
        other = self.nearest_other(best)
        off = np.square(best - self.values(other))
        gain = (np.square(best) - off) * size * self.importance
        return np.where(gain < self.price, self.zero, other)
