"""The few images of the calibration benchmark: which calibrate, which judge, and views that teach."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foundation.errors import UserError
from pipeline.datasets.images import ArrayImages

SPLIT = "even rows calibrate, odd rows judge"
HELD_OUT = 4  # every fourth calibration image is held out where settings are chosen


@dataclass(frozen=True)
class FewImages:
    """Images as stored (uint8, larger than what the network sees) with labels: those to calibrate on, those to judge on."""

    calibration: ArrayImages
    judged: ArrayImages

    def for_choosing(self) -> FewImages:
        """A smaller problem made of the calibration images alone, to choose settings on."""
        rows = torch.arange(len(self.calibration))
        held_out = rows % HELD_OUT == HELD_OUT - 1
        return FewImages(self.calibration.subset(rows[~held_out]), self.calibration.subset(rows[held_out]))


def load_few(path: Path) -> FewImages:
    """Read an npz with ``jpeg`` (all streams back to back, uint8), ``offset`` [N + 1] and ``label`` [N]; one size for all.

    Raises:
        UserError: no such file, or not of this form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stream, offset, label = (file[key] for key in ("jpeg", "offset", "label"))
        pixels = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(stream[start:end].tobytes())).convert("RGB"))
                for start, end in pairwise(offset)
            ]
        )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: {error}; give an npz with jpeg, offset and label, all images of one size"
        ) from error
    images = ArrayImages(torch.from_numpy(pixels), torch.from_numpy(label.astype(np.int64)))
    rows = torch.arange(len(images))
    return FewImages(images.subset(rows[::2]), images.subset(rows[1::2]))


def central(images: ArrayImages, size: int) -> ArrayImages:
    """The central ``size`` x ``size`` pixels of each image."""
    height, width = images.image_size
    if min(height, width) < size:
        raise UserError(f"images of {height} x {width} pixels are too small for {size} x {size}")
    top, left = (height - size) // 2, (width - size) // 2
    pixels = images.batch(torch.arange(len(images)))[:, top : top + size, left : left + size]
    return ArrayImages(pixels.contiguous(), images.labels)


def varied(pixels: Tensor, size: int, mix: float, generator: torch.Generator) -> Tensor:
    """A random square of ``size`` pixels out of each image, mirrored half of the time, then blended with the next image's by a
    share drawn evenly from 0..``mix``.

    Args:
        pixels: uint8 [n, H, W, 3].

    Returns:
        uint8 [n, size, size, 3].
    """
    count, height, width, _ = pixels.shape
    tops = torch.randint(0, height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(0, width - size + 1, (count,), generator=generator).tolist()
    mirrored = torch.randint(0, 2, (count,), generator=generator).tolist()
    views = torch.stack(
        [
            image[top : top + size, left : left + size].flip(1)
            if mirror
            else image[top : top + size, left : left + size]
            for image, top, left, mirror in zip(pixels, tops, lefts, mirrored)
        ]
    )
    if not mix:
        return views
    share = mix * torch.rand((count, 1, 1, 1), generator=generator)
    return torch.lerp(views.float(), views.roll(1, 0).float(), share).round().to(torch.uint8)
