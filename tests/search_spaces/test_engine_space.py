"""Spaces: drawing, its inverse, exact size; and the layers of a model."""

from __future__ import annotations

import random
from itertools import islice

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from search_spaces.dimensions.temperature import Temperature
from search_spaces.layers import layers_of
from search_spaces.parameters import FixedParameters, Grid
from search_spaces.space import Space

LAYERS = ("conv1", "layer1.0.conv", "fc")


def some(values: tuple[object, ...]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True).map(tuple)


spaces = st.builds(
    Space,
    layers=st.sampled_from([LAYERS[:1], LAYERS[:2], LAYERS]),
    bits=some((2, 3, 4, 8)),
    activation_bits=some((8, 7)),
    zero_share=some((None, 0.5, 0.7, 0.9)),
    temperature=some(("constant", "exponential", "cosine")),
)
small = Space(
    ("a", "b"),
    bits=(2, 8),
    zero_share=(None, 0.7),
    components={2: (3, 4)},
    dimensions=[Temperature(("constant", "cosine"), Grid(0.5, 1.0, 0.5), Grid(0.01, 0.03, 0.01))],
)


@given(spaces, st.integers(0, 2**32))
def test_params_is_the_inverse_of_suggest(space: Space, seed: int) -> None:
    plan = space.random(random.Random(seed))
    params = space.params(plan)
    assert space.suggest(FixedParameters(params)) == plan
    assert space.suggest(optuna.trial.FixedTrial(params)) == plan
    assert Plan.from_json(plan.to_json()) == plan


@given(spaces, st.integers(0, 2**32))
@settings(max_examples=25)
def test_conditional_parameters_are_really_conditional(space: Space, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed % 2**31))
    trial = study.ask()
    plan = space.suggest(trial)
    assert space.params(plan) == pytest.approx(trial.params)
    for name, layer in plan.layers.items():
        below = {key for key in trial.params if key.startswith(f"{name}.") and not key.endswith(".bits")}
        expected = set() if layer.bits == 8 else {f"{name}.components.{layer.bits}", f"{name}.zero_share"}
        if layer.components == 2**layer.bits and layer.zero_share is None:
            expected.add(f"{name}.coded_bits.{layer.bits}.{layer.components}")
        assert below == expected
    assert ("temperature.end" in trial.params) == (plan.temperature.shape != "constant")


def test_an_enqueued_plan_comes_back_from_optuna() -> None:
    space, study = Space(LAYERS), optuna.create_study()
    for plan in space.warm_starts():
        study.enqueue_trial(space.params(plan))
    assert [space.suggest(study.ask()) for _ in space.warm_starts()] == space.warm_starts()


def test_size_is_the_number_of_distinct_plans() -> None:
    plans = {small.plan_at(i).hash for i in range(small.size())}
    assert len(plans) == small.size() == (2 * 2 + 1 + 2) ** 2 * (2 + 2 * 3) * 2
    assert {small.random(random.Random(i)).hash for i in range(200)} <= plans
    for index in (-1, small.size()):
        with pytest.raises(IndexError):
            small.plan_at(index)
    layer = 1 + 6 * (2 + 3 + 3) + (2 + 4 + 5)  # of the most components also with indices coded in fewer bits
    assert Space(LAYERS).size() == layer**3 * (4 + 2 * 4 * 4) * 2


@given(st.integers(0, small.size() - 1))
def test_every_plan_of_the_enumeration_can_be_suggested(index: int) -> None:
    plan = small.plan_at(index)
    assert small.suggest(FixedParameters(small.params(plan))) == plan


def test_warm_starts() -> None:
    plans = Space(LAYERS).warm_starts()
    bits = [tuple(plan.layers[name].bits for name in LAYERS) for plan in plans]
    uniform, ends = [(8,) * 3, (4,) * 3, (3,) * 3, (2,) * 3], [(8, 4, 8), (8, 2, 8), (8, 2, 8), (8, 2, 8)]
    assert bits == [*uniform, *ends]
    assert [plan.layers["layer1.0.conv"]["zero_share"] for plan in plans[-3:]] == [None, 0.8, 0.9]
    assert all(p.temperature == TemperatureSchedule() and p.activation_bits == 8 for p in plans)
    assert [set(p.layers.values()) for p in Space(LAYERS, bits=(4,)).warm_starts()] == [{LayerPlan(4, 16)}]
    assert len(Space(("fc",)).warm_starts()) == 4  # without inner layers the others are the same as uniform 8


