"""The engine's decisions, with a real study and without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.plan import Plan
from pipeline.cluster.engine import Guard
from pipeline.cluster.ray_cluster import keep_secret
from pipeline.study.conductor import Conductor, Outlook
from pipeline.study.halving import Rungs
from pipeline.study.memory import Death
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.study import Candidate, Study
from pipeline.training.rung import Rung
from search_spaces.space import Space

LAYERS = ("conv1", "fc")
RUNGS = Rungs((("free", 1.0), ("free", 3.0)), eta=3, at_least=1)


class Silent:
    def __init__(self) -> None:
        self.trials: list[tuple[str, int]] = []
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def status(self, text: str | Callable[[], str]) -> None: ...

    def trial(self, record: TrialRecord, done: int) -> None:
        self.trials.append((record.status, done))


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with Study(tmp_path, Space(LAYERS), identity={}) as study:
        yield study


def figures(error: float | None, latency: float, size: int) -> Figures:
    return Figures(error, latency, source="modelled", size_bytes=size)


def asked(conductor: Conductor) -> Candidate:
    candidate = conductor.propose()
    assert candidate is not None
    return candidate


def finish(conductor: Conductor, candidate: Candidate, found: Figures) -> None:
    conductor.end(candidate.number, TrialRecord(candidate.number, candidate.plan, "finished", found))


class Low:
    """A figure that is at least so much."""

    def __init__(self, low: float) -> None:
        self.low = low


def test_what_cannot_enter_by_its_foreseen_cost_is_told_so_and_not_started(study: Study) -> None:
    listener, asked_of = Silent(), []

    def foresee(plan: Plan) -> dict[str, Low]:
        asked_of.append(plan.hash)
        first = len(asked_of) == 1
        good = first or len(asked_of) > 4  # the second to the fourth are slow and large
        return {"latency": Low(1.0 if good else 9.0), "size": Low(100.0 if good else 900.0)}

    conductor = Conductor(study, RUNGS, 4, 1, listener, outlook=Outlook(0.1, foresee))
    first = asked(conductor)
    finish(conductor, first, figures(0.1, 2.0, 200))
    second = asked(conductor)
    assert asked_of.index(second.plan.hash) == 4
    told = {record.hash: record for record in study.records()}
    assert [told[name].status for name in asked_of[1:4]] == ["dominated"] * 3
    assert all(told[name].started is not None and not told[name].curve for name in asked_of[1:4])
    assert study.spent == 1 and len(study.running()) == 1 and not conductor.exhausted
    assert [status for status, _ in listener.trials] == ["finished", *["dominated"] * 3]


def test_a_search_that_is_asked_to_end_while_it_looks_for_a_plan_is_not_complete(study: Study) -> None:
    conductor = Conductor(study, RUNGS, 4, 1, Silent(), outlook=Outlook(0.1))

    def foresee(plan: Plan) -> dict[str, Low]:
        conductor.stop.set()
        return {"latency": Low(9.0), "size": Low(900.0)}

    finish(conductor, asked(conductor), figures(0.1, 2.0, 200))
    conductor.foresee = foresee
    assert conductor.propose() is None and not conductor.complete


def test_proposals_stop_at_concurrency_and_at_the_budget(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=3, concurrency=2, progress=Silent())
    first, second = asked(conductor), asked(conductor)
    assert conductor.propose() is None and not conductor.closing
    finish(conductor, first, figures(0.1, 1.0, 100))
    third = asked(conductor)
    finish(conductor, second, figures(0.1, 2.0, 50))
    assert conductor.propose() is None and not conductor.complete  # the third may still fail to count
    finish(conductor, third, figures(0.1, 3.0, 20))
    assert conductor.complete and conductor.closing and study.spent == 3


def test_what_cannot_enter_the_front_is_dominated_and_costs_no_budget(study: Study) -> None:
    progress = Silent()
    conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=progress, outlook=Outlook(0.1))
    finish(conductor, asked(conductor), figures(0.1, 5.0, 100))
    candidate = asked(conductor)
    assert not conductor.judge(candidate.number, "profiled", figures(None, 6.0, 100))
    conductor.end(candidate.number, None)
    record = study.records()[-1]
    assert record.status == "dominated" and "slower and larger" in (record.reason or "")
    assert record.figures.latency_ms == 6.0 and record.figures.error is None
    assert progress.trials == [("finished", 1), ("dominated", 1)]
    candidate = asked(conductor)
    assert conductor.judge(candidate.number, "profiled", figures(None, 6.0, 99))  # smaller: it can


def test_hope_is_what_fp32_reaches_not_what_a_bad_first_trial_reached(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent(), outlook=Outlook(0.1))
    finish(conductor, asked(conductor), figures(0.9, 1.0, 10))
    candidate = asked(conductor)
    assert conductor.judge(candidate.number, "profiled", figures(None, 5.0, 50))
    blind = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent())
    assert blind.judge(candidate.number, "profiled", figures(None, 5.0, 50))


@pytest.fixture
def drawn(tmp_path: Path) -> Iterator[Study]:
    """A study without warm starts."""
    with Study(tmp_path, Space(LAYERS), identity={}, sampler="random", warm_starts=[]) as study:
        yield study


def at_rung(conductor: Conductor, error: float, *, latency: float = 5.0) -> tuple[Candidate, bool]:
    """The next trial, and whether it goes on with this error at its first rung."""
    candidate = asked(conductor)
    conductor.judge(candidate.number, "profiled", figures(None, latency, 50))
    rung = Rung(1.0, error, 1.0, 1.0)
    goes_on = conductor.judge(candidate.number, "rung", figures(error, latency, 50), rung)
    if not goes_on:
        conductor.end(candidate.number, None)
    return candidate, goes_on


def test_rungs_are_noted_and_the_worse_stopped(drawn: Study) -> None:
    conductor = Conductor(drawn, RUNGS, budget=4, concurrency=1, progress=Silent())
    decisions = []
    for error in (0.1, 0.5, 0.6, 0.05):
        candidate, goes_on = at_rung(conductor, error)
        decisions.append(goes_on)
        if goes_on:
            finish(conductor, candidate, figures(error, 5.0, 50))
    assert decisions == [True, False, False, True]
    assert len(drawn.running()) == 2 and drawn.spent == 2  # held back: they may go on yet
    assert conductor.propose() is None  # nobody comes who could change that
    stopped = drawn.records()[1]
    assert (stopped.status, stopped.figures.error) == ("stopped", 0.5) and len(stopped.curve) == 1
    assert stopped.reason == "worse than others at 1 epochs" and drawn.spent == 4 and conductor.complete


def test_at_the_end_of_a_stage_that_not_all_trials_have_nobody_is_compared(drawn: Study) -> None:
    conductor = Conductor(drawn, RUNGS, budget=4, concurrency=1, progress=Silent())
    best, _ = at_rung(conductor, 0.1)
    finish(conductor, best, figures(0.1, 5.0, 50))
    candidate = asked(conductor)
    found = figures(0.5, 5.0, 50)
    assert conductor.judge(candidate.number, "rung", found, Rung(0.0, 0.5, 1.0, 1.0, "inherited"))
    assert not conductor.judge(candidate.number, "rung", found, Rung(1.0, 0.5, 1.0, 1.0))
    assert [rung.stage for rung in drawn.running()[0].curve] == ["inherited", "free"]


def test_a_trial_that_was_held_back_goes_on_when_it_is_among_the_best(drawn: Study) -> None:
    """One in three goes on: with more trials behind it, the second best is among them."""
    conductor = Conductor(drawn, RUNGS, budget=30, concurrency=1, progress=Silent())
    best, goes_on = at_rung(conductor, 0.1)
    finish(conductor, best, figures(0.1, 5.0, 50))
    held, held_goes_on = at_rung(conductor, 0.2)
    assert (goes_on, held_goes_on) == (True, False)
    others: list[Candidate] = []
    while (candidate := asked(conductor)).number != held.number:  # the same number: the same trial
        conductor.judge(candidate.number, "profiled", figures(None, 5.0, 50))
        worse = 0.3 + len(others) / 100
        assert not conductor.judge(
            candidate.number, "rung", figures(worse, 5.0, 50), Rung(1.0, worse, 1.0, 1.0)
        )
        conductor.end(candidate.number, None)
        others.append(candidate)
    assert len(others) == 2 and candidate == held
    conductor.judge(held.number, "profiled", figures(None, 5.0, 50))
    again = Rung(1.0, 0.2, 1.0, 1.0)  # from its checkpoint
    assert conductor.judge(held.number, "rung", figures(0.2, 5.0, 50), again)
    finish(conductor, held, figures(0.15, 5.0, 50))
    record = next(r for r in drawn.records() if r.hash == held.plan.hash)
    assert (record.status, drawn.spent) == ("finished", 2)


def test_warm_starts_are_held_back_by_nobody(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent())
    for error in (0.1, 0.5, 0.6):
        candidate, goes_on = at_rung(conductor, error)
        assert goes_on and candidate.plan.hash in study.warm_starts
        finish(conductor, candidate, figures(error, 5.0, 50))


def test_a_trial_hardly_better_than_guessing_ends_with_its_reason(study: Study) -> None:
    conductor = Conductor(
        study, RUNGS, budget=9, concurrency=1, progress=Silent(), outlook=Outlook(0.02, guessed=0.1)
    )
    for error, goes_on in ((0.81, False), (0.5, True)):
        _, found = at_rung(conductor, error)
        assert found == goes_on
    told = {record.number: record for record in study.records()}
    assert told[0].status == "stopped" and told[0].reason == "hardly better than guessing at 1 epochs"


def test_what_is_held_back_survives_the_end_of_a_search(tmp_path: Path) -> None:
    with Study(tmp_path, Space(LAYERS), identity={}, sampler="random", warm_starts=[]) as study:
        conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent())
        best, _ = at_rung(conductor, 0.1)
        finish(conductor, best, figures(0.1, 5.0, 50))
        held, goes_on = at_rung(conductor, 0.2)
        conductor.stop.set()
        assert not goes_on and conductor.propose() is None
    with Study(tmp_path, Space(LAYERS), identity={}, sampler="random", warm_starts=[]) as study:
        conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent())
        assert asked(conductor).plan == held.plan


def test_a_retried_trial_is_not_compared_with_itself(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=9, progress=Silent())
    candidate = asked(conductor)
    rung = Rung(1.0, 0.5, 1.0, 1.0)
    for _ in range(3):
        assert conductor.judge(candidate.number, "rung", figures(0.5, 5.0, 50), rung)
    study.release()
    assert study.records(interrupted=True)[0].curve == (rung,)
    again = next(c for c in iter(lambda: asked(conductor), None) if c.plan == candidate.plan)
    assert conductor.judge(again.number, "rung", figures(0.5, 5.0, 50), rung)


def test_what_is_told_of_a_trial_that_ended_changes_nothing(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=2, progress=Silent())
    candidate = asked(conductor)
    finish(conductor, candidate, figures(0.1, 5.0, 50))
    before = study.records()
    finish(conductor, candidate, figures(0.9, 9.0, 90))
    assert study.records() == before and study.spent == 1


def test_a_trial_that_tune_dropped_stays(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=2, progress=Silent())
    first = asked(conductor)
    conductor.end(first.number, None)
    assert [record.number for record in study.running()] == [first.number] and study.spent == 0


def test_who_died_is_started_again_first_and_beside_one_fewer(study: Study) -> None:
    progress = Silent()
    conductor = Conductor(study, RUNGS, budget=9, concurrency=3, progress=progress, pause=0)
    first, second, _ = asked(conductor), asked(conductor), asked(conductor)
    death = Death(memory=True, held=3 * 2**30, total=8 * 2**30)
    conductor.died(second.number, death)
    conductor.died(second.number, death)  # Tune may say it twice
    assert conductor.propose() is None and conductor.concurrency == 2  # two still fly
    assert progress.lines == [
        f"{second.plan.hash} was killed for memory when it held 3.0 GiB of 8.0 GiB: queued again, 2 at a time from now on"
    ]
    finish(conductor, first, figures(0.1, 1.0, 100))
    again = asked(conductor)
    assert again == second and conductor.propose() is None
    assert study.spent == 1, "a death costs nothing of the budget"


def test_nobody_starts_while_the_memory_of_who_was_killed_is_given_back(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=2, progress=Silent(), pause=5.0)
    candidate = asked(conductor)
    conductor.died(candidate.number, Death(memory=True))
    assert conductor.propose() is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 5.1)
    assert asked(conductor) == candidate


def test_who_dies_again_and_again_for_no_known_reason_fails(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=2, progress=Silent())
    candidate = asked(conductor)
    for _ in range(3):
        conductor.died(candidate.number, Death())
        retried = conductor.propose()
    assert "died 3 times" in (study.records()[0].reason or "")
    assert retried is not None and retried.plan != candidate.plan and study.spent == 1
    conductor.died(candidate.number, Death())  # Tune may say it twice
    assert study.spent == 1


def test_what_fails_around_a_trial_costs_nothing_and_is_waited_out(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, clock = Silent(), [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    conductor = Conductor(study, RUNGS, budget=9, concurrency=2, progress=progress, pause=5.0)
    candidate, other = asked(conductor), asked(conductor)
    full = Death(trouble="OSError: No space left on device")
    for wait in (5, 10, 20, 40):
        conductor.died(candidate.number, full)
        assert progress.lines[-1] == (
            f"{candidate.plan.hash} could not go on (OSError: No space left on device): queued again, in {wait} s"
        )
        clock[0] += wait - 0.1
        assert conductor.propose() is None
        clock[0] += 0.2
        # A profile before training is no progress: the disk may be full at every rung.
        assert asked(conductor) == candidate
        assert conductor.judge(candidate.number, "profiled", figures(None, 1.0, 100))
    assert conductor.concurrency == 2 and study.spent == 0
    conductor.judge(candidate.number, "rung", figures(0.2, 1.0, 100), Rung(1.0, 0.2, 0.5, 1.0))
    conductor.died(candidate.number, full)
    assert "in 5 s" in progress.lines[-1], "it had reached a rung since"
    clock[0] += 5.1
    assert asked(conductor) == candidate
    finish(conductor, other, figures(0.1, 1.0, 100))
    for _ in range(4):
        conductor.died(candidate.number, full)
        clock[0] += 41
        assert asked(conductor) == candidate
    with pytest.raises(
        UserError, match=r"No space left on device, 5 times in a row.*the same command goes on"
    ):
        conductor.died(candidate.number, full)
    assert [record.number for record in study.running()] == [candidate.number] and study.spent == 1


def test_as_many_run_as_there_is_room_for_now(study: Study) -> None:
    room = 0
    conductor = Conductor(study, RUNGS, budget=9, concurrency=lambda: room, progress=Silent(), pause=0)
    assert conductor.propose() is None and not conductor.complete  # no node is there yet
    room = 2
    first, _ = asked(conductor), asked(conductor)
    assert conductor.propose() is None
    room = 3
    asked(conductor)
    conductor.died(first.number, Death(memory=True))
    assert conductor.concurrency == 2
    room = 1
    assert conductor.concurrency == 1 and conductor.propose() is None


def test_who_gets_further_is_not_blamed_for_what_killed_it_before(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=9, concurrency=1, progress=Silent())
    candidate = asked(conductor)
    for _ in range(2):
        conductor.died(candidate.number, Death())
        assert asked(conductor) == candidate
    conductor.judge(candidate.number, "rung", figures(0.2, 1.0, 100), Rung(1.0, 0.2, 0.5, 1.0))
    conductor.died(candidate.number, Death())
    assert asked(conductor) == candidate, "it had reached a rung since"
    for _ in range(2):  # the same rung again, out of its checkpoint, is nothing new
        conductor.judge(candidate.number, "rung", figures(0.2, 1.0, 100), Rung(1.0, 0.2, 0.5, 1.0))
        conductor.died(candidate.number, Death())
        conductor.propose()
    assert "died 3 times" in (study.records()[0].reason or "")


def test_one_trial_alone_that_does_not_fit_ends_the_search_with_the_figures(study: Study) -> None:
    """While others ran beside it, it may be killed as often as there are others; alone it gets one more chance."""
    conductor = Conductor(study, RUNGS, budget=9, concurrency=3, progress=Silent())
    flying = [asked(conductor) for _ in range(3)]
    death = Death(memory=True, asked="it wanted 9.0 GiB more", held=6 * 2**30, total=8 * 2**30)
    for candidate in flying:
        conductor.died(candidate.number, death)
    assert conductor.concurrency == 1
    assert asked(conductor) == flying[0] and conductor.propose() is None
    conductor.died(flying[0].number, death)
    assert asked(conductor) == flying[1]
    conductor.died(flying[1].number, death)
    assert asked(conductor) == flying[2]
    finish(conductor, flying[2], figures(0.1, 1.0, 100))
    assert asked(conductor) == flying[0]
    with pytest.raises(
        UserError, match=r"alone does not fit .* wanted 9.0 GiB more; it held 6.0 GiB of 8.0 GiB"
    ):
        conductor.died(flying[0].number, death)
    assert study.spent == 1


def test_when_time_is_up_nothing_more_is_proposed(study: Study) -> None:
    conductor = Conductor(study, RUNGS, 9, 2, Silent(), deadline=time.monotonic() - 1)
    assert conductor.propose() is None and conductor.closing and not conductor.complete


def test_an_exhausted_space_completes_the_search(tmp_path: Path) -> None:
    space = Space(("fc",), bits=(8,), activation_bits=(8,), temperature=("constant",))
    with Study(tmp_path, space, identity={}) as study:
        conductor = Conductor(study, RUNGS, budget=99, concurrency=9, progress=Silent())
        flying = [asked(conductor) for _ in range(space.size())]
        assert conductor.propose() is None and not conductor.complete  # one in flight might still be put back
        for candidate in flying:
            finish(conductor, candidate, figures(0.1, 1.0, 1))
        assert conductor.propose() is None and conductor.complete


def test_the_guard_keeps_the_first_mistake_and_ends_the_search(study: Study) -> None:
    conductor = Conductor(study, RUNGS, 9, 1, Silent())
    guard = Guard(conductor.stop)
    for text in ("first", "second"):
        with guard:
            raise ValueError(text)
    assert str(guard.error) == "first" and conductor.closing
    with pytest.raises(KeyboardInterrupt), guard:
        raise KeyboardInterrupt


def test_the_secret_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ray" / "token"
    keep_secret(path)
    text = path.read_text()
    assert len(text) == 64 and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    keep_secret(path)
    assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o600


def test_failing_alike_again_and_again_ends_the_search(study: Study) -> None:
    conductor = Conductor(study, RUNGS, budget=50, concurrency=1, progress=Silent())

    def fail(reason: str) -> None:
        candidate = asked(conductor)
        record = TrialRecord(candidate.number, candidate.plan, "failed", figures(None, 1.0, 1), reason)
        conductor.end(candidate.number, record)

    for reason in ("a", "a", "a", "a", "b", "a", "a", "a", "a"):
        fail(reason)
    with pytest.raises(UserError, match=r"5 trials .* failed alike: a"):
        fail("a")
    assert study.spent == 10, "what failed is kept all the same"
