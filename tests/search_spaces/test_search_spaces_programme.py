"""Programmes against every plan there is, the expected gain against drawn errors, the error model against what made its data."""

from __future__ import annotations

import dataclasses
import itertools
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.plan import Plan
from search_spaces.ahead import Ahead
from search_spaces.error_model import MISFIT, ErrorModel
from search_spaces.hypervolume import expected_gain, undominated
from search_spaces.misfit import SHARES, SIZES, Misfit
from search_spaces.programme import HARM, ChoiceTable, measures_of, solve, sweep
from search_spaces.samplers.base import Context, Prior, asking
from search_spaces.samplers.programme import least_error
from search_spaces.space import Space
from search_spaces.warm_starts import programme_starts, uniform_starts
from tests.conformance.samplers import History

SPACE = Space(
    ("a", "b", "c"),
    bits=(2, 4, 8),
    zero_share=(None, 0.8),
    components={2: (4,), 4: (16,)},
    coded_bits=(None,),
)


def harm_of(plan: Plan, weights: Mapping[str, float] | None = None) -> float:
    """Additive, different in every layer."""
    scale = {"a": 1.0, "b": 0.2, "c": 0.05} if weights is None else weights
    return sum(
        scale[name] * (4.0**-layer.bits * 10 + (0.5 if layer.zero_share else 0.0))
        for name, layer in plan.layers.items()
    )


def cost_of(plan: Plan) -> dict[str, float]:
    size = {"a": 10.0, "b": 100.0, "c": 50.0}
    time = {"a": 3.0, "b": 1.0, "c": 2.0}
    latency = sum(
        time[name]
        * ((0.5 if plan.activation_bits == 7 else 0.6) if layer.zero_share else 1 + 0.01 * (8 - layer.bits))
        for name, layer in plan.layers.items()
    )
    bytes_ = sum(
        size[name] * layer.bits * (0.4 if layer.zero_share else 1) / 8 for name, layer in plan.layers.items()
    )
    return {"latency": latency + 0.7, "size": bytes_ + 12}


PRIOR = Prior(cost=cost_of, proxy=harm_of, error=0.05, images=1000)
COSTS = ("latency", "size")


def table() -> ChoiceTable:
    measures = measures_of(harm_of, cost_of, COSTS)
    assert measures is not None
    return ChoiceTable.of(SPACE, SPACE.warm_starts()[0], measures)


def test_a_plan_is_priced_once_whatever_is_asked_of_it() -> None:
    asked: list[Plan] = []

    def cost(plan: Plan) -> dict[str, float]:
        asked.append(plan)
        return dict(cost_of(plan))

    measures = measures_of(harm_of, cost, COSTS)
    assert measures is not None
    found = ChoiceTable.of(SPACE, SPACE.warm_starts()[0], measures)
    choices = sum(map(len, found.plans))
    assert len(asked) == choices + 1, "each choice of each layer, and the base"
    for name in COSTS:
        for layer, values in zip(found.base.layers, found.added[name]):
            for plan, value in zip(found.plans[list(found.base.layers).index(layer)], values):
                changed = found.base.replace(layers={**found.base.layers, layer: plan})
                assert value == cost_of(changed)[name] - cost_of(found.base)[name]


def test_limits_that_no_plan_keeps_have_no_plan() -> None:
    found = table()
    low, _ = found.reach("size")
    assert solve(found, {"size": low}) is not None and solve(found, {"size": 0.99 * low}) is None


def every(found: ChoiceTable) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(plans)) for plans in found.plans)))


def test_the_table_adds_up_to_every_plan() -> None:
    found = table()
    for chosen in every(found):
        plan = found.plan(chosen)
        assert found.total(HARM, chosen) == pytest.approx(harm_of(plan))
        assert {name: found.total(name, chosen) for name in COSTS} == pytest.approx(cost_of(plan))
        assert found.chosen(plan) == chosen
    dropped = next(plan for plan in found.plans[1] if plan not in found.undominated().plans[1])
    with pytest.raises(ValueError):
        found.undominated().chosen(Plan.uniform(("a", "b", "c"), dropped))


