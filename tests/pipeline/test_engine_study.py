"""The study: asking, telling, duplicates, resuming after kills, and refusing changes. Real Optuna, real sqlite."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.study import pareto, tables
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.searched import searched_space
from pipeline.study.settings import Settings
from pipeline.study.study import FILE, INTERRUPTED, Candidate, Study, read_records
from pipeline.training.rung import Rung
from search_spaces.dimensions import asked
from search_spaces.dimensions.temperature import Temperature
from search_spaces.parameters import Grid
from search_spaces.samplers.base import SAMPLERS, Context, incumbent
from search_spaces.space import Space

LAYERS = ("conv1", "conv2", "fc")
SPACE = Space(LAYERS)
TINY = Space(
    ("a",),
    bits=(2, 8),
    activation_bits=(8,),
    zero_share=(None, 0.7),
    components={2: (3, 4)},
    dimensions=[Temperature(("cosine",), Grid(1.0, 1.5, 0.5), Grid(0.02, 0.03, 0.01))],
)
IDENTITY = {"model": "resnet8", "data": "digits"}


def open_study(folder: Path, space: Space = SPACE, **rest: Any) -> Study:
    return Study(folder, space, identity=rest.pop("identity", IDENTITY), **rest)


def outcome(candidate: Candidate, status: Any = "finished") -> TrialRecord:
    """Figures that follow from the plan alone, as those of a deterministic evaluation would."""
    plan = candidate.plan
    bits = sum(layer.bits for layer in plan.layers.values())
    zeros = sum(layer.zero_share or 0.1 for layer in plan.layers.values())
    error = 0.5 / bits + 0.01 * zeros + 0.001 * plan.temperature.start
    known = status in ("finished", "stopped")
    figures = Figures(error if known else None, 10.0 - zeros, source="modelled", size_bytes=bits * 100)
    return TrialRecord(candidate.number, plan, status, figures, "why" if status == "failed" else None)


def run(study: Study, count: int) -> list[str]:
    hashes = []
    for _ in range(count):
        candidate = study.ask()
        assert candidate is not None
        study.tell(candidate.number, outcome(candidate))
        hashes.append(candidate.plan.hash)
    return hashes


def states(folder: Path) -> dict[str, int]:
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / FILE}")
    counts: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        counts[trial.state.name] = counts.get(trial.state.name, 0) + 1
    return counts


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_warm_starts_then_the_sampler_and_never_a_plan_twice(tmp_path: Path, sampler: str) -> None:
    with open_study(tmp_path, sampler=sampler) as study:
        hashes = run(study, 15)
        warm = [plan.hash for plan in SPACE.warm_starts()]
        assert hashes[: len(warm)] == warm
        assert len(set(hashes)) == 15 == study.spent
        best = study.front()
        points = [r.figures.objectives(study.objectives) for r in study.records()]
        assert [r.number for r in best] == [study.records()[i].number for i in pareto.front(points)]
        assert study.best_error() == min(r.figures.error for r in study.records() if r.figures.error)
    assert read_records(tmp_path) == study.records()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_one_seed_one_sequence(tmp_path: Path, sampler: str) -> None:
    sequences = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with open_study(tmp_path / name, sampler=sampler, seed=seed, warm_starts=[]) as study:
            sequences.append(run(study, 11))  # the samplers of Optuna draw at random first
    assert sequences[0] == sequences[1] != sequences[2]


def test_a_resumed_sampler_does_not_repeat_its_first_draws(tmp_path: Path) -> None:
    first = []
    for _ in range(3):
        with open_study(tmp_path, sampler="random", warm_starts=[]) as study:
            first.append(run(study, 1)[0])
    records = read_records(tmp_path)
    assert len(set(first)) == len(records) == 3 and states(tmp_path) == {"COMPLETE": 3}


def test_a_known_plan_costs_no_trial_and_a_small_space_is_exhausted(tmp_path: Path) -> None:
    with open_study(tmp_path, TINY) as study:  # TPE repeats itself in so small a space
        hashes = run(study, TINY.size())
        assert len(set(hashes)) == TINY.size() == 28
        assert study.ask() is None and study.spent == 28
    assert states(tmp_path) == {"COMPLETE": 28}
    with open_study(tmp_path, TINY) as study:
        assert study.ask() is None and study.recovered.finished == 28


def test_what_an_older_version_queued_is_taken_up_and_what_is_known_is_answered(tmp_path: Path) -> None:
    with open_study(tmp_path, warm_starts=[]) as study:
        known = run(study, 1)[0]
        plan, other = study.records()[0].plan, SPACE.plan_at(7)
        queue = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / FILE}")
        for asked in (plan, other):
            queue.enqueue_trial(SPACE.params(asked))
        candidate = study.ask()
        assert candidate is not None and candidate.plan == other and known == plan.hash
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / FILE}").trials
    assert trials[1].user_attrs["duplicate_of"] == 0 and trials[1].values == trials[0].values
    with open_study(tmp_path) as study:
        assert [r.plan for r in study.records()] == [plan]
        again = study.ask()
        assert again is not None and again.plan == other


def test_whose_weights_a_trial_inherits_is_known_of_it_also_when_it_is_put_back(tmp_path: Path) -> None:
    def walking() -> Study:
        return open_study(tmp_path, sampler="metropolis", inherits=True, warm_starts=SPACE.warm_starts()[:2])

    with walking() as study:
        run(study, 2)
        assert [record.inherits for record in study.records()] == [None, None]
        walked = incumbent("metropolis", Context(SPACE, study.objectives, study.records))
        first = study.ask()
        assert first is not None and walked is not None
        (running,) = study.running()
        assert running.inherits == walked.hash
    with walking() as study:
        again = study.ask()
        assert again is not None and again.plan == first.plan and again.number != first.number
        study.tell(again.number, outcome(again))
        assert study.records()[-1].inherits == walked.hash
    texts = tables.record_texts(tmp_path / FILE)
    assert ["inherits" in text for text in texts] == [False, False, True, True]


def test_no_plan_is_in_flight_twice(tmp_path: Path) -> None:
    with open_study(tmp_path, TINY) as study:
        flying = [study.ask() for _ in range(TINY.size())]
        assert len({c.plan.hash for c in flying if c}) == TINY.size()
        assert study.ask() is None
        assert [r.number for r in study.running()] == [c.number for c in flying if c]
    assert states(tmp_path)["WAITING"] == TINY.size() and "RUNNING" not in states(tmp_path)
    with open_study(tmp_path, TINY) as study:
        assert set(run(study, TINY.size())) == {c.plan.hash for c in flying if c}


def test_statuses_reasons_and_curves_are_kept(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        for status in ("finished", "stopped", "dominated", "failed"):
            candidate = study.ask()
            assert candidate is not None
            rungs = (Rung(0.5, 0.9, 2.0, 1.0), Rung(1.0, 0.4, 1.0, 1.0))
            for rung in rungs:
                study.report_rung(candidate.number, rung)
            study.report_rung(candidate.number, rungs[1])  # a retried rung does not appear twice
            assert study.running()[0].curve == rungs
            study.tell(candidate.number, dataclasses.replace(outcome(candidate, status), curve=rungs))
        assert [r.status for r in study.records()] == ["finished", "stopped", "dominated", "failed"]
        assert [r.reason for r in study.records()] == [None, None, None, "why"]
        assert all(r.curve == rungs and r.started and r.ended for r in study.records())
        assert study.spent == 3 and len(study.front()) == 1
        with pytest.raises(ValueError, match="not running"):
            study.tell(0, study.records()[0])
        candidate = study.ask()
        assert candidate is not None
        with pytest.raises(ValueError, match="without all of"):
            study.tell(candidate.number, dataclasses.replace(outcome(candidate), figures=Figures(0.1)))
    counts = states(tmp_path)
    assert (counts["COMPLETE"], counts["PRUNED"], counts["FAIL"]) == (1, 2, 2)


def test_leaving_with_trials_running_puts_them_back(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        run(study, 2)
        flying = [study.ask(), study.ask()]
    with open_study(tmp_path) as study:
        assert dataclasses.astuple(study.recovered) == (2, 0, 0) and not study.running()
        assert [r.reason for r in study.records(interrupted=True)][2:] == [INTERRUPTED] * 2
        rest = run(study, len(SPACE.warm_starts()))
        assert {c.plan.hash for c in flying if c} <= set(rest) and len(set(rest)) == len(rest)


CHILD = """
    import os, sys, time
    sys.path[:0] = [{root!r}, {tests!r}]
    from pathlib import Path
    from test_engine_study import open_study, outcome
    study = open_study(Path(sys.argv[1]))
    for done in range(1000):
        first, second = study.ask(), study.ask()
        study.tell(first.number, outcome(first))
        print(first.plan.hash, flush=True)
        study.tell(second.number, outcome(second))
        print(second.plan.hash, flush=True)
