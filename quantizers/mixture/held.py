"""Weights that stay in their components: what is learned of them is where the components' means lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantizers.mixture.regions import place_between


class _Held(torch.autograd.Function):
    """Each weight's mean. All else that could have learned gets zeros: to have no gradient at all would mean, to workers that
    train together, that one of them is still to come."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, component: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(component)
        ctx.count, ctx.others = len(mean), others
        return mean.index_select(0, component.flatten()).view(component.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (component,) = ctx.saved_tensors
        sums = gradient.new_zeros(ctx.count).index_add_(0, component.flatten(), gradient.flatten())
        return sums, None, *(torch.zeros_like(other) for other in ctx.others)


def held_weight(mean: Tensor, component: Tensor, *others: Tensor) -> Tensor:
    """The weights of components that are fixed: no table, no assignment.

    Args:
        mean: [K], differentiable.
        component: of each weight, int64 or int32, the weight's shape.
        others: parameters that rest meanwhile; their gradients are zero.
    """
    weight: Tensor = _Held.apply(mean, component, *others)
    return weight


def component_of(weight: Tensor, anchor: Tensor) -> Tensor:
    """Which of ``anchor`` [K] (any order) each weight lies at, int64; the nearest, where it lies at none."""
    sorted_anchor, order = anchor.sort()
    between = (sorted_anchor[1:] + sorted_anchor[:-1]) / 2
    return order.index_select(0, place_between(weight, between).flatten()).view(weight.shape)
