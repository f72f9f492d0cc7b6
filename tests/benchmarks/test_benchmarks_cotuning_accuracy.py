"""The accuracy table: its cells, its plans, that it goes on where it stopped, also inside a cell, and what it keeps."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import cotuning_accuracy as table
from benchmarks.cotuning_slices import TimeIsUp
from benchmarks.cotuning_table import Answers
from foundation.errors import UserError
from pipeline import evaluate
from pipeline.study.checkpoints import read_checkpoint
from pipeline.study.lock import lock
from pipeline.study.storage import LocalStorage

NAMES = ["first", "middle", "last"]


def cell(method: str, **change: object) -> table.Cell:
    values: dict[str, object] = {
        "network": "resnet8", "method": method, "bits": 2, "activation_bits": 8, "zero_share": None, "epochs": 1.0,
        "learning_rate": 0.01, "distillation": 1.0, "distillation_temperature": 4.0,
        "seed": 0, "bfloat16": False, "device": "cpu", "data": "digits",
    }  # fmt: skip
    return table.Cell(**{**values, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", table.METHODS)
def test_all_methods_give_first_and_last_layer_8_bits(method: str) -> None:
    plan = table.plan_of(cell(method, bits=8 if method == "int8" else 3), NAMES)
    assert [plan.layers[name].bits for name in NAMES] == [8, 8 if method == "int8" else 3, 8]


def test_a_place_on_this_machine_is_not_written_down() -> None:
    assert table._name("npz:/some/where/cifar.npz") == "npz:cifar.npz"
    assert table._name("digits") == "digits"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``digits.npz``, handwritten digits of 8 x 8 pixels, and ``weights.pt`` of a ResNet-8."""
    import numpy as np
    from sklearn.datasets import load_digits

    from pipeline.networks.registry import load_model

    folder, digits = tmp_path_factory.mktemp("table"), load_digits()
    pixels = np.repeat(np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    labels = digits.target.astype(np.int64)
    np.savez(
        folder / "digits.npz",
        x_train=pixels[:1200], y_train=labels[:1200], x_val=pixels[1200:], y_val=labels[1200:],
    )  # fmt: skip
    torch.save(load_model("resnet8", classes=10, image_size=(8, 8)).state_dict(), folder / "weights.pt")
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [
        "--data", f"npz:{place / 'digits.npz'}", "--networks", "resnet8", "--weights", str(place / "weights.pt"),
        "--out", str(out), *more,
    ]  # fmt: skip


def test_rows_are_made_once_and_a_foreign_file_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.csv"
    methods = ["--methods", "ours", "lsq", "kmeans", "int8"]
    asked = command(place, out, "--epochs", "0.2", *methods)
    assert table.main(asked) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["ours", "lsq", "kmeans", "int8"]
    assert [int(row["steps"]) > 0 for row in rows] == [True, True, False, False]
    sizes = {row["method"]: int(row["bytes"]) for row in rows}
    assert max(sizes[name] for name in sizes if name != "int8") < sizes["int8"]
    assert all(0 <= float(row["report_top1"]) <= 1 for row in rows)
    answers = {row["method"]: Answers.of(row) for row in table.read(table.answers_of(out))}
    for row in rows:
        right = answers[row["method"]]
        shares = (right.search.mean(), right.report.mean(), right.fp32_report.mean())
        told = (row["search_top1"], row["report_top1"], row["fp32_report_top1"])
        assert [f"{share:.6g}" for share in shares] == list(told)
    content = out.read_text()
    assert table.main(asked) == 0
    assert out.read_text() == content
    assert "4 of them done" in capsys.readouterr().err
    assert table.main([*asked, "--activations", "none", "--methods", "int8"]) == 0
    assert len(table.read(out)) == 5
    before = table.read(out)
    assert table.main([*asked, "--methods", "kmeans", "--again"]) == 0
    assert "1 cells, 0 of them done" in capsys.readouterr().err
    after = table.read(out)
    assert len(after) == 5 and after[-1]["method"] == "kmeans"
    assert [row["report_top1"] for row in before if row["method"] == "kmeans"] == [after[-1]["report_top1"]]
    assert len(table.read(table.answers_of(out))) == 5
    out.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="another --out"):
        table.main(asked)


def job(place: Path, folder: Path, deadline: float | None = None) -> table.Job:
    return table.Job(
        f"npz:{place / 'digits.npz'}", str(place / "weights.pt"), folder / "cells", folder / "kept", deadline
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lsq", "ours", "ewgs", "dkm"])
def test_a_cell_that_was_cut_off_ends_as_if_it_was_not(method: str, place: Path, tmp_path: Path) -> None:
    asked = cell(method, epochs=4.0, activation_bits=None if method == "lsq" else 8, data="npz:digits.npz")
    model, data, fp32 = table._start(job(place, tmp_path), "resnet8", "cpu")
    whole = table.work(job(place, tmp_path / "whole"), asked)
    assert isinstance(whole, table.Row) and whole.steps == 36
    cut = job(place, tmp_path, deadline=0.0)
    assert table.work(cut, asked) == "not begun"
    said: list[int] = []
    while not said or said[-1] < 32:
        with pytest.raises(TimeIsUp) as stop:
            table.measure(cut, asked, model, data, fp32, None)
        said.append(int(str(stop.value).split()[3]))
    assert said == [16, 32]
    resumed = table.work(job(place, tmp_path), asked)
    assert isinstance(resumed, table.Row)
    ours, theirs = resumed.record(), whole.record()
    assert ours.pop("seconds") and theirs.pop("seconds")
    assert ours == theirs
    state, other = (
        (read_checkpoint(LocalStorage(j.checkpoint(asked).parent), j.checkpoint(asked).name).state or {})[
            "network"
        ]
        for j in (job(place, tmp_path), job(place, tmp_path / "whole"))
    )
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_a_checkpoint_of_another_run_is_named(place: Path, tmp_path: Path) -> None:
    asked, other = (cell("lsq", epochs=3.0, seed=seed, data="npz:digits.npz") for seed in (0, 1))
    cut = job(place, tmp_path, deadline=0.0)
    model, data, fp32 = table._start(cut, "resnet8", "cpu")
    with pytest.raises(TimeIsUp):
        table.measure(cut, asked, model, data, fp32, None)
    cut.checkpoint(asked).rename(cut.checkpoint(other))
    with pytest.raises(UserError, match=r"\.pt is of another run.*remove it"):
        table.measure(cut, other, model, data, fp32, None)
    cut.checkpoint(other).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"\.pt is damaged.*remove it"):
        table.measure(cut, other, model, data, fp32, None)


