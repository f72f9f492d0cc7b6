"""Plans are open records: what a dimension puts there stays, absent values stay absent, and names of old plans hold."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule

RECORDED = json.loads((Path(__file__).parent / "recorded_plans.json").read_text())


@pytest.mark.parametrize("row", RECORDED, ids=[row["hash"] for row in RECORDED])
def test_recorded_plans_keep_their_text_and_their_name(row: dict[str, object]) -> None:
    """Studies know plans by these names: every quantizer, width, number of components, share, schedule and activation width."""
    plan = Plan.from_json(json.dumps(row["given"]))
    assert (plan.to_json(), plan.hash) == (row["canonical"], row["hash"])
    assert pickle.loads(pickle.dumps(plan)) == plan == Plan.from_json(plan.to_json())


def test_values_are_asked_for_by_name_and_replaced_by_name() -> None:
    layer = LayerPlan(4, 16, zero_share=0.5)
    assert (layer.bits, layer.components, layer["zero_share"], layer.zero_share) == (4, 16, 0.5, 0.5)
    assert layer.replace(bits=8, values={}) == LayerPlan(8) != layer
    assert layer.replace(zero_share=None) == LayerPlan(4, 16) and LayerPlan(4, 16)["zero_share"] is None
    plan = Plan({"a": layer}, temperature=TemperatureSchedule(1.0, 0.1, "cosine"))
    assert plan.replace(activation_bits=7).temperature == plan.temperature
    assert plan.replace(layers={"a": LayerPlan(8)}).temperature == plan["temperature"] == plan.temperature
    with pytest.raises(UserError, match=r"unknown dimension 'zero_shear'.* Did you mean 'zero_share'"):
        layer["zero_shear"]
    with pytest.raises(UserError, match="layer 'a': a layer without bits: give one of 2, 3, 4, 8"):
        Plan.from_json('{"layers":{"a":{"components":4}}}')
