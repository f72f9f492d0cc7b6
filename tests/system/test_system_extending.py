"""A model with a data set, a metric, a quantizer, a dimension, a sampler and a kind of device of someone else's, each in a file,
together on the whole way by the commands as typed: searched, resumed, evaluated, profiled, promoted, trained. Nothing of the
project is edited."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.plan import LayerPlan, Plan
from pipeline import train
from pipeline.candidate.folder import load_candidate
from pipeline.networks.registry import load_model
from pipeline.study.records import TrialRecord
from pipeline.study.study import read_records
from quantizers.network import layer_names
from tests.system.own_folder import command, command_here

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "extending"
QUANTIZER, KEPT = "ternary:Ternary", "kept_inputs:KeptInputs"
METRIC = "balanced:balanced"
DEVICE, NAME = "downclocked:Downclocked", "emulated a76 at 1.2 GHz"
ASKED = (
    "--model", "stripes:network", "--data", "stripes:images", "--quantizer", QUANTIZER, "--dimensions", f"{KEPT}=0.5",
    "--sampler", "metropolis:Metropolis", "--inherit-weights", "on", "--devices", DEVICE, "--bits", "2,8", "--metric", METRIC,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of someone's with the six files, in which a search was run, and gone on with from elsewhere by its name alone."""
    folder, elsewhere = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("elsewhere")
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, folder)
    temporary = Path(tempfile.mkdtemp(prefix="own-"))  # short: sockets may lie there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        first = command(
            "search", *ASKED, "--epochs-per-trial", 1, "--rungs", 1, "--max-concurrent", 1, "--budget", 3, "--name", "own",
            cwd=folder,
        )  # fmt: skip
    assert first.returncode == 0, first.stdout + first.stderr
    assert not list(temporary.rglob("weights.blob")), "what devices were given is gone"
    shutil.rmtree(temporary)
    assert f"devices: {NAME} (latencies are modelled)" in first.stderr + first.stdout
    assert f"--devices {DEVICE} --modules {folder}" in first.stdout  # what to type next
    assert "% balanced on" in first.stderr and f"error: 1 - {METRIC}, on the" in first.stdout
    assert "points of balanced" in first.stdout and "points of accuracy" not in first.stdout
    again = command_here("search", "--name", "own", "--out", folder / "runs", "--budget", 5, cwd=elsewhere)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"--modules {folder}" in again.stdout
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[TrialRecord]:
    """What is known of the trials; plans with the dimension are read in this process too."""
    look_in(EXAMPLES)
    return read_records(folder / "runs" / "own")


@pytest.fixture(scope="module")
def ternary(folder: Path, records: list[TrialRecord]) -> Path:
    """The candidate with the quantizer in every layer."""
    (record,) = [r for r in records if {layer.bits for layer in r.plan.layers.values()} == {2}]
    return folder / "runs" / "own" / "candidates" / record.hash


def test_the_walk_goes_on_from_what_is_known(records: list[TrialRecord]) -> None:
    plans = [record.plan for record in records]
    assert len({plan.hash for plan in plans}) == len(plans) >= 5
    for number, plan in enumerate(plans[-2:], start=len(plans) - 2):
        steps = [
            [name for name in plan.layers if plan.layers[name] != before.layers[name]]
            for before in plans[:number]
            if before.activation_bits == plan.activation_bits and before.temperature == plan.temperature
        ]
        assert min(map(len, steps)) == 1  # another choice for one layer


def test_who_may_start_from_whose_weights_is_told(folder: Path, records: list[TrialRecord]) -> None:
    by_hash = {record.hash: record for record in records}
    for record in records:
        kept = folder / "runs" / "own" / "candidates" / record.hash / "latent.pt"
        state = torch.load(kept, weights_only=True)
        assert {f"{name}.parametrizations.weight.original" for name in record.plan.layers} <= state.keys()
        assert record.inherits is None or by_hash[record.inherits].number < record.number
        assert ("inherited" in {rung.stage for rung in record.curve}) == (record.inherits is not None)
    walked = [record.inherits is not None for record in records]
    assert not any(walked[:2]) and all(walked[-2:])  # the first are proposed by no walk


def test_every_layer_has_the_levels_of_the_quantizer(records: list[TrialRecord], ternary: Path) -> None:
    assert {record.status for record in records} == {"finished"}
    assert {record.plan.quantizer for record in records} == {QUANTIZER}
    state = torch.load(ternary / "network.pt", weights_only=True)
    levels = {name: value.tolist() for name, value in state.items() if name.endswith(".levels")}
    assert set(levels) == {f"{name}.levels" for name in records[0].plan.layers}
    assert all(values == [-1, 0, 1] for values in levels.values())


