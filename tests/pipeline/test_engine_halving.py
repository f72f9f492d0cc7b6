"""Who goes on at a rung."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import UserError
from pipeline.study.halving import Rungs, always, standings
from pipeline.study.pareto import dominates
from pipeline.training.early import given_up, hopeless
from pipeline.training.rung import Rung, best_of
from pipeline.training.stages import stages

PLACES = (("free", 1.0), ("free", 3.0))
value = st.floats(0, 1)
point = st.tuples(value, value, value)


@given(point, st.lists(point, max_size=30))
def test_the_first_always_go_on_and_the_last_rung_decides_nothing(
    candidate: tuple[float, ...], others: list[tuple[float, ...]]
) -> None:
    rungs = Rungs(PLACES, eta=3, at_least=4)
    assert rungs.decide(0, candidate, others[:3]) == "go on"
    assert rungs.decide(1, candidate, others) == "go on"


@given(point, st.lists(point, min_size=6, max_size=30))
def test_what_every_other_dominates_stops_and_what_dominates_every_other_goes_on(
    candidate: tuple[float, ...], others: list[tuple[float, ...]]
) -> None:
    rungs = Rungs(PLACES, eta=3, at_least=2)
    decision = rungs.decide(0, candidate, others)
    if all(dominates(other, candidate) for other in others):
        assert decision == "stop"
    if all(dominates(candidate, other) for other in others):
        assert decision == "go on"


def test_one_in_eta_goes_on_when_points_are_ordered() -> None:
    rungs = Rungs(PLACES, eta=3, at_least=1)
    others = [(i / 10, i / 10) for i in range(1, 9)]
    goes_on = [rungs.decide(0, (0.05 + i / 10, 0.05 + i / 10), [], others) == "go on" for i in range(9)]
    assert goes_on == [True] * 3 + [False] * 6  # 9 trials, 3 are kept


def test_in_a_crowded_front_the_extremes_stay() -> None:
    rungs = Rungs(PLACES, eta=3, at_least=1)
    line = [(float(i), 10.0 - i) for i in range(1, 10) if i != 5]
    assert rungs.decide(0, (0.0, 10.0), line) == "go on"
    assert rungs.decide(0, (5.0, 5.0), line) == "stop"
    assert rungs.decide(0, (float("nan"), 0.0), line) == "stop"


def test_what_dominates_a_trial_that_goes_on_is_never_held_back() -> None:
    """As it was seen on digits: error, milliseconds and bytes of a trial that crowding had stopped, and of three that went on."""
    rungs = Rungs(PLACES, eta=3, at_least=1)
    seen = (0.01, 0.2216, 42_128.0)
    on = [
        (0.0133, 0.2224, 42_512.0),
        (0.0167, 0.2216, 47_000.0),
        (0.01, 0.2301, 63_000.0),
        (0.19, 0.15, 20_000.0),
    ]
    on += [(0.005 + i / 1000, 0.3 - i / 100, 60_000.0 - 4000 * i) for i in range(6)]
    assert sum(dominates(seen, other) for other in on) == 3
    assert rungs.decide(0, seen, on) == "go on"
    assert rungs.decide(0, (0.02, 0.2300, 64_000.0), on) == "stop"


@given(point, st.lists(point, min_size=4, max_size=20), st.lists(point, max_size=10))
def test_nobody_stops_who_dominates_one_that_goes_on_or_has_the_least_error(
    candidate: tuple[float, ...], others: list[tuple[float, ...]], stopped: list[tuple[float, ...]]
) -> None:
    rungs = Rungs(PLACES, eta=3, at_least=1)
    decision = rungs.decide(0, candidate, others, stopped)
    if any(dominates(candidate, other) for other in others):
        assert decision == "go on"
    if all(candidate[0] < other[0] for other in [*others, *stopped]):
        assert decision == "go on"
    if all(dominates(other, candidate) for other in [*others, *stopped]):
        assert decision == "stop"


step = st.integers(0, 8).map(
    lambda eighths: eighths / 8
)  # differences beyond what floats resolve say nothing


@given(st.lists(st.tuples(step, step, step), min_size=1, max_size=20))
def test_standings_put_the_front_before_the_rest(points: list[tuple[float, ...]]) -> None:
    found = standings(points)
    for index, (mine, standing) in enumerate(zip(points, found)):
        beaten = any(dominates(other, mine) for other in points)
        assert (standing < 0) == beaten
        for other, theirs in zip(points, found):
            if beaten and dominates(other, mine):
                assert theirs > standing
        assert standing == found[points.index(mine)] or index == points.index(mine)


def test_a_standing_is_the_volume_that_is_lost_without_the_point() -> None:
    found = standings([(0.0, 1.0), (0.5, 0.25), (1.0, 0.0), (1.0, 1.0)])
    assert found[1] == pytest.approx((1 - 0.5) * (1 - 0.25))
    assert found[0] == pytest.approx((0.5 - 0.0) * (1.1 - 1.0))
    assert found[2] == pytest.approx((1.1 - 1.0) * (0.25 - 0.0))
    assert found[3] == pytest.approx(-(0.5 + 0.75) / 2)  # behind the middle one


def test_the_worst_error_has_no_privilege() -> None:
    """A trial of 19 % that adds next to nothing to the front goes; the one that adds most stays."""
    rungs = Rungs(PLACES, eta=3, at_least=1)
    others = [
        (0.01, 0.5, 100.0),
        (0.02, 0.4, 90.0),
        (0.03, 0.3, 60.0),
        (0.05, 0.2, 50.0),
        (0.06, 0.199, 49.0),
    ]
    assert rungs.decide(0, (0.19, 0.199, 48.9), others) == "stop"
    assert rungs.decide(0, (0.012, 0.25, 55.0), others) == "go on"


@pytest.mark.parametrize(
    ("error", "hoped", "guessed", "no_use"),
    [
        (0.81, 0.01, 0.1, True),
        (0.79, 0.01, 0.1, False),
        (float("nan"), None, 0.1, True),
        (float("inf"), 0.01, 0.5, True),
        (0.5, 0.01, 0.5, False),  # nobody can be twice as good as a coin
        (0.9985, 0.3, 0.001, True),
        (0.9975, 0.3, 0.001, False),
        (0.9, 0.7, 0.1, False),  # fp32 is hardly better itself
        (0.9, None, 0.1, False),
    ],
)
def test_who_is_hopeless(error: float, hoped: float | None, guessed: float, no_use: bool) -> None:
    assert hopeless(error, hoped, guessed) == no_use


def test_who_was_of_use_once_is_not_given_up() -> None:
    guesses, works = 0.9, 0.3

    def curve(**errors: float) -> list[Rung]:
        return [Rung(float(stage == "free"), error, 0.0, 0.0, stage) for stage, error in errors.items()]

    assert given_up(curve(rebuilt=guesses, held=guesses, free=guesses), 0.1, 0.1)
    assert given_up(curve(free=float("nan")), 0.1, 0.1)
    for kept in (
        curve(),
        curve(rebuilt=guesses),
        curve(rebuilt=guesses, held=guesses),  # it may yet recover
        curve(rebuilt=works, held=guesses, free=guesses),  # it keeps what it was
        curve(rebuilt=guesses, held=guesses, free=works),
    ):
        assert not given_up(kept, 0.1, 0.1)


def test_nobody_is_stopped_unless_it_was_asked_for() -> None:
    assert always(12, 7, "off") == 12 and always(500, 3, "off") == 500
    assert always(30, 3, "on") == 4 and always(100, 7, "on") == 7


def test_trials_are_compared_at_their_last_ends_alone() -> None:
    bad, others = (9.0, 9.0), [(1.0, 1.0)] * 9
    places = tuple(stage.place for stage in stages(2.0, 3))
    told = [
        [Rungs(places, count, at_least=1).decide(at, bad, others) for at in range(3)] for count in (1, 2, 3)
    ]
    assert told == [["go on"] * 3, ["go on", "stop", "go on"], ["stop", "stop", "go on"]]


def test_stages() -> None:
    rebuilt, held = ("rebuilt", 0.0), ("held", 0.0)
    for rungs in (1, 2, 3):
        assert [s.place for s in stages(2.0, rungs)] == [rebuilt, held, ("free", 2.0)]
    assert stages(9.0, 6)[0].place == ("small", 0.0)
    assert [s.epochs for s in stages(9.0, 6)][3:] == [1.0, 3.0, 9.0]
    for wrong in ((0.0, 2), (1.0, 0)):
        with pytest.raises(UserError):
            stages(*wrong)
    with pytest.raises(UserError, match="each once"):
        Rungs((rebuilt, rebuilt))
    with pytest.raises(UserError, match="eta 1"):
        Rungs((rebuilt,), eta=1)


def test_the_stage_that_is_kept() -> None:
    def curve(*divergences: float | None) -> tuple[Rung, ...]:
        return tuple(Rung(0.0, 0.5, 1.0, 1.0, divergence=divergence) for divergence in divergences)

    assert best_of(curve(0.3, 0.1, 0.2)) == 1
    assert best_of(curve(0.2, 0.1, 0.1)) == 1  # nothing was gained by what followed
    assert best_of(curve(float("nan"), 0.4)) == 1
    assert best_of(curve(None, None)) == 1 and best_of(curve(None, 0.5, None)) == 1


def test_nobody_is_compared_with_what_is_no_number() -> None:
    rungs, mine = Rungs((("free", 1.0), ("free", 3.0)), eta=3, at_least=1), (0.5, 1.0, 1.0)
    on, off = [(0.4, 1.0, 1.0)], [(0.3, 2.0, 2.0)]
    poisoned = [(math.nan, 1.0, 1.0), *on], [*off, (0.1, math.nan, 0.5)]
    assert rungs.decide(0, mine, *poisoned) == rungs.decide(0, mine, on, off) == "stop"


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=2, max_size=30))
def test_a_point_is_behind_by_the_most_of_all_that_dominate_it(points: list[tuple[int, ...]]) -> None:
    columns = list(zip(*points))
    low, span = [min(c) for c in columns], [max(c) - min(c) or 1.0 for c in columns]
    scaled = [tuple((v - b) / s for v, b, s in zip(point, low, span)) for point in points]
    for point, standing in zip(scaled, standings(points)):
        behind = [sum(p - o for p, o in zip(point, other)) / 3 for other in scaled if dominates(other, point)]
        assert standing == pytest.approx(-max(behind)) if behind else standing >= 0
