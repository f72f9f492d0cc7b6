"""Everything that is wrong is said at once, and what is ready is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.command import main_guard
from pipeline import check

NETWORKS = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, outputs)
    def forward(self, x):
        return self.last(self.second(self.first(x).cumsum(1)).cumprod(1).mean((2, 3)))

def odd(num_classes):
    return Odd(num_classes + 1)

class Good(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)
    def forward(self, x):
        return self.last(self.conv(x).relu().mean((2, 3)))

def good(num_classes):
    return Good(num_classes)

def broken(num_classes):
    raise RuntimeError("no such file: hyper.yaml")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person has: networks, images of which some are damaged, weights of another network, good ones."""
    place = tmp_path_factory.mktemp("own things")
    (place / "their_networks.py").write_text(NETWORKS)
    shades = {"dark": 40, "light": 200}
    draw = np.random.default_rng(0)
    for folder in ("images", "damaged"):
        for split in ("train", "val"):
            for name, shade in shades.items():
                (place / folder / split / name).mkdir(parents=True)
                for number in range(10):
                    pixels = (shade + draw.integers(-20, 21, (16, 16, 3))).astype(np.uint8)
                    Image.fromarray(pixels).save(place / folder / split / name / f"{number}.png")
    (place / "damaged" / "val" / "dark" / "3.png").write_bytes(b"nonsense")
    (place / "damaged" / "train" / "light" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    torch.save({"other.weight": torch.zeros(3)}, place / "other.pt")
    good = {"conv.weight": torch.full((4, 3, 3, 3), 1 / 27), "conv.bias": torch.zeros(4)}
    good |= {"last.weight": torch.tensor([[-1.0] * 4, [1.0] * 4]), "last.bias": torch.zeros(2)}
    torch.save(good, place / "good.pt")
    torch.save({**good, "last.weight": torch.zeros(2, 4)}, place / "guesses.pt")
    return place


def checked(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, Any]:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    status = main_guard(lambda: check.main([*words, "--format", "json", "--seconds", "2"]))
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return status, json.loads(told.out) if told.out else told.err


def texts(found: Any, about: str) -> str:
    return "\n".join(one["text"] for one in found["problems"] if one["about"] == about)


def test_all_that_is_wrong_is_said_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--model their_networks:odd --data imagefolder:damaged --weights other.pt --image-size 16 --mean 1,2 --target a77 "
    status, found = checked(
        place, monkeypatch, capsys, *(words + "--dimensions nonsense --devices toaster").split()
    )
    assert status == 1 and not found["ready"]
    assert "3 values for an image, and the data set has 2 classes" in texts(found, "network")
    assert "operator cumsum" in texts(found, "compiler") and "operator cumprod" in texts(found, "compiler")
    damaged = texts(found, "images")
    assert "2 of 40" in damaged and "dark/3.png" in damaged and "light/5.png" in damaged
    assert "do not fit" in texts(found, "weights") and "conv" not in texts(found, "target")
    assert "--mean 1,2" in texts(found, "settings") and "a77" in texts(found, "target")
    assert "nonsense" in texts(found, "dimensions") and "toaster" in texts(found, "devices")
    assert len({one["text"] for one in found["problems"]}) == len(found["problems"])


def test_what_is_missing_hides_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--model their_networks:good --data imagefolder:nowhere --weights no.pt --image-size 16"
    _, found = checked(place, monkeypatch, capsys, *words.split())
    assert "nowhere" in texts(found, "data") and "no.pt" in texts(found, "weights")
    assert not texts(found, "compiler"), "noise stood in for the images"
    _, found = checked(
        place, monkeypatch, capsys, "--model", "their_networks:broken", "--data", "imagefolder:damaged"
    )
    assert "hyper.yaml" in texts(found, "network") and "cannot be decoded" in texts(found, "images")


def test_what_only_guesses_is_a_problem_and_what_works_is_ready(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--model",
        "their_networks:good",
        "--data",
        "imagefolder:images",
        "--image-size",
        "16",
        "--weights",
    ]
    status, found = checked(place, monkeypatch, capsys, *words, "guesses.pt")
    assert status == 1 and "guessing" in texts(found, "accuracy") and len(found["problems"]) == 1
    status, found = checked(place, monkeypatch, capsys, *words, "good.pt")
    assert (status, found["problems"]) == (0, [])
    notes = {one["about"]: one["text"] for one in found["notes"]}
    assert "declares none" in notes["normalization"] and "fp32: 100.0" in notes["accuracy"]
    assert "10 images guide" in notes["data"]
    assert main_guard(lambda: check.main([*words, "good.pt"])) == 0
    text = capsys.readouterr().out
    assert (
        text.splitlines()[-2] == "ready"
        and f"--weights '{place / 'good.pt'}'" in text
        and "--modules" in text
    )


def test_wrong_usage_is_another_thing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(place, monkeypatch, capsys, "--budget", "3")[0] == 2
    monkeypatch.chdir(place)
    assert main_guard(lambda: check.main(["--seconds", "0"])) == 2
