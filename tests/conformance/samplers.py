"""What every sampler must keep to. For one of your own:

@pytest.mark.parametrize("sampler", ["my_module:MySampler"])
class TestMySampler(SamplerConformance):
    pass
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from foundation.plan import Plan
from search_spaces.samplers.base import Context, asking, has_incumbent, incumbent
from search_spaces.space import Space

SPACE = Space(("conv1", "conv2", "fc"))
OBJECTIVES = ("error", "size")
STATUSES = ("finished", "finished", "finished", "stopped", "dominated", "failed")


@dataclass(frozen=True)
class Known:
    """Figures of a made-up evaluation, which follow from the plan."""

    plan: Plan
    status: str

    def objectives(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        if self.status != "finished":
            return None
        bits = sum(layer.bits for layer in self.plan.layers.values())
        return tuple({"error": 1 / bits, "size": float(bits)}[name] for name in names)


@dataclass(frozen=True)
class Trial:
    """One record."""

    number: int
    plan: Plan
    status: str

    @property
    def figures(self) -> Known:
        return Known(self.plan, self.status)


class History:
    """Trials as a study keeps them: each plan once."""

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}

    def records(self) -> list[Trial]:
        return list(self.trials.values())

    def begin(self, plan: Plan) -> None:
        self.trials.setdefault(plan.hash, Trial(len(self.trials), plan, "running"))

    def end(self, plan: Plan) -> None:
        trial = self.trials[plan.hash]
        if trial.status == "running":
            self.trials[plan.hash] = Trial(trial.number, plan, STATUSES[trial.number % len(STATUSES)])


def context(history: History, seed: int = 0) -> Context:
    return Context(SPACE, OBJECTIVES, history.records, seed)


def walked(sampler: str, steps: int, seed: int = 0) -> tuple[History, list[str]]:
    """What a sampler proposes one after another, and the history that this makes."""
    history, hashes = History(), []
    ask = asking(sampler, context(history, seed))
    for _ in range(steps):
        plan = ask()
        if plan is None:
            break
        hashes.append(plan.hash)
        history.begin(plan)
        history.end(plan)
    return history, hashes


class SamplerConformance:
    """Runs on nothing but the context."""

    def test_proposes_plans_of_the_space(self, sampler: str) -> None:
        history, hashes = walked(sampler, 25)
        assert hashes and all(SPACE.params(trial.plan) for trial in history.records())
        assert len(set(hashes)) > len(hashes) / 2  # most of them are new

    def test_equal_seeds_propose_alike_and_others_do_not(self, sampler: str) -> None:
        assert walked(sampler, 8, seed=3)[1] == walked(sampler, 8, seed=3)[1] != walked(sampler, 8, seed=4)[1]

    def test_goes_on_from_the_records_alone(self, sampler: str) -> None:
        history, hashes = walked(sampler, 12)
        plans = [asking(sampler, context(history))() for _ in range(2)]
        assert plans[0] == plans[1]
        assert plans[0] is None or plans[0].hash not in hashes[:3]  # not the same draws once more

    def test_says_by_the_records_alone_which_finished_plan_hands_its_weights_on(self, sampler: str) -> None:
        if not has_incumbent(sampler):
            pytest.skip(f"{sampler} hands no weights on")
        history, _ = walked(sampler, 12)
        found = [incumbent(sampler, context(history)) for _ in range(2)]
        assert found[0] == found[1] and incumbent(sampler, context(History())) is None
        assert found[0] is None or history.trials[found[0].hash].status == "finished"

    def test_several_plans_may_be_in_flight(self, sampler: str) -> None:
        history, flying = History(), []
        ask = asking(sampler, context(history))
        for _ in range(6):
            if (plan := ask()) is not None:
                history.begin(plan)
                flying.append(plan)
        assert flying  # one that waits for others to end proposes None meanwhile
        for plan in reversed(flying):
            history.end(plan)
        after = ask()
        assert after is not None and SPACE.params(after)

    def test_a_proposal_that_is_not_taken_up_does_no_harm(self, sampler: str) -> None:
        history, _ = walked(sampler, 5)
        ask = asking(sampler, context(history))
        assert all(ask() is not None for _ in range(3))
