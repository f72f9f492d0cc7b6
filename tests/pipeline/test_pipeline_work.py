"""Where trials ran: names of workers, pieces of work that belong together, and what a record keeps of them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from deploy_arm.target.fault import DeviceFault
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.cluster.places import Workers, on_worker
from pipeline.cluster.work import DeviceWork
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.study import Study, read_records
from pipeline.study.work import Piece, joined
from search_spaces.space import Space


def workers() -> Workers:
    return Workers("own", lambda node: {"far": "rack", "twin": "rack"}.get(node, node))


def test_a_process_keeps_its_name_and_its_successor_takes_it() -> None:
    names = workers()
    assert names.name(0, "own", 11, {0}) == "worker 1"
    assert names.name(1, "own", 12, {0, 1}) == "worker 2"
    assert names.name(2, "own", 11, {1, 2}) == "worker 1", "trials come one after another in a process"
    assert names.name(3, "own", 99, {2, 3}) == "worker 2", "who had it works no more"
    assert names.name(2, "own", 11, {2, 3}) == "worker 1"
    assert names.name(4, "own", 12, {2, 3, 4}) == "worker 3"


def test_nodes_are_told_apart_also_those_of_one_name() -> None:
    names = workers()
    told = [names.name(n, node, 7, set(range(4))) for n, node in enumerate(("far", "own", "twin", "far"))]
    assert told == ["rack worker 1", "worker 1", "rack (2) worker 1", "rack worker 1"]


def test_what_a_worker_does_one_right_after_the_other_is_one_piece() -> None:
    stages = [on_worker("worker 1", 10.0, end) for end in (110.0, 120.5, 140.0)]
    other = Piece("profile", "board", 101.0, 103.0)
    found = joined((stages[0], other), stages[1:])
    assert found == (
        Piece("trial", "worker 1", 100.0, 120.5),
        other,
        Piece("trial", "worker 1", 130.0, 140.0),
    ), "it was held back for ten seconds"
    apart = (other, Piece("profile", "board", 103.0, 104.0))
    assert joined((), apart) == apart, "two profiles stay two"


def test_a_study_keeps_it_with_the_trial_however_that_ends(tmp_path: Path) -> None:
    with Study(tmp_path / "s", Space(("a", "b")), identity={}, sampler="random") as study:
        first, second = study.ask(), study.ask()
        assert first is not None and second is not None
        study.note_work(first.number, [Piece("trial", "worker 1", 100.0, 110.0)])
        study.report_figures(first.number, Figures(None, 1.0, 0.9, 1.1, "modelled", "a76", 9))
        study.note_work(
            first.number, [Piece("trial", "worker 1", 111.0, 120.0), Piece("profile", "a76", 101.0, 102.0)]
        )
        ended = Figures(0.1, 1.0, 0.9, 1.1, "modelled", "a76", 9)
        study.tell(first.number, TrialRecord(first.number, first.plan, "finished", ended))
        study.note_work(second.number, [Piece("trial", "worker 2", 100.0, 104.0)])
    records = {r.hash: r for r in read_records(tmp_path / "s", interrupted=True)}
    assert records[first.plan.hash].work == (
        Piece("trial", "worker 1", 100.0, 120.0),
        Piece("profile", "a76", 101.0, 102.0),
    )
    assert records[second.plan.hash].work == (Piece("trial", "worker 2", 100.0, 104.0),)


def test_records_without_it_are_read_and_nonsense_is_refused() -> None:
    record = TrialRecord(
        0, Plan({"a": LayerPlan(8)}), "failed", Figures(None), "why", work=(Piece("run", "x", 1.0, 2.0),)
    )
    assert TrialRecord.from_json(record.to_json()) == record
    old = json.loads(record.to_json())
    del old["work"]
    assert TrialRecord.from_json(json.dumps(old)).work == ()
    for bad in ([["run", 5, 1, 2]], [["sleep", "x", 1, 2]], [["run", "x", "then", 2]], [["run", "x"]]):
        with pytest.raises((ValueError, TypeError)):
            TrialRecord.from_json(json.dumps({**old, "work": bad}))


@pytest.mark.parametrize("wrong", [None, UserError("no such operation"), DeviceFault("it is on fire")])
def test_a_piece_of_work_leaves_no_files(
    wrong: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its process is ended afterwards without being asked."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    class Device:
        exclusive = False

        def reserved(self, patience: float) -> Any:
            return contextlib.nullcontext()

        def run(self, program: Path, blob: Path, images: Any, *, expected: dict[str, str]) -> Any:
            assert (program.read_bytes(), blob.read_bytes()) == (b"program", b"blob")
            assert program.stat().st_mode & 0o100 and set(expected) == {"program", "blob"}
            if wrong is not None:
                raise wrong
            return images

    work = DeviceWork(cast(Any, Device()))
    monkeypatch.setattr(work, "failure", lambda program: "")
    for number in range(2):
        outcome = work.do("run", 1.0, b"program", b"blob", np.full(3, number))
        if wrong is None:
            assert outcome.kind == "done" and (outcome.value == number).all()
        else:
            kind = "fault" if isinstance(wrong, DeviceFault) else "failed"
            assert outcome == (kind, str(wrong), False, "")
        assert not list(tmp_path.iterdir())