def test_what_is_dropped_is_never_needed() -> None:
    """Of all plans, the best of each trade stay within reach."""
    whole, pruned = table(), table().undominated()
    assert 0 < sum(map(len, pruned.plans)) < sum(map(len, whole.plans))

    def points(found: ChoiceTable) -> set[tuple[float, ...]]:
        rows = np.round([[found.total(m, c) for m in (HARM, *COSTS)] for c in every(found)], 9)
        return {tuple(r) for r in rows if not any((o <= r).all() and (o < r).any() for o in rows)}

    assert points(whole) == points(pruned)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([HARM, *COSTS]))
def test_a_programme_finds_what_trying_every_plan_finds(seed: int, goal: str) -> None:
    rng = random.Random(seed)
    found = table()
    limited = [name for name in (HARM, *COSTS) if name != goal and rng.random() < 0.8]
    limits = {}
    for name in limited:
        low, high = found.reach(name)
        limits[name] = low + rng.uniform(-0.05, 1.05) * (high - low)
    possible = [c for c in every(found) if all(found.total(n, c) <= limit for n, limit in limits.items())]
    best = min((found.total(goal, c) for c in possible), default=None)
    chosen = solve(found, limits, goal)
    if best is None:
        assert chosen is None
    else:
        assert chosen is not None
        span = found.reach(goal)[1] - found.reach(goal)[0]
        assert found.total(goal, chosen) <= best + 2e-3 * span
        assert all(found.total(n, chosen) <= limit + 1e-6 * abs(limit) for n, limit in limits.items())


def test_the_sweep_s_plans_are_undominated_and_reach_the_ends() -> None:
    found = table()
    swept = list(sweep(found, COSTS))
    rows = np.array([[found.total(m, c) for m in (HARM, *COSTS)] for c in every(found)])
    assert len(set(swept)) == len(swept) >= 5
    for chosen in swept:
        mine = np.array([found.total(m, chosen) for m in (HARM, *COSTS)])
        better = ((rows <= mine + 1e-12).all(1) & (rows < mine - 1e-9).any(1)).any()
        assert not better or chosen == swept[0]  # at no price of anything, ties are ties
    assert min(found.total(HARM, c) for c in swept) == pytest.approx(found.reach(HARM)[0])


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 6), st.sampled_from([1, 2]))
def test_the_expected_gain_is_that_of_drawn_errors(seed: int, count: int, costs: int) -> None:
    rng = np.random.default_rng(seed)
    front = rng.random((count, 1 + costs)) * 1.2
    reference = np.ones(1 + costs)
    mean, deviation, cost = rng.random(3), rng.random(3) * 0.3, rng.random((3, costs)) * 1.1
    gains = expected_gain(front, reference, mean, deviation, cost)
    grid = (np.stack(np.meshgrid(*[np.arange(64)] * costs, indexing="ij"), -1).reshape(-1, costs) + 0.5) / 64
    draws = np.array([NormalDist().inv_cdf((place + 0.5) / 400) for place in range(400)])
    for candidate in range(3):
        height = np.ones(len(grid))
        for point in front:
            height = np.where((point[1:] <= grid).all(1), np.minimum(height, point[0]), height)
        inside = (cost[candidate] <= grid).all(1)
        errors = mean[candidate] + deviation[candidate] * draws
        below = np.maximum(height[None] - errors[:, None], 0) * inside
        assert gains[candidate] == pytest.approx(below.mean(), abs=0.03)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=30))
def test_the_undominated_are_those_that_nothing_is_nowhere_worse_than(points: list[tuple[int, ...]]) -> None:
    slow = [
        i
        for i, a in enumerate(points)
        if not any(all(x <= y for x, y in zip(b, a)) and (b != a or j < i) for j, b in enumerate(points) if j != i)
    ]  # fmt: skip
    found = undominated(np.array(points, dtype=np.float64).reshape(-1, 3))
    assert found == slow


def test_a_gain_beside_three_costs_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="3 costs: 1 or 2"):
        expected_gain(np.ones((1, 4)), np.ones(4), np.ones(2), np.ones(2), np.ones((2, 3)))


