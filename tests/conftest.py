"""What several tests share: where the real data lies, and modest use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and pretrained weights: CNN_SHARED, or ``shared`` beside the checkout."""
    folder = Path(os.environ.get("CNN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "weights").is_dir():
        pytest.skip(f"no real data at {folder} (set CNN_SHARED to its place)")
    return folder


def atlas(path: Path) -> np.ndarray:
    """The 1000 CIFAR-10 images of one lossless atlas: uint8 [1000, 32, 32, 3]."""
    image = np.asarray(Image.open(path).convert("RGB"))
    return image.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)


@pytest.fixture(scope="session")
def cifar10(shared: Path) -> dict[str, np.ndarray]:
    """A part of CIFAR-10: 2000 training and 1000 test images, uint8 NHWC, with their labels."""
    folder = shared / "data" / "cifar10"
    return {
        "x_train": np.concatenate([atlas(folder / f"train_{i:02d}.webp") for i in range(2)]),
        "y_train": np.load(folder / "train_labels.npy")[:2000].astype(np.int64),
        "x_val": atlas(folder / "test_a_0.webp"),
        "y_val": np.load(folder / "test_a_labels.npy")[:1000].astype(np.int64),
    }


@pytest.fixture(scope="session")
def cifar10_npz(cifar10: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an npz file, for ``--data npz:FILE``."""
    path = tmp_path_factory.mktemp("cifar10") / "cifar10.npz"
    np.savez(path, **cifar10)
    return path
