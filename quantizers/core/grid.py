"""The values that a layer's weights may take, as a plain list of levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightGrid:
    """Levels times the scale of an output channel.

    Attributes:
        levels: ascending, float64 [L].
        scale: of each output channel, float64 [G, O].
        free: what may be refitted: every level but zero, at any time or ``at last``, when it is settled which weight takes which;
            one scale for the layer, a scale for each output channel, or nothing.
        zero: the index of the level 0; -1 where there is none.
    """

    levels: Tensor
    scale: Tensor
    free: Literal["levels", "at last", "scale", "rows", "nothing"]
    zero: int = -1

    @classmethod
    def even(cls, levels: Tensor, step: Tensor, channels: int) -> WeightGrid:
        """Whole numbers ``levels`` times one step for the layer."""
        scale = step.double().to(levels.device).reshape(1, 1).expand(1, channels)
        places = (levels == 0).nonzero().flatten().tolist()
        return cls(levels, scale, "scale", zero=places[0] if places else -1)

    def values(self, owner: Tensor) -> Tensor:
        """The weights [G, O, n] of these levels' indices."""
        return self.levels[owner] * self.scale[:, :, None]

    def nearest(self, values: Tensor) -> Tensor:
        """The index of the nearest level for each of [G, O, n]."""
        return torch.bucketize((values / self.scale[:, :, None]).contiguous(), self.between)

    def nearest_other(self, values: Tensor) -> Tensor:
        """The index of the nearest level that is not zero."""
        place = torch.bucketize((values / self.scale[:, :, None]).contiguous(), self.between_others)
        return self.others[place]

    def sorted(self) -> tuple[WeightGrid, Tensor]:
        """The same with its levels in order, and the new index of each of the old levels."""
        levels, order = self.levels.sort()
        place = order.argsort()
        zero = int(place[self.zero]) if self.zero >= 0 else -1
        return replace(self, levels=levels, zero=zero), place

    @cached_property
    def between(self) -> Tensor:
        """Half way between neighbours, [L - 1]."""
        return (self.levels[1:] + self.levels[:-1]) / 2

    @cached_property
    def others(self) -> Tensor:
        """The indices of the levels that are not zero, ascending."""
        places = torch.arange(len(self.levels), device=self.levels.device)
        return places[places != self.zero]

    @cached_property
    def between_others(self) -> Tensor:
        """Half way between those."""
        others = self.levels[self.others]
        return (others[1:] + others[:-1]) / 2
