"""Commands as a person types and interrupts them: real signals, and the exit status that says what happened."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import load_model
from pipeline.study.study import INTERRUPTED, read_records
from quantizers.network import layer_names

SEARCH = [sys.executable, "-m", "pipeline.search"]
SMALL = [
    "--epochs-per-trial",
    "0.2",
    "--rungs",
    "1",
    "--bits",
    "4,8",
    "--max-concurrent",
    "1",
    "--budget",
    "3",
]


def said(process: subprocess.Popen[str], word: str) -> list[str]:
    """The lines of standard error up to one that holds ``word``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"{word!r} was not said: {''.join(lines)}")


def test_ctrl_c_ends_a_search_in_good_order_and_its_name_alone_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = subprocess.Popen(
        [*SEARCH, *SMALL, "--name", "mine"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    said(process, "1/3")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in front
    assert "ending the search in good order" in said(process, "SIGINT")[-1]
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors and "not complete; nothing that finished is lost" in output
    folder = tmp_path / "runs" / "mine"
    before = read_records(folder)
    assert 1 <= len(before) < 3
    assert all(
        record.reason == INTERRUPTED for record in read_records(folder, interrupted=True)[len(before) :]
    )
    [resume] = [line for line in output.splitlines() if line.startswith("resume")]

    # The printed command, from elsewhere: everything but the name is the study's own. Out of time, it is not complete either.
    typed = shlex.split(resume.removeprefix("resume"))
    late = subprocess.run(
        [*typed, "--time-budget", "0.001s", "--format", "json"], capture_output=True, text=True
    )
    assert late.returncode == 3, late.stderr
    assert "mine resumed" in late.stderr and json.loads(late.stdout)["complete"] is False

    # SIGTERM to all its processes, as ``timeout`` sends it, Ray's services among them: the same good order.
    process = subprocess.Popen(
        typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said(process, "devices")
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert "ending the search in good order" in errors and "Traceback" not in errors
    assert len(errors.splitlines()) <= 3, "nothing of Ray's own"
    assert read_records(folder)[: len(before)] == before and f"--name {folder.name}" in output

    # What contradicts the study is refused, what does not is taken.
    other = subprocess.run([*typed, "--epochs-per-trial", "0.3"], capture_output=True, text=True)
    assert other.returncode == 2 and "epochs_per_trial was 0.2, now 0.3" in other.stderr
    done = subprocess.run(
        [*typed, "--time-budget", "1h", "--budget", "2", "--format", "json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] is True
    records = read_records(folder)
    assert before[0] in records and len({record.hash for record in records}) == len(records)


def test_sigterm_in_the_middle_of_training_is_incomplete(tmp_path: Path) -> None:
    layers = layer_names(load_model("resnet20", classes=10, image_size=32))
    (tmp_path / "plan.json").write_text(Plan.uniform(layers, LayerPlan(8)).to_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", "--model", "resnet20", "--plan", str(tmp_path / "plan.json")],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    said(process, "training resnet20")
    process.terminate()
    assert "SIGTERM: ending" in said(process, "SIGTERM")[-1]
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read() and process.wait(60) == 3
    assert not list(tmp_path.rglob("*.pt")), "half a network is not kept"
