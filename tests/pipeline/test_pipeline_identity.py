"""A study notices when what lies behind the same path is no longer the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from pipeline.candidate.identity import data_checksums, identity
from pipeline.candidate.workspace import Workspace
from pipeline.datasets import images
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import load_model
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from search_spaces.space import Space

SPACE = Space(("conv1", "fc"))


def write_data(file: Path, changed: bool = False) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        f"x_{split}": generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        for split, n in (("train", 8), ("val", 8))
    }
    labels = {f"y_{split}": np.arange(8) % 2 for split in ("train", "val")}
    arrays["x_train"][3, 0, 0, 0] ^= changed
    np.savez(file, **arrays, **labels)


def write_weights(file: Path, changed: bool = False) -> None:
    state = load_model("resnet8", classes=2, image_size=32).state_dict()
    if changed:
        last = list(state)[-1]
        state[last] = state[last] + 1
    torch.save(state, file)


def opened(settings: Settings) -> Study:
    workspace = Workspace.open(settings)
    return Study(settings.folder, SPACE, identity=identity(settings, workspace, Path(__file__)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_data(tmp_path / "data.npz")
    write_weights(tmp_path / "weights.pt")
    data, weights = f"npz:{tmp_path / 'data.npz'}", str(tmp_path / "weights.pt")
    return Settings(name="study", out=tmp_path, model="resnet8", data=data, weights=weights)


def test_changed_content_behind_the_same_path_is_refused(settings: Settings, tmp_path: Path) -> None:
    opened(settings).close()
    opened(settings).close()  # the same content: resumed
    write_data(tmp_path / "data.npz", changed=True)
    with pytest.raises(
        UserError, match=r"checksum of the train images was \"\w{12}\", now \"\w{12}\"\. Repeat"
    ):
        opened(settings)
    write_data(tmp_path / "data.npz")
    write_weights(tmp_path / "weights.pt", changed=True)
    with pytest.raises(UserError, match="checksum of the weights was"):
        opened(settings)
    write_weights(tmp_path / "weights.pt")
    opened(settings).close()


def test_a_study_from_before_checksums_is_resumed_and_watched_from_then_on(
    settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace.open(settings)
    known = identity(settings, workspace, Path(__file__))
    old = {key: value for key, value in known.items() if not key.startswith("checksum")}
    Study(settings.folder, SPACE, identity=old).close()
    opened(settings).close()
    write_data(tmp_path / "data.npz", changed=True)
    with pytest.raises(UserError, match="checksum of the train images"):
        opened(settings)


@pytest.mark.parametrize("limit", [2**30, 8000])
def test_image_files_of_the_same_size_are_told_apart(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are too many bytes to read all of them."""
    monkeypatch.setattr(images, "READ_AT_MOST", limit)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (16, 16), (number, 0, 0))
                picture.save(tmp_path / split / name / f"{number}.bmp")
    spec = f"imagefolder:{tmp_path}"
    before = data_checksums(load_data(spec, 32))
    assert data_checksums(load_data(spec, 32)) == before
    file = tmp_path / "train" / "cat" / "0.bmp"
    size = file.stat().st_size
    Image.new("RGB", (16, 16), (9, 9, 9)).save(file)
    after = data_checksums(load_data(spec, 32))
    assert file.stat().st_size == size
    assert [key for key in before if before[key] != after[key]] == ["checksum of the train images"]
