"""scikit-learn's handwritten digits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from foundation.errors import UserError
from pipeline.datasets.base import ImageData, Size, halved
from pipeline.datasets.images import ArrayImages


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """What ``sklearn.datasets.load_digits`` reads, from the same file: grey values from 0 to 16, float64 [1797, 8, 8], and
    labels, int64 [1797]. scikit-learn itself is not loaded, which would take longer than everything done with the digits."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None, "scikit-learn is among the dependencies"
    rows = np.loadtxt(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def digits(place: str, size: Size | None, fallback: Size) -> ImageData:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32, or less where the network was made for
    less; every third validates."""
    if place:
        raise UserError(f"digits:{place}: the data set ships with scikit-learn; say just digits")
    grey, of = read_digits()
    pixels = torch.from_numpy(np.rint(grey * (255 / 16)).astype(np.uint8))[..., None]
    labels = torch.from_numpy(of)
    height, width = fallback
    images = ArrayImages(pixels, labels, size or (min(height, 32), min(width, 32)))
    order = torch.argsort(labels, stable=True)
    place_in_order = torch.arange(len(order))
    train, validation = order[place_in_order % 3 != 2], order[place_in_order % 3 == 2]
    names = [str(digit) for digit in range(10)]
    return halved("digits", names, images.subset(train), images.subset(validation.sort().values), "crop")