@pytest.mark.slow
def test_several_at_once_make_the_same_rows_and_leave_nothing_behind(place: Path, tmp_path: Path) -> None:
    options = ["--epochs", "0.3", "--methods", "lsq", "int8", "--seeds", "0", "1"]
    one, two, late = (tmp_path / f"{name}.csv" for name in ("one", "two", "late"))
    assert table.main(command(place, one, *options)) == 0
    # As a person runs it: the module is then called __main__, and processes must find its names.
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.cotuning_accuracy", *command(place, two, *options, "--parallel", "2")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert [line.split(":")[0].split()[:2] for line in ran.stdout.splitlines()].count(["resnet8", "lsq"]) == 2

    def rows(path: Path) -> list[dict[str, str]]:
        found = [{**row, "seconds": ""} for row in table.read(path)]
        return sorted(found, key=lambda row: (row["method"], row["seed"]))

    assert len(rows(one)) == 3 and rows(one) == rows(two)
    answers = [{table.key(row): row for row in table.read(table.answers_of(path))} for path in (one, two)]
    assert answers[0] == answers[1] and len(answers[0]) == len(table.read(one))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["one.csv", "one_answers.csv", "two.csv", "two_answers.csv"]
    assert table.main(command(place, late, *options, "--seconds", "0")) == table.OPEN
    assert not late.exists()


def test_one_writer_at_a_time(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    (tmp_path / "table.cells").mkdir()
    with (
        lock(tmp_path / "table.cells"),
        pytest.raises(UserError, match=r"the table in .*table\.cells is being run"),
    ):
        table.main(command(place, out))
    with pytest.raises(UserError, match="--parallel 0"):
        table.main(command(place, out, "--parallel", "0"))


@pytest.mark.slow
def test_the_best_network_is_kept_and_evaluates_to_the_rows_accuracy(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tmp_path / "table.csv", tmp_path / "kept"
    rates = ["--learning-rates", "0.1", "0.000001"]
    options = ["--epochs", "3", "--methods", "ours", "--zero-shares", "0.5", *rates]
    assert table.main(command(place, out, *options, "--candidates", str(kept))) == 0
    rows = table.read(out)
    best = max(rows, key=lambda row: float(row["search_top1"]))
    folder = kept / "resnet8-ours-2bit-activations8-50zeros-3epochs"
    assert [path for path in kept.iterdir() if path.is_dir()] == [folder]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    manifest = (folder / "manifest.json").read_text()
    assert str(place) not in manifest
    assert json.loads(manifest)["notes"] == {"benchmark": "cotuning_accuracy", **best}
    assert (folder / "weights.blob").stat().st_size == int(best["bytes"])
    for split, column in (("report", "report_top1"), ("search", "search_top1")):
        for way in ("torch", "reference"):
            capsys.readouterr()
            asked = [str(folder), "--data", f"npz:{place / 'digits.npz'}", "--split", split, "--on", way]
            assert evaluate.main([*asked, "--format", "json"]) == 0
            found = json.loads(capsys.readouterr().out)["accuracy"]
            # The integer reference rounds where PyTorch has floats: a few images may differ.
            assert found == pytest.approx(float(best[column]), abs=1e-6 if way == "torch" else 0.02)


def test_a_network_without_weights_is_trained_as_long_as_asked_and_found_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ["--data", f"npz:{place / 'digits.npz'}", "--networks", "resnet8", "--epochs", "0.1"]
    asked += ["--methods", "int8", "--out", str(tmp_path / "table.csv")]
    with pytest.raises(UserError, match="--pretraining-epochs"):
        table.main([*asked, "--weights", "some.pt", "--pretraining-epochs", "1"])
    assert table.main([*asked, "--pretraining-epochs", "1"]) == 0
    (longer,) = tmp_path.rglob("resnet8-*.pt")
    assert table.main([*asked, "--pretraining-epochs", "0.1", "--activations", "7"]) == 0
    assert len(list(tmp_path.rglob("resnet8-*.pt"))) == 2
    rows = table.read(tmp_path / "table.csv")
    assert float(rows[0]["fp32_report_top1"]) > float(rows[1]["fp32_report_top1"])
    again = [*asked[:-1], str(tmp_path / "again.csv"), "--weights", str(longer)]
    table._start.cache_clear()
    assert table.main(again) == 0
    (row,) = table.read(tmp_path / "again.csv")
    assert row["fp32_report_top1"] == rows[0]["fp32_report_top1"]