def test_the_description_of_a_mixtures_space_is_what_it_was() -> None:
    """Studies hold it: with another one they could not be resumed."""
    assert Space(("a", "b")).describe() == {
        "layers": ["a", "b"],
        "bits": [2, 3, 4, 8],
        "activation_bits": [8, 7],
        "zero_shares": [None, 0.5, 0.6, 0.7, 0.8, 0.9],
        "components": {"2": [3, 4], "3": [5, 6, 8], "4": [9, 12, 16]},
        "coded_bits": [None, 1.0, 1.5, 2.0, 2.5, 3.0],
        "coded_bits_of": "the most components",
        "temperature": {"start": [0.25, 1.0, 0.25], "end": [0.05, 0.2, 0.05]},
        "temperature_shapes": ["constant", "exponential", "cosine"],
        "quantizer": "gaussian_mixture",
    }
    assert (
        "coded_bits" not in Space(("a", "b"), coded_bits=(None,)).describe()
    )  # studies from before it was there


@given(spaces)
@settings(max_examples=50)
def test_warm_starts_lie_in_their_space(space: Space) -> None:
    plans = space.warm_starts()
    assert plans and len({p.hash for p in plans}) == len(plans)
    for plan in plans:
        space.params(plan)


def test_what_lies_outside_is_refused() -> None:
    space = Space(LAYERS, bits=(4, 8))
    with pytest.raises(UserError, match=r"conv1\.bits 2"):
        space.params(Plan.uniform(LAYERS, LayerPlan(2, 4)))
    with pytest.raises(UserError, match="other layers"):
        space.params(Plan.uniform(LAYERS[:2], LayerPlan(8)))
    with pytest.raises(UserError, match="between this search's steps"):
        space.params(Plan.uniform(LAYERS, LayerPlan(8), temperature=TemperatureSchedule(1.0, 0.025)))
    with pytest.raises(UserError, match="bits 5"):
        Space(LAYERS, bits=(5,))
    with pytest.raises(UserError, match="no convolution"):
        Space(())
    with pytest.raises(UserError, match="components for 2 bits"):
        Space(LAYERS, components={3: (8,), 4: (16,)})


def test_layers_of_a_model_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(16, 4, 1, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 5 * 3, 10),
    )
    model[1].eval()
    before = model[1].running_mean.clone()
    layers = layers_of(model, (3, 9, 6))
    assert [layer.name for layer in layers] == ["0", "2", "3", "5"]
    assert [layer.kind for layer in layers] == ["convolution", "depthwise", "convolution", "linear"]
    assert [layer.weight_shape for layer in layers] == [(8, 3, 3, 3), (16, 1, 3, 3), (4, 8, 1, 1), (10, 60)]
    assert [layer.parameters for layer in layers] == [216, 160, 36, 610]
    assert [layer.macs for layer in layers] == [216 * 15, 144 * 15, 32 * 15, 600]
    assert [layer.output_shape for layer in layers] == [(8, 5, 3), (16, 5, 3), (4, 5, 3), (10,)]
    assert model.training and not model[1].training and torch.equal(model[1].running_mean, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_known_work_of_torchvision_networks() -> None:
    from torchvision.models import googlenet, resnet18

    layers = layers_of(resnet18(), (3, 224, 224))
    assert (
        len(layers) == 21 and sum(layer.macs for layer in layers) == 1_814_073_344
    )  # 1.81 GMAC, as torchvision lists
    assert next(islice(layers, 20, None)).name == "fc"
    with_heads = googlenet(aux_logits=True, init_weights=False)
    assert not any(layer.name.startswith("aux") for layer in layers_of(with_heads, (3, 64, 64)))
