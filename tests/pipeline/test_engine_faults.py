"""What a study goes through without a loss: its database locked, full, damaged; clocks put back; figures that are no numbers.
Real Optuna, real sqlite; what needs processes and disks of its own is in tests/system/test_system_faults.py."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from foundation.errors import UserError
from pipeline.study import checkpoints, database, tables
from pipeline.study.conductor import Conductor
from pipeline.study.halving import Rungs
from pipeline.study.records import Figures
from pipeline.study.storage import LocalStorage, RemoteStorage
from pipeline.study.study import FILE, Candidate, Study, read_records
from pipeline.training.rung import Rung
from search_spaces.space import Space
from tests.kept import Note

SPACE = Space(("conv1", "conv2", "fc"))


def opened(folder: Path) -> Study:
    return Study(folder, SPACE, identity={"model": "table"})


def asked(study: Study) -> Candidate:
    candidate = study.ask()
    assert candidate is not None
    return candidate


def tell(study: Study, candidate: Candidate, error: float = 0.1, status: str = "finished") -> None:
    running = next(record for record in study.running() if record.number == candidate.number)
    size = sum(layer.bits for layer in candidate.plan.layers.values())
    figures = Figures(error, 5.0, 4.0, 6.0, "modelled", "table", size)
    study.tell(candidate.number, dataclasses.replace(running, status=status, figures=figures))  # type: ignore[arg-type]


def test_retries_keep_their_place_and_their_order(tmp_path: Path, fault: Note) -> None:
    """However often a search is killed, those in flight come first again, before what was queued after them."""
    with opened(tmp_path) as study:
        flying = [asked(study).plan.hash for _ in range(3)]
    for _ in range(4):
        with opened(tmp_path) as study:
            assert [asked(study).plan.hash for _ in range(3)] == flying
    with opened(tmp_path) as study:
        assert [asked(study).plan.hash for _ in range(4)][:3] == flying
        for record in study.running():
            tell(study, Candidate(record.number, record.plan))
    names = [record.hash for record in read_records(tmp_path)]
    assert len(set(names)) == len(names) == 4
    fault("search ended 5 times with 3 trials in flight", "the same 3 came first each time, in their order")


@pytest.mark.parametrize("seconds", [1.5, pytest.param(90.0, marks=pytest.mark.slow)])
def test_a_locked_database_is_waited_for(
    tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: Note
) -> None:  # fmt: skip
    if seconds < 10:
        monkeypatch.setattr(database, "BUSY", 0.1)
        monkeypatch.setattr(database, "PAUSE", 0.1)
    with opened(tmp_path) as study:
        tell(study, asked(study))
        flying = asked(study)
        held = threading.Event()

        def hold() -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
                other.execute("begin immediate")
                held.set()
                time.sleep(seconds)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        assert len(read_records(tmp_path)) == 1, "readers are not held up"
        tell(study, flying)
        assert not thread.is_alive()
        thread.join()
    assert "database is locked; waiting" in capfd.readouterr().err
    assert len(read_records(tmp_path)) == 2
    fault(
        f"study.db locked for {seconds:g} s by another program", "the search waited, both trials there, once"
    )


def test_what_does_not_pass_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BUSY", 0.05), ("PAUSE", 0.05), ("PATIENCE", 0.3)):
        monkeypatch.setattr(database, name, value)
    study = opened(tmp_path)
    candidate = asked(study)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(
            UserError, match=r"study\.db cannot be used: database is locked.*the same command goes on"
        ):
            tell(study, candidate)
        slept: list[float] = []
        with monkeypatch.context() as patched, pytest.raises(UserError, match="locked"):
            patched.setattr(time, "sleep", slept.append)
            study.close()
        assert database.PAUSE not in slept, (
            "once given up, nothing is waited for again (Optuna itself tries a few times)"
        )
    with opened(tmp_path) as study:
        assert study.recovered.requeued == 1


def test_a_full_disk_is_waited_for_and_nothing_is_half_written(tmp_path: Path, fault: Note) -> None:
    with connections() as made, opened(tmp_path) as study:
        tell(study, asked(study))
        flying = asked(study)
        pages = made[0].execute("pragma page_count").fetchone()[0]
        limit(made, pages)
        threading.Timer(2.0, limit, [made, 1_000_000]).start()
        for place in range(40):  # until another page is wanted
            study.report_rung(flying.number, Rung(float(place), 0.1, 1.0, 1.0, "free"))
        tell(study, flying)
    assert len(read_records(tmp_path)) == 2 and len(read_records(tmp_path)[1].curve) == 40
    fault("the disk of study.db full, and freed again", "the search waited and went on; no rung is missing")


@contextlib.contextmanager
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Those that are made to databases meanwhile."""
    made: list[sqlite3.Connection] = []

    def note(connection: sqlite3.Connection, record: object) -> None:
        made.append(connection)

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", note)
    try:
        yield made
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", note)


