"""A quantizer of someone else's, in a file of theirs, on the whole way: searched, resumed, evaluated, promoted, trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline import evaluate, train
from pipeline.study.study import read_records
from tests.system.own_folder import command

ROOT = Path(__file__).resolve().parents[2]
NAME = "ternary:Ternary"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of one trial, all 8 bits, and its resumption from another folder by its name alone, ternary."""
    out, elsewhere = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("elsewhere")
    first = command(
        "search", "--quantizer", NAME, "--modules", "examples/extending", "--model", "resnet8",
        "--epochs-per-trial", 0.1, "--rungs", 1, "--max-concurrent", 1,
        "--budget", 1, "--name", "ternary", "--out", out, cwd=ROOT,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    again = command("search", "--name", "ternary", "--out", out, "--budget", 2, cwd=elsewhere)
    assert again.returncode == 0, again.stderr
    assert f"--modules {ROOT / 'examples' / 'extending'}" in again.stdout
    return out


def test_it_is_searched_and_resumed(out: Path) -> None:
    records = read_records(out / "ternary")
    assert [record.status for record in records] == ["finished", "finished"]
    assert {record.plan.quantizer for record in records} == {NAME}
    (ternary,) = [r for r in records if {layer.bits for layer in r.plan.layers.values()} == {2}]
    state = torch.load(out / "ternary" / "candidates" / ternary.hash / "network.pt", weights_only=True)
    levels = {name: value.tolist() for name, value in state.items() if name.endswith(".levels")}
    assert set(levels) == {f"{name}.levels" for name in ternary.plan.layers}
    assert all(values == [-1, 0, 1] for values in levels.values())


def test_what_it_made_is_evaluated_and_promoted_without_it(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate is codebooks: nobody needs the quantizer any more."""
    (ternary,) = [r.hash for r in read_records(out / "ternary") if r.plan.layers["conv1"].bits == 2]
    folder = out / "ternary" / "candidates" / ternary
    assert evaluate.main([str(folder), "--limit", "20", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20 and "ternary" not in sys.modules
    promoted = command(
        "promote", "ternary", "--out", out, "--candidate", ternary, "--limit", 20,
        "--max-accuracy-drop", 100, "--allow-modelled", cwd=tmp_path,
    )  # fmt: skip
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr


@pytest.fixture
def training(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """``pipeline.train`` of a plan with ternary layers, in a folder of its own; what it prints."""
    names = list(read_records(out / "ternary")[0].plan.layers)
    (tmp_path / "plan.json").write_text(Plan.uniform(names, LayerPlan(2), quantizer=NAME).to_json())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> dict[str, Any]:
        usual = ("--plan", "plan.json", "--model", "resnet8", "--epochs", "0.1", "--format", "json")
        assert train.main([*usual, *arguments]) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


def test_it_is_trained_alone_with_an_option_of_its_own(training: Callable[..., dict[str, Any]]) -> None:
    modules = ("--modules", str(ROOT / "examples" / "extending"))
    with pytest.raises(UserError, match="there is no module 'ternary' here"):
        training()
    for wrong, said in (
        (("--option", "threshold=2"), r"^threshold 2: give a number in \[0, 1\)$"),
        (("--option", "step=2"), f"^step 2: no option of {NAME}; its options: threshold$"),
        (("--form", "paper"), f"^form 'paper': no option of {NAME}; its options: threshold$"),
        (("--option", "threshold"), "^--option threshold: give NAME=VALUE$"),
        (("--option", "threshold=high"), f"^threshold 'high': not what {NAME} takes"),
    ):
        with pytest.raises(UserError, match=said):
            training(*modules, *wrong)
    made = training(*modules, "--option", "threshold=0.1")
    assert 0 < made["zeros"]["conv1"] < 0.2  # with 0.7 it would be about 0.4
    assert made["settings"]["options"] == {"threshold": 0.1}
