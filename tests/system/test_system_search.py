"""The main job as a person runs it and breaks it off, by real signals: real data, real Ray, real MLflow, real ARM code under
emulation, and the exit status that says what happened."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.study.paths import sqlite_uri
from pipeline.study.study import INTERRUPTED, read_records
from tests.system.own_folder import command, command_here, said

SMALL = (
    "--model",
    "vgg_tiny",
    "--data",
    "digits",
    "--epochs-per-trial",
    0.2,
    "--rungs",
    1,
    "--bits",
    "2,4,8",
    "--max-concurrent",
    1,
)


def started(words: list[str], cwd: Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A search in a folder with an awkward name, ended by Ctrl-C after its first trial; its folder, and the command it printed to
    go on."""
    place = tmp_path_factory.mktemp("search") / "what? it's a b #1 ü"
    place.mkdir()
    words = [sys.executable, "-m", "pipeline.search", *map(str, SMALL), "--budget", "4", "--name", "small"]
    process = started(words, place)
    said(process, "1/4")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in front
    assert "ending the search in good order" in said(process, "SIGINT")[-1]
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors and "not complete; nothing that finished is lost" in output
    folder = place / "runs" / "small"
    before = read_records(folder)
    assert 1 <= len(before) < 4
    assert all(
        record.reason == INTERRUPTED for record in read_records(folder, interrupted=True)[len(before) :]
    )
    [resume] = [line for line in output.splitlines() if line.startswith("resume")]
    return folder, shlex.split(resume.removeprefix("resume"))


@pytest.fixture(scope="module")
def study(interrupted: tuple[Path, list[str]], elsewhere: Path) -> Path:
    """The same, gone on with to its end from elsewhere by what was printed, everything but the name being the study's own; its
    folder. (Killed: test_system_engine.py.)"""
    folder, typed = interrupted
    kept = read_records(folder)
    again = command_here("search", *typed[3:], "--budget", 2, "--format", "json", cwd=elsewhere)
    assert again.returncode == 0, again.stderr
    assert re.search(rf"resumed: {len(kept)} trials? kept", again.stderr)
    after = read_records(folder)
    assert [record for record in after if record in kept] == kept, "a finished trial was lost or changed"
    assert len({record.hash for record in after}) == len(after) >= 2, "a trial was doubled"
    assert json.loads(again.stdout)["complete"] is True
    assert not list(elsewhere.iterdir()), "nothing is written where a command happened to be typed"
    return folder


@pytest.mark.slow
def test_out_of_time_and_terminated_a_search_goes_on(tmp_path: Path, elsewhere: Path) -> None:
    words = [*SMALL, "--budget", 2, "--name", "small"]
    late = command_here("search", *words, "--time-budget", "0.001s", cwd=tmp_path)
    assert late.returncode == 3, late.stderr
    assert "not complete; nothing that finished is lost" in late.stdout
    [resume] = [line for line in late.stdout.splitlines() if line.startswith("resume")]
    typed = shlex.split(resume.removeprefix("resume"))

    # SIGTERM to all its processes, as ``timeout`` sends it, Ray's services among them: the same good order.
    process = started([*typed, "--time-budget", "1h"], elsewhere)
    said(process, "devices")
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert "ending the search in good order" in errors and "Traceback" not in errors
    assert len(errors.splitlines()) <= 3, "nothing of Ray's own"
    assert "--name small" in output

    done = command_here("search", *typed[3:], "--format", "json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "small resumed" in done.stderr and json.loads(done.stdout)["complete"] is True
    assert not list(elsewhere.iterdir()), "nothing is written where a command happened to be typed"


def test_the_study_folder_holds_what_the_readme_says(study: Path) -> None:
    front = json.loads((study / "front.json").read_text())
    assert {"settings.yaml", "study.db", "front.json", "report.html", "split.json"} <= {
        p.name for p in study.iterdir()
    }
    assert [r["name"] for r in front["references"]] == ["fp32", "int8"]
    assert front["points"]
    for point in front["points"]:
        folder = study / point["candidate"]
        blob = (folder / "weights.blob").read_bytes()
        assert point["size_bytes"] == len(blob)
        assert point["low"] <= point["latency_ms"] <= point["high"]
        assert point["source"] == "modelled" and "emulated" in point["device"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["figures"]["latency"]["source"] == "modelled"
        assert manifest["data"]["splits"]["report"]["count"] == 299


def test_every_way_to_evaluate_agrees(study: Path, tmp_path: Path) -> None:
    point = json.loads((study / "front.json").read_text())["points"][-1]
    answers = {}
    for on in ("torch", "arm", "reference"):
        file = tmp_path / on
        done = (command if on == "arm" else command_here)(
            "evaluate", study / point["candidate"], "--on", on, "--limit", 100, "--predictions", on, "--format", "json",
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers[on] = file.read_text().split()
        assert json.loads(done.stdout)["images"] == 100 == len(answers[on])
    assert answers["arm"] == answers["reference"]
    assert sum(a == b for a, b in zip(answers["torch"], answers["reference"])) >= 99


def test_mlflow_holds_every_trial_once(study: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_uri(study.parent / "mlflow.db"))
    experiment = client.get_experiment_by_name("dgms-arm-search")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(run.data.tags["candidate"] for run in trials) == sorted(r.hash for r in read_records(study))
    (parent,) = (run for run in runs if run.data.tags["kind"] == "search")
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"front.json", "report.html", "front_table.json", "candidates"} <= names


def test_other_settings_under_the_same_name_are_refused(study: Path) -> None:
    flags = ("--name", "small", "--out", study.parent.name, "--budget", 4, "--epochs-per-trial", 0.3)
    done = command_here("search", *flags, cwd=study.parent.parent)
    assert done.returncode == 2
    assert "epochs_per_trial was 0.2, now 0.3" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_candidate_is_refused(study: Path, tmp_path: Path) -> None:
    point = json.loads((study / "front.json").read_text())["points"][0]
    copy = tmp_path / "candidate"
    shutil.copytree(study / point["candidate"], copy)
    blob = bytearray((copy / "weights.blob").read_bytes())
    blob[-1] ^= 1
    (copy / "weights.blob").write_bytes(blob)
    done = command_here("evaluate", copy.name, cwd=tmp_path)
    assert done.returncode == 2
    assert "checksum" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnet21"], ["resnet21", "resnet20"]),
        (["--model", "vit_b_16"], ["operator", "not supported on ARM"]),
        (["--data", "npz:/no/such.npz"], ["/no/such.npz"]),
        (["--weights", "/no/such.pt"], ["/no/such.pt"]),
        (["--target", "z80"], ["z80", "a76"]),
        (["--sampler", "magic"], ["magic", "tpe"]),
        (["--inherit-weights", "on"], ["--sampler programme", "metropolis", "leave it off"]),
        (["--quantizer", "magic"], ["magic", "gaussian_mixture"]),
    ],
)
def test_mistakes_are_explained_before_any_work(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = command_here("search", *arguments, "--out", "runs", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs").exists(), "a refused search leaves nothing behind"


def test_dry_run_trains_and_writes_nothing(tmp_path: Path) -> None:
    done = command_here("search", *SMALL[:4], "--dry-run", "--format", "json", "--out", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (
        plan["parameters"] == sum(layer["parameters"] for layer in plan["layers"]) + 352
    )  # batch-norm has the rest
    assert int(plan["plans"]) > 10**6 and plan["trial_seconds"] > 0
    assert not (tmp_path / "runs").exists()
