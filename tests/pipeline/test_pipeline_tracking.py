"""Runs in a real sqlite MLflow: exactly one per ended trial, whatever is repeated or killed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.command import main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline import studies
from pipeline.candidate.describe import figures, flat, key_of, mean_bits, note, plan_parameters
from pipeline.report.data import hypervolume_history
from pipeline.report.publish import Review, send
from pipeline.review.background import FILE, Background
from pipeline.review.champions import Champions
from pipeline.review.store import TrackingError, check_installation
from pipeline.review.tracking import TABLE, Tracker
from pipeline.study.records import OBJECTIVES, Figures, TrialRecord
from pipeline.study.unsent import note_unsent, unsent
from pipeline.training.rung import Rung
from tests.pipeline.test_pipeline_studies import make

HOSTILE = "<script>alert('x')</script> | `; DROP TABLE runs; -- ü\n"
FRONT: dict[str, Any] = {
    "objectives": ["error", "latency", "size"],
    "references": [
        {"name": "fp32", "error": 0.05, "latency_ms": 2.0, "source": "modelled", "size_bytes": 4096}
    ],
    "points": [{"hash": "abc", "error": 0.06, "latency_ms": 1.0, "source": "modelled", "size_bytes": 512}],
}


def record(number: int, status: Any = "finished", reason: str | None = None, bits: int = 4) -> TrialRecord:
    layers = {"conv1": LayerPlan(8), "layer1.0.conv1": LayerPlan(bits, 3 + number % 2, zero_share=0.5)}
    known = Figures(
        0.1 + number / 100,
        1.0 + number,
        0.9,
        1.3 + number,
        "modelled",
        "a76",
        1000 + number,
        5000,
        0.25,
        0.02,
    )
    curve = tuple(
        Rung(e, 0.3 / e, 1 / e, e, "free", 0.2 / e, 0.01, kept, 0.05, 0.01)
        for e, kept in ((1.0, None), (2.0, 0.05))
    )
    return TrialRecord(number, Plan(layers), status, known, reason, curve, 1000.0, 1010.0 + number)


def runs(tracker: Tracker, kind: str = "trial") -> list[Any]:
    mine = f"tags.kind = '{kind}' and tags.study_id = '{tracker.identity}'"
    return list(tracker.client.search_runs([tracker.experiment], mine, max_results=1000))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder with an awkward name; each test has its own study in it."""
    return tmp_path_factory.mktemp("runs here ü")


def test_a_trial_is_one_run_with_everything_in_it(store: Path) -> None:
    tracker = Tracker(None, store, "whole")
    tracker.start(
        {"model": "resnet8", "sampler": "tpe", "bits": [2, 4], "nested": {"deep": 1.5}}, {"spec": "digits"}
    )
    ended = replace(record(3, "stopped", HOSTILE), inherits="0123456789ab")
    assert tracker.sync([ended], [ended.hash], {ended.hash: {"zeros_mean": 0.25}}) == 1
    (run,) = runs(tracker)
    metrics, params, tags = run.data.metrics, run.data.params, run.data.tags
    assert metrics["error"] == ended.figures.error and metrics["accuracy"] == pytest.approx(1 - 0.13)
    assert (
        metrics["latency_low_ms"] == 0.9
        and metrics["latency_high_ms"] == 4.3
        and metrics["size_bytes"] == 1003
    )
    assert metrics["zeros_mean"] == 0.25 and metrics["mean_bits"] == 6 and metrics["seconds"] == 13
    assert (params["layer.layer1.0.conv1.bits"], params["bits_mean"], params["sampler"]) == ("4", "6", "tpe")
    assert (tags["status"], tags["reason"], tags["pareto.front"]) == ("stopped", HOSTILE, "true")
    assert tags["inherits"] == "0123456789ab"
    assert tags["mlflow.parentRunId"] == tracker.parent and run.info.end_time == 1_013_000
    assert (metrics["divergence"], metrics["divergence_standard_error"]) == (0.25, 0.02)
    for name, values in (
        ("rung_divergence", [0.2, 0.1]),
        ("rung_kept_divergence", [0.05]),
        ("rung_moved", [0.05] * 2),
    ):
        assert [m.value for m in tracker.client.get_metric_history(run.info.run_id, name)] == values
    history = tracker.client.get_metric_history(run.info.run_id, "rung_error")
    assert [(m.step, m.value) for m in history] == [(0, 0.3), (1, 0.15)]
    plan = Path(tracker.client.download_artifacts(run.info.run_id, "plan.json")).read_text()
    assert Plan.from_json(plan) == ended.plan
    parent = tracker.client.get_run(tracker.parent).data
    assert parent.params["nested.deep"] == "1.5" and parent.params["bits"] == "2,4"
    assert parent.params["data.spec"] == "digits" and parent.tags["version.python"].startswith("3.")


