"""The accuracy table: its cells, its plans, that it goes on where it stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import cotuning_accuracy as table
from quantizers.errors import UserError

NAMES = ["first", "middle", "last"]


def cell(method: str, **change: object) -> table.Cell:
    values: dict[str, object] = {
        "network": "resnet8", "method": method, "bits": 2, "activation_bits": 8, "zero_share": None, "epochs": 1.0,
        "learning_rate": 0.01, "distillation": 1.0, "distillation_temperature": 4.0, "seed": 0, "bfloat16": False, "device": "cpu", "data": "digits",
    }  # fmt: skip
    return table.Cell(**{**values, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", table.METHODS)
def test_all_methods_give_first_and_last_layer_8_bits(method: str) -> None:
    plan = table.plan_of(cell(method, bits=8 if method == "int8" else 3), NAMES)
    assert [plan.layers[name].bits for name in NAMES] == [8, 8 if method == "int8" else 3, 8]


def test_a_place_on_this_machine_is_not_written_down() -> None:
    assert table._name("npz:/some/where/cifar.npz") == "npz:cifar.npz"
    assert table._name("digits") == "digits"


def test_rows_are_made_once_and_a_foreign_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "table.csv"
    weights = tmp_path / "weights.pt"
    import torch

    from pipeline.models import load_model

    torch.save(load_model("resnet8", classes=10, image_size=(8, 8)).state_dict(), weights)
    command = ["--data", "digits", "--networks", "resnet8", "--weights", str(weights), "--epochs", "0.2"]
    command += ["--out", str(out), "--methods", "ours", "dkm", "lsq", "ewgs", "kmeans", "int8"]
    assert table.main(command) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["ours", "dkm", "lsq", "ewgs", "kmeans", "int8"]
    assert [int(row["steps"]) > 0 for row in rows] == [True, True, True, True, False, False]
    sizes = {row["method"]: int(row["bytes"]) for row in rows}
    assert max(sizes[name] for name in sizes if name != "int8") < sizes["int8"]
    assert all(0 <= float(row["report_top1"]) <= 1 for row in rows)
    content = out.read_text()
    assert table.main(command) == 0
    assert out.read_text() == content
    assert "6 of them done" in capsys.readouterr().err
    assert table.main([*command, "--activations", "none", "--methods", "int8"]) == 0
    assert len(table.read(out)) == 7
    out.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="another --out"):
        table.main(command)
