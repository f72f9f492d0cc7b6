"""How an image becomes the program's input; needs Pillow and numpy only.

A deployment bundle carries this very file as ``image.py``, so that a network sees there what it saw in the search:

    from image import Preprocessing                            # pipeline.preprocessing in the project
    pixels = Preprocessing.of_manifest("manifest.json").read("photo.jpg")  # uint8 [H, W, 3]

    python3 image.py photo.jpg other.png | ./program classify weights.blob
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGE = 128  # from so many pixels upward a margin is cut off, as is usual for ImageNet: 256 is resized to, 224 kept
MARGIN = 8 / 7
SAID = {  # what holds for every image; in a manifest for those who do without this file
    "interpolation": "bilinear, rows first; where a side shrinks, the triangle is widened by the factor (antialiasing)",
    "unresized": "an image that has the size already is taken as it is",
    "channels": "RGB; grey images have three equal channels",
    "layout": "uint8, row by row, the channels of a pixel side by side; normalization is part of the program",
}


@dataclass(frozen=True)
class Preprocessing:
    """From an image of any size to pixels uint8 [``height``, ``width``, 3].

    Attributes:
        fit: ``crop`` keeps the aspect: the shorter side is resized to ``margin`` times the wanted one, and the centre is cut
            out. ``stretch`` resizes both sides to the wanted ones.
    """

    height: int
    width: int
    fit: Literal["crop", "stretch"]
    margin: float = 1.0

    @classmethod
    def cropping(cls, height: int, width: int) -> Preprocessing:
        """As for files of images of many sizes."""
        return cls(height, width, "crop", MARGIN if min(height, width) >= LARGE else 1.0)

    @classmethod
    def of_manifest(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """The one that a bundle's ``manifest.json`` names.

        Raises:
            ValueError: the manifest names none.
        """
        record = json.loads(Path(path).read_text(encoding="utf-8")).get("preprocessing")
        if not record:
            raise ValueError(
                f"{path} does not say how an image becomes the input: the data set has its own way"
            )
        return cls(record["height"], record["width"], record["fit"], record["margin"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {"height": self.height, "width": self.width, "fit": self.fit, "margin": self.margin, **SAID}

    def __str__(self) -> str:
        size = f"{self.height} x {self.width}"
        if self.fit == "stretch":
            return f"both sides are resized to {size}, bilinear and antialiased; the aspect is not kept"
        times = f"{self.margin:.6g} times " if self.margin != 1 else ""
        return f"resized, bilinear and antialiased, until it just covers {times}{size}; its centre of {size} is cut out"

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """The pixels of an image file, uint8 [height, width, 3].

        Raises:
            OSError, ValueError, SyntaxError, Image.DecompressionBombError: what Pillow raises where it cannot be decoded.
        """
        return np.asarray(self.fitted(decode(path)), dtype=np.uint8)

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image brought to the size; its mode stays."""
        height, width = self.height, self.width
        if image.size == (width, height):
            return image
        if self.fit == "stretch":
            return _resized(image, width, height)
        scale = self.margin * max(height / image.height, width / image.width)
        wide, high = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        left, top = (wide - width) // 2, (high - height) // 2
        return _resized(image, wide, high).crop((left, top, left + width, top + height))


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Along the rows first: in one call the order of the passes, and with it the rounding, depends on Pillow's version."""
    rows = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return rows.resize((width, height), Image.Resampling.BILINEAR)


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """An image file as RGB."""
    with Image.open(path) as file:
        return file.convert("RGB")


def main() -> int:
    """Write the pixels of the image files named on the command line to standard output, as ``program`` reads them."""
    if len(sys.argv) < 2:
        print("usage: image.py IMAGE ... > images.raw", file=sys.stderr)
        return 2
    try:
        preprocessing = Preprocessing.of_manifest(Path(__file__).with_name("manifest.json"))
        for path in sys.argv[1:]:
            sys.stdout.buffer.write(preprocessing.read(path).tobytes())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
