"""Images for detectors, and with boxes from one npz file."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from foundation.errors import UserError
from pipeline.datasets.images import Images, Indices, resize

ARRAYS = ("jpeg", "offset", "boxes")


@dataclass(frozen=True)
class BoxImages:
    """``pixels`` uint8 [N, side, side, 3], channels blue, green, red; ``boxes`` float32 [m, 6]: image, class, centre x,
    centre y, width, height, the last four relative to the image; ``classes``: their names, empty where the file has none."""

    pixels: Tensor
    boxes: NDArray[np.float32]
    classes: tuple[str, ...] = ()


def load_boxes(path: str | Path, side: int) -> BoxImages:
    """The images of ``path``, stretched to ``side`` x ``side`` pixels (as ``pipeline.datasets.images.resize``), and their boxes.

    The file holds ``jpeg`` (uint8, all JPEG streams one after the other), ``offset`` (n + 1 numbers; stream i is
    ``jpeg[offset[i]:offset[i + 1]]``) and ``boxes`` as in :class:`BoxImages`; and may hold ``classes``, an array of names.

    Raises:
        UserError: no such file, one that lacks an array, or arrays that do not fit each other.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            jpeg, offset, boxes = (stored[name] for name in ARRAYS)
            classes = tuple(map(str, stored["classes"].reshape(-1))) if "classes" in stored else ()
    except FileNotFoundError as error:
        raise UserError(
            f"detection data {str(path)!r}: there is no such file; give an .npz with {', '.join(ARRAYS)}"
        ) from error
    except Exception as error:  # damaged files raise nearly anything
        raise UserError(
            f"detection data {path}: not an .npz with {', '.join(ARRAYS)} ({type(error).__name__}: {error})"
        ) from error
    if not all(np.issubdtype(array.dtype, np.number) for array in (offset, boxes)):
        raise UserError(f"detection data {path}: offset and boxes must be numbers")
    offset = offset.astype(np.int64).reshape(-1)
    if jpeg.dtype != np.uint8 or len(offset) < 2 or (np.diff(offset) <= 0).any() or offset[-1] > jpeg.size:
        raise UserError(f"detection data {path}: offset does not cut jpeg into at least one stream")
    count = len(offset) - 1
    boxes = boxes.astype(np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not np.isfinite(boxes).all():
        raise UserError(f"detection data {path}: boxes has shape {boxes.shape}; [m, 6] finite numbers needed")
    if len(boxes) and not (boxes[:, 0].min() >= 0 and boxes[:, 0].max() < count and boxes[:, 1].min() >= 0):
        raise UserError(f"detection data {path}: a box names an image or a class that is not there")
    if classes and len(boxes) and boxes[:, 1].max() >= len(classes):
        raise UserError(
            f"detection data {path}: a box is of class {boxes[:, 1].max():.0f}, and classes has {len(classes)} names"
        )
    streams = (jpeg[start:end].tobytes() for start, end in pairwise(offset))
    pixels = torch.cat([_decoded(stream, side, path, i) for i, stream in enumerate(streams)])
    return BoxImages(pixels, boxes, classes)


def _decoded(stream: bytes, side: int, path: str | Path, index: int) -> Tensor:
    try:
        image = Image.open(io.BytesIO(stream), formats=["JPEG"]).convert("RGB")
    except Exception as error:  # likewise
        raise UserError(f"detection data {path}: image {index} is no readable JPEG ({error})") from error
    pixels = torch.from_numpy(np.asarray(image)[:, :, ::-1].copy())
    return resize(pixels[None], (side, side))


class BlueGreenRed(Images):
    """Other images with their channels the other way round, as detectors take them. No manifest can say how they are made: what
    programs are given with says red first.

    Args:
        labels: what is on each, as ``padded`` has it; without, those of the images.
    """

    def __init__(self, images: Images, labels: Tensor | None = None) -> None:
        self._images = images
        self.labels = images.labels if labels is None else labels
        self.image_size = images.image_size

    def with_labels(self, labels: Tensor) -> BlueGreenRed:
        """The same images with other labels."""
        return BlueGreenRed(self._images, labels)

    def batch(self, indices: Indices) -> Tensor:
        return self._images.batch(indices).flip(3)

    def subset(self, indices: Indices) -> BlueGreenRed:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return BlueGreenRed(self._images.subset(rows), self.labels[rows])

    def size(self) -> int:
        return self._images.size()

    def packed(self) -> BlueGreenRed:
        return BlueGreenRed(self._images.packed(), self.labels)

    def names(self) -> list[int] | list[str]:
        return self._images.names()

    def digest(self) -> str:
        return self._with_labels(self._images.digest())

    def content(self) -> str:
        return self._with_labels(self._images.content())

    def _with_labels(self, digest: str) -> str:
        if self.labels.ndim == 1:
            return digest
        return hashlib.sha256(digest.encode() + self.labels.numpy().tobytes()).hexdigest()


def padded(boxes: NDArray[np.float32], count: int) -> Tensor:
    """Boxes [m, 6] of ``count`` images as their labels, float32 [count, most, 5]: class, centre x, centre y, width, height; the
    class is -1 where an image has no more."""
    places = boxes[:, 0].astype(np.int64)
    held = np.bincount(places, minlength=count)
    labels = torch.zeros(count, max(1, int(held.max(initial=0))), 5)
    labels[..., 0] = -1
    filled = [0] * count
    for place, box in zip(places.tolist(), torch.from_numpy(boxes[:, 1:])):
        labels[place, filled[place]] = box
        filled[place] += 1
    return labels


def listed(labels: Tensor) -> NDArray[np.float32]:
    """The boxes [m, 6] of labels as ``padded`` makes them."""
    images, places = (labels[..., 0] >= 0).nonzero(as_tuple=True)
    boxes: NDArray[np.float32] = torch.cat([images[:, None].float(), labels[images, places]], 1).numpy()
    return boxes
