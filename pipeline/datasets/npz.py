"""Arrays in one file of numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.foreign_files import first_line, is_file, reason
from pipeline.datasets.base import ImageData, Size, halved, needed
from pipeline.datasets.images import ArrayImages


def npz(place: str, size: Size | None, fallback: Size) -> ImageData:
    """Arrays x_train, y_train, x_val, y_val in one file; optionally classes (all names, in the order of labels) and augment (its
    kind)."""
    name = f"npz:{place}"
    path = Path(needed("npz:FILE", place)).expanduser()
    if not is_file(path):
        raise UserError(
            f"{name}: there is no such file; give one of numpy.savez with x_train, y_train, x_val and y_val"
        )
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
    if "classes" in arrays:  # few images need not show every class that the network tells apart
        classes = [str(value) for value in arrays["classes"].ravel()]
    else:
        classes = [str(number) for number in range(int(train.labels.max()) + 1)]
        present = set(train.labels.tolist())
        if empty := [label for number, label in enumerate(classes) if number not in present]:
            raise UserError(
                f"{name}: no training image of class {', '.join(empty[:5])}; labels must be 0..{len(classes) - 1}. "
                "Where the images show some of a network's classes only, name all of them in the file, in the order of labels: "
                "classes, an array of strings"
            )
    return halved(name, classes, train, validation, str(arrays.get("augment", "crop_flip")))


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
