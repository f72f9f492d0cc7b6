"""The project's own models, data sets and augmentations keep to what every one must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from foundation.factories import look_in
from pipeline.datasets.augmentations.base import AUGMENTATIONS, augment
from pipeline.datasets.registry import DATA, find_data, load_data
from pipeline.networks.registry import MODELS, find_network, load_model
from tests.conformance.datasets import AugmentationConformance, DataConformance
from tests.conformance.models import ModelConformance

CHANCE = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return CHANCE.integers(0, 256, shape, dtype=np.uint8)


def cifar10(folder: Path) -> str:
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = np.concatenate([np.arange(20, dtype=np.uint8)[:, None] % 10, pixels(20, 3072)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return f"cifar10:{folder}"


def imagefolder(folder: Path) -> str:
    for number in range(4):
        for place in ("train/ant", "train/bee", "val/ant", "val/bee"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(24, 30, 3)).save(folder / place / f"{number}.png")
    return f"imagefolder:{folder}"


def unlabelled(folder: Path) -> str:
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(9):
        Image.fromarray(pixels(24, 30, 3)).save(folder / ("deep/er" if number % 2 else ".") / f"{number}.png")
    return f"unlabelled:{folder}"


def npz(folder: Path) -> str:
    folder.mkdir()
    labels = np.arange(12) % 3
    arrays = {
        "x_train": pixels(12, 9, 11, 3),
        "y_train": labels,
        "x_val": pixels(12, 9, 11, 3),
        "y_val": labels,
    }
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


# What has to lie somewhere; a data set that is not among them is loaded by its name alone.
PLACES: dict[str, Callable[[Path], str]] = {
    "cifar10": cifar10,
    "imagefolder": imagefolder,
    "npz": npz,
    "unlabelled": unlabelled,
}


@pytest.mark.parametrize("kind", DATA)
class TestData(DataConformance):
    """The project's own."""

    @pytest.fixture
    def spec(self, kind: str, tmp_path: Path) -> str:
        return PLACES[kind](tmp_path / "place") if kind in PLACES else kind


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
class TestAugmentations(AugmentationConformance):
    """The project's own."""


@pytest.mark.parametrize("model", MODELS)
class TestModels(ModelConformance):
    """The project's own."""


FOREIGN = """
from torch import nn
from pipeline.networks.base import ModelSpec

small = ModelSpec(lambda classes, size: nn.Sequential(nn.Conv2d(3, 4, size), nn.Flatten(), nn.Linear(4, classes)), 8)
fails = ModelSpec(lambda classes, size: nn.Conv2d(3), 8)

def mirrored(pixels, generator):
    return pixels.flip(2)

def larger(pixels, generator):
    return pixels.repeat(1, 2, 2, 1)
"""


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    (tmp_path / "things_of_others.py").write_text(FOREIGN)
    look_in(tmp_path)
    return "things_of_others:"


def test_a_model_may_be_declared_as_the_project_s_own_are(foreign: str) -> None:
    spec = find_network(f"{foreign}small")
    assert (spec.image_size, spec.declared) == (8, "declared by things_of_others:small")
    assert load_model(spec, classes=3, image_size=8)(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    with pytest.raises(
        UserError, match=r"'things_of_others:fails' failed: TypeError: .*things_of_others\.py, line 6"
    ):
        load_model(f"{foreign}fails", classes=3)


def test_an_augmentation_of_someone_else_goes_with_the_data(foreign: str, tmp_path: Path) -> None:
    with np.load(npz(tmp_path / "place").partition(":")[2]) as file:
        arrays = dict(file)
    np.savez(tmp_path / "own.npz", **arrays, augment=f"{foreign}mirrored")
    data = load_data(f"npz:{tmp_path / 'own.npz'}")
    images = data.train.batch([0, 1])
    assert torch.equal(augment(images, data.augment, torch.Generator()), images.flip(2))
    with pytest.raises(
        UserError, match=r"'things_of_others:larger' made torch.uint8 .2, 18, 22, 3. of images"
    ):
        augment(images, f"{foreign}larger", torch.Generator())
    np.savez(tmp_path / "wrong.npz", **arrays, augment="crop_flop")
    with pytest.raises(
        UserError, match=r"wrong.npz: unknown augmentation 'crop_flop'.*Did you mean 'crop_flip'"
    ):
        load_data(f"npz:{tmp_path / 'wrong.npz'}")


def test_a_data_set_is_found_before_it_is_loaded(tmp_path: Path) -> None:
    assert find_data(f"npz:{tmp_path / 'absent.npz'}").spec.startswith("npz:")
    with pytest.raises(UserError, match="unknown data set 'zip'"):
        find_data("zip:file")
