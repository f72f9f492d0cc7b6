"""A model with a data set, a sampler and a kind of device of someone else's, each in a file of theirs, through the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.study.study import read_records
from tests.system.own_folder import command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "extending"
FILES = ("stripes.py", "metropolis.py", "downclocked.py")
DEVICE = "downclocked:Downclocked"
NAME = "emulated a76 at 1.2 GHz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of someone's with the three files, in which a search was run, and gone on with from elsewhere by its name."""
    folder, elsewhere = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("elsewhere")
    for file in FILES:
        shutil.copy(EXAMPLES / file, folder)
    first = command(
        "search", "--model", "stripes:network", "--data", "stripes:images", "--sampler", "metropolis:Metropolis",
        "--devices", DEVICE, "--bits", "2,8", "--epochs-per-trial", 1, "--rungs", 1, "--max-concurrent", 1,
        "--budget", 5, "--name", "own", cwd=folder,
    )  # fmt: skip
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"devices: {NAME} (latencies are modelled)" in first.stderr + first.stdout
    assert f"--devices {DEVICE} --modules {folder}" in first.stdout  # what to type next
    again = command("search", "--name", "own", "--out", folder / "runs", "--budget", 7, cwd=elsewhere)
    assert again.returncode == 0, again.stdout + again.stderr
    return folder


def test_the_walk_goes_on_from_what_is_known(folder: Path) -> None:
    plans = [record.plan for record in read_records(folder / "runs" / "own")]
    assert len({plan.hash for plan in plans}) == len(plans) >= 7
    for number, plan in enumerate(plans[-2:], start=len(plans) - 2):
        steps = [
            [name for name in plan.layers if plan.layers[name] != before.layers[name]]
            for before in plans[:number]
            if before.activation_bits == plan.activation_bits and before.temperature == plan.temperature
        ]
        assert min(map(len, steps)) == 1  # another choice for one layer


def test_the_front_says_which_device_and_that_it_is_modelled(folder: Path) -> None:
    front = json.loads((folder / "runs" / "own" / "front.json").read_text())
    assert front["points"] and {p["source"] for p in front["points"]} == {"modelled"}
    assert {record.figures.device for record in read_records(folder / "runs" / "own")} == {NAME}
    assert NAME in (folder / "runs" / "own" / "report.html").read_text()


def test_a_candidate_is_evaluated_and_profiled_on_that_device(folder: Path) -> None:
    front = json.loads((folder / "runs" / "own" / "front.json").read_text())
    candidate = Path("runs", "own", front["points"][0]["candidate"])
    where = ("--devices", DEVICE, "--format", "json")
    evaluated = command("evaluate", candidate, "--on", "arm", "--limit", 20, *where, cwd=folder)
    assert json.loads(evaluated.stdout)["images"] == 20, evaluated.stderr
    profile = json.loads(command("devices", "--profile", candidate, *where, cwd=folder).stdout)
    plain = json.loads(command("devices", "--profile", candidate, "--format", "json", cwd=folder).stdout)
    assert profile["device"] == NAME and profile["source"] == "modelled"
    if plain["source"] == "modelled":  # the same cycles at half the clock
        assert profile["latency_ms"] == pytest.approx(2 * plain["latency_ms"], rel=1e-6)


def test_a_study_keeps_to_its_devices(folder: Path) -> None:
    other = command("search", "--name", "own", "--devices", "emulated", cwd=folder)
    assert other.returncode == 2 and f'devices was "{DEVICE}", now "emulated"' in other.stderr
    wrong = command("search", "--devices", "downclocked:CLOCK_GHZ", cwd=folder)
    assert wrong.returncode == 2 and "is a float, not a kind of device" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1