def test_everything_may_be_repeated(store: Path) -> None:
    trials = [record(n, "failed" if n == 1 else "finished", "NaN" if n == 1 else None) for n in range(4)]
    first = Tracker(None, store, "repeated")
    first.start({"budget": 4}, {"spec": "digits"})
    assert [first.sync(trials[:2]), first.sync(trials[:2]), first.sync(trials)] == [2, 0, 2]
    second = Tracker(None, store, "repeated")
    second.start({"budget": 9}, {"spec": "digits"})  # resumed with a larger budget
    assert second.sync([*trials, record(4, "running")]) == 0
    assert len(runs(second)) == 4 and len(runs(second, "search")) == 1
    assert {r.info.status for r in runs(second)} == {"FINISHED", "FAILED"}
    parent = second.client.get_run(second.parent)
    assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["digits"]
    assert (parent.data.params["budget"], parent.data.tags["resumed.budget"]) == ("4", "9")


def test_other_costs_of_a_trial_stand_beside_the_former_ones(store: Path) -> None:
    """A kernel library that has changed gives all candidates other latencies and sizes."""
    first = Tracker(None, store, "recompiled")
    first.start({}, {"spec": "digits"})
    before = [record(0), record(1)]
    first.sync(before)
    first.finish(FRONT, "<p>", {}, hypervolume=[(0, 0.5), (1, 0.25)])
    figures = replace(before[0].figures, latency_ms=0.125, size_bytes=7, device="another")
    after = [replace(before[0], figures=figures), before[1]]
    second = Tracker(None, store, "recompiled")
    second.start({}, {"spec": "digits"})
    assert [second.sync(after), second.sync(after), Tracker(None, store, "recompiled").sync(after)] == [
        1,
        0,
        0,
    ]
    for _ in range(2):
        second.finish(FRONT, "<p>", {}, hypervolume=[(0, 0.5), (1, 0.125)])
    changed, kept = sorted(runs(second), key=lambda run: run.data.tags["trial_number"])
    assert changed.data.metrics["latency_ms"] == 0.125 and changed.data.metrics["size_bytes"] == 7
    assert changed.data.metrics["error"] == before[0].figures.error
    assert changed.data.tags["device"] == "another" and "recompiled" in changed.data.tags
    history = second.client.get_metric_history(changed.info.run_id, "latency_ms")
    assert [row.value for row in sorted(history, key=lambda row: row.timestamp)] == [1.0, 0.125]
    assert kept.data.metrics["latency_ms"] == 2.0 and "recompiled" not in kept.data.tags
    volumes = second.client.get_metric_history(second.parent, "hypervolume")
    assert sorted((row.step, row.value) for row in volumes) == [(0, 0.5), (1, 0.125), (1, 0.25)]
    assert second.client.get_run(second.parent).data.metrics["hypervolume"] == 0.125


