"""From estimates to what programs cost: learned from profiles, with an interval that holds."""

from __future__ import annotations

import numpy as np
import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.candidate.cost_fit import CostFit, FittedCost, PriorFactor
from pipeline.study.limits import within_costs
from pipeline.study.records import Figures, TrialRecord


@pytest.mark.parametrize(("rest", "factor"), [(0.0, 1.06), (0.35, 1.0), (0.1, 0.9), (40_000.0, 1.02)])
def test_a_line_is_found_and_the_interval_holds(rest: float, factor: float) -> None:
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        estimates = rng.uniform(0.5, 1.0, 13) * max(rest, 1.0)
        reals = (rest + factor * estimates) * (1 + rng.normal(0, 0.01, 13))
        known = CostFit.of([*zip(estimates[:12], reals[:12])])
        found = known.foresee(estimates[12])
        assert found.point == pytest.approx(reals[12], rel=0.05)
        assert found.high - found.low < 0.12 * found.point
        inside.append(found.low <= reals[12] <= found.high)
    assert np.mean(inside) >= 0.9


def test_the_first_profile_says_most() -> None:
    """That of 8 bits is there before any trial: a network's rest, which no plan changes, is in it."""
    blind = CostFit.of([]).foresee(0.57)
    assert blind.point == pytest.approx(0.57) and blind.high > 0.9
    once = CostFit.of([(0.57, 0.90)])
    for estimate, real in ((0.60, 0.93), (0.65, 0.98)):
        assert once.foresee(estimate).point == pytest.approx(real, rel=0.04)
    narrow, wide = (fit.foresee(0.6) for fit in (CostFit.of([(0.57, 0.9), (0.7, 1.04)]), once))
    assert narrow.high - narrow.low < wide.high - wide.low


def test_a_calibrated_device_is_foreseen_by_its_factor_and_profiles_win_in_the_end() -> None:
    """Two devices that take about twice as long as is modelled: unlike a network's rest, that holds for every part of it."""
    believed = PriorFactor.of([(2.0, 1.9, 2.1), (2.42, 2.2, 2.6)])
    assert believed.mean == pytest.approx(2.2) and believed.deviation == pytest.approx(0.22)
    doubted = PriorFactor.of([(2.0, 1.0, 3.0)])  # not trusted more than its programs agree
    assert doubted.deviation == pytest.approx(0.5)
    assert PriorFactor.of([]) == PriorFactor()
    plan = Plan.uniform(("a",), LayerPlan(8))
    cost = FittedCost(lambda _: {"latency": 0.5, "size": 100.0}, latency=believed)
    assert dict(cost(plan)) == pytest.approx({"latency": 1.1, "size": 100.0})
    # One profile of a network whose time is all in its layers: half of the layers takes half of the time.
    once, blind = CostFit.of([(1.0, 2.2)], believed=believed), CostFit.of([(1.0, 2.2)])
    assert once.foresee(0.5).point == pytest.approx(1.1, rel=0.05)
    assert abs(blind.foresee(0.5).point - 1.1) > 0.2
    rng = np.random.default_rng(0)
    estimates = rng.uniform(0.3, 1.0, 40)
    assert CostFit.of([*zip(estimates, 1.2 * estimates)], believed=believed).factor == pytest.approx(
        1.2, rel=0.02
    )


def test_costs_follow_profiles_as_they_come() -> None:
    eight, two = (Plan.uniform(("a", "b"), LayerPlan(bits)) for bits in (8, 2))
    estimates = {eight.hash: (1.0, 1000.0), two.hash: (0.8, 250.0)}
    asked: list[str] = []

    def estimate(plan: Plan) -> dict[str, float]:
        asked.append(plan.hash)
        return dict(zip(("latency", "size"), estimates[plan.hash]))

    known: list[tuple[Plan, Figures]] = []
    cost = FittedCost(estimate)
    assert dict(cost(eight)) == pytest.approx({"latency": 1.0, "size": 1000.0})
    cost.learn_from(lambda: known)
    known.append((eight, Figures(0.1, 1.5, size_bytes=1100)))
    assert cost(eight)["latency"] == pytest.approx(1.5, rel=0.02)
    known.append((two, Figures(0.2, None, size_bytes=340)))  # a device that gave no time
    assert cost(two)["size"] == pytest.approx(340, rel=0.03)
    fits = len(asked)
    cost(two)
    assert len(asked) == fits + 1  # nothing is fitted anew while nothing is new
    interval = cost.foresee(two)["size"]
    assert interval.low < 340 < interval.high


def test_what_costs_more_than_a_person_allows_is_on_no_front() -> None:
    plans = [Plan.uniform(("a",), LayerPlan(bits)) for bits in (8, 4, 2)]
    records = [
        TrialRecord(i, plan, "finished", Figures(0.1, latency, size_bytes=size))
        for i, (plan, latency, size) in enumerate(zip(plans, (1.0, 0.8, 0.9), (800, 400, 200)))
    ]
    assert [r.number for r in within_costs(records, 0.9, None)] == [1, 2]
    assert [r.number for r in within_costs(records, 0.85, 400)] == [1]
    assert within_costs(records, None, None) == records
