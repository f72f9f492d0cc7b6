"""The record of promotions and the way to them: names and paths, decisions, locks, archives, secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from deploy_arm.devices.base import Profile
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.review import audit
from pipeline.review.bundle.archive import archive_of, write_archive
from pipeline.review.champions import Champions
from pipeline.review.named import named
from pipeline.review.tags import decision_of
from pipeline.review.tracking import Tracker
from pipeline.study.credentials import PASSWORD, USER, with_secrets
from pipeline.study.paths import tracking_uri
from pipeline.study.records import Figures, TrialRecord

PROFILE = Profile(2.0, 1.8, 2.3, "measured", "board 1", 1000, 4096, 512)


def record(number: int) -> TrialRecord:
    plan = Plan({"conv": LayerPlan(2, 2 + number)})
    figures = Figures(0.1 + number / 100, 1.0, 0.9, 1.2, "modelled", "emulated a76", 1000, 2048)
    return TrialRecord(number, plan, "finished", figures, None, (), 1.0, 2.0)


def front_of(records: list[TrialRecord]) -> dict[str, object]:
    points = [{"hash": r.hash, "error": r.figures.error, "latency_ms": 1.0, "source": "modelled", "size_bytes": 1000}
              for r in records]  # fmt: skip
    return {"objectives": ["error"], "references": [], "points": points}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A study of three candidates, two of them on the front."""
    tracker = Tracker(None, tmp_path_factory.mktemp("runs"), "decided")
    tracker.start({"model": "resnet8"}, {"spec": "digits"})
    records = [record(n) for n in range(3)]
    tracker.sync(records, [r.hash for r in records[:2]])
    tracker.finish(front_of(records[:2]), "", {})
    return tracker


def test_the_fronts_candidates_are_models_with_figures_on_the_data(tracker: Tracker) -> None:
    models = {model.name: model for model in tracker.models(f"tags.study_id = '{tracker.identity}'")}
    assert set(models) == {record(0).hash, record(1).hash}
    runs = {run.data.tags["candidate"]: run.info.run_id for run in tracker.runs("tags.kind = 'trial'")}
    for number in range(2):
        model = models[record(number).hash]
        assert model.source_run_id == runs[model.name] and str(model.status) == "READY"
        assert model.tags["pareto.front"] == "true" and model.tags["source"] == "modelled"
        found = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
        assert found["error"] == (record(number).figures.error, "digits")
    ordered = tracker.client.search_logged_models(
        [tracker.experiment], order_by=[{"field_name": "metrics.error", "ascending": False}]
    )
    assert [model.name for model in ordered] == [record(1).hash, record(0).hash]
    # Off the front again, and written twice: the decision stays, no figure is doubled.
    tracker.decide(record(1).hash, "keep")
    for _ in range(2):
        tracker.finish(front_of([record(0)]), "", {})
    tracker.finish(front_of([record(0), record(1)]), "", {})
    again = {model.name: model for model in tracker.models(f"tags.study_id = '{tracker.identity}'")}
    assert again[record(1).hash].tags["decision"] == "keep" and len(again) == 2
    assert len(again[record(0).hash].metrics) == len(models[record(0).hash].metrics)


def test_decisions_are_read_wherever_they_were_made(tracker: Tracker) -> None:
    name, run = record(0).hash, next(iter(tracker.runs(f"tags.candidate = '{record(0).hash}'")))
    assert decision_of(tracker, name) == ""
    tracker.decide(name, "keep")
    assert decision_of(tracker, name) == "keep"
    tracker.client.set_tag(run.info.run_id, "decision", " Reject")  # in MLflow's page, by hand
    assert decision_of(tracker, name) == "reject"
    tracker.decide(name, "")
    (model,) = tracker.models(f"tags.candidate = '{name}'")
    tracker.client.set_logged_model_tags(model.model_id, {"decision": "reject"})
    assert decision_of(tracker, name) == "reject"
    tracker.decide(name, "")
    assert tracker.decide("zzz", "keep") == 0


def test_looking_makes_nothing(tmp_path: Path) -> None:
    champions = Champions(Tracker(None, tmp_path, "nothing", looking=True), "nobody")
    assert champions.version() is None and decision_of(champions.tracker, "abc") == ""
    with pytest.raises(UserError, match="no champion"):
        champions.rollback()
    assert not list(tmp_path.iterdir())


def bundle_in(folder: Path) -> Path:
    (folder / "bundle").mkdir()
    (folder / "bundle" / "program").write_bytes(b"elf")
    return folder / "bundle"