"""


def test_killed_again_and_again_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = textwrap.dedent(CHILD.format(root=root, tests=str(Path(__file__).parent)))
    told: list[str] = []
    for attempt in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        told += [child.stdout.readline().strip() for _ in range(5)]
        time.sleep(0.03 * attempt)
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read().split()
        child.wait()
    assert states(tmp_path).get("RUNNING", 0) <= 2
    with open_study(tmp_path) as study:
        finished = [r.hash for r in study.records()]
        assert len(set(finished)) == len(finished) and set(told) <= set(finished)
        assert len(told) == len(set(told)) and len(finished) <= len(told) + 3
        assert study.recovered.finished == len(finished) and study.recovered.failed == 0
        retried = study.recovered.requeued
    assert "RUNNING" not in states(tmp_path) and retried <= 2


def killed(folder: Path, monkeypatch: pytest.MonkeyPatch, study: Study, method: str, after: int) -> None:
    """End the study as a kill would, at the ``after``-th call of ``method`` on the storage side."""
    calls = 0
    real = getattr(study._study, method)

    def dying(*args: Any, **rest: Any) -> Any:
        nonlocal calls
        if calls == after:
            raise SystemExit
        calls += 1
        return real(*args, **rest)

    monkeypatch.setattr(study._study, method, dying)


def test_a_kill_between_record_and_tell_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tmp_path)
    candidate = study.ask()
    assert candidate is not None
    killed(tmp_path, monkeypatch, study, "tell", 0)
    with pytest.raises(SystemExit):
        study.tell(candidate.number, outcome(candidate))
    study._lock.close()
    with open_study(tmp_path) as again:
        assert dataclasses.astuple(again.recovered) == (1, 0, 0)
        assert again.spent == 1 and len(again.front()) == 1
    assert states(tmp_path)["COMPLETE"] == 1


@pytest.mark.parametrize("method", ["tell", "enqueue_trial"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_kill_while_resuming_queues_each_candidate_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    study = open_study(tmp_path)
    flying = {c.plan.hash for c in (study.ask(), study.ask(), study.ask()) if c}
    killed(tmp_path, monkeypatch, study, method, after)
    with pytest.raises(SystemExit):
        study.release()
    study._lock.close()
    with open_study(tmp_path) as again:
        rest = run(again, len(SPACE.warm_starts()))
        assert flying <= set(rest) and len(set(rest)) == len(rest)
        assert again.spent == len(rest)
    counts = states(tmp_path)
    assert counts == {"FAIL": 3, "COMPLETE": len(rest)}


def told(study: Study, statuses: list[str]) -> list[str]:
    """Hashes of as many candidates as there are statuses, each ended with its own."""
    hashes = []
    for status in statuses:
        candidate = study.ask()
        assert candidate is not None
        study.tell(candidate.number, outcome(candidate, status))
        hashes.append(candidate.plan.hash)
    return hashes


def test_another_kernel_library_leaves_what_was_learned_and_takes_other_costs(tmp_path: Path) -> None:
    old, new = ({**IDENTITY, "kernel_library": letter * 12} for letter in "ab")
    with open_study(tmp_path, TINY, identity=old) as study:
        finished, stopped, dominated, failed = told(study, ["finished", "stopped", "dominated", "failed"])
        flying = study.ask()
        before = study.records()
    with pytest.raises(UserError, match="Repeat the old settings"):
        open_study(tmp_path, TINY, identity={**new, "data": "x"})
    with open_study(tmp_path, TINY, identity=new) as study:
        assert study.outdated == "a" * 12
        with pytest.raises(ValueError, match="renew"):
            study.ask()
        with pytest.raises(ValueError, match=r"without new figures: \[1\]"):
            study.renew({0: Figures(None, 1.0, size_bytes=5)})
        assert study.records() == before
    with open_study(tmp_path, TINY, identity=old) as study:
        assert study.outdated == "a" * 12, "folders may be of two libraries by now"
    with open_study(tmp_path, TINY, identity=new) as study:
        cost = Figures(None, 7.5, source="measured", size_bytes=5)
        kept = study.renew({0: cost, 1: cost})
        assert study.outdated is None and read_records(tmp_path) == study.records()
        after = {record.hash: record for record in study.records()}
        for name, record in zip((finished, stopped), before):
            error = record.figures.error
            assert after[name] == dataclasses.replace(record, figures=dataclasses.replace(cost, error=error))
        assert after[failed].figures == Figures(None) and after[failed].reason == "why"
        assert dominated not in after
        rest = set()
        while (candidate := study.ask()) is not None:
            rest.add(candidate.plan.hash)
            study.tell(candidate.number, outcome(candidate))
        assert flying is not None and {dominated, flying.plan.hash} <= rest, (
            "judged by what is no longer true"
        )
        assert not rest & {finished, stopped, failed}
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / FILE}")
    assert plain.trials[0].values == [before[0].figures.error, 7.5, 5.0]
    earlier = optuna.load_study(study_name="search", storage=f"sqlite:///{kept}")
    assert earlier.trials[0].values == list(before[0].figures.objectives(("error", "latency", "size")) or ())
    open_study(tmp_path, TINY, identity=new).close()
    with open_study(tmp_path, TINY, identity=new) as study:
        assert study.outdated is None


def test_a_change_of_figures_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with open_study(tmp_path, identity={**IDENTITY, "kernel_library": "a"}) as study:
        run(study, 3)
        before = study.records()
    new = {record.number: Figures(None, 1.0, size_bytes=1) for record in before}
    broken = {number: (0.0, 1.0, object()) for number in new}
    with pytest.raises(sqlite3.Error):
        tables.replace(tmp_path / FILE, {r.number: "{}" for r in before}, broken, {})  # type: ignore[arg-type]
    assert read_records(tmp_path) == before
    with open_study(tmp_path, identity={**IDENTITY, "kernel_library": "b"}) as study:
        study.renew(new)
        assert [record.figures.latency_ms for record in read_records(tmp_path)] == [1.0] * 3


def test_changes_are_refused_by_name(tmp_path: Path) -> None:
    open_study(tmp_path).close()
    with pytest.raises(UserError, match='data was "digits", now "cifar10:/x"'):
        open_study(tmp_path, identity={**IDENTITY, "data": "cifar10:/x"})
    with pytest.raises(UserError, match=r"space\.bits was \[2, 3, 4, 8\], now \[4, 8\]"):
        open_study(tmp_path, Space(LAYERS, bits=(4, 8)))
    with pytest.raises(UserError, match="objectives was"):
        open_study(tmp_path, objectives=("error", "size"))
    with pytest.raises(UserError, match=r"unknown sampler 'tpf'.*'tpe'"):
        open_study(tmp_path, sampler="tpf")
    open_study(
        tmp_path, sampler="nsga2", seed=9
    ).close()  # the sampler may change: the truth does not depend on it
    with pytest.raises(UserError, match="holds no study"):
        read_records(tmp_path / "nothing")


def test_a_second_driver_is_refused_while_readers_are_not(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        run(study, 2)
        with pytest.raises(UserError, match=f"run by process {os.getpid()}"):
            open_study(tmp_path)
        root = Path(__file__).resolve().parents[2]
        code = (
            "from pathlib import Path; from pipeline.study.study import read_records; import sys;"
            "print(len(read_records(Path(sys.argv[1]))))"
        )
        child = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
        )
        assert child.stdout.strip() == "2"
        run(study, 1)
    with contextlib.closing(open_study(tmp_path)) as study:
        assert study.spent == 3


def test_two_objectives_and_given_warm_starts(tmp_path: Path) -> None:
    plan = Plan.uniform(LAYERS, LayerPlan(4, 12, zero_share=0.8))
    with open_study(tmp_path, objectives=("error", "size"), warm_starts=[plan]) as study:
        assert run(study, 1) == [plan.hash]
        assert study.front()[0].figures.objectives(("error", "size")) is not None
    with pytest.raises(UserError, match="other layers"):
        open_study(tmp_path / "b", warm_starts=[Plan.uniform(("x",), LayerPlan(8))])


def test_a_study_that_is_being_created_has_no_trials_yet(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "study.db").close()
    assert read_records(tmp_path) == []


def test_a_study_resumes_without_the_dimensions_that_its_quantizer_never_had(tmp_path: Path) -> None:
    """Searches of learned steps once drew components, shares of zeros and temperatures, which changed nothing."""
    before = Space(LAYERS, bits=(2,), quantizer="learned_step")
    with open_study(tmp_path, before) as study:
        run(study, 3)
        assert study.ask() is not None  # its plan has components
    with open_study(tmp_path, Space(LAYERS, bits=(2,), quantizer="learned_step", declared=())) as study:
        assert study.recovered.finished == 3 and not study.running()
        fresh = study.ask()
        assert fresh is not None and {p.components for p in fresh.plan.layers.values()} == {None}
    with pytest.raises(UserError, match=r"space\.bits was"):
        open_study(tmp_path, Space(LAYERS, bits=(2, 4), quantizer="learned_step", declared=()))


def test_a_study_from_before_a_dimension_was_searched_goes_on_without_it(tmp_path: Path) -> None:
    """Told apart by what it was created with; the command is the same as ever."""
    settings, layers = Settings(out=tmp_path, name="old"), [Layer(each) for each in LAYERS]
    before = searched_space(dataclasses.replace(settings, dimensions=("coded_bits=natural",)), layers)
    assert (
        "coded_bits" not in before.describe() and "coded_bits" in searched_space(settings, layers).describe()
    )
    with open_study(settings.folder, before) as study:
        run(study, 3)
    with open_study(settings.folder, searched_space(settings, layers)) as study:
        assert study.recovered.finished == 3 and study.ask() is not None
    asked_for = searched_space(dataclasses.replace(settings, dimensions=("coded_bits",)), layers)
    with pytest.raises(UserError, match=r"space\.coded_bits was none, now \["):
        open_study(settings.folder, asked_for)
    other = dataclasses.replace(settings, quantizer="learned_step")
    assert "coded_bits" not in searched_space(other, layers).dimensions


@pytest.mark.parametrize("name", ["coded_bits", "kept_blocks"])
def test_a_study_does_not_go_on_without_a_dimension_that_was_searched(tmp_path: Path, name: str) -> None:
    places = [Layer(each, (64, 64, 3, 3)) for each in LAYERS]
    with open_study(tmp_path, Space(places, bits=(2,), dimensions=asked([name]))) as study:
        run(study, 3)
    without = asked(["coded_bits=natural"] if name == "coded_bits" else [])
    with pytest.raises(UserError, match=rf"space\.{name} was .*, now none"):
        open_study(tmp_path, Space(places, bits=(2,), dimensions=without))
    with open_study(tmp_path, Space(places, bits=(2,), dimensions=asked([name]))) as study:
        assert study.recovered.finished == 3
