"""Which level each weight of a layer takes, solved from the layer's own inputs instead of learned step by step.

With inputs x the output of a layer changes by (T - Q) x when its weights become Q instead of T, so that for one output channel
the squared error is ``(t - q) H (t - q)`` with the second moments ``H = mean(x x^T)`` of what it sees. That is minimised over
levels and over which weight takes which, in turns:

1. Column by column each weight takes its nearest level, and the columns to come make up for the error (OBQ: Frantar and
   Alistarh, NeurIPS 2022; GPTQ: Frantar et al., ICLR 2023).
2. The levels that are free follow by least squares, over all output channels together.
3. Coordinate descent: each weight takes the level that is best while all others stay. The error never rises.

What comes out depends on where the levels start, and those that are nearest to the weights lie too close together: a weight that
makes up for others wants to be larger than it was. So the turns are taken again from wider levels, as long as that is better.

A share of zeros is reached by a price on every weight that is not zero, the same in the whole layer (as in rate-distortion
optimisation), so zeros fall where the output feels them least and the other weights make up for them.

Everything has a leading dimension for the groups of a convolution: G groups of O output channels with K weights each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantizers.calibration.columns import ColumnGrid, by_column, host
from quantizers.core.grid import WeightGrid

BLOCK = 32  # columns between two updates of all columns to come
WIDER = (1.25, 1.5)  # times as far from zero as they are given levels start too, where they are free
STEPS = 6  # at most, of refitting levels; they are refitted again in every turn
LEAST = 1e-12


@dataclass(frozen=True)
class Problem:
    """What a layer wants of its weights.

    Attributes:
        target: the weights that would give the wanted output from the inputs at hand, [G, O, K].
        moments: second moments of the inputs, symmetric and positive definite, [G, K, K].
        importance: of each output channel's squared error, [G, O].
        pinned: which weights must be zero, bool [G, O, K]; None where none must.
    """

    target: Tensor
    moments: Tensor
    importance: Tensor
    pinned: Tensor | None = None

    @classmethod
    def of(
        cls, weight: Tensor, seen: Tensor, meant: Tensor, importance: Tensor, damping: float = 0.01
    ) -> Problem:
        """The weights that come nearest, from the inputs ``seen``, to what ``weight`` gives from the inputs ``meant``.

        Args:
            weight: [G, O, K].
            seen: inputs as the quantized network gives them, [G, P, K].
            meant: the same places in the fp32 network, [G, P, K].
            importance: [G, O].
            damping: of the least squares, as a share of the mean second moment; it holds the target near ``weight``.
        """
        count = max(seen.shape[1], 1)
        moments = (seen.mT @ seen / count).double()
        crossed = (meant.mT @ seen / count).double()
        size = moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=LEAST)
        ridge = (damping * size)[:, None, None] * torch.eye(
            moments.shape[1], dtype=moments.dtype, device=moments.device
        )
        moments = moments + ridge
        wanted = weight.double() @ (crossed + ridge)
        target = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(moments)).mT
        return cls(target, moments, importance.double())

    def aimed(self, seen: Tensor, outputs: Tensor, weight: Tensor, damping: float = 0.01) -> Problem:
        """The same with the weights for its target that come nearest to other ``outputs`` [G, P, O] from the inputs ``seen``
        [G, P, K]; ``weight`` and ``damping`` as in ``of``, whose the moments are."""
        size = self.moments.diagonal(dim1=1, dim2=2).mean(1) * (damping / (1 + damping))
        wanted = (outputs.mT @ seen / max(seen.shape[1], 1)).double() + size[:, None, None] * weight.double()
        target = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(self.moments)).mT
        return replace(self, target=target)

    def error(self, values: Tensor) -> Tensor:
        """The layer's squared error with these weights [G, O, K], a number."""
        off = self.target - values
        return (((off @ self.moments) * off).sum(2) * self.importance).sum()