def test_two_processes_promote_one_after_another(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    champions = Champions(Tracker(None, tmp_path, "raced"), "raced")
    champions.promote("first", "d", bundle, {}, "")
    racer, count = Path(__file__).with_name("promote_racer.py"), 3
    both = [
        subprocess.Popen([sys.executable, racer, tmp_path, name, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        for name in ("a", "b")
    ]  # fmt: skip
    assert all(one.stdout.readline() == "ready\n" for one in both)
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=300)
        assert one.returncode == 0
    line = [champions.version().candidate]  # nobody's promotion is lost: all lie on the way back
    while (now := champions.version()) is not None and now.replaces is not None:
        line.append(champions.rollback()[0].candidate)
    assert sorted(line) == sorted(["first", *(f"{name}{n}" for name in "ab" for n in range(count))])
    assert line[-1] == "first"


def test_a_promotion_from_another_machine_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom no lock keeps out: before the alias is set, and just after."""
    from pipeline.review.store import TrackingError

    bundle = bundle_in(tmp_path)
    tracker = Tracker(None, tmp_path, "servers")
    champions, other = Champions(tracker, "m"), Champions(tracker, "m")
    champions.promote("a", "d", bundle, {}, "")
    register, set_alias = champions._register, tracker.client.set_registered_model_alias

    def beaten(*args: object) -> object:
        made = register(*args)
        other.promote("b", "d", bundle, {}, "")
        return made

    monkeypatch.setattr(champions, "_register", beaten)
    champions.promote("c", "d", bundle, {}, "")
    monkeypatch.undo()
    assert champions.version().candidate == "c" and champions.version("previous").candidate == "b"
    assert champions.rollback()[0].candidate == "b"

    def overtaken(name: str, alias: str, version: str) -> None:
        set_alias(name, alias, version)
        if alias == "champion":
            set_alias(name, alias, "1")

    monkeypatch.setattr(tracker.client, "set_registered_model_alias", overtaken)
    with pytest.raises(TrackingError, match="is not champion: another promotion made version 1 it"):
        champions.promote("e", "d", bundle, {}, "")


def test_a_version_that_was_deleted_is_no_way_back(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    champions = Champions(Tracker(None, tmp_path, "deleted"), "m")
    for name in "ab":
        champions.promote(name, "d", bundle, {}, "")
    champions.client.delete_model_version("m", "1")
    with pytest.raises(UserError, match="version 1, which version 2 replaced, was deleted"):
        champions.rollback()
    assert champions.version().candidate == "b"


def test_a_study_by_name_by_path_and_a_candidate_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tmp_path / "runs" / "one", tmp_path / "one"
    for folder in (study, other):
        (folder / "candidates" / "abcdef").mkdir(parents=True)
        (folder / "settings.yaml").write_text(
            yaml.safe_dump({"model": "resnet8", "name": "old name", "out": "/gone"})
        )
    (study / "candidates" / "abc").mkdir()
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "runs"
    assert named("one", out).folder == study  # a name comes before a folder of that name
    assert named("./one", out).folder == other and named("runs/one/", out).folder == study
    found = named("runs/one/candidates/abcdef", out, "abc")
    assert (found.folder, found.candidate) == (study, "abcdef")
    assert (found.settings.study_name, found.settings.out) == ("one", out)
    assert named("one", out, "abc").candidate == "abc"  # whole, though another begins so
    monkeypatch.chdir(study)
    assert named(".", out).folder == study and named("candidates/abc", out).candidate == "abc"
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "manifest.json").write_text("{}")
    for typed, told in (("two", "there are: one"), ("/nowhere", "no study"), (str(loose), "lies in no study"),
                        ("candidates/zzz", "not a candidate")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            named(typed, out)
    with pytest.raises(UserError, match="is another"):
        named("candidates/abc", out, "f")


def test_an_archive_has_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    hostile = "a 'net'</script>"
    for folder, when in ((tmp_path / "x", 1), (tmp_path / "deep" / "y", 2_000_000_000)):
        (folder / "runtime").mkdir(parents=True)
        names = ["program", "runtime/a.c", "labels.txt", "manifest.json"]
        for name in names if when == 1 else reversed(names):
            (folder / name).write_text(
                json.dumps({"model": hostile, "hash": "abc"}) if "manifest" in name else name
            )
            os.utime(folder / name, (when, when))
            (folder / name).chmod(0o600 if when == 1 else 0o777)
        write_archive(folder, archive_of(folder))
    first, second = tmp_path / "x.tar", tmp_path / "deep" / "y.tar"
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        modes = {info.name.rpartition("abc/")[2]: info.mode for info in tar}
        assert modes == {"program": 0o755, "runtime/a.c": 0o644, "labels.txt": 0o644, "manifest.json": 0o644}
        assert all(info.name.startswith("a--net---script--abc/") and not info.uname for info in tar)
    with pytest.raises(UserError, match="no bundle"):
        write_archive(tmp_path / "deep", tmp_path / "no.tar")


def test_the_trail_keeps_every_line(tmp_path: Path) -> None:
    for number in range(3):
        event = audit.Event("promoted", f"c{number}", {"gates": [], "figures": {"x": float("nan")}})
        audit.keep(tmp_path, event)
    lines = [json.loads(line) for line in (tmp_path / audit.FILE).read_text().splitlines()]
    assert [line["candidate"] for line in lines] == ["c0", "c1", "c2"]
    assert all(line["by"].count("@") == 1 and line["at"].endswith("Z") for line in lines)
    assert event.tags([{"name": "images", "text": "t" * 9000}])["gate.images"] == "t" * 500


def test_a_typed_password_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER, PASSWORD):
        monkeypatch.setenv(name, "")
    assert tracking_uri("https://me:p%40ss@host:5000/x") == "https://host:5000/x"
    assert (os.environ[USER], os.environ[PASSWORD]) == ("me", "p@ss")
    shown = tracking_uri("postgresql://me:s%2Fe@host/db")
    assert shown == "postgresql://me@host/db" and os.environ[PASSWORD] == "s/e"
    assert with_secrets(shown) == "postgresql://me:s%2Fe@host/db"
    assert with_secrets("https://host") == "https://host" == tracking_uri("https://host")
