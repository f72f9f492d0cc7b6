"""The networks and images of the comparison."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.arm_peers.single_layers import is_single_layer, single_layer
from pipeline.networks.registry import find_network, load_model

SHARED = Path(__file__).resolve().parents[3] / "shared"
CIFAR_CLASSES, IMAGENET_CLASSES = 10, 1000
CALIBRATION, CHECKED_SMALL, CHECKED_LARGE = 16, 64, 4
SMALL = 64  # pixels a side up to which many images are checked


@dataclass(frozen=True)
class Workload:
    """A network in evaluation mode with its images, uint8 [N, H, W, C]; the first is the one that is timed."""

    name: str
    model: nn.Module
    weights: str
    images: NDArray[np.uint8]
    source: str
    calibration: NDArray[np.uint8]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def size(self) -> int:
        return int(self.images.shape[1])

    def normalized(self, images: NDArray[np.uint8]) -> Tensor:
        """Float [N, C, H, W]."""
        return normalized(images, self.mean, self.std)


def normalized(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Float [N, C, H, W] of uint8 [N, H, W, C]."""
    middle, spread = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - middle) / spread


def data_folder() -> Path:
    """Real images and trained weights: CNN_SHARED, or ``shared`` beside the checkout. It need not exist."""
    return Path(os.environ.get("CNN_SHARED", SHARED)) / "data"


def load_workload(name: str, weights: Path | None = None) -> Workload:
    """A network by name, with trained weights where a file of them is given or found, and real images where there are any.

    Raises:
        UserError: unknown name, or weights that do not fit.
    """
    if is_single_layer(name):
        return layer_workload(name)
    size = find_network(name).image_size
    small = size <= SMALL
    if weights is None and (found := sorted((data_folder() / "weights").glob(f"{name}-*.th"))):
        weights = found[0]
    model = load_model(
        name, classes=CIFAR_CLASSES if small else IMAGENET_CLASSES, image_size=size, weights=weights
    )
    images, source = (cifar if small else imagenet)(size)
    if weights is None:
        settle(model, *find_network(name).normalization, images)
    described = f"trained ({weights.name})" if weights else "untrained, batch-norms settled on the images"
    mean, std = find_network(name).normalization
    checked = CHECKED_SMALL if small else CHECKED_LARGE
    return Workload(
        name,
        model.eval(),
        described,
        images[:checked],
        source,
        images[checked : checked + CALIBRATION],
        mean,
        std,
    )


def layer_workload(name: str) -> Workload:
    """A network of one layer.

    Raises:
        UserError: as ``SingleLayer``.
    """
    model, images = single_layer(name)
    mean, std = (0.45,) * model.channels, (0.225,) * model.channels
    settle(model, mean, std, images)
    checked = images[:CHECKED_LARGE], images[CHECKED_LARGE : CHECKED_LARGE + CALIBRATION]
    untrained = "untrained, batch-norm settled on the images"
    return Workload(name, model.eval(), untrained, checked[0], "made-up smooth images", checked[1], mean, std)


def settle(model: nn.Module, mean: Sequence[float], std: Sequence[float], images: NDArray[np.uint8]) -> None:
    """Batch-norm statistics of an untrained network from a few images, so that its activations have trained ranges."""
    batch = normalized(images[:16], mean, std)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.inference_mode():
        model(batch)
    for norm in norms:
        norm.momentum = 0.1


def cifar(size: int) -> tuple[NDArray[np.uint8], str]:
    """CIFAR-10 test images, made-up ones where there are none."""
    path = data_folder() / "cifar10" / "test_a_0.webp"
    if not path.is_file() or size != 32:
        return made_up(size)
    atlas = np.asarray(Image.open(path).convert("RGB"))
    tiles = atlas.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    return np.ascontiguousarray(tiles), "CIFAR-10 test images"


def imagenet(size: int) -> tuple[NDArray[np.uint8], str]:
    """Central crops of photographs with ImageNet's classes, made-up images where there are none."""
    path = data_folder() / "imagenet" / "ccdev_a.npz"
    if not path.is_file() or size > 256:
        return made_up(size)
    with np.load(path) as archive:
        content, offsets = archive["jpeg"], archive["offset"]
    edge = (256 - size) // 2
    streams = [content[start:end].tobytes() for start, end in pairwise(offsets)]
    pictures = [
        Image.open(io.BytesIO(stream)).convert("RGB") for stream in streams[: CHECKED_LARGE + CALIBRATION]
    ]
    crops = [np.asarray(picture)[edge : edge + size, edge : edge + size] for picture in pictures]
    return np.stack(crops), "ImageNet-compatible photographs"


def made_up(size: int) -> tuple[NDArray[np.uint8], str]:
    """Smooth random images: noise of few pixels, enlarged."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (CHECKED_SMALL + CALIBRATION, 8, 8, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((size, size))) for image in coarse]
    return np.stack(images), "made-up smooth images"
