"""The data sets by name, and the fixed halves of their validation images.

A pretrained network has seen its training images, so they cannot tell how good a compressed network is: one half of the
validation images guides a search, the other reports its results. The halves depend on the labels alone, on no seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.errors import UserError
from foundation.factories import article, call_factory, is_factory
from foundation.foreign_files import first_line, is_file, reason
from foundation.registry import Registry
from pipeline.datasets.cifar_files import CLASSES, read_cifar10
from pipeline.datasets.images import AUGMENTATIONS, ArrayImages, FileImages, Images

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
SPLIT_RULE = "validation images in order of label, then of place; every second from the first: search; the others: report"
Size = tuple[int, int]


@dataclass(frozen=True)
class ImageData:
    """A data set: ``train`` teaches, ``search`` guides, ``report`` reports.

    Attributes:
        name: the specification it was loaded by.
        classes: class names; a label is an index into them.
        image_size: (height, width) of every image.
        augment: how training images are varied, one of ``pipeline.datasets.images.AUGMENTATIONS``.
    """

    name: str
    classes: tuple[str, ...]
    image_size: Size
    train: Images
    search: Images
    report: Images
    augment: str

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTATIONS:
            raise UserError(
                f"{self.name}: augmentation {self.augment!r}; allowed: {', '.join(AUGMENTATIONS)}"
            )
        if len(self.classes) < 2:
            raise UserError(f"{self.name}: {len(self.classes)} classes; a classifier needs at least 2")
        for split in ("train", "search", "report"):
            images: Images = getattr(self, split)
            if not len(images):
                raise UserError(f"{self.name}: no images in {split}")
            if split == "train" and len(images) < 2:
                raise UserError(f"{self.name}: 1 training image; batch-norm needs at least 2")
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= len(self.classes):
                raise UserError(
                    f"{self.name}: labels {low}..{high} in {split}, but there are {len(self.classes)} classes"
                )
            if images.image_size != self.image_size:
                raise UserError(
                    f"{self.name}: images of {images.image_size} in {split} instead of {self.image_size}"
                )


Loader = Callable[[str, Size | None, Size], ImageData]
DATA: Registry[Loader] = Registry("data set")


def load_data(spec: str, image_size: int | Size | None = None, *, fallback: int | Size = 224) -> ImageData:
    """Load a data set.

    Args:
        spec: ``digits``, ``cifar10:DIR``, ``imagefolder:DIR``, ``npz:FILE`` or ``package.module:function``; the function
            is called with ``image_size`` (None or (height, width)) and returns an ImageData.
        image_size: side, or (height, width), to resize to; None keeps the data set's own size.
        fallback: the size where None was given and the images have no common size of their own (imagefolder).

    Raises:
        UserError: an unknown name, files that are missing or not what they should be.
    """
    if image_size is not None and min(_pair(image_size)) < 1:
        raise UserError(f"image size {image_size}: give at least 1 pixel")
    size = None if image_size is None else _pair(image_size)
    kind, _, place = spec.partition(":")
    if kind in DATA:
        return DATA[kind](place, size, _pair(fallback))
    if not is_factory(spec) or ("." not in kind and not _is_module(kind)):
        raise UserError(f"{_unknown(kind)} Or give package.module:function.")
    data = call_factory(spec, image_size=size)
    if not isinstance(data, ImageData):
        raise UserError(f"{spec!r} gave {article(data)}; it must give a pipeline.datasets.ImageData")
    return data


def _is_module(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # "." and the like
        return False


def _unknown(kind: str) -> str:
    try:
        DATA[kind]
    except UserError as error:
        return str(error)
    return ""


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the search half and of the report half: disjoint, together everything, classes alike in both.

    The rule is ``SPLIT_RULE``. Within a half the classes take turns, so that its first n images are a fair sample too.
    """
    order = torch.argsort(labels, stable=True)
    first, second = (_in_turns(order[start::2], labels) for start in (0, 1))
    return first, second


def _in_turns(indices: Tensor, labels: Tensor) -> Tensor:
    """``indices``, grouped by label, reordered: the first of each class, then the second of each class, ..."""
    groups = labels[indices]
    starts = torch.searchsorted(groups, groups)
    turn = torch.arange(len(groups)) - starts
    return indices[torch.argsort(turn, stable=True)]


def split_manifest(data: ImageData) -> dict[str, Any]:
    """Which images were which, as plain values for a manifest: rule, counts, and of each half names and SHA-256."""
    record: dict[str, Any] = {"data": data.name, "rule": SPLIT_RULE, "train": {"count": len(data.train)}}
    for split in ("search", "report"):
        images: Images = getattr(data, split)
        record[split] = {"count": len(images), "images": images.names(), "sha256": images.digest()}
    return record


def _data(name: str, classes: Sequence[str], train: Images, validation: Images, augment: str) -> ImageData:
    if len(validation) < 2:
        raise UserError(
            f"{name}: {len(validation)} validation images; at least 2 are needed, one for each half"
        )
    search, report = (validation.subset(half) for half in halves(validation.labels))
    return ImageData(name, tuple(classes), train.image_size, train, search, report, augment)