def solve(
    problem: Problem,
    grid: WeightGrid,
    zero_share: float | None = None,
    rounds: int = 6,
    passes: int = 2,
    pinned: Tensor | None = None,
    start: Tensor | None = None,
) -> tuple[WeightGrid, Tensor]:
    """The grid, refitted, and the index of its level for each weight, int64 [G, O, K].

    Args:
        zero_share: share of zeros to be reached exactly; None takes what comes.
        rounds: turns of refitting levels and descending.
        passes: over all weights in a turn.
        pinned: which weights are zero whatever that costs, bool [G, O, K]; they count as zeros of the share.
        start: the indices to start from; None begins anew.
    """
    if pinned is not None and bool(pinned.any()):
        problem = replace(problem, pinned=pinned)
    if start is not None:
        return _in_turns(problem, grid, start, zero_share, rounds, passes)
    found: tuple[WeightGrid, Tensor] | None = None
    least = math.inf
    for factor in (1.0, *(WIDER if grid.free in ("levels", "scale", "rows") else ())):
        wider = replace(grid, scale=grid.scale * factor)
        if grid.free == "levels":
            wider = replace(grid, levels=grid.levels * factor)
        begun = _start(problem, wider, zero_share)
        each = _in_turns(problem, wider, begun, zero_share, rounds, passes)
        error = float(problem.error(each[0].values(each[1])))
        if found is not None and not error < least:
            break
        found, least = each, error
    assert found is not None
    return found


def _in_turns(
    problem: Problem, grid: WeightGrid, owner: Tensor, zero_share: float | None, rounds: int, passes: int
) -> tuple[WeightGrid, Tensor]:
    """Steps 2 and 3 in turns from ``owner`` on, and the share of zeros at last."""
    for _ in range(rounds):
        grid, owner = _refitted(problem, grid, owner)
        before = owner
        for _ in range(passes):
            owner = descend(problem, grid, owner, _price(problem, grid, zero_share, owner))
        if torch.equal(before, owner):
            break
    if zero_share is not None:
        zeros = _exactly(problem, grid, owner, zero_share)
        owner = descend(problem, grid, owner, zeros=zeros)
        grid, owner = _refitted(problem, grid, owner)
    if grid.free == "at last":
        return _refit_levels(problem, grid, owner)
    return grid, owner


def _start(problem: Problem, grid: WeightGrid, zero_share: float | None) -> Tensor:
    """The better one of step 1 and of nearest levels."""
    price = _price(problem, grid, zero_share)
    nearest = _choose(problem, grid, problem.target, _diagonal(problem)[:, None, :], price)
    starts = compensated(problem, grid, price), _pinned(problem, grid, nearest)
    return min(starts, key=lambda start: float(problem.error(grid.values(start))))


def compensated(problem: Problem, grid: WeightGrid, price: Tensor | None = None) -> Tensor:
    """The level of each weight [G, O, K] by step 1; columns with large moments first."""
    order = _diagonal(problem).argsort(1, descending=True)
    groups = torch.arange(len(order), device=order.device)[:, None]
    moments = problem.moments[groups[:, :, None], order[:, :, None], order[:, None, :]]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    root = torch.linalg.cholesky(inverse, upper=True)
    ordered = order[:, None, :].expand_as(problem.target)
    left = problem.target.gather(2, ordered).contiguous()
    pinned = None if problem.pinned is None else problem.pinned.gather(2, ordered)
    levels = ColumnGrid.of(grid, problem.importance, price)
    owner = np.empty((left.shape[2], *left.shape[:2]), dtype=np.int64)
    for start in range(0, len(owner), BLOCK):
        end = min(start + BLOCK, len(owner))
        values, roots = by_column(left[:, :, start:end]), by_column(root[:, start:end, start:end])
        missed = np.zeros_like(values)
        for place, value in enumerate(values):
            pivot = roots[place, :, place, None]
            chosen = levels.choose(value, 1 / np.square(pivot))
            if pinned is not None:
                chosen = np.where(host(pinned[:, :, start + place]), levels.zero, chosen)
            owner[start + place] = chosen
            missed[place] = (value - levels.values(chosen)) / pivot
            values[place + 1 :] -= missed[place] * roots[place + 1 :, :, place, None]
        left[:, :, end:] -= _tensor(missed, left) @ root[:, start:end, end:]
    back = order.argsort(1)
    return _tensor(owner, back).gather(2, back[:, None, :].expand_as(ordered))