@pytest.mark.parametrize("fatal", ["create_run", "log_text", "log_batch", "set_terminated"])
def test_a_run_left_half_written_is_written_again(
    store: Path, fatal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = f"killed-{fatal}"
    tracker = Tracker(None, store, study)
    tracker.start({}, {"spec": "digits"})
    tracker.sync([record(0)])
    original = getattr(tracker.client, fatal)

    def killed(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise KeyboardInterrupt  # after the call has reached the store

    monkeypatch.setattr(tracker.client, fatal, killed)
    with pytest.raises(KeyboardInterrupt):
        tracker.sync([record(0), record(1), record(2)])
    monkeypatch.undo()
    for again in (tracker, Tracker(None, store, study)):  # the same process goes on, or a new one resumes
        again.sync([record(0), record(1), record(2)], [record(1).hash])
        found = runs(again)
        assert sorted(r.data.tags["trial_number"] for r in found) == ["0", "1", "2"]
        assert all(r.data.tags["complete"] == "true" and r.data.metrics["error"] > 0 for r in found)


def test_only_the_front_is_tagged(store: Path) -> None:
    tracker = Tracker(None, store, "tagged")
    tracker.start({}, {"spec": "digits"})
    trials = [record(n, bits=b) for n, b in enumerate((2, 3, 4))]
    for front in ([0], [1, 2], []):
        tracker.sync(trials, [trials[i].hash for i in front])
        mine = f"tags.`pareto.front` = 'true' and tags.study_id = '{tracker.identity}'"
        found = tracker.client.search_runs([tracker.experiment], mine)
        assert {r.data.tags["trial_number"] for r in found} == {str(i) for i in front}


def test_finishing_twice_is_finishing_once(store: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"elf")
    tracker = Tracker(None, store, "finished")
    tracker.start({}, {"spec": "digits"})
    for _ in range(2):
        tracker.finish(FRONT, f"<p>{HOSTILE}", {"abc": tmp_path}, {"trials": 3}, [(0, 0.1), (2, 0.4)])
    table = json.loads(Path(tracker.client.download_artifacts(tracker.parent, TABLE)).read_text())
    assert [row[:2] for row in table["data"]] == [["abc", "front"], ["fp32", "reference"]]
    assert "latency_ms" in table["columns"]
    parent = tracker.client.get_run(tracker.parent)
    assert (
        parent.info.status == "FINISHED" and "front_table.json" in parent.data.tags["mlflow.loggedArtifacts"]
    )
    values = tracker.client.get_metric_history(tracker.parent, "hypervolume")
    assert [(m.step, m.value) for m in values] == [(0, 0.1), (2, 0.4)]
    kept = {i.path for i in tracker.client.list_artifacts(tracker.parent, "candidates/abc")}
    assert kept == {"candidates/abc/program"}
    read = Path(tracker.client.download_artifacts(tracker.parent, "front.json")).read_text()
    assert json.loads(read) == FRONT
    tracker.finish({**FRONT, "points": [], "references": []}, "", {})


def test_the_volume_is_drawn_in_the_order_in_which_trials_ended(store: Path, tmp_path: Path) -> None:
    """One that began first may end last, and then its number is no place on a curve that never falls."""
    slow, quick = (replace(record(n), ended=end) for n, end in ((0, 3000.0), (1, 2000.0)))
    history = hypervolume_history([slow, quick], [], OBJECTIVES)
    assert [number for number, _ in history] == [1, 0] and history[0][1] < history[1][1]
    tracker = Tracker(None, store, "order")
    tracker.start({}, {"spec": "digits"})
    review = Review({**FRONT, "points": []}, "<p>", history)
    send(tmp_path, [slow, quick], review, tracker, complete=True)
    rows = tracker.client.get_metric_history(tracker.parent, "hypervolume")
    assert sorted((row.step, row.value) for row in rows) == [(1, history[0][1]), (2, history[1][1])]


def test_nothing_is_truncated(store: Path) -> None:
    tracker = Tracker(None, store, "long")
    tracker.start({"a list": list(range(2000)), "model": "m" * 600}, {"spec": "digits"})
    layers = {f"features.{i}.conv": LayerPlan(2, 4) for i in range(200)}
    failed = TrialRecord(0, Plan(layers), "failed", Figures(None), "traceback " * 300)
    tracker.sync([failed])
    (run,) = runs(tracker)
    assert run.info.status == "FAILED" and "error" not in run.data.metrics
    assert len(run.data.params) < 40 and len(run.data.tags["reason"]) <= 500
    kept = Path(tracker.client.download_artifacts(run.info.run_id, "reason.txt")).read_text()
    assert kept == failed.reason
    parent = tracker.client.get_run(tracker.parent)
    assert "model" not in parent.data.params
    settings = Path(tracker.client.download_artifacts(tracker.parent, "settings.json")).read_text()
    assert json.loads(settings)["a list"] == list(range(2000))


def test_hundreds_of_rungs_and_of_trials(store: Path) -> None:
    tracker = Tracker(None, store, "many")
    curve = tuple(Rung(e + 1, 0.5, math.nan if e == 7 else 0.1, 1.0) for e in range(700))
    tracker.sync([TrialRecord(0, record(0).plan, "finished", Figures(0.1), None, curve, 1.0, 2.0)])
    (run,) = runs(tracker)
    assert len(tracker.client.get_metric_history(run.info.run_id, "rung_loss")) == 699


def test_two_studies_of_one_name_on_one_server_stay_apart(store: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{store / 'mlflow.db'}"
    mine, yours = Tracker(uri, tmp_path / "mine", "same"), Tracker(uri, tmp_path / "yours", "same")
    mine.sync([record(0)])
    assert yours.sync([record(0)]) == 1 and mine.parent != yours.parent


def test_user_mistakes_are_explained(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no MLflow server answers"):
        Tracker("http://127.0.0.1:9", store, "none")
    store = tmp_path  # its only experiment is deleted
    tracker = Tracker(None, store, "deleted")
    tracker.client.delete_experiment(tracker.experiment)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        Tracker(None, store, "deleted")
    with pytest.raises(TrackingError, match="writing trials"):
        tracker.sync([record(0)])
    (store / "deleted" / "tracking_id").write_text("nonsense")
    with pytest.raises(UserError, match="study's id"):
        Tracker(None, store, "other/../deleted")


def test_champion_previous_and_rollback(store: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"elf")
    tracker = Tracker(None, store, "registry")
    champions = Champions(tracker, "resnet8: digits/a76")
    with pytest.raises(UserError, match="no champion"):
        champions.rollback()
    numbers = [
        champions.promote(c, "d", tmp_path, {"gate": "passed"}, "note").number for c in ("a", "b", "b", "c")
    ]
    assert numbers == ["1", "2", "2", "3"]  # promoting the champion again makes no other version
    assert (
        champions.promote("c", "d", tmp_path, {"gate": "passed", "evidence": "strong"}, "again").number == "3"
    )
    checked = tracker.client.get_model_version(
        champions.name, "3"
    )  # of more images, say: the last check is told
    assert (checked.tags["evidence"], checked.description) == ("strong", "again")
    previous = champions.version("previous")
    assert previous is not None and previous.candidate == "b"
    now, before = champions.rollback()
    assert (now.candidate, before.candidate) == ("b", "c")
    champions.rollback()
    champion = champions.version()
    assert champion is not None and champion.candidate == "a" and champions.version("previous") is None
    with pytest.raises(UserError, match="first champion"):
        champions.rollback()
    version = tracker.client.get_model_version(champions.name, "3")
    assert version.tags["gate"] == "passed" and version.source.endswith("/bundle")
    assert not [r for r in runs(tracker, "promotion") if r.info.status == "RUNNING"]


CALLS = [
    "create_run",
    "log_artifacts",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
]


@pytest.mark.parametrize("fatal", CALLS)
@pytest.mark.parametrize("after", [False, True])
def test_no_kill_leaves_no_champion(
    store: Path, tmp_path: Path, fatal: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program").write_bytes(b"elf")
    tracker = Tracker(None, store, "registry-killed")
    champions = Champions(tracker, f"{fatal}-{after}")
    for name in ("a", "b"):
        champions.promote(name, "d", tmp_path, {}, "")
    original = getattr(tracker.client, fatal)

    def killed(*args: Any, **kwargs: Any) -> Any:
        try:
            if after:
                original(*args, **kwargs)
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(tracker.client, fatal, killed)
    with pytest.raises(KeyboardInterrupt):
        champions.promote("c", "d", tmp_path, {}, "")
    monkeypatch.undo()
    standing = champions.version()
    assert standing is not None and standing.candidate in ("b", "c")
    champions.promote("c", "d", tmp_path, {}, "")
    champion, previous = champions.version(), champions.version("previous")
    assert champion is not None and champion.candidate == "c"
    assert previous is not None and previous.candidate == "b"
    assert champions.rollback()[0].candidate == "b"
    assert not [r for r in runs(tracker, "promotion") if r.info.status == "RUNNING"]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(st.integers(), lambda s: st.dictionaries(st.text(max_size=3), s), max_leaves=6),
    )
)
def test_flattening_keeps_every_leaf(values: dict[str, Any]) -> None:
    def leaves(value: Any) -> list[Any]:
        return [x for v in value.values() for x in leaves(v)] if isinstance(value, dict) else [value]

    assert [value for _, value in flat(values)] == leaves(values)
    assert all(len(key_of(key)) <= 250 for key, _ in flat(values))


def test_mean_bits_is_over_weights_where_they_are_known() -> None:
    plan = Plan({"a": LayerPlan(8), "b": LayerPlan(2, 4)})
    assert mean_bits(plan, {}) == 5 and mean_bits(plan, {"a": 100, "b": 300}) == 3.5
    assert mean_bits(Plan({}), {}) == 0 and plan_parameters(Plan({}), {})["layers"] == "0"
    assert figures(TrialRecord(0, plan, "failed", Figures(math.inf)), {}, {}) == {"mean_bits": 5, "epochs": 0}
    assert "<script>" not in note({**FRONT, "points": [{**FRONT["points"][0], "device": HOSTILE}]})


def test_psutil_is_not_needed_and_telemetry_is_off(tmp_path: Path) -> None:
    program = """
        import os, sys
        os.environ.pop("MLFLOW_DISABLE_TELEMETRY", None)
        sys.modules["psutil"] = None
        from pathlib import Path
        from pipeline.review.tracking import Tracker
        assert "mlflow" not in sys.modules
        tracker = Tracker(None, Path(sys.argv[1]), "bare")
        tracker.start({"a": 1}, {"spec": "digits"})
        from mlflow.telemetry.client import get_telemetry_client
        assert get_telemetry_client() is None
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "alembic" not in done.stderr and "INFO" not in done.stderr


def test_an_installation_from_which_no_database_opens_is_refused() -> None:
    check_installation("/home/me/a b/#1/.venv/mlflow/__init__.py")
    with pytest.raises(
        UserError, match=r"installed \(/home/a%20b/\.venv/mlflow/__init__\.py: .* another folder"
    ):
        check_installation("/home/a%20b/.venv/mlflow/__init__.py")


def test_what_is_written_in_the_background_is_there_when_it_ends(store: Path) -> None:
    background = Background(lambda told: Tracker(None, store, "all", told=told), lambda text: None, FILE)
    for ended in range(1, 6):
        background.put(partial(lambda count, tracker: tracker.sync([record(n) for n in range(count)]), ended))
    assert background.close() is None and background._answers > 5
    found = runs(Tracker(None, store, "all"))
    assert sorted(run.data.tags["trial_number"] for run in found) == [str(n) for n in range(5)]


def test_what_mlflow_lacks_is_sent_later(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(store, "late", count=3, budget=3)
    note_unsent(folder, "it was down")

    def typed(*words: str) -> int:
        return main_guard(lambda: studies.main([*words, "--out", str(store)]))

    assert typed("show", "late") == 0
    shown = capsys.readouterr().out
    assert "MLflow lacks what ended last (it was down)" in shown and "studies send late" in shown
    for _ in range(2):  # again: nothing is there twice
        assert typed("send", "late") == 0, capsys.readouterr()
    assert "3 trials" in capsys.readouterr().out and unsent(folder) is None
    tracker = Tracker(None, store, "late")
    assert len(runs(tracker)) == 3 and len(runs(tracker, "search")) == 1
    parent = tracker.client.get_run(tracker.parent)
    kept = {item.path for item in tracker.client.list_artifacts(tracker.parent)}
    assert {"front.json", "report.html", "candidates"} <= kept and parent.info.status == "FINISHED"
    assert parent.data.metrics["trials_finished"] == 3
    assert typed("send", "late", "--tracking-uri", "http://127.0.0.1:9") == 2
    assert "no MLflow server answers at http://127.0.0.1:9" in capsys.readouterr().err
