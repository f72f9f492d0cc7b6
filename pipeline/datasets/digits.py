"""scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import torch

from foundation.errors import UserError
from pipeline.datasets.base import ImageData, Size, halved
from pipeline.datasets.images import ArrayImages


def digits(place: str, size: Size | None, fallback: Size) -> ImageData:
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
    return halved("digits", names, images.subset(train), images.subset(validation.sort().values), "crop")
