"""Data sets: their halves, their files, and that nothing in a foreign file runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foundation.errors import UserError
from pipeline.datasets.augmentations.base import augment
from pipeline.datasets.base import ImageData, halves, split_manifest
from pipeline.datasets.digits import read_digits
from pipeline.datasets.images import ArrayImages, normalize, resize
from pipeline.datasets.registry import DATA, load_data


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200))
def test_halves_are_disjoint_cover_and_are_balanced(labels: list[int]) -> None:
    values = torch.tensor(labels)
    search, report = halves(values)
    assert sorted([*search.tolist(), *report.tolist()]) == list(range(len(labels)))
    assert 0 <= len(search) - len(report) <= 1
    counts = [torch.bincount(values[half], minlength=7) for half in (search, report)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    for half in (search, report):  # every prefix takes the classes in turns
        for n in range(1, len(half)):
            prefix, rest = values[half[:n]], values[half[n:]]
            taken = torch.bincount(prefix, minlength=7)
            waiting = torch.unique(rest)
            assert taken[waiting].min() >= taken.max() - 1


def test_digits() -> None:
    data = load_data("digits")
    assert data.image_size == (32, 32) and data.classes == tuple("0123456789") and data.augment == "crop"
    assert (len(data.train), len(data.search), len(data.report)) == (1198, 300, 299)
    names = [set(images.names()) for images in (data.train, data.search, data.report)]
    assert set.union(*names) == set(range(1797)) and sum(map(len, names)) == 1797
    batch = data.train.batch([0, 5])
    assert batch.shape == (2, 32, 32, 3) and batch.dtype == torch.uint8 and batch.max() > 200
    assert torch.equal(batch[..., 0], batch[..., 2])
    assert load_data("digits", 16).train.batch([3]).shape == (1, 16, 16, 3)


def test_digits_are_those_of_scikit_learn() -> None:
    """Its own reader is another implementation: every grey value and label."""
    from sklearn.datasets import load_digits  # takes a second of every process that collects

    theirs, (grey, labels) = load_digits(), read_digits()
    assert np.array_equal(grey, theirs.images) and np.array_equal(labels, theirs.target)


def test_manifest_is_the_same_each_time_and_notices_a_change() -> None:
    first, second = split_manifest(load_data("digits")), split_manifest(load_data("digits", 8))
    assert first == second  # the images are the same, whatever size they are asked for in
    assert first["search"]["sha256"] != first["report"]["sha256"]
    assert first["search"]["count"] == len(first["search"]["images"]) == 300
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    changed = pixels.clone()
    changed[2, 1, 1, 1] ^= 1
    digests = {
        ArrayImages(pixels, labels).digest(),
        ArrayImages(changed, labels).digest(),
        ArrayImages(pixels, 1 - labels).digest(),
        ArrayImages(pixels, labels).subset([1, 0, 2, 3]).digest(),
    }
    assert len(digests) == 4


# --- npz


def arrays(rng: np.random.Generator, channels: int = 3) -> dict[str, np.ndarray]:
    return {
        "x_train": rng.integers(0, 256, (12, 8, 6, channels), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_val": rng.integers(0, 256, (7, 8, 6, channels), dtype=np.uint8),
        "y_val": np.arange(7, dtype=np.uint8) % 3,
    }


def saved(path: Path, **values: np.ndarray) -> str:
    np.savez(path / "set.npz", **values)
    return f"npz:{path / 'set.npz'}"


def test_npz(tmp_path: Path) -> None:
    values = arrays(np.random.default_rng(0))
    data = load_data(
        saved(tmp_path, **values, classes=np.array(["ant", "bee", "cow"]), augment=np.array("none"))
    )
    assert data.classes == ("ant", "bee", "cow") and data.augment == "none" and data.image_size == (8, 6)
    assert np.array_equal(data.train.batch(range(12)).numpy(), values["x_train"])
    for half in (data.search, data.report):
        for place, name in enumerate(half.names()):
            assert np.array_equal(half.batch([place])[0].numpy(), values["x_val"][name])
            assert half.labels[place] == values["y_val"][name]
    few = load_data(saved(tmp_path, **values, classes=np.array([f"class {k}" for k in range(1000)])))
    assert len(few.classes) == 1000 and int(few.train.labels.max()) == 2
    grey = arrays(np.random.default_rng(0), channels=1)
    assert load_data(saved(tmp_path, **grey)).train.batch([1]).shape == (1, 8, 6, 3)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda v: v.pop("y_val"), "lacks y_val"),
        (lambda v: v.update(x_val=v["x_val"].astype(np.float32)), "x_val is float32"),
        (lambda v: v.update(x_train=v["x_train"][..., 0]), r"x_train is uint8 \(12, 8, 6\)"),
        (lambda v: v.update(x_train=np.moveaxis(v["x_train"], 3, 1)), r"x_train is uint8 \(12, 3, 8, 6\)"),
        (lambda v: v.update(y_train=v["y_train"][:5]), r"y_train is int64 \(5,\)"),
        (lambda v: v.update(y_train=v["y_train"] / 2), "y_train is float64"),
        (lambda v: v.update(y_train=v["y_train"] - 1), "holds the label -1"),
        (lambda v: v.update(y_val=v["y_val"] + 2), r"labels \d\.\.4 in \w+, but there are 3 classes"),
        (lambda v: v.update(y_train=v["y_train"] * 2), "no training image of class 1, 3; .* name all"),
        (lambda v: v.update(x_val=v["x_val"][:, :6]), r"x_train has images \(8, 6, 3\), x_val \(6, 6, 3\)"),
        (lambda v: v.update(x_val=v["x_val"][:1], y_val=v["y_val"][:1]), "1 validation images"),
        (lambda v: v.update(augment=np.array("rotate")), "augmentation 'rotate'; allowed"),
    ],
)
def test_npz_mistakes(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    values = arrays(np.random.default_rng(0))
    change(values)
    with pytest.raises(UserError, match=message):
        load_data(saved(tmp_path, **values))


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_npz_with_objects_is_refused(tmp_path: Path) -> None:
    values = arrays(np.random.default_rng(0))
    values["y_val"] = np.array([Harmful(tmp_path / "harm")] * 7, dtype=object)
    with pytest.raises(UserError, match="not a file of numpy"):
        load_data(saved(tmp_path, **values))
    assert not (tmp_path / "harm").exists()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:300])
    with pytest.raises(UserError, match="not a file of numpy"):
        load_data(f"npz:{tmp_path / 'cut.npz'}")


# --- cifar10


@pytest.fixture(scope="module")
def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {name: (rng.integers(0, 256, (20, 3072), dtype=np.uint8), np.arange(20) % 10) for name in names}


def write_binary(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        rows = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_python(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]], protocol: int = 2) -> None:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        record = {
            b"data": pixels,
            b"labels": labels.tolist(),
            b"batch_label": name.encode(),
            b"filenames": [b"x.png"] * 20,
        }
        (folder / name).write_bytes(pickle.dumps(record, protocol))


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10_binary(
    tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]], inside: str
) -> None:
    write_binary(tmp_path / "set" / inside, batches)
    check_cifar10(load_data(f"cifar10:{tmp_path / 'set'}"), batches)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_cifar10_python(
    tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]], inside: str, protocol: int
) -> None:
    write_python(tmp_path / "set" / inside, batches, protocol)
    check_cifar10(load_data(f"cifar10:{tmp_path / 'set'}"), batches)


def check_cifar10(data: ImageData, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert data.classes[0] == "airplane" and data.classes[9] == "truck" and data.image_size == (32, 32)
    assert (len(data.train), len(data.search), len(data.report)) == (100, 10, 10)
    pixels, labels = batches["data_batch_2"]
    image = data.train.batch([23])[0].numpy()
    assert data.train.labels[23] == labels[3]
    assert image[4, 7, 2] == pixels[3, 2 * 1024 + 4 * 32 + 7]  # channel by channel, then rows


def test_cifar10_as_old_python_wrote_it(
    tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """The original files hold Python 2 strings: bytes to us, also inside the array and its type."""
    pixels, _ = batches["test_batch"]

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array += b"(K\x01K\x14M\x00\x0c\x86" + kind + b"\x89" + text(pixels.tobytes()) + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([i % 10]) for i in range(20)) + b"e"
    original = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."
    folder = tmp_path / "set"
    write_binary(folder / "unused", batches)
    for name in batches:
        (folder / name).write_bytes(original)
    data = load_data(f"cifar10:{folder}")
    assert data.train.batch([3])[0, 0, 1, 0] == pixels[3, 1]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_harmful_cifar10_pickle_does_nothing(
    tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]], protocol: int
) -> None:
    write_python(tmp_path / "set", batches)
    (tmp_path / "set" / "data_batch_3").write_bytes(
        pickle.dumps({b"data": Harmful(tmp_path / "harm")}, protocol)
    )
    with pytest.raises(UserError, match=r"data_batch_3: refused or damaged \(it asks for posix\.mkdir"):
        load_data(f"cifar10:{tmp_path / 'set'}")
    assert not (tmp_path / "harm").exists()


def test_cifar10_mistakes(tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_data(f"cifar10:{tmp_path / 'absent'}")
    with pytest.raises(UserError, match=r"neither data_batch_1\.bin nor data_batch_1"):
        load_data(f"cifar10:{tmp_path}")
    write_binary(tmp_path / "set", batches)
    file = tmp_path / "set" / "data_batch_4.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"data_batch_4\.bin has 61459 bytes"):
        load_data(f"cifar10:{tmp_path / 'set'}")
    file.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(UserError, match=r"data_batch_4\.bin.*labels, which must be 0\.\.9"):
        load_data(f"cifar10:{tmp_path / 'set'}")
    file.unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_4\.bin"):
        load_data(f"cifar10:{tmp_path / 'set'}")


# --- imagefolder


def write_folder(root: Path, sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            (root / split / label).mkdir(parents=True)
            for i, (width, height) in enumerate(sizes):
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")


def test_imagefolder(tmp_path: Path) -> None:
    write_folder(tmp_path, [(16, 16), (40, 20), (10, 30)])
    Image.new("L", (16, 16), 7).save(tmp_path / "train" / "ant" / "9.PNG")
    data = load_data(f"imagefolder:{tmp_path}", 16)
    assert data.classes == ("ant", "bee") and (len(data.train), len(data.search), len(data.report)) == (
        7,
        3,
        3,
    )
    batch = data.train.batch(range(7))
    assert batch.shape == (7, 16, 16, 3) and batch.dtype == torch.uint8
    assert np.array_equal(batch[0].numpy(), np.asarray(Image.open(tmp_path / "train" / "ant" / "0.png")))
    assert (batch[3] == 7).all()  # grey becomes colour
    # 40 x 20: the shorter side becomes 16, then the centre
    wide = (
        Image.open(tmp_path / "train" / "ant" / "1.png")
        .resize((32, 16), Image.Resampling.BILINEAR)
        .crop((8, 0, 24, 16))
    )
    assert np.array_equal(batch[1].numpy(), np.asarray(wide))
    assert sorted([*data.search.names(), *data.report.names()]) == sorted(
        f"val/{c}/{i}.png" for c in ("ant", "bee") for i in range(3)
    )
    assert data.search.labels.tolist() == [0 if "ant" in str(name) else 1 for name in data.search.names()]
    assert load_data(f"imagefolder:{tmp_path}", fallback=24).image_size == (24, 24)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.train.batch([2]), batch[2:3]) and copy.search.digest() == data.search.digest()


def test_imagefolder_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*train"):
        load_data(f"imagefolder:{tmp_path}")
    write_folder(tmp_path, [(16, 16)])
    (tmp_path / "val" / "ant" / "0.png").write_bytes(b"no image")
    data = load_data(f"imagefolder:{tmp_path}", 16)
    with pytest.raises(UserError, match=r"ant/0\.png cannot be decoded"):
        data.search.batch([0])
    (tmp_path / "val" / "ant" / "0.png").unlink()
    with pytest.raises(UserError, match=r"no images in .*val/ant"):
        load_data(f"imagefolder:{tmp_path}", 16)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(UserError, match="classes differ between train and val: cow"):
        load_data(f"imagefolder:{tmp_path}", 16)


# --- names


FACTORY = """
import torch
from pipeline.datasets import ImageData
from pipeline.datasets.images import ArrayImages
def stripes(image_size=None):
    images = ArrayImages(torch.zeros(6, 8, 8, 3, dtype=torch.uint8), torch.arange(6) % 2, image_size)
    return ImageData("stripes", ("a", "b"), images.image_size, images, images.subset([0, 1]), images.subset([2, 3]), "none")