@DATA.register("digits")
def _digits(place: str, size: Size | None, fallback: Size) -> ImageData:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32, or less where the network was made for
    less; every third validates."""
    from sklearn.datasets import load_digits

    if place:
        raise UserError(f"digits:{place}: the data set ships with scikit-learn; say just digits")
    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    height, width = fallback
    images = ArrayImages(pixels, labels, size or (min(height, 32), min(width, 32)))
    order = torch.argsort(labels, stable=True)
    place_in_order = torch.arange(len(order))
    train, validation = order[place_in_order % 3 != 2], order[place_in_order % 3 == 2]
    names = [str(digit) for digit in range(10)]
    return _data("digits", names, images.subset(train), images.subset(validation.sort().values), "crop")


@DATA.register("cifar10")
def _cifar10(place: str, size: Size | None, fallback: Size) -> ImageData:
    """CIFAR-10 in its standard layout, binary or python version; the test images validate."""
    parts = read_cifar10(Path(_needed("cifar10:DIR", place)).expanduser())
    train, validation = (ArrayImages(torch.from_numpy(x), torch.from_numpy(y), size) for x, y in parts)
    return _data(f"cifar10:{place}", CLASSES, train, validation, "crop_flip")


@DATA.register("npz")
def _npz(place: str, size: Size | None, fallback: Size) -> ImageData:
    """Arrays x_train, y_train, x_val, y_val in one file; optionally classes (names) and augment (its kind)."""
    name = f"npz:{place}"
    path = Path(_needed("npz:FILE", place)).expanduser()
    if not is_file(path):
        raise UserError(f"{name}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # damaged files raise nearly anything
        what = reason(path) or first_line(error)
        raise UserError(f"{name}: not a file of numpy.savez with plain arrays ({what})") from error
    if missing := [key for key in ("x_train", "y_train", "x_val", "y_val") if key not in arrays]:
        raise UserError(f"{name}: lacks {', '.join(missing)}; it must hold x_train, y_train, x_val, y_val")
    parts = [
        _checked(name, split, arrays[f"x_{split}"], arrays[f"y_{split}"], size) for split in ("train", "val")
    ]
    train, validation = parts
    if arrays["x_train"].shape[1:] != arrays["x_val"].shape[1:]:
        raise UserError(
            f"{name}: x_train has images {arrays['x_train'].shape[1:]}, x_val {arrays['x_val'].shape[1:]}"
        )
    if "classes" in arrays:
        classes = [str(value) for value in arrays["classes"].ravel()]
    else:
        classes = [str(number) for number in range(int(train.labels.max()) + 1)]
    present = set(train.labels.tolist())
    if empty := [classes[number] for number in range(len(classes)) if number not in present]:
        raise UserError(
            f"{name}: no training image of class {', '.join(empty[:5])}; labels must be 0..{len(classes) - 1}"
        )
    return _data(name, classes, train, validation, str(arrays.get("augment", "crop_flip")))


def _checked(name: str, split: str, x: NDArray[Any], y: NDArray[Any], size: Size | None) -> ArrayImages:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3) or min(x.shape) < 1:
        raise UserError(
            f"{name}: x_{split} is {x.dtype} {x.shape}; it must be uint8 (images, height, width, 3 or 1)"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.shape != (len(x),):
        raise UserError(
            f"{name}: y_{split} is {y.dtype} {y.shape}; it must be whole numbers of shape ({len(x)},)"
        )
    if y.min() < 0:
        raise UserError(f"{name}: y_{split} holds the label {y.min()}; labels count from 0")
    return ArrayImages(torch.from_numpy(x), torch.from_numpy(y.astype(np.int64)), size)


@DATA.register("imagefolder")
def _imagefolder(place: str, size: Size | None, fallback: Size) -> ImageData:
    """A folder with train/CLASS/IMAGE and val/CLASS/IMAGE; a class is called like its folder, and may have folders of its own."""
    name = f"imagefolder:{place}"
    root = Path(_needed("imagefolder:DIR", place)).expanduser()
    if missing := [split for split in ("train", "val") if not (root / split).is_dir()]:
        raise UserError(
            f"{name}: there is no folder {root / missing[0]}; DIR must hold train/CLASS/IMAGE and val/CLASS/IMAGE"
        )
    found = {
        split: sorted(
            folder.name
            for folder in (root / split).iterdir()
            if folder.is_dir() and not _is_litter(folder.name)
        )
        for split in ("train", "val")
    }
    classes = found["train"]
    if difference := sorted(set(classes) ^ set(found["val"])):
        raise UserError(
            f"{name}: classes differ between train and val: {', '.join(difference[:5])} is in one of them only"
        )
    parts = []
    for split in ("train", "val"):
        files = [
            (file.relative_to(root).as_posix(), k)
            for k, c in enumerate(classes)
            for file in _image_files(root / split / c)
        ]
        present = {label for _, label in files}
        if empty := [c for k, c in enumerate(classes) if k not in present]:
            raise UserError(
                f"{name}: no images in {root / split / empty[0]} (looked for {', '.join(sorted(SUFFIXES))})"
            )
        labels = torch.tensor([label for _, label in files])
        parts.append(FileImages(root, [file for file, _ in files], labels, size or fallback))
    train, validation = parts
    return _data(name, classes, train, validation, "crop_flip")


def _image_files(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_litter(name)]
        files = [Path(place, name) for name in names if not _is_litter(name)]
        found += [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(found)


def _is_litter(name: str) -> bool:
    """What systems and editors leave in folders: ``__MACOSX``, ``._a.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``."""
    return name.startswith(".") or name == "__MACOSX"


def _needed(form: str, place: str) -> str:
    if not place:
        raise UserError(f"data set {form.partition(':')[0]!r} needs a place: {form}")
    return place