def descend(
    problem: Problem,
    grid: WeightGrid,
    owner: Tensor,
    price: Tensor | None = None,
    zeros: Tensor | None = None,
) -> Tensor:
    """One pass of step 3. With ``zeros`` (bool [G, O, K]) just these weights are zero."""
    levels, values = ColumnGrid.of(grid, problem.importance, price), grid.values(owner)
    pull = (problem.target - values) @ problem.moments
    size = host(_diagonal(problem).clamp(min=LEAST)).T[:, :, None]
    taken, weights = by_column(owner), by_column(values)
    wanted = None if zeros is None else by_column(zeros)
    pinned = None if problem.pinned is None else by_column(problem.pinned)
    for start in range(0, len(taken), BLOCK):
        end = min(start + BLOCK, len(taken))
        near, moments = by_column(pull[:, :, start:end]), by_column(problem.moments[:, start:end, start:end])
        moved = np.zeros_like(near)
        for place, column in enumerate(range(start, end)):
            best = weights[column] + near[place] / size[column]
            if wanted is None:
                chosen = levels.choose(best, size[column])
            else:
                chosen = np.where(wanted[column], levels.zero, levels.nearest_other(best))
            if pinned is not None:
                chosen = np.where(pinned[column], levels.zero, chosen)
            step = levels.values(chosen) - weights[column]
            if not step.any():
                continue
            near[place + 1 :] -= step * moments[place + 1 :, :, place, None]
            moved[place], taken[column] = step, chosen
        # Columns behind the block follow at once; those before it are not looked at again.
        pull[:, :, end:] -= _tensor(moved, pull) @ problem.moments[:, start:end, end:]
    return _tensor(taken, owner)


def _tensor(columns: NDArray[Any], like: Tensor) -> Tensor:
    """Columns [n, G, O] as [G, O, n], where ``like`` is."""
    return torch.from_numpy(columns).to(like.device).permute(1, 2, 0).contiguous()


def _choose(problem: Problem, grid: WeightGrid, best: Tensor, size: Tensor, price: Tensor | None) -> Tensor:
    """The level for weights that would best be ``best`` [G, O, n]; being off costs the square times ``size`` [G, 1, n]."""
    if price is None:
        return grid.nearest(best)
    gain, other = _gain(problem, grid, best, size)
    return torch.where(gain < price, grid.zero, other)


def _pinned(problem: Problem, grid: WeightGrid, owner: Tensor) -> Tensor:
    """The owners [G, O, K], zero where weights are pinned."""
    return owner if problem.pinned is None else torch.where(problem.pinned, grid.zero, owner)


