"""Studies from their folders: listed, shown, compared, stopped, copied, pruned, deleted, decided on. Real Optuna, real locks."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.command import main_guard
from pipeline import studies
from pipeline.review.fronts import front_json
from pipeline.review.gates import Bounds, Refused
from pipeline.shelf.driver import driver_of
from pipeline.shelf.view import look
from pipeline.study.decided import read_decisions
from pipeline.study.pareto import dominates
from pipeline.study.pruned import read_pruned
from pipeline.study.records import OBJECTIVES, Figures, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import Study, read_records
from search_spaces.space import Space

SPACE = Space(("conv1", "conv2", "fc"))
IDENTITY = {"model": "vgg_tiny", "data": "digits"}
FP32 = Figures(0.05, 4.0, 3.9, 4.2, "modelled", "emulated a76", 40_000)
INT8 = Figures(0.05, 2.0, 1.9, 2.1, "modelled", "emulated a76", 10_000)


def make(out: Path, name: str, count: int = 6, budget: int = 6, **settings: Any) -> Path:
    """A study with ``count`` finished trials, each with a folder of its own, and what trials leave lying."""
    folder = out / name
    asked = Settings(out=out, name=name, budget=budget, **settings)
    with Study(folder, SPACE, identity=IDENTITY, seed=3) as study:
        for number in range(count):
            candidate = study.ask()
            assert candidate is not None
            error = 0.04 + 0.01 * (number % 3)
            latency = 1.0 + 0.1 * (number * 7 % 5)
            figures = Figures(
                error, latency, latency - 0.1, latency + 0.1, "modelled", "emulated a76", 9000 - 100 * number
            )
            study.tell(candidate.number, TrialRecord(candidate.number, candidate.plan, "finished", figures))
            place = folder / "candidates" / candidate.plan.hash
            place.mkdir(parents=True)
            (place / "weights.blob").write_bytes(bytes(1000))
            left = folder / "trials" / candidate.plan.hash
            left.mkdir(parents=True)
            (left / "checkpoint.pt").write_bytes(bytes(500))
    (folder / "settings.yaml").write_text(yaml.safe_dump(asked.as_dict()))
    (folder / "split.json").write_text(json.dumps({"splits": {"search": {"count": 1000}}}))
    references = [
        {"name": name, "figures": dataclasses.asdict(one)} for name, one in (("fp32", FP32), ("int8", INT8))
    ]
    (folder / "references.json").write_text(json.dumps(references))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "runs"
    make(out, "one")
    make(out, "two", count=3, max_latency=1.35, seed=5)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, in the current folder."""
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def typed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main_guard(lambda: studies.main([*map(str, words)]))
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return status, told.out, told.err


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    status, output, errors = typed(capsys, *words, "--format", "json")
    assert status == 0, errors
    return json.loads(output)


DRIVER = """
    import signal, sys, time
    from pathlib import Path
    from foundation.command import main_guard
    from pipeline.study.lock import lock
    def main():
        with lock(Path(sys.argv[1])):
            print("at work", flush=True)
            if sys.argv[2:] == ["deaf"]:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
    sys.exit(main_guard(main))
"""


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study as a search does."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- list and show


def test_every_study_is_a_line_and_a_damaged_one_hides_no_other(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "broken").mkdir()
    (out / "broken" / "settings.yaml").write_text("budget: {")
    (out / "no study").mkdir()
    found = as_json(capsys, "list")
    rows = {row["name"]: row for row in found["studies"]}
    assert list(rows) == ["broken", "one", "two"]
    assert rows["broken"]["state"] == "damaged" and "settings.yaml" in rows["broken"]["why"]
    one, two = rows["one"], rows["two"]
    assert (one["spent"], one["budget"], one["state"]) == (6, 6, "complete")
    assert (two["spent"], two["state"], two["process"]) == (3, "resumable", None)
    assert one["disk_bytes"] == sum(
        file.stat().st_size for file in (out / "one").rglob("*") if file.is_file()
    )
    text = typed(capsys, "list")[1]
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in rows)
    assert "4.0 +- 0.6 %" in text and "modelled" in text


def test_of_an_empty_folder_it_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = typed(capsys, "list", "--out", tmp_path / "nowhere")
    assert status == 0 and "no studies" in text and "pipeline.search --out" in text
    assert not (tmp_path / "nowhere").exists()