def test_without_uncertainty_it_is_the_hypervolume_that_is_added() -> None:
    front = np.array([[0.5, 0.5, 0.5]])
    point = expected_gain(
        front,
        np.ones(3),
        np.array([0.25, 0.6, 0.5]),
        np.zeros(3),
        np.array([[0.5, 0.5], [0.6, 0.6], [0.25, 0.5]]),
    )
    assert point == pytest.approx([0.25 * 0.25, 0.0, 0.25 * 0.5 * 0.5], abs=1e-6)


def made(seed: int, trials: int, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    harms = rng.lognormal(-1, 1.5, (trials, len(factors)))
    error = 0.08 + 0.92 * -np.expm1(-0.1 * (harms @ factors) ** 0.7)
    return harms, np.clip(error + rng.normal(0, 0.004, trials), 0, 1)


def test_the_model_learns_what_parts_matter() -> None:
    factors = np.array([1.0, 4.0, 0.2])
    harms, errors = made(0, 60, factors)
    model = ErrorModel.fit(harms, errors, np.full(60, 5000.0), 0.08)
    fresh, wanted = made(1, 200, factors)
    told, deviation = model.predict(fresh)
    naive = ErrorModel.fit(harms[:0], errors[:0], np.zeros(0), 0.08).predict(fresh)[0]
    assert np.abs(told - wanted).mean() < 0.35 * np.abs(naive - wanted).mean()
    assert np.mean(np.abs(told - wanted) < 2 * deviation) > 0.8
    assert model.factors[1] > 3 * model.factors[2]


def test_before_any_trial_more_harm_is_more_error_and_little_is_sure() -> None:
    model = ErrorModel.fit(np.zeros((0, 2)), np.zeros(0), np.zeros(0), 0.1)
    errors, deviations = model.predict(np.array([[0.0, 0.0], [0.01, 0.0], [0.5, 0.5], [1e6, 1e6]]))
    assert list(errors) == sorted(errors) and errors[0] == pytest.approx(0.1, abs=1e-3) and errors[-1] <= 1
    assert deviations[2] > 0.05


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1)), max_size=8))
def test_no_results_break_it(rows: list[tuple[float, float]]) -> None:
    harms = np.array([[harm, 0.0] for harm, _ in rows]).reshape(-1, 2)
    errors = np.array([error for _, error in rows])
    model = ErrorModel.fit(harms, errors, np.full(len(rows), 30.0), 0.02)
    told, deviations = model.predict(np.array([[0.1, 0.0], [10.0, 3.0]]))
    assert np.isfinite(told).all() and np.isfinite(deviations).all() and (deviations > 0).all()


def off(harms: np.ndarray, errors: np.ndarray, images: float) -> Misfit:
    """Of trials whose rule knows nothing but the sum of harms."""
    rule = ErrorModel.fit(harms[:0].sum(1, keepdims=True), errors[:0], np.zeros(0), 0.08)
    sums = harms.sum(1, keepdims=True)
    return Misfit.fit(rule, sums, harms, errors, np.full(len(errors), images))


def test_plans_like_a_trial_are_off_like_it_and_others_are_not() -> None:
    tried = np.array([[1.0, 0.2, 0.0, 0.1]])
    fresh = np.array([tried[0], [1.02, 0.19, 0.0, 0.1], [0.0, 0.0, 1.2, 0.1], [30.0, 6.0, 0.0, 3.0]])
    sums = fresh.sum(1, keepdims=True)
    told, sure = off(tried[:0], np.zeros(0), 1).predict(sums, fresh)
    there, left = off(tried, told[:1] * 1.1, 1e6).predict(sums, fresh)
    assert there[0] == pytest.approx(1.1 * told[0], rel=0.01) and left[0] < sure[0]
    assert there[1] == pytest.approx(1.1 * told[1], rel=0.01)
    for far in (2, 3):  # other layers, or much more harm
        assert there[far] == pytest.approx(told[far], rel=0.01) and left[far] == pytest.approx(
            sure[far], rel=0.01
        )


