"""The calibration benchmark on a tiny network: its split, what it looks at, that it goes on where it stopped, its comparison."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import calibration as table
from benchmarks import calibration_methods
from benchmarks.calibration_data import central, load_few, varied
from foundation.errors import UserError
from pipeline.networks.registry import load_model


def images_file(path: Path, labels: np.ndarray, pixels: np.ndarray) -> Path:
    streams = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=95)
        streams.append(np.frombuffer(stream.getvalue(), np.uint8))
    offset = np.cumsum([0, *map(len, streams)]).astype(np.int64)
    np.savez(path, jpeg=np.concatenate(streams), offset=offset, label=labels.astype(np.int16))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 40 images of 20 x 20 pixels and weights of a ResNet-8 for 16 x 16; few steps."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 5, 5, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    images_file(tmp_path / "images.npz", generator.integers(0, 10, 40), pixels)
    torch.save(load_model("resnet8", classes=10, image_size=(16, 16)).state_dict(), tmp_path / "weights.pt")
    for name, recipe in calibration_methods.METHODS.items():
        few = replace(recipe, layer_steps=min(recipe.layer_steps, 4), steps=min(recipe.steps, 2), batch=8)
        monkeypatch.setitem(calibration_methods.METHODS, name, few)
    return tmp_path


def command(place: Path, out: str, *more: str) -> list[str]:
    return [
        "--data", str(place / "images.npz"), "--weights", str(place / "weights.pt"), "--network", "resnet8",
        "--classes", "10", "--image-size", "16", "--out", str(place / out), *more,
    ]  # fmt: skip


def test_rows_are_made_once_with_their_conditions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = command(place, "a.csv", "--bits", "3", "--seeds", "0", "1", "--methods", "ours", "kmeans", "int8")
    assert table.main(asked) == 0
    said = capsys.readouterr().out
    rows = table.read(place / "a.csv", ["agrees"])
    found = [(row["method"], row["bits"], row["seed"]) for row in rows]
    assert found == [
        ("ours", "3", "0"), ("kmeans", "3", "0"), ("int8", "8", "0"), ("ours", "3", "1")
    ]  # fmt: skip
    for row in rows:
        assert row["calibration_images"] == row["judged_images"] == "20" == str(len(row["agrees"]))
        assert float(row["agreement"]) == row["agrees"].count("1") / 20
        assert row["judged_on"] == "odd rows" and row["data"] == "images.npz"
    assert int(rows[0]["bytes"]) < 0.8 * int(rows[2]["bytes"])
    assert "3 bits, ours against kmeans: " in said and "over 2 seeds" in said
    content = (place / "a.csv").read_text()
    assert table.main(asked) == 0
    assert (place / "a.csv").read_text() == content
    assert table.main([*command(place, "a.csv", "--choose", "--methods", "kmeans", "--bits", "3")]) == 0
    last = table.read(place / "a.csv", ["agrees"])[-1]
    assert (last["judged_on"], last["calibration_images"], last["judged_images"]) == ("held out", "15", "5")


def test_neither_labels_nor_judged_images_teach(place: Path) -> None:
    """Whoever changes them changes the judgement, but not the network."""
    model = load_model("resnet8", classes=10, image_size=(16, 16), weights=place / "weights.pt")
    recipe = calibration_methods.METHODS["ours_then_distilled"]
    few = load_few(place / "images.npz")
    with np.load(place / "images.npz") as file:
        pixels = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(file["jpeg"][a:b].tobytes())))
                for a, b in zip(file["offset"], file["offset"][1:])
            ]
        )
    assert np.array_equal(few.calibration.batch([3]).numpy()[0], pixels[6])
    assert np.array_equal(few.judged.batch([3]).numpy()[0], pixels[7])
    judged_black = replace(
        few, judged=type(few.judged)(few.judged.batch(range(20)) * 0, few.judged.labels * 0)
    )
    labels_gone = replace(
        few, calibration=type(few.judged)(few.calibration.batch(range(20)), few.judged.labels * 0)
    )
    same, other, third = (
        calibration_methods.compress(model, recipe, 3, 0, given, 16, 10, (0, 0, 0), (1, 1, 1)).codebooks
        for given in (few, judged_black, labels_gone)
    )
    for name, book in same.items():
        for changed in (other[name], third[name]):
            assert np.array_equal(book.integers, changed.integers) and np.array_equal(
                book.scale, changed.scale
            )


def test_views_are_parts_of_their_images_blended_with_the_next(place: Path) -> None:
    pixels = torch.arange(12 * 12).view(1, 12, 12, 1).expand(2, 12, 12, 3).to(torch.uint8).clone()
    pixels[1] = 200
    views = varied(pixels, 8, 0.0, torch.Generator().manual_seed(0))
    windows = [pixels[0, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert any(torch.equal(views[0], w) or torch.equal(views[0], w.flip(1)) for w in windows)
    mixed = varied(pixels, 8, 1.0, torch.Generator().manual_seed(0)).float()
    share = (mixed[0] - views[0].float()) / (200 - views[0].float())
    assert 0.01 < float(share.mean()) < 0.99 and float(share.std()) < 0.01
    assert torch.equal(
        central(load_few(place / "images.npz").judged, 16).batch([0])[0],
        load_few(place / "images.npz").judged.batch([0])[0, 2:18, 2:18],
    )


def test_mcnemars_counts_and_chance() -> None:
    assert table.only_one_agrees(["1100"], ["1010"]) == (1, 1)
    assert table.only_one_agrees(["1100", "1111"], ["1010", "0000"]) == (5, 1)
    assert table.chance(5, 0) == pytest.approx(2 / 32)
    assert table.chance(3, 1) == pytest.approx(2 * 5 / 16)
    assert table.chance(0, 0) == table.chance(2, 2) == 1.0


def test_bad_input_is_named(place: Path) -> None:
    (place / "broken.npz").write_bytes(b"nothing")
    np.savez(place / "other.npz", x=np.zeros(3))
    for name in ("broken.npz", "other.npz", "missing.npz"):
        with pytest.raises(UserError, match=rf"{name}: .*give an npz with jpeg, offset and label"):
            load_few(place / name)
    with pytest.raises(UserError, match="20 x 20 pixels are too small for 32 x 32"):
        table.main([*command(place, "b.csv"), "--image-size", "32", "--methods", "kmeans"])
    (place / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="another --out"):
        table.main(command(place, "b.csv", "--methods", "kmeans"))
