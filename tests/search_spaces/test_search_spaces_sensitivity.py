"""What is known of plans before training: a sum over layers, kept as JSON."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.sensitivity import Harm, Sensitivity
from search_spaces.space import Space

EIGHT, FOUR, TWO = LayerPlan(8), LayerPlan(4, 16), LayerPlan(2, 4)
MANY = LayerPlan(2, 4, zero_share=0.9)
FOUND = Sensitivity(
    {
        "a": {EIGHT: Harm(0.001, 0.0), TWO: Harm(0.2, 0.1), MANY: Harm(0.0, 1.0)},
        "b": {EIGHT: Harm(0.0, 0.0), FOUR: Harm(0.01, 0.0), TWO: Harm(0.02, 0.2)},
    },
    images=7,
)


def test_a_plan_is_the_sum_of_its_layers_and_zeros_weigh_more() -> None:
    assert FOUND(Plan({"a": TWO, "b": FOUR})) == pytest.approx(0.2 + 3 * 0.1 + 0.01)
    assert FOUND(Plan({"a": MANY, "b": EIGHT})) == pytest.approx(3.0)
    assert math.isnan(FOUND(Plan({"a": FOUR, "b": EIGHT}))) and math.isnan(FOUND(Plan({"c": EIGHT})))


def test_of_each_width_the_gentlest() -> None:
    assert FOUND.gentlest("a") == {8: EIGHT, 2: TWO}
    assert list(FOUND.gentlest("b")) == [8, 4, 2]


@given(st.floats(0, 1e6), st.floats(0, 1e-6), st.integers(0, 500))
def test_it_is_kept_exactly(quantization: float, pruning: float, images: int) -> None:
    found = Sensitivity({"a": {MANY: Harm(quantization, pruning, 0.9, 0.5)}}, images=images)
    assert Sensitivity.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layers": {"a": [{"plan": {"bits": 5}}]}}', "\x00"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Sensitivity.from_json(text)


def test_every_plan_of_every_layer_is_a_choice() -> None:
    space = Space(("a", "b"), bits=(2, 8), zero_share=(None, 0.5))
    plans = space.layer_plans()
    assert list(plans) == ["a", "b"] and len(plans["a"]) == 1 + 2 * 2 + 2 and plans["a"] is plans["b"]
    drawn = {space.plan_at(index).layers["a"] for index in range(space.size())}
    assert drawn == set(plans["a"])