def test_an_error_of_few_images_says_little() -> None:
    tried = np.array([[1.0, 0.2]])
    told, _ = off(tried[:0], np.zeros(0), 1).predict(tried.sum(1, keepdims=True), tried)
    moved = [
        off(tried, told * 1.2, images).predict(tried.sum(1, keepdims=True), tried)[0] - told
        for images in (20, 1e6)
    ]
    assert 0 < moved[0] < moved[1] / 2


def test_beside_a_trial_that_runs_nothing_more_is_learned() -> None:
    model = off(np.array([[1.0, 0.2]]), np.array([0.2]), 1000)
    fresh = np.array([[0.1, 1.0]])
    told, deviation = model.predict(fresh.sum(1, keepdims=True), fresh)
    there, left = model.believing(fresh).predict(fresh.sum(1, keepdims=True), fresh)
    assert there == pytest.approx(told, rel=1e-3) and left < deviation


def test_it_agrees_with_a_slow_gaussian_process() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    rng = np.random.default_rng(0)
    harms, fresh = rng.lognormal(-1, 1, (12, 5)), rng.lognormal(-1, 1, (7, 5))
    model = off(harms, rng.uniform(0.1, 0.4, 12), 300)

    def places(rows: np.ndarray) -> np.ndarray:
        total = rows.sum(1, keepdims=True)
        return np.concatenate([np.sqrt(rows / total) / SHARES, np.log(total) / SIZES], 1)

    slow = GaussianProcessRegressor(
        ConstantKernel(MISFIT**2, "fixed") * RBF(1.0, "fixed"), alpha=model.noise + 1e-9
    )
    off_by, left = slow.fit(places(harms), model.off).predict(places(fresh), return_std=True)
    rule, _ = model.rule.foreseen(fresh.sum(1, keepdims=True))
    told, deviation = model.predict(fresh.sum(1, keepdims=True), fresh)
    assert told == pytest.approx(rule + (rule - 0.08) * off_by, rel=1e-6)
    bare = off(harms[:0], np.zeros(0), 1).predict(fresh.sum(1, keepdims=True), fresh)[1]
    assert deviation**2 == pytest.approx(bare**2 - (MISFIT**2 - left**2) * (rule - 0.08) ** 2, rel=1e-6)


