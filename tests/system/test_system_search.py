"""The main job as a person runs it: real data, real Ray, real MLflow, real ARM code under emulation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.study.study import read_records

SEARCH = [sys.executable, "-m", "pipeline.search", "--model", "resnet8", "--data", "digits"]
SMALL = [
    "--epochs-per-trial",
    "0.2",
    "--rungs",
    "1",
    "--bits",
    "2,4,8",
    "--max-concurrent",
    "1",
    "--name",
    "small",
]


def command(*arguments: str, out: Path) -> list[str]:
    return [*SEARCH, *SMALL, *arguments, "--out", str(out)]


def module(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of three trials that was killed after its first and resumed; the study's folder."""
    out = tmp_path_factory.mktemp("runs")
    folder = out / "small"
    process = subprocess.Popen(command("--budget", "3", out=out), start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "study.db").is_file() and len(read_records(folder)) >= 1:
            break
        time.sleep(0.3)
    assert process.poll() is None, "the search ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {record.hash: record for record in read_records(folder)}
    assert before, "no trial finished within five minutes"
    again = subprocess.run(  # the name alone: everything else is the study's own
        [sys.executable, "-m", "pipeline.search", "--name", "small", "--out", str(out), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert again.returncode == 0, again.stderr
    assert re.search(rf"resumed: {len(before)} trials? kept", again.stderr)
    after = read_records(folder)
    kept = {record.hash: record for record in after if record.hash in before}
    assert kept == before, "a finished trial was lost or changed"
    assert len({record.hash for record in after}) == len(after) == 3, "a trial was doubled"
    assert json.loads(again.stdout)["complete"] is True
    return folder


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
        done = module(
            "evaluate", str(study / point["candidate"]), "--on", on, "--limit", "100", "--predictions", str(file),
            "--format", "json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers[on] = file.read_text().split()
        assert json.loads(done.stdout)["images"] == 100 == len(answers[on])
    assert answers["arm"] == answers["reference"]
    assert sum(a == b for a, b in zip(answers["torch"], answers["reference"])) >= 99


def test_mlflow_holds_every_trial_once(study: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert sorted(run.data.tags["candidate"] for run in trials) == sorted(r.hash for r in read_records(study))
    (parent,) = (run for run in runs if run.data.tags["kind"] == "search")
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"front.json", "report.html", "front_table.json", "candidates"} <= names


def test_other_settings_under_the_same_name_are_refused(study: Path) -> None:
    arguments = [*command("--budget", "4", out=study.parent), "--epochs-per-trial", "0.3"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2
    assert "epochs_per_trial was 0.2, now 0.3" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_candidate_is_refused(study: Path, tmp_path: Path) -> None:
    import shutil

    point = json.loads((study / "front.json").read_text())["points"][0]
    copy = tmp_path / "candidate"
    shutil.copytree(study / point["candidate"], copy)
    blob = bytearray((copy / "weights.blob").read_bytes())
    blob[-1] ^= 1
    (copy / "weights.blob").write_bytes(blob)
    done = module("evaluate", str(copy))
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
        (["--quantizer", "magic"], ["magic", "gaussian_mixture"]),
    ],
)
def test_mistakes_are_explained_before_any_work(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = module("search", *arguments, "--out", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs").exists(), "a refused search leaves nothing behind"


def test_dry_run_trains_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SEARCH, "--dry-run", "--format", "json", "--out", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (
        plan["parameters"] == sum(layer["parameters"] for layer in plan["layers"]) + 480
    )  # batch-norm has the rest
    assert int(plan["plans"]) > 10**12 and plan["trial_seconds"] > 0
    assert not (tmp_path / "runs").exists()
