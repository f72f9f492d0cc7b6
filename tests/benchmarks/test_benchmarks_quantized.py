"""The table of what the command of one network makes: its rows are what a person sees, and the same command goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import quantized
from benchmarks.rows import read
from foundation.errors import UserError
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import load_model


def test_a_row_is_one_run_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(data.train.batch(range(64))):
        Image.fromarray(pixels.numpy()).save(f"photos/{number}.png")
    model = load_model("vgg_tiny", classes=10, image_size=data.image_size)
    torch.save(model.state_dict(), "weights.pt")
    command = ["--model", "vgg_tiny", "--weights", "weights.pt", "--images-from", "photos", "--images", "32"]
    command += ["--seeds", "0", "--out", "rows.csv", "--bits"]
    assert quantized.main([*command, "4", "8"]) == 0 and quantized.main([*command, "4", "8"]) == 0
    assert quantized.main([*command, "4", "--coded-bits", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith("rows.csv has vgg_tiny") for line in printed] == [False, False, True, True, False]
    four, eight, coded = read(Path("rows.csv"))
    assert int(coded["bytes"]) < int(four["bytes"]) and coded["coded_bits"] == "2"
    assert four["judged_images"] == "32" and int(four["bytes"]) < int(eight["bytes"])
    assert float(eight["divergence"]) < float(four["divergence"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "rows.csv", "weights.pt"]


def test_what_the_command_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--model", "vgg_tiny", "--weights", "none.pt", "--images-from", "photos", "--out", "rows.csv"]
    with pytest.raises(UserError, match=r"none\.pt: there is no such file"):
        quantized.main(command)
    assert not Path("rows.csv").exists()
