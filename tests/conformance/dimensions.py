"""What every dimension must keep to. For one of your own:

@pytest.mark.parametrize("dimension", ["my_module:MyDimension"])
class TestMyDimension(DimensionConformance):
    pass
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import torch

from foundation.codebook import Codebook
from foundation.dimension import DIMENSIONS, Dimension, Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.dimensions.temperature import Temperature
from search_spaces.parameters import FixedParameters, Grid
from search_spaces.space import Space

LAYERS = (
    Layer("conv1", "convolution", (16, 3, 3, 3), 448, 442_368, (16, 32, 32)),
    Layer("conv2", "depthwise", (16, 1, 3, 3), 160, 147_456, (16, 32, 32), groups=16),
    Layer("conv3", "convolution", (32, 16, 1, 1), 544, 524_288, (32, 32, 32), producers=("conv2", "conv1")),
    Layer("conv4", "convolution", (16, 32, 3, 3), 4624, 4_718_592, (16, 32, 32)),
    Layer("fc", "linear", (10, 32), 330, 320, (10,)),
)
STRANGE: tuple[Any, ...] = (-1, 0, 1e9, 0.5, True, "x", "", [], [1], {}, {"a": 1})
MANY = 400


def space_of(dimension: str, **choices: Any) -> Space:
    """A space in which this dimension alone, beside bits, has much to choose."""
    own = DIMENSIONS[dimension]
    others: dict[str, Any] = {
        "bits": (2, 8), "activation_bits": (8,), "components": {2: (3,), 3: (5,), 4: (9,)}, "zero_share": (None,),
    }  # fmt: skip
    constant = Temperature(("constant",), Grid(0.5, 0.5, 0.5))
    fixed: list[Dimension] = [DIMENSIONS[name](values) for name, values in others.items() if name != own.name]
    fixed += [constant] if own.name != constant.name else []
    return Space(LAYERS, dimensions=[*fixed, own()], **choices)


def values_of(space: Space, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(value, the other values beside it) wherever the dimension has one, in plans of the space."""
    for plan in plans_of(space):
        homes: list[Plan | LayerPlan] = [plan, *plan.layers.values()]
        for home in homes:
            if name in home.values:
                yield (
                    home.values[name],
                    {other: value for other, value in home.values.items() if other != name},
                )


def plans_of(space: Space) -> list[Plan]:
    """All plans, or many."""
    size, rng = space.size(), random.Random(0)
    indices = range(size) if size <= MANY else sorted({rng.randrange(size) for _ in range(MANY)})
    return [space.plan_at(index) for index in indices]


class DimensionConformance:
    """Runs on nothing but the dimension's name."""

    def test_says_what_it_is(self, dimension: str) -> None:
        own = DIMENSIONS[dimension]
        assert own.name == dimension and own.title and own.noun and (own.__doc__ or "").strip()
        assert set(own.after) <= set(DIMENSIONS) - {dimension}

    def test_plans_hold_its_values_and_nothing_where_it_is_absent(self, dimension: str) -> None:
        space, own = space_of(dimension), DIMENSIONS[dimension]
        plans = plans_of(space)
        assert len({plan.hash for plan in plans}) == len(plans)
        for plan in plans:
            assert Plan.from_json(plan.to_json()) == plan == pickle.loads(pickle.dumps(plan))
        plain = Plan.uniform(["a"], LayerPlan(8))
        assert plain.hash == "82eedd0f4769", "plans that were written before it was there have new names"
        assert own.default is not None or dimension == "bits" or f'"{dimension}"' not in plain.to_json()

    def test_a_record_is_json_and_comes_back(self, dimension: str) -> None:
        own, seen = DIMENSIONS[dimension], set()
        for value, chosen in values_of(space_of(dimension), dimension):
            own.check(value, chosen)
            assert own.parse(json.loads(json.dumps(own.record(value)))) == value
            assert own.say(value, chosen) and isinstance(own.number(value), int | float | None)
            seen.add(value)
        assert seen, "no plan of its space has a value of it"
        json.dumps(own.summary([next(iter(seen))]) | ({} if own.of_network else own.summary([])))

    def test_what_is_no_value_is_refused_in_a_sentence(self, dimension: str) -> None:
        own = DIMENSIONS[dimension]
        for strange in STRANGE:
            layer: dict[str, Any] = {"bits": 2, "components": 3}
            record: dict[str, Any] = {"layers": {"a": layer}}
            (record if own.of_network else layer)[dimension] = strange
            try:
                plan = Plan.from_json(json.dumps(record))
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert Plan.from_json(plan.to_json()) == plan

    def test_parameters_are_the_inverse_of_a_draw(self, dimension: str) -> None:
        space, rng, own = space_of(dimension), random.Random(1), DIMENSIONS[dimension]
        for _ in range(50):
            plan = space.random(rng)
            params = space.params(plan)
            assert space.suggest(FixedParameters(params)) == plan
            assert space.suggest(optuna.trial.FixedTrial(params)) == plan
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        trial = study.ask()
        drawn = space.suggest(trial)
        assert set(trial.params) == set(
            space.params(drawn)
        )  # a parameter exists only where it means something
        # A study wants the same choices of a parameter in every trial, whatever else was chosen there.
        everything = Space(LAYERS, dimensions=[own()])
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(20):
            trial = study.ask()
            plan = everything.suggest(trial)
            assert set(trial.params) == set(everything.params(plan))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def test_a_space_counts_its_plans_and_begins_with_some_of_them(self, dimension: str) -> None:
        space = space_of(dimension)
        drawn = {space.random(random.Random(seed)).hash for seed in range(300)}
        if space.size() <= MANY:
            assert drawn <= {plan.hash for plan in plans_of(space)}
        starts = space.warm_starts()
        assert starts and all(space.params(plan) for plan in starts)

    def test_a_space_is_described_by_its_values(self, dimension: str) -> None:
        space, own = space_of(dimension), DIMENSIONS[dimension]
        assert json.loads(json.dumps(space.describe())) == space.describe() == space_of(dimension).describe()
        if dimension not in ("bits", "components"):  # which have one value less of another form
            fewer = Space(LAYERS, dimensions=[own(own.values[:1])]) if own.values else None
            assert fewer is None or len(own.values) < 2 or fewer.describe() != Space(LAYERS).describe()

    def test_weights_keep_their_form(self, dimension: str) -> None:
        own, generator = DIMENSIONS[dimension], np.random.default_rng(0)
        weight = torch.from_numpy(generator.standard_normal((8, 6, 3, 3)).astype(np.float32))
        before = weight.clone()
        indices = generator.integers(0, 4, weight.shape).astype(np.uint8)
        levels = np.array([-9, 0, 5, 40], np.int8)
        book = Codebook(indices, levels, np.ones(1, np.float32), 2)
        for value, chosen in {
            repr(pair): pair for pair in values_of(space_of(dimension), dimension)
        }.values():
            shaped = own.apply(weight, value)
            assert shaped.shape == weight.shape and shaped.dtype == weight.dtype
            assert torch.isfinite(shaped).all() and torch.equal(weight, before)
            assert torch.equal(own.apply(shaped, value), shaped)
            if chosen.get("bits") == 2:
                made = own.synthesize(book, weight.numpy(), value, generator)
                assert made.indices.shape == indices.shape and np.array_equal(book.indices, indices)