def wrong(image_size): return 1
"""


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_data_module.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_data("some_data_module:stripes", 4).train.batch([0]).shape == (1, 4, 4, 3)
    with pytest.raises(UserError, match=r"must give a pipeline\.datasets\.ImageData"):
        load_data("some_data_module:wrong")


@pytest.mark.parametrize(
    "spec,message",
    [
        ("digit", "unknown data set 'digit'.*Did you mean 'digits'"),
        ("cifar100:/somewhere", "unknown data set 'cifar100'.*Did you mean 'cifar10'"),
        ("cifar10", "needs a place: cifar10:DIR"),
        ("npz:/absent.npz", "there is no such file; give one of numpy.savez with x_train"),
        ("digits:/tmp", "say just digits"),
        ("absent.module:thing", "there is no module 'absent'"),
    ],
)
def test_mistaken_specifications(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(spec)
    assert {"cifar10", "digits", "imagefolder", "npz", "unlabelled"} <= set(DATA)


# --- batches


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from(["crop", "crop_flip"]), st.integers(8, 20), st.integers(8, 20))
def test_augmentation_is_a_crop_of_the_padded_image(seed: int, kind: str, height: int, width: int) -> None:
    pixels = torch.randint(1, 256, (5, height, width, 3), dtype=torch.uint8)
    result = augment(pixels, kind, torch.Generator().manual_seed(seed))
    assert torch.equal(result, augment(pixels, kind, torch.Generator().manual_seed(seed)))
    down, right = max(1, height // 8), max(1, width // 8)
    padded = np.pad(pixels.numpy(), ((0, 0), (down, down), (right, right), (0, 0)))
    for image, source in zip(result.numpy(), padded):
        crops = [
            source[y : y + height, x : x + width] for y in range(2 * down + 1) for x in range(2 * right + 1)
        ]
        crops += [crop[:, ::-1] for crop in crops] if kind == "crop_flip" else []
        assert any(np.array_equal(image, crop) for crop in crops)


def test_augmentation_varies_and_none_does_not() -> None:
    pixels = torch.randint(1, 256, (64, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(augment(pixels, "none", torch.Generator()), pixels)
    flipped = augment(pixels, "crop_flip", torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in flipped - pixels}) > 50
    with pytest.raises(UserError, match="unknown augmentation 'turn'"):
        augment(pixels, "turn", torch.Generator())


def test_resize_and_normalize() -> None:
    pixels = torch.randint(0, 256, (2, 12, 12, 3), dtype=torch.uint8)
    assert resize(pixels, (12, 12)) is pixels
    flat = torch.full((1, 9, 5, 1), 77, dtype=torch.uint8)
    assert (resize(flat, (20, 3)) == 77).all()
    halved = pixels.float().reshape(2, 6, 2, 6, 2, 3).mean((2, 4))
    inner = (resize(pixels, (6, 6)).float() - halved).abs().mean()
    assert inner < 30  # a triangle filter, not the plain mean, but of the same place
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (pixels.double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(
        normalize(pixels, mean, std).double(), expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6
    )
