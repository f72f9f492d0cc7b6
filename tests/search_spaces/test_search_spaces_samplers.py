"""Samplers: those of the project keep to what every one must, and mistakes of others' are told by name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.plan import LayerPlan, Plan
from search_spaces.samplers.base import SAMPLERS, Context, asking, has_incumbent, incumbent
from search_spaces.space import Space
from tests.conformance.samplers import SPACE, History, SamplerConformance, context

FOREIGN = """
from foundation.plan import LayerPlan, Plan

class Sampler:
    def __init__(self, context):
        self.context = context

class Raises(Sampler):
    def propose(self):
        return self.context.no_such_thing

class Text(Sampler):
    def propose(self):
        return "a plan"

class Elsewhere(Sampler):
    def propose(self):
        return Plan.uniform(("other",), LayerPlan(8))

class Unmade(Sampler):
    def __init__(self, context):
        raise ValueError("no licence")
    def propose(self): ...

class Resting(Sampler):
    def propose(self):
        return None

class Fine(Sampler):
    def propose(self):
        return self.context.space.warm_starts()[0]

class Named(Fine):
    def incumbent(self):
        return "the best"

def function(context): ...
"""


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestSamplers(SamplerConformance):
    """The project's own."""


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    (tmp_path / "samplers_of_others.py").write_text(FOREIGN)
    look_in(tmp_path)
    return "samplers_of_others:"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Raises",
            "samplers_of_others:Raises' failed: AttributeError: .*no_such_thing.*samplers_of_others.py, line 10",
        ),
        ("Text", "proposed a str; it must propose a Plan"),
        ("Elsewhere", "no plan of this search: .*other layers"),
        ("Unmade", "failed: ValueError: no licence"),
        ("function", "is a function, not a sampler; it should be a class that is made from a .*Context"),
        ("Absent", "has no 'Absent'"),
    ],
)
def test_mistakes_in_a_sampler_of_someone_else(foreign: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asking(foreign + name, context(History()))()


def test_a_sampler_of_someone_else(foreign: str) -> None:
    assert asking(foreign + "Fine", context(History()))() == SPACE.warm_starts()[0]
    assert asking(foreign + "Resting", context(History()))() is None


def test_what_hands_its_weights_on_is_a_plan(foreign: str) -> None:
    assert has_incumbent("metropolis") and not has_incumbent("programme")
    assert has_incumbent(foreign + "Named") and not has_incumbent(foreign + "Fine")
    with pytest.raises(UserError, match="Named' is a str; it must be a Plan, or None"):
        incumbent(foreign + "Named", context(History()))


def test_a_plan_of_an_older_space_among_the_records_does_no_harm() -> None:
    history = History()
    history.begin(Plan.uniform(("conv1", "other"), LayerPlan(8)))
    for name in SAMPLERS:
        assert asking(name, context(history))() is not None


def test_a_walk_begins_anywhere_in_a_space_without_first_plans_and_ends_where_all_is_known() -> None:
    class Bare(Space):
        def warm_starts(self) -> list[Plan]:
            return []

    space = Bare(("a",), bits=(3,), components={3: (6,)}, zero_share=(0.7,), activation_bits=(8,))
    history = History()
    ask = asking("metropolis", Context(space, ("error", "size"), history.records))
    first = ask()
    assert first is not None and space.params(first)
    history.begin(first)
    history.end(first)
    again = ask()
    assert again is not None and space.params(again), "whoever asks notices that it is known"


def test_generations_go_on_where_a_search_left_them() -> None:
    """Whoever is among the parents was proposed by nobody: first plans, and the trials before a search went on."""
    history, rng = History(), random.Random(0)
    while len(history.trials) < 40:
        plan = SPACE.random(rng)
        history.begin(plan.replace(layers={**plan.layers, "conv1": LayerPlan(8)}))
    for trial in history.records():
        history.end(trial.plan)
    ask = asking("nsga2", context(history))
    children = [ask() for _ in range(10)]
    alike = sum(child is not None and child.layers["conv1"].bits == 8 for child in children)
    assert alike >= 8, "what all parents have, most children have"
