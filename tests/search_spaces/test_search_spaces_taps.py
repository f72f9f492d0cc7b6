"""Shapes of windows: which there are, what they do to weights, that programs are the faster for them and that costs know."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.costs.choose import cheapest, costs_of, models_of
from deploy_arm.costs.model import Work
from foundation.codebook import Codebook
from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from quantizers.network import harden, quantize, set_progress
from search_spaces.dimensions import asked
from search_spaces.dimensions.taps import SHAPES, Taps, mask_of
from search_spaces.space import Space

LAYERS = (
    Layer("stem", "convolution", (16, 3, 3, 3)),
    Layer("wide", "convolution", (16, 16, 3, 3)),
    Layer("large", "convolution", (16, 16, 5, 5)),
    Layer("point", "convolution", (16, 16, 1, 1)),
    Layer("flat", "convolution", (16, 16, 1, 3)),
    Layer("each", "depthwise", (16, 1, 3, 3), groups=16),
    Layer("fc", "linear", (16, 16)),
)


def drawn(shape: str, side: int = 3) -> list[str]:
    return ["".join("X" if tap else "." for tap in row) for row in mask_of(shape, side, side)]


def test_shapes_look_as_they_are_called() -> None:
    assert drawn("plus") == [".X.", "XXX", ".X."]
    assert drawn("cross") == ["X.X", ".X.", "X.X"]
    assert drawn("row") == ["...", "XXX", "..."] and drawn("column") == [".X.", ".X.", ".X."]
    assert drawn("corner") == ["XX.", "XX.", "..."] and drawn("010110000") == [".X.", "XX.", "..."]
    assert (
        drawn("plus", 5)[2] == "XXXXX"
        and drawn("cross", 5)[1] == ".X.X."
        and drawn("corner", 5)[4] == "....."
    )
    assert all(np.array_equal(mask_of(shape, 1, 1), [[True]]) for shape in SHAPES)


@pytest.mark.parametrize("value", [*SHAPES, "100000001", 1, 5, 9, 20])
def test_weights_inside_stay_and_the_others_go(value: Any) -> None:
    weight = torch.randn(8, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    shaped = Taps.apply(weight, value)
    there = (shaped != 0).any(0).any(0).numpy()
    if isinstance(value, int):
        sums = weight.square().sum((0, 1)).flatten().tolist()
        wanted = sorted(range(9), key=lambda tap: -sums[tap])[:value]
        assert sorted(np.flatnonzero(there)) == sorted(wanted)
    else:
        assert np.array_equal(there, mask_of(value, 3, 3))
    assert torch.equal(shaped[:, :, there], weight[:, :, there])
    book = Codebook(
        np.full(weight.shape, 2, np.uint8), np.array([-3, 0, 5], np.int8), np.ones(1, np.float32), 2
    )
    made = Taps.synthesize(book, weight.numpy(), value, np.random.default_rng(0))
    assert np.array_equal(made.integers != 0, (shaped != 0).numpy())
    linear = torch.randn(3, 4)
    assert torch.equal(Taps.apply(linear, value), linear)


def test_a_search_has_it_where_it_is_asked_for_and_can_be() -> None:
    assert "taps" not in Space(LAYERS).dimensions
    (own,) = asked(["taps=all,plus,010111010,1111100000111110000011111,12"])
    assert own.values == (None, "plus", "010111010", "1111100000111110000011111", 12)
    space = Space(LAYERS, bits=(2, 8), components={2: (4,)}, zero_share=(None, 0.8), dimensions=[own])
    plans = space.layer_plans()
    found = {name: {plan["taps"] for plan in plans[name]} for name in plans}
    assert found["wide"] == {None, "plus", "010111010"}
    assert found["large"] == {None, "plus", "1111100000111110000011111", 12}
    assert {name for name, values in found.items() if values == {None}} == {*found} - {"wide", "large"}
    assert not any(plan["taps"] and plan.zero_share for plan in plans["wide"])
    assert any(plan.layers["wide"]["taps"] == "plus" for plan in space.warm_starts())


@pytest.mark.parametrize("wrong", ["square", "0", "-3", "000000000", "0101", "01011101", "0.5"])
def test_what_is_no_shape_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=r"give plus, cross, row, column, corner, a mask of a square window"):
        Space(LAYERS, dimensions=asked([f"taps={wrong}"]))


def test_a_mask_of_another_window_is_refused_where_it_is_used() -> None:
    plan = Plan({"0": LayerPlan(4, 16, values={"taps": "1" * 24 + "0"})})
    with pytest.raises(UserError, match="a mask of 25 taps, but the window has 3x3"):
        quantize(nn.Sequential(nn.Conv2d(8, 8, 3)), plan, torch.randn(2, 8, 5, 5))


@pytest.mark.parametrize("value", ["plus", 4])
def test_the_hardened_network_has_what_the_plan_says(value: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    images = torch.randn(4, 3, 9, 9)
    plan = Plan({"0": LayerPlan(8), "2": LayerPlan(2, 4, values={"taps": value})})
    made = quantize(model, plan, images)
    for step in range(3):
        set_progress(made, step / 2)
        made.train()
        made(images).square().sum().backward()
    hard = harden(made)
    assert (hard.codebooks["2"].integers != 0).any((0, 1)).sum() == (5 if value == "plus" else 4)
    with torch.no_grad():
        assert torch.equal(made.eval()(images), hard.network(images))


@pytest.mark.parametrize(("core", "most"), [("a76", 0.65), ("x2", 0.65)])
@pytest.mark.parametrize(("channels", "size"), [(64, 56), (256, 14)])
def test_a_plus_costs_what_its_taps_cost(core: str, most: float, channels: int, size: int) -> None:
    """Two layers of ResNet-18, by the fitted costs."""
    works = []
    for taps in (None, tuple(mask_of("plus", 3, 3).flatten().tolist())):
        image = (size, size, channels)
        products = 9 * channels * channels
        works.append(
            Work(
                image,
                image,
                (3, 3),
                (1, 1),
                (1, 1, 1, 1),
                (1, 1),
                4,
                products,
                16 * channels,
                narrow=True,
                taps=taps,
            )
        )
    models = models_of(core)
    whole, plus = (costs_of(work, models)["dense"] for work in works)
    assert plus <= most * whole
    assert cheapest(dataclasses.replace(works[1], nonzeros=5 * channels * channels), models) == "dense"