def test_the_front_is_that_of_the_records_within_the_limits(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "show", "two")
    within = [r for r in read_records(out / "two") if r.figures.latency_ms <= 1.35]
    points = {r.hash: r.figures.objectives(OBJECTIVES) for r in within}
    front = {
        name
        for name, point in points.items()
        if not any(dominates(other, point) for other in points.values())
    }
    assert {point["hash"] for point in found["front"]["points"]} == front and front
    assert found["counts"] == {"finished": 3} and found["front"]["images"] == 1000
    text = typed(capsys, "show", "two")[1]
    assert "max_latency 1.35" in text and "seed 5" in text and "3 of 6: 3 finished" in text
    assert "not complete" in text and "pipeline.search --name two" in text


@pytest.mark.parametrize("name", ["runs/one", "./runs/one/", "{out}/one", "runs/one/settings.yaml"])
def test_a_path_names_a_study_too(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "show", name.format(out=out), "--out", "elsewhere")
    assert found["folder"] == str(out / "one")


def test_a_moved_and_renamed_study_is_what_it_was(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = as_json(capsys, "show", "one")
    (tmp_path / "shelf").mkdir()
    (out / "one").rename(tmp_path / "shelf" / "other")
    after = as_json(capsys, "show", "shelf/other")
    assert after["front"] == before["front"]
    assert (after["settings"]["name"], after["settings"]["out"]) == ("other", str(tmp_path / "shelf"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "onee"], "no study 'onee' in {out}; did you mean one?"),
        (["show", "xyz"], "there are: one, two"),
        (["show", "runs/xyz"], "no study 'runs/xyz'"),
        (["compare", "one", "runs/one"], "one is named twice"),
        (["compare", "one", "--picture", "runs"], "is a folder; name a file"),
        (["decide", "one", "zzz", "keep"], "'zzz' is not a candidate"),
        (["clone", "one", "two"], "there already"),
        (["clone", "one", "a b"], "use letters"),
        (["delete", "one"], "give --yes"),
        (["shwo", "one"], "invalid choice: 'shwo'"),
        ([], "required"),
    ],
)
def test_mistakes_are_a_line(
    out: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(out.rglob("*"))
    status, output, errors = typed(capsys, *words)
    assert (status, output) == (2, "") and errors.count("\n") == 1
    assert says.format(out=out) in errors
    assert sorted(out.rglob("*")) == before


# ---- compare


def test_volumes_are_shares_of_one_box(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "compare", "one", "two")
    assert found["box"] == {"error": 1.0, "latency": 4.0, "size": 40_000.0} and found["why_no_volume"] is None
    for front in found["studies"]:
        points = [(p["error"], p["latency_ms"] / 4.0, p["size_bytes"] / 40_000) for p in front["points"]]
        # By a grid of points: the share of them that some candidate dominates.
        ticks = [(i + 0.5) / 40 for i in range(40)]
        inside = sum(
            any(a <= x and b <= y and c <= z for a, b, c in points)
            for x in ticks
            for y in ticks
            for z in ticks
        )
        assert front["hypervolume"] == pytest.approx(inside / 40**3, abs=0.03)
    text = typed(capsys, "compare", "one", "two")[1]
    assert (
        text.count("fp32") == 2
        and "hypervolume" in text
        and f"{found['studies'][0]['hypervolume']:.4f}" in text
    )


def test_what_was_measured_and_what_was_modelled_have_no_common_volume(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = look(out / "one")
    measured = dataclasses.replace(view.records[0].figures, source="measured", device="pi")
    record = dataclasses.replace(view.records[0], figures=measured)
    other = dataclasses.replace(
        view, front={**front_json([record], [], OBJECTIVES), "recommended": {"hash": None}}
    )
    from pipeline.shelf.compare import compared, text_of

    found = compared([view, other])
    assert "measured and others modelled" in found["why_no_volume"]
    assert all(front["hypervolume"] is None for front in found["studies"])
    assert "no hypervolume" in text_of(found) and "not the same devices: emulated a76, pi" in text_of(found)


def test_the_picture_has_every_point_and_trusts_no_name(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, "compare", "one", "two", "--picture", "fronts.html")
    page = (tmp_path / "fronts.html").read_text()
    assert found["picture"] == str(tmp_path / "fronts.html")
    points = [point["hash"] for front in found["studies"] for point in front["points"]]
    for name in points:
        assert page.count(f"{name}: ") >= 2  # in both panels
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    from pipeline.shelf.picture import drawn

    found["studies"][0]["study"] = "<b>&\"'"
    assert "<b>" not in drawn(found, "today")


# ---- stop


def test_a_running_search_is_ended_as_by_sigterm(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(out / "one") as process:
        assert as_json(capsys, "show", "one")["state"] == "running"
        assert as_json(capsys, "list")["studies"][0]["process"] == process.pid
        assert f"process {process.pid}" in typed(capsys, "show", "one")[1]
        status, text, errors = typed(capsys, "stop", "one")
        assert status == 0 and f"process {process.pid}" in errors and "--name one" in text
        assert process.wait(10) == 3
    assert as_json(capsys, "stop", "one")["stopped"] is False  # twice is no mistake


def test_one_that_does_not_end_is_said_to_run_on(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(out / "one", "deaf") as process:
        time.sleep(0.1)
        status, text, _ = typed(capsys, "stop", "one", "--patience", "0.5")
        assert status == 3 and "has not ended" in text and process.poll() is None


def test_a_number_that_belongs_to_another_process_by_now_is_left_alone(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        for text in (str(sleeper.pid), "", "nonsense", "999999999999", str(os.getpid())):
            (out / "one" / ".lock").write_text(text)
            assert driver_of(out / "one") is None
            assert as_json(capsys, "stop", "one")["stopped"] is False
        with running(out / "two") as other:  # of another study
            (out / "one" / ".lock").write_text(str(other.pid))
            assert driver_of(out / "one") is None and driver_of(out / "two").pid == other.pid
            typed(capsys, "stop", "one")
            assert other.poll() is None
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("words", [("delete", "--yes"), ("prune",)])
def test_what_runs_is_neither_deleted_nor_pruned(
    out: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(out.rglob("*"))
    with running(out / "two"):
        status, _, errors = typed(capsys, words[0], "one", "two", *words[1:])
        assert status == 2 and "stop it first" in errors
        assert sorted(out.rglob("*")) == before, "the one that does not run was touched"


# ---- room


def test_pruned_is_what_is_on_no_front(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = out / "one"
    view = as_json(capsys, "show", "one")
    front = {point["hash"] for point in view["front"]["points"]}
    every = {record.hash for record in read_records(folder)}
    kept, promoted = sorted(every - front)[:2]
    typed(capsys, "decide", "one", kept[:6], "keep", "--no-mlflow")
    (folder / "promoted" / promoted).mkdir(parents=True)
    (folder / "candidates" / ".half.1").mkdir()
    unheard = folder / "trials" / sorted(every)[0]
    (unheard / "record.json").write_text("{}")
    would = as_json(capsys, "prune", "one", "--dry-run")["studies"][0]
    assert not read_pruned(folder) and (folder / "candidates" / ".half.1").is_dir()
    done = as_json(capsys, "prune", "one")["studies"][0]
    assert done["candidates"] == would["candidates"] == sorted(every - front - {kept, promoted})
    assert done["freed_bytes"] == would["freed_bytes"] and abs(done["left_bytes"] - would["left_bytes"]) < 500
    assert {place.name for place in (folder / "candidates").iterdir()} == front | {kept, promoted}
    assert [place.name for place in (folder / "trials").iterdir()] == [unheard.name]
    after = as_json(capsys, "show", "one")
    assert after["front"] == view["front"] and after["spent"] == view["spent"]
    assert as_json(capsys, "prune")["studies"][0]["candidates"] == []


def test_keep_all_takes_no_candidate(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "prune", "one", "--keep", "all")["studies"][0]
    assert found["candidates"] == [] and len(found["folders"]) == 6
    assert len(list((out / "one" / "candidates").iterdir())) == 6


def test_a_pruned_study_goes_on_and_what_is_gone_never_comes_to_a_front(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(capsys, "prune", "one")
    gone = read_pruned(out / "one")
    assert gone
    with Study(out / "one", SPACE, identity=IDENTITY, seed=3) as study:
        assert not gone & {record.hash for record in study.front()} and study.spent == 6
        assert gone <= {record.hash for record in study.records()}
        candidate = study.ask()
        assert candidate is not None and candidate.plan.hash not in gone  # known all the same
        figures = Figures(0.01, 0.1, size_bytes=100)
        study.tell(candidate.number, TrialRecord(candidate.number, candidate.plan, "finished", figures))
        assert [record.hash for record in study.front()] == [candidate.plan.hash]
    # Where limits change, what would be on the front without its files is not.
    worst = dataclasses.replace(Settings(), out=out, name="one", max_latency=0.05)
    (out / "one" / "settings.yaml").write_text(yaml.safe_dump(worst.as_dict()))
    assert look(out / "one").front["points"] == []


def test_links_lead_nowhere(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("dear")
    some = read_records(out / "one")[0].hash
    shutil.rmtree(out / "one" / "candidates" / some)
    (out / "one" / "candidates" / some).symlink_to(precious)
    (out / "one" / "inner").symlink_to(precious)
    (out / "linked").symlink_to(out / "one")
    status, _, errors = typed(capsys, "delete", "linked", "--yes")
    assert status == 2 and f"is a link to {out / 'one'}" in errors
    assert as_json(capsys, "prune", "one")["removed"] and (precious / "file").read_text() == "dear"
    status, _, _ = typed(capsys, "delete", "one", "--yes")
    assert status == 0 and not (out / "one").exists() and (precious / "file").read_text() == "dear"
    assert (out / "two").is_dir()


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_deleting_asks_a_person(out: Path, answer: str, gone: bool) -> None:
    main, terminal = pty.openpty()
    os.write(main, answer.encode())
    done = subprocess.run([sys.executable, "-m", "pipeline.studies", "delete", "one", "--out", out], stdin=terminal,
                          capture_output=True, text=True, cwd=Path(__file__).parents[2])  # fmt: skip
    os.close(main)
    os.close(terminal)
    assert (done.returncode, (out / "one").exists()) == (0 if gone else 1, not gone), done.stderr
    assert "for good? [y/N]" in done.stdout


def test_a_clone_is_a_study_of_its_own(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "one" / "tracking_id").write_text("0" * 32 + "\n")
    with running(out / "one"):  # also of one that runs
        found = as_json(capsys, "clone", "one", "copy")
    copy = out / "copy"
    assert found["study"] == str(copy) and "--name copy" in found["resume"]
    assert not (copy / "tracking_id").exists() and not (copy / ".lock").exists()
    assert read_records(copy) == read_records(out / "one")
    assert (look(copy).settings.name, look(copy).settings.out) == ("copy", out)
    with Study(copy, SPACE, identity=IDENTITY) as study:
        assert not study.created and study.spent == 6
    assert as_json(capsys, "clone", "runs/one", "else/where")["study"] == str(tmp_path / "else" / "where")


# ---- decisions


def test_a_rejected_candidate_is_neither_recommended_nor_promoted(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.promote import promote

    before = as_json(capsys, "show", "one")
    chosen = before["front"]["recommended"]["hash"]
    found = as_json(capsys, "decide", "one", chosen[:8], "reject", "--note", "looks wrong", "--no-mlflow")
    assert (found["candidate"], found["decision"], found["note"]) == (chosen, "reject", "looks wrong")
    after = as_json(capsys, "show", "one")
    assert after["front"]["recommended"]["hash"] not in (None, chosen)
    assert after["front"]["points"] == before["front"]["points"]
    assert "rejected by" in typed(capsys, "show", "one")[1]
    settings = Settings(out=out, name="one")
    with pytest.raises(Refused, match=f"{chosen} was rejected by .*: looks wrong; .* keep takes that back"):
        promote(out / "one", settings, chosen, Bounds(), None, None, champions=None)
    typed(capsys, "decide", "one", chosen, "undecided", "--no-mlflow")
    assert read_decisions(out / "one") == {}
    assert as_json(capsys, "show", "one")["front"]["recommended"]["hash"] == chosen


def test_a_decision_is_written_where_mlflow_cannot_be(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = yaml.safe_load((out / "one" / "settings.yaml").read_text())
    (out / "one" / "settings.yaml").write_text(
        yaml.safe_dump({**record, "tracking_uri": "http://127.0.0.1:9"})
    )
    name = read_records(out / "one")[0].hash
    status, text, _ = typed(capsys, "decide", "one", name, "keep")
    assert (
        status == 0 and "MLflow was not told" in text and read_decisions(out / "one")[name].decision == "keep"
    )
    (out / "one" / "decisions.json").write_text('{"x": {"decision": "maybe", "by": "", "when": ""}}')
    status, _, errors = typed(capsys, "show", "one")
    assert status == 2 and "decisions.json is damaged" in errors
