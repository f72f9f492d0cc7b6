"""What one search learned holds for another network: layers matched by kind and depth, plans, harms and the rule moved over."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan
from pipeline.networks.registry import load_model
from search_spaces.error_model import ErrorModel
from search_spaces.layers import layers_of
from search_spaces.sensitivity import Harm, Sensitivity
from search_spaces.space import Space, nearest_choice
from search_spaces.transfer import Learned, kind_of, matched, moved, moved_sensitivity, usable


def network(name: str) -> tuple[tuple[Layer, ...], tuple[tuple[str, str], ...]]:
    layers = tuple(layers_of(load_model(name, classes=10, image_size=(8, 8)), (3, 8, 8)))
    return layers, tuple((layer.name, kind_of(layer)) for layer in layers)


SHORT, LONG = network("resnet8"), network("resnet20")


def test_layers_match_by_kind_then_depth() -> None:
    found = matched(SHORT[1], LONG[0])
    assert found["conv1"] == "conv1" and found["linear"] == "linear"
    assert found.keys() == {layer.name for layer in LONG[0]}
    places = [[name for name, _ in SHORT[1]].index(found[layer.name]) for layer in LONG[0]]
    assert places == sorted(places), "deeper layers match deeper ones"
    assert matched(SHORT[1], SHORT[0]) == {layer.name: layer.name for layer in SHORT[0]}
    # A depthwise layer is like depthwise ones however far they are; where there is none, like what is nearest.
    theirs = (
        ("a", "convolution 3 x 3"),
        ("b", "depthwise 3 x 3"),
        ("c", "convolution 3 x 3"),
        ("d", "linear"),
    )
    deep = [
        Layer("x", "convolution", (8, 8, 3, 3)),
        Layer("y", "linear", (4, 8)),
        Layer("z", "depthwise", (8, 1, 3, 3)),
    ]
    assert matched(theirs, deep) == {"x": "a", "y": "d", "z": "b"}
    assert matched(theirs[:1], deep) == dict.fromkeys("xyz", "a")


def test_a_plan_moves_over_and_is_of_the_other_space() -> None:
    short, long = Space(SHORT[0]), Space(LONG[0], bits=(2, 4, 8))
    match, rng = matched(SHORT[1], LONG[0]), random.Random(0)
    for _ in range(20):
        plan = short.random(rng)
        found = moved(plan, match, long)
        assert found is not None
        long.params(found)  # refuses what is none of its plans
        for name, layer in found.layers.items():
            wanted = plan.layers[match[name]]
            assert layer == wanted if wanted.bits != 3 else layer.bits in (2, 4, 8)
    uniform = short.warm_starts()[0]
    back = moved(uniform, match, long)
    assert back is not None and set(back.layers.values()) == {LayerPlan(8)}
    assert moved(uniform.replace(quantizer="learned_step"), match, long) is None
    assert moved(uniform, {"conv1": "elsewhere"}, long) is None
    assert nearest_choice(LayerPlan(3, 7), [LayerPlan(8), LayerPlan(2, 4), LayerPlan(3, 8)]) == LayerPlan(
        3, 8
    )


def test_harms_move_over_by_what_is_nearest() -> None:
    short, long = Space(SHORT[0]), Space(LONG[0])
    harms = {
        name: {plan: Harm(place + 2.0**-plan.bits, 0.0) for plan in plans}
        for place, (name, plans) in enumerate(short.layer_plans().items())
    }
    match = matched(SHORT[1], LONG[0])
    found = moved_sensitivity(Sensitivity(harms, images=50), match, long)
    assert found.images == 50
    for name, plans in long.layer_plans().items():
        assert {plan: found.harms[name][plan] for plan in plans} == {
            plan: harms[match[name]][plan] for plan in plans
        }
    with pytest.raises(UserError, match="knows nothing of its layer linear"):
        moved_sensitivity(Sensitivity({k: v for k, v in harms.items() if k != "linear"}), match, long)


def test_a_search_that_begins_with_a_rule_foresees_better_than_one_without() -> None:
    rng = np.random.default_rng(0)

    def trials(count: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
        harms = rng.exponential(1.0, (count, 4))
        z = harms @ np.array([3.0, 0.4, 1.0, 0.3])
        return harms, 0.05 + 0.95 * (1 - np.exp(-scale * z**0.7))

    before = ErrorModel.fit(*trials(40, 0.02), np.full(40, 2000.0), 0.05)
    seen, new = trials(3, 0.025), trials(200, 0.025)
    images = np.full(3, 2000.0)
    with_rule = ErrorModel.fit(*seen, images, 0.05, before).predict(new[0])
    without = ErrorModel.fit(*seen, images, 0.05).predict(new[0])
    off = [np.abs(found - new[1]).mean() for found, _ in (with_rule, without)]
    assert off[0] < 0.7 * off[1]
    assert (np.abs(with_rule[0] - new[1]) < 2 * with_rule[1]).mean() > 0.9
    # And it unlearns what does not hold here.
    many = trials(300, 0.1)
    found = ErrorModel.fit(*many, np.full(300, 2000.0), 0.05, before).predict(new[0])[0]
    other = 0.05 + 0.95 * (1 - np.exp(-0.1 * (new[0] @ np.array([3.0, 0.4, 1.0, 0.3])) ** 0.7))
    assert np.abs(found - other).mean() < 0.1 * np.abs(new[1] - other).mean()


def test_what_was_learned_is_kept_as_text() -> None:
    space = Space(SHORT[0])
    model = ErrorModel(0.1, np.arange(4.0), np.eye(4))
    learned = Learned(SHORT[1], model, {"latency": (0.05, 1.02)}, tuple(space.warm_starts()[:2]))
    found = Learned.from_json(learned.to_json())
    assert (found.layers, found.costs, found.plans) == (learned.layers, learned.costs, learned.plans)
    assert found.errors is not None and usable(found.errors)
    assert found.errors.mean.tolist() == model.mean.tolist() and found.errors.floor == 0.1
    nothing = Learned.from_json(Learned(SHORT[1]).to_json())
    assert nothing.errors is None and nothing.costs is None and not usable(nothing.errors)
    record = json.loads(learned.to_json())
    for damage in ("", "[]", json.dumps({**record, "format": 9}), json.dumps({**record, "layers": 3})):
        with pytest.raises(UserError, match="this is not what a search has learned"):
            Learned.from_json(damage)


@pytest.mark.parametrize(
    "model",
    [
        ErrorModel(float("nan"), np.zeros(3), np.eye(3)),
        ErrorModel(0.1, np.array([0.0, np.inf, 0.0]), np.eye(3)),
        ErrorModel(0.1, np.zeros(3), np.eye(2)),
        ErrorModel(0.1, np.zeros(2), np.array([[1.0, np.nan], [0.0, 1.0]])),
        ErrorModel(0.1, np.zeros(2), -np.eye(2)),
    ],
)
def test_a_damaged_rule_is_not_taken_up(model: ErrorModel) -> None:
    assert not usable(model)
