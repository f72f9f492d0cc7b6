"""Image files as cameras, editors and other people's scripts write them."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import pipeline.search
from foundation.command import main_guard
from foundation.errors import UserError
from pipeline.datasets.image_check import look
from pipeline.datasets.images import UnreadableImage
from pipeline.datasets.preprocessing import decode
from pipeline.datasets.registry import load_data

RAMP = np.linspace(0, 1, 16 * 16).reshape(16, 16)  # from black to white


def grey(values: np.ndarray) -> np.ndarray:
    """What a ramp of grey values looks like, decoded: [16, 16, 3]."""
    return np.repeat(np.rint(255 * values).astype(np.uint8)[..., None], 3, axis=2)


def decoded(path: Path) -> np.ndarray:
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_16_bits_are_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.rint(65535 * RAMP).astype(np.uint16)).save(path)
    assert np.abs(decoded(path).astype(int) - grey(RAMP)).max() <= 1


def test_16_bits_with_their_bytes_the_other_way_round(tmp_path: Path) -> None:
    values = np.rint(65535 * RAMP).astype(">u2")
    Image.frombytes("I;16B", (16, 16), values.tobytes()).save(tmp_path / "motorola.tif")
    assert np.abs(decoded(tmp_path / "motorola.tif").astype(int) - grey(RAMP)).max() <= 1


def test_floats_in_0_to_1_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    assert np.array_equal(decoded(tmp_path / "float.tif"), grey(RAMP.astype(np.float32)))


@pytest.mark.parametrize(
    "values,message",
    [
        (255 * RAMP.astype(np.float32), "from 0 to 255"),
        (RAMP.astype(np.float32) - 0.5, r"from -0\.5 to 0\.5"),
        (np.full((16, 16), np.nan, np.float32), "from nan to nan"),
        ((70000 * RAMP).astype(np.int32), "from 0 to 70000"),
    ],
)
def test_numbers_whose_white_is_unknown_are_refused_by_name(
    values: np.ndarray, message: str, tmp_path: Path
) -> None:
    root = folder(tmp_path, lambda path: Image.fromarray(values).save(path), "tif")
    data = load_data(f"imagefolder:{root}", 16)
    with pytest.raises(UserError, match=rf"0\.tif cannot be decoded \(numbers of 32 bits {message}; save it"):
        data.train.batch([0])


def folder(root: Path, save: Callable[[Path], object], suffix: str, count: int = 2) -> Path:
    """An image folder of two classes whose every image ``save`` writes."""
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                save(root / split / label / f"{number}.{suffix}")
    return root


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    """A camera held another way stores the picture turned, and says so: the picture must come out upright."""
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8, :8] = 255  # white in the upper left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    found = decoded(path)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_tags_that_cannot_be_read_do_not_lose_the_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(grey(RAMP)).save(stream, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    (tmp_path / "tags.png").write_bytes(stream.getvalue())
    assert np.array_equal(decoded(tmp_path / "tags.png"), grey(RAMP))


def test_palettes_bits_and_other_colour_spaces(tmp_path: Path) -> None:
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8], colours[8:] = (200, 30, 30), (20, 180, 90)
    image = Image.fromarray(colours)
    for mode, suffix in (("P", "png"), ("CMYK", "tif"), ("CMYK", "jpg"), ("YCbCr", "jpg"), ("RGB", "bmp")):
        path = tmp_path / f"{mode}.{suffix}"
        (image.quantize(8) if mode == "P" else image.convert(mode)).save(
            path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {})
        )
        assert np.abs(decoded(path).astype(int) - colours).max() <= 16, (mode, suffix)
    Image.fromarray(RAMP > 0.5).save(tmp_path / "bit.png")
    assert np.array_equal(decoded(tmp_path / "bit.png"), grey(RAMP > 0.5))
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(image, lab).save(tmp_path / "lab.tif")
    assert np.abs(decoded(tmp_path / "lab.tif").astype(int) - colours).max() <= 16


def test_what_is_transparent_is_laid_over_white(tmp_path: Path) -> None:
    """A black drawing on nothing, whose hidden pixels are black too, must not come out black all over."""
    drawing = np.zeros((16, 16, 4), np.uint8)
    drawing[4:12, 4:12, 3] = 255
    drawing[0, 0] = (10, 20, 30, 128)
    image = Image.fromarray(drawing)
    image.save(tmp_path / "rgba.png")
    found = decoded(tmp_path / "rgba.png")
    assert (found[5, 5] == 0).all() and (found[15, 15] == 255).all()
    assert np.abs(found[0, 0].astype(int) - [132, 137, 142]).max() <= 1
    flat = Image.new("P", (4, 4), 0)
    flat.putpalette([0, 0, 0, 200, 0, 0])
    flat.putpixel((1, 0), 1)
    flat.save(tmp_path / "palette.png", transparency=0)
    found = decoded(tmp_path / "palette.png")
    assert (found[0, 0] == 255).all() and found[0, 1].tolist() == [200, 0, 0]
    image.convert("LA").save(tmp_path / "la.png")
    assert (decoded(tmp_path / "la.png")[15, 15] == 255).all()


def test_what_systems_leave_in_folders_is_no_class_and_no_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", lambda path: Image.fromarray(grey(RAMP)).save(path), "png")
    before = load_data(f"imagefolder:{root}", 16)
    (root / "__MACOSX" / "train").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        for litter in (".ipynb_checkpoints", "__MACOSX"):
            (root / split / litter).mkdir()
            (root / split / litter / "0-checkpoint.png").write_bytes(b"x")
            (root / split / "ant" / litter).mkdir()
            (root / split / "ant" / litter / "0.png").write_bytes(b"x")
        (root / split / "bee" / "._0.png").write_bytes(b"\0\5\26\7")
        (root / split / "bee" / "Thumbs.db").write_bytes(b"x")
    after = load_data(f"imagefolder:{root}", 16)
    assert after.classes == ("ant", "bee") and after.train.names() == before.train.names()
    assert look(after).seen == 8


def test_folders_within_a_class_are_read(tmp_path: Path) -> None:
    root = folder(tmp_path, lambda path: Image.fromarray(grey(RAMP)).save(path), "png")
    (root / "train" / "ant" / "day 2").mkdir()
    shutil.copy(root / "train" / "ant" / "0.png", root / "train" / "ant" / "day 2" / "7.JPEG")
    assert "train/ant/day 2/7.JPEG" in load_data(f"imagefolder:{root}", 16).train.names()


# --- damage


def files() -> list[tuple[str, bytes]]:
    """A small picture in every format."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
    found = []
    for suffix, form in (
        ("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("bmp", "BMP"), ("ppm", "PPM"), ("tif", "TIFF"),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.save(stream, form)
        found.append((suffix, stream.getvalue()))
    stream = io.BytesIO()
    picture.save(stream, "TIFF", compression="tiff_lzw")
    return [*found, ("tiff", stream.getvalue())]


def test_any_bytes_as_an_image_are_decoded_or_refused_by_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", lambda path: Image.new("RGB", (16, 16)).save(path), "png")
    chance, refused = random.Random(0), 0
    for suffix, content in files():
        path = root / "train" / "ant" / f"9.{suffix}"
        path.touch()
        images = load_data(f"imagefolder:{root}", 16).train
        place = images.names().index(f"train/ant/9.{suffix}")
        for number in range(60):
            changed = bytearray(content if number % 3 < 2 else chance.randbytes(80))
            if number % 3 == 0:
                del changed[chance.randrange(len(changed)) :]
            for _ in range(chance.choice((0, 1, 20)) if changed else 0):
                changed[chance.randrange(min(len(changed), 200))] = chance.randrange(256)
            path.write_bytes(changed)
            try:
                assert images.batch([place]).shape == (1, 16, 16, 3)
            except UnreadableImage as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
        path.unlink()
    assert refused > 150


@pytest.mark.parametrize("suffix,content", files())
def test_a_picture_that_was_cut_off_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    root = folder(tmp_path, lambda path: path.write_bytes(content[: len(content) // 2]), suffix)
    with pytest.raises(UserError, match=rf"0\.{suffix} cannot be decoded"):
        load_data(f"imagefolder:{root}", 16).train.batch([0])


def test_a_page_or_a_pointer_in_place_of_a_picture_is_called_so(tmp_path: Path) -> None:
    root = folder(
        tmp_path, lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "png"
    )
    with pytest.raises(UserError, match=r"0\.png cannot be decoded \(it is a pointer of Git LFS"):
        load_data(f"imagefolder:{root}", 16).train.batch([0])


# --- the look before a search


def test_the_look_says_how_many_of_how_many(tmp_path: Path) -> None:
    root = folder(tmp_path, lambda path: Image.new("RGB", (16, 16), (90, 90, 90)).save(path), "png", 50)
    data = load_data(f"imagefolder:{root}", 16)
    seen = look(data)
    assert (seen.seen, seen.total, seen.mean, seen.deviation) == (200, 200, 90, 0)
    assert str(seen).startswith("all 200 images were decoded; pixels 90 +- 0 of 255")
    hurried = look(data, seconds=0)
    assert 0 < hurried.seen < 200 and str(hurried).startswith(f"{hurried.seen} of 200 images")


def test_copies_on_both_sides_are_said(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    root = folder(
        tmp_path,
        lambda path: Image.fromarray(chance.integers(0, 256, (16, 16, 3), np.uint8)).save(path),
        "png",
        4,
    )
    assert look(load_data(f"imagefolder:{root}", 16)).copies == 0
    train, val = root / "train" / "ant", root / "val" / "ant"
    shutil.copy(train / "0.png", train / "0 again.png")  # no harm
    shutil.copy(train / "0.png", val / "9.bmp")  # taught and judged by
    shutil.copy(val / "1.png", val / "1 again.png")  # next to each other: one in each half
    seen = look(load_data(f"imagefolder:{root}", 16))
    assert seen.copies == 3
    assert "3 validation images are copies of training images or lie in both halves" in str(seen)


def test_the_dry_run_names_all_images_that_cannot_be_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "set", lambda path: Image.new("RGB", (32, 32)).save(path), "png", 10)
    monkeypatch.chdir(tmp_path)
    command = ["--dry-run", "--model", "vgg_tiny", "--data", "imagefolder:set"]
    assert main_guard(lambda: pipeline.search.main([*command, "--format", "json"])) == 0
    assert json.loads(capsys.readouterr().out)["images_seen"]["seen"] == 40
    broken = [root / "val" / "bee" / "3.png", root / "train" / "ant" / "7.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])
    assert main_guard(lambda: pipeline.search.main(command)) == 2
    said = capsys.readouterr().err
    assert "2 of 40 images cannot be decoded" in said and all(path.name in said for path in broken)
