"""Real values as int8 levels times one scale, with the least squared error over the weights that take them."""

from __future__ import annotations

import torch
from torch import Tensor

HIGH = 127
# Shares of the largest magnitude that are tried as a grid's end; the small ones for one weight far from all others.
CLIPS = torch.cat([torch.logspace(-3.0, -0.53, 60), torch.linspace(0.3, 1.0, 71)])


def best_step(weight: Tensor, low: int, high: int) -> float:
    """The step whose grid ``step * (low .. high)`` has the least squared error; 1 for zeros."""
    values = weight.detach().double().flatten()
    if not float(values.abs().max()) > 0:
        return 1.0
    steps = CLIPS.double() * float(values.abs().max()) / (high + 0.5)
    errors = [((values / step).round().clamp(low, high) * step - values).square().sum() for step in steps]
    return float(steps[torch.stack(errors).argmin()])


@torch.no_grad()
def integer_levels(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """int8 level of each value (as int64 [K]) and their scale (float32 []).

    Tried are all scales at which some value lies on a level exactly; levels are the nearest ones, and what lies beyond the
    last is cut. So one weight far from all others costs what it is worth: it is cut, or the others become coarse or zero,
    whatever errs least. Whichever it is, no value ends farther from its level than from 0.

    Args:
        values: real values [K].
        counts: how many weights take each value [K].
    """
    exact, counts = values.double(), counts.double()
    held = exact[counts > 0]
    anchors = (held if len(held) else exact).abs().unique()
    steps = torch.arange(HIGH, 0, -1, dtype=torch.float64, device=values.device)
    # The smallest positive float32 with all its digits: below it products of levels and scale are no longer exact.
    smallest = torch.finfo(torch.float32).tiny
    scales = (anchors[:, None] / steps).flatten().clamp(min=smallest).float().double()
    levels = (exact / scales[:, None]).round().clamp(-HIGH, HIGH)
    error = ((levels * scales[:, None] - exact).square() * counts).sum(1)
    best = error.argmin()
    return levels[best].long(), scales[best].float()