def limit(made: list[sqlite3.Connection], pages: int) -> None:
    """How large the database may become: each connection keeps to a limit of its own."""
    for connection in made:
        connection.execute(f"pragma max_page_count={pages}")


def test_a_damaged_database_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Note
) -> None:
    for name, value in (("BUSY", 0.05), ("PAUSE", 0.05), ("PATIENCE", 0.3)):
        monkeypatch.setattr(database, name, value)
    with opened(tmp_path) as study:
        for _ in range(3):
            tell(study, asked(study))
    tables.copy(tmp_path / FILE, tmp_path / "copy.db")
    whole = (tmp_path / "copy.db").read_bytes()
    damages = (
        b"not a database" * 100,
        whole[:4096] + bytes(4096) + whole[8192:],
        whole[: len(whole) // 2],
    )
    for number, damage in enumerate(damages):
        (folder := tmp_path / str(number)).mkdir()
        (folder / FILE).write_bytes(damage)
        with pytest.raises(UserError, match=r"study\.db .*damaged.*take it from a copy.*rebuild"):
            opened(folder)
    (folder := tmp_path / "restored").mkdir()
    (folder / FILE).write_bytes(whole)
    with opened(folder) as study:
        assert study.recovered.finished == 3
    fault(
        "study.db corrupt: overwritten, a page of zeros, cut in half",
        "refused in a line that names the copy; whole again from a copy",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_ends_its_trial_alone(tmp_path: Path, value: float, fault: Note) -> None:
    with opened(tmp_path) as study:
        tell(study, asked(study))
        tell(study, asked(study), value)
        assert [record.status for record in study.records()] == ["finished", "failed"]
        assert "no numbers" in (study.records()[1].reason or "")
        before = study.records()
    with opened(tmp_path) as study:
        assert [r.status for r in study.records()] == [r.status for r in before]
        assert len(study.front()) == 1 and study.best_error() == 0.1
        tell(study, asked(study))
    fault(
        f"a trial whose error is {value}",
        "it failed with that reason, alone; the study opens again and goes on",
    )


def test_a_poisoned_record_of_an_older_version_keeps_no_study_shut(tmp_path: Path, fault: Note) -> None:
    """The record says that it finished, with NaN; Optuna was never told."""
    with opened(tmp_path) as study:
        tell(study, asked(study))
        poisoned = asked(study)
        rung = Rung(1.0, math.nan, math.nan, 1.0)
        study.report_rung(poisoned.number, rung)
        record = dataclasses.replace(study.running()[0], status="finished", figures=Figures(math.nan, 1.0))
        study._write(poisoned.number, record)
        study._lock.close()
    for text in ("null", "NaN"):
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as other, other:
            key = "trial_id = (select trial_id from trials where number = 1) and key = 'record'"
            (stored,) = other.execute(f"select value_json from trial_user_attributes where {key}").fetchone()
            record_text = json.loads(stored).replace('"error": null', f'"error": {text}')
            other.execute(
                f"update trial_user_attributes set value_json = ? where {key}", [json.dumps(record_text)]
            )
        with opened(tmp_path) as study:
            assert [record.status for record in study.records()] == ["finished", "failed"]
            assert len(study.front()) == 1 and study.best_error() == 0.1
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / FILE}")
    assert [trial.state.name for trial in plain.trials[:2]] == ["COMPLETE", "FAIL"]
    fault(
        "a finished trial's record poisoned with NaN",
        "the study opens; that trial failed, the other is there",
    )


class Training:
    """Has of ``Cotuning`` what is kept."""

    between: Callable[[], None] | None = None
    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}


