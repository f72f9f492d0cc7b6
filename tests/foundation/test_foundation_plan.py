"""Plans are open records: what a dimension puts there stays, absent values stay absent, and names of old plans hold."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from quantizers.registry import QUANTIZERS

RECORDED = json.loads((Path(__file__).parent / "recorded_plans.json").read_text())


@pytest.mark.parametrize("row", RECORDED, ids=[row["hash"] for row in RECORDED])
def test_recorded_plans_keep_their_text_and_their_name(row: dict[str, object]) -> None:
    """Studies know plans by these names: every quantizer, width, number of components, share, schedule and activation width, and
    shapes of windows."""
    plan = Plan.from_json(json.dumps(row["given"]))
    assert (plan.to_json(), plan.hash) == (row["canonical"], row["hash"])
    assert pickle.loads(pickle.dumps(plan)) == plan == Plan.from_json(plan.to_json())


def test_each_quantizer_of_the_project_has_a_recorded_plan() -> None:
    """Before a study knows plans by names of it."""
    known = {row["given"].get("quantizer") for row in RECORDED}
    for name in sorted(set(QUANTIZERS) - known):
        plan = Plan.uniform(["fc"], LayerPlan(min(QUANTIZERS[name].widths)), quantizer=name)
        row = {"hash": plan.hash, "given": json.loads(plan.to_json()), "canonical": plan.to_json()}
        pytest.fail(f"{name} has no recorded plan; add to recorded_plans.json: {json.dumps(row)}")


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "this is not a plan"),
        ("[]", "this is not a plan"),
        ('{"layers": 3}', "this is not a plan"),
        ('{"layers": {"a": 8}}', "this is not a plan"),
        ('{"layers": {"a": {"bits": 8}}, "bits": 4}', "bits 4: each layer has its own"),
        (
            '{"layers": {"a": {"bits": 8, "activation_bits": 8}}}',
            "layer 'a': activation_bits 8: the network has one",
        ),
        (
            '{"layers": {}, "temperature": {"shape": "steep"}}',
            "temperature shape 'steep': allowed are constant",
        ),
        ('{"layers": {}, "temperature": {"start": 0}}', "both must be above 0"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(given: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        Plan.from_json(given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", ["constant", "exponential", "cosine"])
def test_a_temperature_goes_from_its_start_to_its_end(shape: str) -> None:
    schedule = TemperatureSchedule(2.0, 2.0 if shape == "constant" else 0.5, shape)
    reached = [schedule.at(progress) for progress in (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0)]
    assert reached == sorted(reached, reverse=True)
    assert reached[:2] == [2.0, 2.0] and reached[-2:] == pytest.approx([schedule.end] * 2)
    middle = {"constant": 2.0, "exponential": 1.0, "cosine": 1.25}[shape]
    assert schedule.at(0.5) == pytest.approx(middle)


def test_equal_plans_are_one_key() -> None:
    layers = {"a": LayerPlan(8), "b": LayerPlan(4, 9)}
    assert len({Plan(layers), Plan(dict(reversed(layers.items())))}) == 1
    assert len({LayerPlan(4, 9), LayerPlan(4, 9), LayerPlan(8)}) == 2
    assert Plan.uniform(["b", "a"], LayerPlan(8)) == Plan.uniform("ab", LayerPlan(8))


def test_what_a_plan_cannot_say_of_its_network_says_why(tmp_path: Path) -> None:
    """A file beside the dimensions that offers one of their names takes it from everybody."""
    (tmp_path / "copied.py").write_text("ENTRIES = ('activation_bits',)\nactivation_bits = object\n")
    code = (
        "import sys, search_spaces.dimensions\nsearch_spaces.dimensions.__path__.append(sys.argv[1])\n"
        "from foundation.errors import UserError\nfrom foundation.plan import Plan\n"
        "try:\n    print(Plan({}).activation_bits)\nexcept UserError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "dimension 'activation_bits' is offered by both" in run.stdout, run.stderr