class Outcome:
    """Figures of a made-up trial."""

    def __init__(self, plan: Plan, status: str) -> None:
        self.plan, self.status = plan, status

    def objectives(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        if self.status != "finished" and names != ("error",):
            return None
        z = harm_of(self.plan, {"a": 0.1, "b": 1.0, "c": 0.2})  # not quite what the proxy says
        known = {"error": min(1.0, 0.05 + 0.1 * z**0.8), **cost_of(self.plan)}
        return tuple(known[name] for name in names) if self.status == "finished" else None


class Trials(History):
    def records(self) -> list[object]:  # type: ignore[override]
        return [
            type(
                "Trial",
                (),
                {
                    "number": t.number,
                    "plan": t.plan,
                    "status": t.status,
                    "figures": Outcome(t.plan, t.status),
                },
            )()
            for t in self.trials.values()
        ]

    def finish(self, plan: Plan) -> None:
        self.begin(plan)
        trial = self.trials[plan.hash]
        self.trials[plan.hash] = type(trial)(trial.number, plan, "finished")


def volume(trials: Trials) -> float:
    """Exact, of 3 objectives relative to 8 bits."""
    from pipeline.study.pareto import hypervolume

    corner = cost_of(SPACE.warm_starts()[0])
    unit = (0.5, corner["latency"] * 1.01, corner["size"] * 1.01)
    points = [record.figures.objectives(("error", *COSTS)) for record in trials.records()]  # type: ignore[attr-defined]
    return hypervolume([[v / u for v, u in zip(p, unit)] for p in points if p], (1.0, 1.0, 1.0))


def searched(sampler: str, budget: int, prior: Prior = PRIOR, seed: int = 0) -> Trials:
    trials = Trials()
    for plan in uniform_starts(SPACE):
        trials.finish(plan)
    ask = asking(sampler, Context(SPACE, ("error", *COSTS), trials.records, seed, prior))  # type: ignore[arg-type]
    while len(trials.trials) < budget:
        proposed = ask()
        assert proposed is not None
        trials.finish(proposed)
    return trials


def test_the_programme_is_ahead_of_chance() -> None:
    ours = volume(searched("programme", 8))
    chance = [volume(searched("random", 24, seed=seed)) for seed in range(5)]
    assert ours > np.median(chance)  # with a third of the trials


def test_programmes_for_what_comes_next_are_solved_beside_a_trial_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by, at_once = Counter[str](), []
    running = threading.Lock()

    def watched(*args: Any, **named: Any) -> Any:
        at_once.append(not running.acquire(blocking=False))
        by[threading.current_thread().name] += 1
        try:
            return solve(*args, **named)
        finally:
            running.release()

    monkeypatch.setattr("search_spaces.samplers.programme.solve", watched)
    first = searched("programme", 8)
    for thread in threading.enumerate():
        if thread.name == "ahead":  # of the last proposal
            thread.join()
    assert by["ahead"] > by[threading.current_thread().name] > 0 and not any(at_once)
    assert by[threading.current_thread().name] <= 8 - 3, "at most one for a proposal"
    again = searched("programme", 8)
    assert list(first.trials) == list(again.trials), "however long threads take"


def test_work_goes_on_beside_the_caller_and_its_mistakes_are_seen() -> None:
    beside: Ahead[int] = Ahead()
    assert beside.take() is None
    beside.start(iter([7, 8]))
    assert beside.take() == [7, 8] and beside.take() is None
    beside.start(1 // number for number in (1, 0))
    with pytest.raises(ZeroDivisionError):
        beside.take()
    beside.start(iter([8]))
    beside.start(iter([9]))
    assert beside.take() == [9]


def test_a_process_ends_after_the_piece_that_is_worked_on() -> None:
    """Not in the middle of it, where a solver's threads would abort, nor after all that was to come."""
    script = """
import itertools, time
from search_spaces.ahead import Ahead

def piece(number):
    print("begun", number, flush=True)
    time.sleep(0.5)
    print("done", number, flush=True)

Ahead().start(piece(number) for number in itertools.count())
time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    begun, ended = (done.stdout.count(word) for word in ("begun", "done"))
    assert 1 <= begun == ended <= 2


def test_the_programme_proposes_nothing_beyond_a_limit() -> None:
    limits = {"latency": 5.0, "size": 60.0, "error": 0.4}
    trials = searched(
        "programme", 9, Prior(cost=cost_of, proxy=harm_of, error=0.05, images=1000, limits=limits)
    )
    proposed = list(trials.trials.values())[len(uniform_starts(SPACE)) :]
    within = [t for t in proposed if all(cost_of(t.plan)[name] <= limits[name] for name in COSTS)]
    assert len(within) >= 3 and within == proposed[: len(within)]  # what is left then is drawn


def test_what_no_error_makes_worth_it_is_not_proposed() -> None:
    """Once a small plan is as right as fp32, only what is faster or smaller is of use."""
    perfect = SPACE.warm_starts()[2]
    values = {"error": 0.05, **cost_of(perfect)}
    trials = Trials()
    trials.finish(perfect)
    told = trials.records

    def records() -> list[object]:
        first, *rest = told()
        first.figures.objectives = lambda names: tuple(values[name] for name in names)  # type: ignore[attr-defined]
        return [first, *rest]

    ask = asking("programme", Context(SPACE, ("error", *COSTS), records, 0, PRIOR))  # type: ignore[arg-type]
    bound = cost_of(perfect)
    for _ in range(6):
        proposed = ask()
        assert proposed is not None
        cost = cost_of(proposed)
        assert any(cost[name] < bound[name] for name in COSTS)
        trials.finish(proposed)


def test_a_network_worse_than_its_trials_does_not_hide_what_they_lose() -> None:
    """As with --allow-bad-fp32: errors are foreseen from the best trial on, and what few bits lose still counts."""
    unlearned = dataclasses.replace(PRIOR, error=0.9)
    trials = searched("programme", 9, unlearned)
    assert list(trials.trials) == list(
        searched("programme", 9, dataclasses.replace(PRIOR, error=None)).trials
    )
    assert volume(trials) > 0.99 * volume(searched("programme", 9))


@pytest.mark.parametrize(
    ("fp32", "errors", "floor"),
    [
        (0.1, [0.3, 0.12], 0.1),
        (0.1, [0.09, 0.07], 0.1),  # by chance, of 1000 images
        (0.1, [], 0.1),
        (0.9, [0.3, 0.95, 0.12], 0.12),
        (None, [0.3, 0.12], 0.12),
        (None, [], 0.0),
    ],
)
def test_the_least_error_is_fp32_s_unless_trials_say_otherwise(
    fp32: float | None, errors: list[float], floor: float
) -> None:
    assert least_error(fp32, np.array(errors), np.full(len(errors), 1000.0)) == floor


def test_activation_bits_follow_the_kernels() -> None:
    plans = [trial.plan for trial in searched("programme", 9).trials.values()][3:]
    assert any(plan.activation_bits == 7 for plan in plans[:3])
    for plan in plans:  # 7 bits only where they are for something
        assert plan.activation_bits == 8 or any(layer.zero_share for layer in plan.layers.values())


def test_running_plans_are_not_proposed_again() -> None:
    trials = Trials()
    ask = asking("programme", Context(SPACE, ("error", *COSTS), trials.records, 0, PRIOR))  # type: ignore[arg-type]
    for _ in range(6):
        proposed = ask()
        assert proposed is not None and proposed.hash not in trials.trials
        trials.begin(proposed)


def endless(plan: Plan) -> float:
    return float("inf") if any(layer.bits == 2 for layer in plan.layers.values()) else harm_of(plan)


@pytest.mark.parametrize(
    ("prior", "objectives"),
    [
        (Prior(), ("error", *COSTS)),
        (Prior(cost=cost_of), ("error", *COSTS)),
        (Prior(cost=cost_of, proxy=endless, error=0.05), ("error", *COSTS)),  # not all harms are known
        (PRIOR, COSTS),  # nobody asks for the error
        (Prior(cost=cost_of, proxy=harm_of), ("error", *COSTS)),  # what fp32 reaches is not known
    ],
)
def test_where_harms_are_not_known_neighbours_of_the_best_are_tried(
    prior: Prior, objectives: tuple[str, ...]
) -> None:
    trials = Trials()
    ask = asking("programme", Context(SPACE, objectives, trials.records, 0, prior))  # type: ignore[arg-type]
    for _ in range(12):
        proposed = ask()
        assert proposed is not None and proposed.hash not in trials.trials
        SPACE.params(proposed)  # it is of this space
        trials.finish(proposed)


def test_a_space_that_is_used_up_does_not_keep_anybody_waiting() -> None:
    space = Space(("a",), bits=(4, 8), zero_share=(None,), components={4: (16,)})
    trials = Trials()
    ask = asking("programme", Context(space, ("error", *COSTS), trials.records, 0, PRIOR))  # type: ignore[arg-type]
    seen = set()
    for _ in range(8):
        proposed = ask()
        assert proposed is not None
        space.params(proposed)
        seen.add(proposed.hash)
        if proposed.hash not in trials.trials:
            trials.finish(proposed)
    assert {layer.bits for trial in trials.trials.values() for layer in trial.plan.layers.values()} == {4, 8}
    assert len(seen) == len(trials.trials)


def test_trials_of_another_space_and_those_that_failed_teach_nothing() -> None:
    """A study that was begun with other choices goes on; what it knows of them is no use to the rule from harm to error."""

    def proposals(extra: list[tuple[Plan, str]]) -> list[str]:
        trials = Trials()
        for plan in uniform_starts(SPACE):
            trials.finish(plan)
        for plan, status in extra:
            trials.finish(plan)
            trial = trials.trials[plan.hash]
            trials.trials[plan.hash] = type(trial)(trial.number, plan, status)
        ask = asking("programme", Context(SPACE, ("error", *COSTS), trials.records, 0, PRIOR))  # type: ignore[arg-type]
        proposed = ask()
        assert proposed is not None
        return [proposed.hash]

    other = Space(("a", "b", "c"), bits=(3,), zero_share=(None,), components={3: (8,)})
    assert proposals([(other.warm_starts()[0], "failed")]) == proposals([])
    odd = SPACE.random(random.Random(5))
    assert proposals([(odd, "failed")]) == proposals([]) or proposals([])[0] == odd.hash


@pytest.mark.parametrize(
    ("sampler", "budget", "seeds"),
    [("programme", 24, 1), ("tpe", 24, 3), ("gp", 16, 1), ("nsga2", 40, 3), ("metropolis", 24, 2)],
)
def test_who_is_told_a_limit_proposes_more_plans_within_it(sampler: str, budget: int, seeds: int) -> None:
    limits = {"size": 60.0}

    def within(prior: Prior) -> int:
        last = [list(searched(sampler, budget, prior, seed).trials.values())[-6:] for seed in range(seeds)]
        return sum(cost_of(trial.plan)["size"] <= limits["size"] for trials in last for trial in trials)

    assert within(dataclasses.replace(PRIOR, limits=limits)) > within(PRIOR)


def test_optuna_is_told_what_is_over_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    told: list[tuple[str, float]] = []
    original = optuna.Trial.set_constraint
    monkeypatch.setattr(
        optuna.Trial,
        "set_constraint",
        lambda self, key, value: told.append((key, value)) or original(self, key, value),
    )
    prior = Prior(cost=cost_of, proxy=harm_of, limits={"size": 90.0})
    trials = searched("nsga2", 5, prior)
    sizes = [cost_of(t.plan)["size"] for t in trials.trials.values()]
    assert len(told) >= 4 and {key for key, _ in told} == {"size"}
    assert [value for _, value in told] == pytest.approx([size / 90 - 1 for size in sizes[: len(told)]])


@pytest.mark.parametrize("sampler", ["programme", "tpe", "gp", "nsga2"])
def test_what_stopped_trials_showed_is_told(sampler: str) -> None:
    """Two searches that differ in nothing but what the trials showed that were stopped at a rung go on with other plans."""

    class Shown(Trials):
        def __init__(self, upside_down: bool) -> None:
            super().__init__()
            self.upside_down = upside_down

        def records(self) -> list[object]:  # type: ignore[override]
            found = super().records()
            for record in found:
                if record.status == "stopped":  # type: ignore[attr-defined]
                    z = harm_of(record.plan)  # type: ignore[attr-defined]
                    error = 0.06 * (1 / (1 + z) if self.upside_down else z / (1 + z))
                    values = {"error": error, **cost_of(record.plan)}  # type: ignore[attr-defined]
                    record.figures.objectives = lambda names, v=values: tuple(v[n] for n in names)  # type: ignore[attr-defined]
            return found

    proposed: list[list[str]] = []
    for upside_down in (False, True):
        trials, rng = Shown(upside_down), random.Random(0)
        while len(trials.trials) < 45:
            plan = SPACE.random(rng)
            trials.finish(plan)
            trial = trials.trials[plan.hash]
            if trial.number % 3:
                trials.trials[plan.hash] = type(trial)(trial.number, plan, "stopped")
        ask = asking(sampler, Context(SPACE, ("error", *COSTS), trials.records, 0, PRIOR))  # type: ignore[arg-type]
        proposed.append([])
        for _ in range(2 if sampler == "gp" else 6):  # each takes seconds
            told = ask()
            assert told is not None
            proposed[-1].append(told.hash)
            trials.begin(told)
    assert proposed[0] != proposed[1]


def test_first_plans() -> None:
    starts = uniform_starts(SPACE)
    assert [{layer.bits for layer in plan.layers.values()} for plan in starts] == [{8}, {4}, {2}]
    found = programme_starts(SPACE, PRIOR)
    assert 2 <= len(found) <= 4 and all(SPACE.params(plan) for plan in found)
    low = cost_of(min(found, key=lambda plan: cost_of(plan)["size"]))
    assert low["size"] < cost_of(starts[0])["size"] / 3
    assert programme_starts(SPACE, Prior()) == []
    assert len(uniform_starts(Space(("a",), bits=(3,)))) == 1