def test_between_two_rungs_what_was_trained_is_kept_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Note
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 30.0)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    storage, plan, run = LocalStorage(tmp_path), SPACE.warm_starts()[0], Training()
    first = (Rung(0.0, 0.2, 1.0, 3.0, "rebuilt"),)
    checkpoints.save_checkpoint(storage, plan, run, first)  # type: ignore[arg-type]
    checkpoints.keep_between(storage, plan, run, first)  # type: ignore[arg-type]
    assert run.between is not None
    for run.step in range(1, 100):
        now[0] += 1.0
        run.between()
    saved = checkpoints.last_checkpoint(storage, plan)
    assert saved.curve == first and saved.state == {"step": 90}
    [within] = (tmp_path / "trials" / plan.hash).glob("*within*")
    within.write_bytes(within.read_bytes()[:-1])
    saved = checkpoints.last_checkpoint(storage, plan)
    assert saved.state == {"step": 0} and len(saved.damaged) == 1, "the rung before it"
    second = (*first, Rung(1.0, 0.1, 1.0, 6.0))
    checkpoints.save_checkpoint(storage, plan, run, second)  # type: ignore[arg-type]
    assert checkpoints.last_checkpoint(storage, plan).curve == second
    fault("a long rung cut off", "it was kept every so many seconds, and goes on from there")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_a_killed_driver_left_of_ended_trials_is_forgotten_and_nothing_else(
    tmp_path: Path, elsewhere: bool, fault: Note
) -> None:
    """It was killed after the study had heard of a trial; another was written on by a process of its own for a while."""
    folder = tmp_path / "study"
    storage = RemoteStorage((tmp_path / "bucket").as_uri()) if elsewhere else LocalStorage(folder)
    with opened(folder) as study:
        ended, flying = asked(study), asked(study)
        interrupted = asked(study)
        tell(study, ended)
    with opened(folder) as study:  # which queues the other two again, as trials of their own
        again = asked(study)
        assert again.plan.hash == flying.plan.hash and again.number != flying.number
        for candidate in (ended, flying, interrupted):
            storage.write(f"trials/{candidate.plan.hash}/checkpoint-0001.pt", b"a rung")
            LocalStorage(folder).write(f"trials/{candidate.plan.hash}/memory.txt", b"1")
            (folder / "candidates" / f".{candidate.plan.hash}.half").mkdir(parents=True)
            (folder / "candidates" / candidate.plan.hash).mkdir()
        checkpoints.forget_ended(folder, storage, study.records())
        left = {candidate.plan.hash for candidate in (flying, interrupted)}
        assert {path.name for path in (folder / "trials").iterdir()} == left
        for candidate in (ended, flying, interrupted):
            name = candidate.plan.hash
            assert bool(storage.names(f"trials/{name}")) is (name in left)
            assert (folder / "candidates" / f".{name}.half").exists() is (name in left)
            assert (folder / "candidates" / name).exists(), "whole ones are the study's"
    if not elsewhere:
        fault(
            "the driver SIGKILLed between hearing of a trial and forgetting its rungs",
            "the next start forgets them; rungs of trials in flight stay",
        )


class Silent:
    def line(self, text: str) -> None: ...

    def status(self, text: str | Callable[[], str]) -> None:
        self.shown = text() if callable(text) else text

    def trial(self, record: object, done: int) -> None: ...


def test_a_clock_that_is_put_back_changes_no_order_and_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Note
) -> None:
    """An injected clock that loses an hour while a trial runs."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    rungs, heard = Rungs((("free", 1.0),), eta=3, at_least=1), Silent()
    with opened(tmp_path) as study:
        conductor = Conductor(study, rungs, 6, 2, heard)
        for done in range(6):
            candidate = conductor.propose()
            assert candidate is not None
            now[0] += 10
            if done == 2:
                now[0] -= 3600
            figures = Figures(0.1 + 0.01 * done, 5.0, 4.0, 6.0, "modelled", "table", 10)
            running = next(r for r in study.running() if r.number == candidate.number)
            conductor.end(candidate.number, dataclasses.replace(running, status="finished", figures=figures))
            assert "-" not in heard.shown, heard.shown
        assert conductor.complete
    records = read_records(tmp_path)
    assert [record.number for record in records] == list(range(6))
    assert all((r.ended or 0) >= (r.started or 0) for r in records), "nothing ends before it began"
    with opened(tmp_path) as study:
        assert study.recovered.finished == 6
    fault("the clock an hour back (injected)", "six trials, in their order; none ends before it began")
