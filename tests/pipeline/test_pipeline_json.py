"""What is written as JSON is JSON for every reader, and every rung trains something."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.search
import pipeline.train
from foundation.command import main_guard
from foundation.errors import UserError
from foundation.files import json_text
from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import load_model
from pipeline.study.records import Figures, TrialRecord
from pipeline.training.loop import check_rungs, planned_steps, steps_of
from pipeline.training.rung import Rung
from pipeline.training.settings import TrainSettings
from quantizers.network import layer_names
from tests.pipeline.json_page import section

ROOT = Path(__file__).resolve().parents[2]


def strict(text: str) -> Any:
    """JSON as other languages read it: NaN and Infinity are no values."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_without_a_word_in_json_become_null() -> None:
    value = {"a": [math.nan, (1.5, -math.inf)], "b": {"c": np.float64("inf")}, "d": "NaN", "e": True, "f": 3}
    assert strict(json_text(value)) == {
        "a": [None, [1.5, None]], "b": {"c": None}, "d": "NaN", "e": True, "f": 3
    }  # fmt: skip


def test_a_trial_whose_figures_are_not_finite_is_kept_readably() -> None:
    plan = Plan.uniform(["conv"], LayerPlan(4))
    record = TrialRecord(
        1, plan, "failed", Figures(math.nan, math.inf), "it diverged", (Rung(1.0, 0.5, math.nan, 2.0),)
    )
    text = record.to_json()
    assert strict(text)["figures"]["error"] is None
    again = TrialRecord.from_json(text)
    assert (again.figures.error, again.figures.latency_ms, again.plan) == (None, None, plan)


def test_there_is_one_writer_of_json() -> None:
    """So that no new file brings NaN back. A plan has its own, which refuses: its text is its name; so has what a bundle takes
    along, since nothing of the project is there."""
    writers = {"foundation/files.py", "foundation/plan.py", "deploy_arm/runtime/classify.py"}
    found = set()
    for package in ("foundation", "pipeline", "search_spaces", "quantizers", "deploy_arm"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
                    continue
                if node.value.id == "json" and node.attr in ("dump", "dumps", "JSONEncoder"):
                    found.add(str(path.relative_to(ROOT)))
    assert found == writers


@pytest.mark.parametrize("epochs", [0.01, 0.4, 1.4])
def test_a_fraction_of_an_epoch_trains_at_least_one_step(
    epochs: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = np.random.default_rng(0)
    arrays = {
        f"x_{s}": chance.integers(0, 256, (n, 16, 16, 3), np.uint8) for s, n in (("train", 24), ("val", 20))
    }
    np.savez(
        tmp_path / "d.npz",
        **arrays,
        **{f"y_{s}": np.arange(len(arrays[f"x_{s}"])) % 4 for s in ("train", "val")},
    )
    network = load_model("resnet8", classes=4)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    (tmp_path / "p.json").write_text(Plan.uniform(layer_names(network), LayerPlan(8)).to_json())
    monkeypatch.chdir(tmp_path)
    command = [
        "--model",
        "resnet8",
        "--data",
        "npz:d.npz",
        "--weights",
        "w.pt",
        "--plan",
        "p.json",
        "--format",
        "json",
    ]
    assert main_guard(lambda: pipeline.train.main([*command, "--epochs", str(epochs)])) == 0
    printed = strict(capsys.readouterr().out)
    curve = strict((tmp_path / "trained" / "metrics.json").read_text())["curve"]
    assert printed.keys() == section("train")
    assert printed["curve"] == curve and all(rung["loss"] > 0 for rung in curve)


def test_steps_are_counted_as_the_loop_takes_them() -> None:
    settings = TrainSettings(epochs=2, batch_size=32)
    assert planned_steps(settings, 100) == (32, 3, 6)
    assert planned_steps(settings, 20) == (20, 1, 2)
    assert [steps_of(epochs, 3, 6) for epochs in (0.01, 0.5, 1, 2, 9)] == [1, 2, 3, 6, 6]


def test_rungs_that_would_train_nothing_are_refused_by_the_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_rungs((1 / 3, 1.0), TrainSettings(epochs=1.0, batch_size=32), 100)
    with pytest.raises(
        UserError, match=r"1 epochs of 100 images in batches of 64 are 1 step, too few for 2 rungs"
    ):
        check_rungs((1 / 3, 1.0), TrainSettings(epochs=1.0, batch_size=64), 100)
    monkeypatch.chdir(tmp_path)
    command = [
        "--dry-run",
        "--model",
        "resnet8",
        "--data",
        "digits",
        "--epochs-per-trial",
        "0.1",
        "--rungs",
        "5",
    ]
    with pytest.raises(
        UserError, match="too few for 2 rungs; give more epochs, smaller batches or fewer rungs"
    ):
        pipeline.search.main(command)


def test_a_report_prints_its_front_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.report.__main__ import main as report

    recorded, page = str(ROOT / "examples" / "recorded"), tmp_path / "page.html"
    assert report([recorded, "--out", str(page), "--format", "json"]) == 0
    told = strict(capsys.readouterr().out)
    assert (
        told["page"] == str(page)
        and len(told["points"]) == 8
        and {"references", "recommended"} <= told.keys()
    )
    with pytest.raises(UserError, match="--watch"):
        report([recorded, "--out", str(page), "--watch", "--format", "json"])