def _gain(problem: Problem, grid: WeightGrid, best: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """How much less a weight costs at the nearest level other than zero than at zero, and that level."""
    other = grid.nearest_other(best)
    off = (best - grid.values(other)).square()
    return (best.square() - off) * size * problem.importance[:, :, None], other


def _gain_of_all(problem: Problem, grid: WeightGrid, best: Tensor) -> Tensor:
    """``_gain`` of all weights [G, O, K]; what is pinned has least to gain."""
    gain = _gain(problem, grid, best, _diagonal(problem)[:, None, :])[0]
    return gain if problem.pinned is None else gain.masked_fill(problem.pinned, -torch.inf)


def _price(
    problem: Problem, grid: WeightGrid, zero_share: float | None, owner: Tensor | None = None
) -> Tensor | None:
    """The price of not being zero at which the wanted share of weights would rather be zero, as things stand with ``owner``; None
    where no share is wanted."""
    if zero_share is None:
        return None
    best = problem.target if owner is None else _best(problem, grid, owner)
    gain = _gain_of_all(problem, grid, best).flatten()
    return gain.kthvalue(min(round(zero_share * gain.numel()) + 1, gain.numel())).values


def _best(problem: Problem, grid: WeightGrid, owner: Tensor) -> Tensor:
    """What each weight would best be while all others stay."""
    values = grid.values(owner)
    pull = (problem.target - values) @ problem.moments
    return values + pull / _diagonal(problem).clamp(min=LEAST)[:, None, :]


def _exactly(problem: Problem, grid: WeightGrid, owner: Tensor, zero_share: float) -> Tensor:
    """Which weights are to be zero: as many as wanted, those that gain least by being something else."""
    gain = _gain_of_all(problem, grid, _best(problem, grid, owner))
    zeros = torch.zeros(gain.numel(), dtype=torch.bool, device=gain.device)
    zeros[gain.flatten().argsort(stable=True)[: round(zero_share * gain.numel())]] = True
    return zeros.view_as(gain)


def _refitted(problem: Problem, grid: WeightGrid, owner: Tensor) -> tuple[WeightGrid, Tensor]:
    """Step 2, and the owners in the order of the new levels; a solution that is not finite changes nothing."""
    if grid.free in ("nothing", "at last"):
        return grid, owner
    if grid.free == "levels":
        return _refit_levels(problem, grid, owner)
    values = grid.values(owner)
    along = values @ problem.moments
    wanted = (along * problem.target).sum(2) * problem.importance
    have = (along * values).sum(2) * problem.importance
    if grid.free == "scale":
        wanted, have = wanted.sum().expand_as(wanted), have.sum().expand_as(have)
    factor = torch.where(have > 0, wanted / have.clamp(min=LEAST), 1.0)
    factor = torch.where(factor > 0, factor, 1.0)
    return replace(grid, scale=grid.scale * factor), owner


def _refit_levels(problem: Problem, grid: WeightGrid, owner: Tensor) -> tuple[WeightGrid, Tensor]:
    """The levels but zero by conjugate gradients, whose every step lowers the error: the matrix of the least squares would take
    a product with the moments for each level, a step takes one."""
    count = len(grid.levels)
    weight = problem.importance[:, :, None].expand_as(problem.target)

    def by_level(values: Tensor) -> Tensor:
        found = torch.zeros(count, dtype=values.dtype, device=values.device)
        found.index_add_(0, owner.flatten(), (values * weight).flatten())
        found[grid.zero] *= float(grid.zero < 0)  # zero stays zero
        return found

    own = by_level(
        _diagonal(problem)[:, None, :].expand_as(problem.target)
    )  # the matrix, if nothing were correlated
    held = own > 0
    levels = grid.levels.clone()
    left = by_level((problem.target - levels[owner]) @ problem.moments)
    eased = torch.where(held, left / own.clamp(min=LEAST), 0.0)
    along, size = eased, left @ eased
    for _ in range(min(int(held.sum()), STEPS)):
        if not bool(size > 0):
            break
        bent = by_level(along[owner] @ problem.moments)
        step = size / (along @ bent)
        levels, left = levels + step * along, left - step * bent
        eased = torch.where(held, left / own.clamp(min=LEAST), 0.0)
        before, size = size, left @ eased
        along = eased + size / before * along
    if not bool(torch.isfinite(levels).all()):
        return grid, owner
    refitted, new_place = replace(grid, levels=levels).sorted()
    return refitted, new_place[owner]


def _diagonal(problem: Problem) -> Tensor:
    return problem.moments.diagonal(dim1=1, dim2=2)