def test_what_the_dimension_says_is_in_plan_weights_report_and_program(
    folder: Path, records: list[TrialRecord]
) -> None:
    for record in records:
        candidate = load_candidate(folder / "runs" / "own" / "candidates" / record.hash)
        plan = json.loads((candidate.folder / "plan.json").read_text())
        books = candidate.hardened().codebooks
        asked = {name for name, layer in plan["layers"].items() if layer.get(KEPT) == 0.5}
        assert asked == set(books) - {next(iter(books))}  # all but the first
        for name, book in books.items():
            heavy = np.abs(book.integers.reshape(*book.indices.shape[:2], -1)).sum(axis=(0, 2))
            assert (heavy == 0).sum() == (len(heavy) // 2 if name in asked else 0), name
    page = (folder / "runs" / "own" / "report.html").read_text()
    assert '"title":"Inputs"' in page.replace(" ", "") and '"50 %"' in page.replace('\\"', '"')


def test_the_front_says_which_device_and_that_it_is_modelled(
    folder: Path, records: list[TrialRecord]
) -> None:
    front = json.loads((folder / "runs" / "own" / "front.json").read_text())
    assert front["points"] and {p["source"] for p in front["points"]} == {"modelled"}
    assert {record.figures.device for record in records} == {NAME}
    assert NAME in (folder / "runs" / "own" / "report.html").read_text()


def test_a_candidate_is_evaluated_and_profiled_on_that_device(folder: Path, ternary: Path) -> None:
    candidate = ternary.relative_to(folder)
    where = ("--devices", DEVICE, "--format", "json")
    evaluated = command_here("evaluate", candidate, "--on", "arm", "--limit", 20, *where, cwd=folder)
    found = json.loads(evaluated.stdout)
    assert (found["images"], found["metric"]) == (20, METRIC), evaluated.stderr
    profile = json.loads(command("devices", "--profile", candidate, *where, cwd=folder).stdout)
    plain = json.loads(command("devices", "--profile", candidate, "--format", "json", cwd=folder).stdout)
    assert profile["device"] == NAME and profile["source"] == "modelled"
    if plain["source"] == "modelled":  # the same cycles at half the clock
        assert profile["latency_ms"] == pytest.approx(2 * plain["latency_ms"], rel=1e-6)


def test_a_candidate_needs_the_dimension_and_no_quantizer(
    folder: Path, ternary: Path, tmp_path: Path
) -> None:
    """It is codebooks: nobody needs the quantizer any more. Its plan is read with the dimension, found by a relative path."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stripes.py").symlink_to(EXAMPLES / "stripes.py")
    words = (ternary, "--limit", 20, "--format", "json", "--modules", "mine", "--metric", "accuracy")
    without = command("evaluate", *words, cwd=tmp_path)
    assert without.returncode == 2 and "no module 'kept_inputs'" in without.stderr
    (tmp_path / "mine" / "kept_inputs.py").symlink_to(EXAMPLES / "kept_inputs.py")
    judged = command("evaluate", *words, cwd=tmp_path)
    assert judged.returncode == 0 and json.loads(judged.stdout)["images"] == 20, judged.stderr


def test_what_it_made_is_promoted_from_elsewhere(folder: Path, ternary: Path, tmp_path: Path) -> None:
    promoted = command_here(
        "promote", "own", "--out", folder / "runs", "--candidate", ternary.name, "--limit", 20,
        "--max-accuracy-drop", 100, "--allow-modelled", cwd=tmp_path,
    )  # fmt: skip
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    assert "balanced of the program is" in promoted.stdout
    bundle = {file.name for file in (folder / "runs" / "own" / "promoted" / ternary.name).rglob("*")}
    assert "weights.blob" in bundle and "latent.pt" not in bundle


def test_a_study_keeps_to_its_devices_and_its_metric(folder: Path) -> None:
    other = command_here("search", "--name", "own", "--devices", "emulated", cwd=folder)
    assert other.returncode == 2 and f'devices was "{DEVICE}", now "emulated"' in other.stderr
    judged = command_here("search", "--name", "own", "--metric", "accuracy", cwd=folder)
    assert judged.returncode == 2 and f'metric was "{METRIC}", now none' in judged.stderr, judged.stderr
    wrong = command_here("search", "--devices", "downclocked:CLOCK_GHZ", cwd=folder)
    assert wrong.returncode == 2 and "is a float, not a kind of device" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.fixture
def training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """``pipeline.train`` of a plan with layers of that quantizer, under a name that nobody has asked for before; what it
    prints."""
    (tmp_path / "mine").mkdir()
    shutil.copy(EXAMPLES / "ternary.py", tmp_path / "mine" / "three.py")
    model = load_model("resnet8", classes=10, image_size=32)
    torch.save(
        model.state_dict(), tmp_path / "network.pt"
    )  # untrained: what is tested does not depend on what it knows
    names = layer_names(model)
    (tmp_path / "plan.json").write_text(
        Plan.uniform(names, LayerPlan(2), quantizer="three:Ternary").to_json()
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> dict[str, Any]:
        usual = (
            "--plan", "plan.json", "--model", "resnet8", "--weights", "network.pt", "--epochs", "0.1", "--format", "json",
        )  # fmt: skip
        assert train.main([*usual, *arguments]) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


def test_it_is_trained_alone_with_an_option_of_its_own(training: Callable[..., dict[str, Any]]) -> None:
    modules = ("--modules", "mine")
    with pytest.raises(UserError, match="there is no module 'three' here"):
        training()
    for wrong, said in (
        (("--option", "threshold=2"), r"^threshold 2: give a number in \[0, 1\)$"),
        (("--option", "step=2"), "^step 2: no option of three:Ternary; its options: threshold$"),
        (("--form", "paper"), "^form 'paper': no option of three:Ternary; its options: threshold$"),
        (("--option", "threshold"), "^--option threshold: give NAME=VALUE$"),
        (("--option", "threshold=high"), "^threshold 'high': not what three:Ternary takes"),
    ):
        with pytest.raises(UserError, match=said):
            training(*modules, *wrong)
    made = training(*modules, "--option", "threshold=0.1")
    assert 0 < made["zeros"]["conv1"] < 0.2  # with 0.7 it would be about 0.4
    assert made["settings"]["options"] == {"threshold": 0.1}
