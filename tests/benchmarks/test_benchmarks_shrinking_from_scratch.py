"""Sparse from random weights: each way comes to its share, by its own rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.shrinking_from_scratch import METHODS, ScratchCell, SparseLoop, measure, smallest
from pipeline.datasets.registry import load_data
from pipeline.training.settings import TrainSettings


def loop_of(layer: nn.Conv2d, method: str, share: float = 0.5, shrink: float = 0.9) -> SparseLoop:
    group = {"params": list(layer.parameters()), "lr": 0.1}
    loop = SparseLoop(
        layer, load_data("digits"), TrainSettings(), (0.0,), (1.0,), [group], device=torch.device("cpu")
    )
    loop.prune([layer], method, share, shrink)
    return loop


@pytest.fixture
def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, bias=False)


def test_the_smallest_are_as_many_as_asked_for_and_below_all_others() -> None:
    weight = torch.randn(5, 3, 3, 3)
    for share in (0.0, 0.3, 1.0):
        found = smallest(weight, share)
        assert int(found.sum()) == round(share * weight.numel())
        if 0 < share < 1:
            assert weight[found].abs().max() <= weight[~found].abs().min()


def test_a_step_shrinks_the_smallest_and_no_other(layer: nn.Conv2d) -> None:
    before = layer.weight.detach().clone()
    loop = loop_of(layer, "shrunk")
    loop.before_step(0.1)
    chosen = smallest(before, 0.5)
    torch.testing.assert_close(layer.weight.detach()[chosen], before[chosen] * 0.9)
    torch.testing.assert_close(layer.weight.detach()[~chosen], before[~chosen])


@pytest.mark.parametrize("method", ["hard", "at-start", "dense-first", "shrunk"])
def test_who_may_come_back(layer: nn.Conv2d, method: str) -> None:
    loop = loop_of(layer, method)
    loop.before_step(0.1)
    first = smallest(layer.weight, 0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.where(first, 10.0, layer.weight))  # gradients have made large what was small
    loop.before_step(0.2)
    again = bool((layer.weight.detach()[first] == 10.0).all())
    assert again == (method != "at-start")
    loop.before_step(0.7)
    settled = layer.weight.detach() == 0
    with torch.no_grad():
        layer.weight.add_(1.0)
    loop.before_step(0.9)
    assert (
        torch.equal(layer.weight.detach() == 0, settled) and int(settled.sum()) == layer.weight.numel() // 2
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_run_ends_with_its_share(method: str) -> None:
    cell = ScratchCell("vgg_tiny", method, 0.0 if method == "dense" else 0.8, 0.99, 0.2, 0.05, 0)
    row: dict[str, Any] = measure(cell, load_data("digits"))
    assert (
        row["zeros"] == pytest.approx(cell.zero_share, abs=0.01)
        and 0 <= row["error"] < 1
        and row["steps"] > 0
    )
