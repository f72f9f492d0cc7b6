"""Who goes on at a rung."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import UserError
from pipeline.study.halving import Rungs, rung_budgets
from pipeline.study.pareto import dominates

value = st.floats(0, 1)
point = st.tuples(value, value, value)


@given(point, st.lists(point, max_size=30))
def test_the_first_always_go_on_and_the_last_rung_decides_nothing(
    candidate: tuple[float, ...], others: list[tuple[float, ...]]
) -> None:
    rungs = Rungs((1.0, 3.0), eta=3, at_least=4)
    assert rungs.decide(0, candidate, others[:3]) == "go on"
    assert rungs.decide(1, candidate, others) == "go on"


@given(point, st.lists(point, min_size=6, max_size=30))
def test_what_every_other_dominates_stops_and_what_dominates_every_other_goes_on(
    candidate: tuple[float, ...], others: list[tuple[float, ...]]
) -> None:
    rungs = Rungs((1.0, 3.0), eta=3, at_least=2)
    decision = rungs.decide(0, candidate, others)
    if all(dominates(other, candidate) for other in others):
        assert decision == "stop"
    if all(dominates(candidate, other) for other in others):
        assert decision == "go on"


def test_one_in_eta_goes_on_when_points_are_ordered() -> None:
    rungs = Rungs((1.0, 3.0), eta=3, at_least=1)
    others = [(i / 10, i / 10) for i in range(1, 9)]
    goes_on = [rungs.decide(0, (0.05 + i / 10, 0.05 + i / 10), others) == "go on" for i in range(9)]
    assert goes_on == [True] * 3 + [False] * 6  # 9 trials, 3 are kept


def test_in_a_crowded_front_the_extremes_stay() -> None:
    rungs = Rungs((1.0, 3.0), eta=3, at_least=1)
    line = [(float(i), 10.0 - i) for i in range(1, 10) if i != 5]
    assert rungs.decide(0, (0.0, 10.0), line) == "go on"
    assert rungs.decide(0, (5.0, 5.0), line) == "stop"
    assert rungs.decide(0, (float("nan"), 0.0), line) == "stop"


def test_budgets() -> None:
    assert rung_budgets(2.0, 3, 2) == (2 / 3, 2.0)
    assert rung_budgets(9.0, 3, 3) == (1.0, 3.0, 9.0)
    assert rung_budgets(1.0, 3, 1) == (1.0,)
    for wrong in ((0.0, 3, 2), (1.0, 1, 2), (1.0, 3, 0)):
        with pytest.raises(UserError):
            rung_budgets(*wrong)
    with pytest.raises(UserError, match="ascending"):
        Rungs((2.0, 1.0))
    with pytest.raises(UserError, match="eta 1"):
        Rungs((1.0,), eta=1)
