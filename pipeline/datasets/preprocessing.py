"""How an image becomes the program's input; needs Pillow and numpy only.

A deployment bundle carries this very file as ``image.py``, so that a network sees there what it saw in the search:

    from image import Preprocessing                            # pipeline.datasets.preprocessing in the project
    pixels = Preprocessing.of_manifest("manifest.json").read("photo.jpg")  # uint8 [H, W, 3]

    python3 image.py photo.jpg other.png | ./program classify weights.blob
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

ENTRIES: tuple[str, ...] = ()  # helps data sets, is none
LARGE = 128  # from so many pixels upward a margin is cut off, as is usual for ImageNet: 256 is resized to, 224 kept
MARGIN = 8 / 7
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF and its value
SAID = {  # what holds for every image; in a manifest for those who do without this file
    "interpolation": "bilinear, rows first; where a side shrinks, the triangle is widened by the factor (antialiasing)",
    "unresized": "an image that has the size already is taken as it is",
    "orientation": "turned as the EXIF tag says, before anything else",
    "channels": "RGB; grey images have three equal channels; what is transparent is laid over white",
    "depth": "8 bits; of 16 bits v becomes round(v / 257), of floats in 0..1 round(255 v), other depths are refused",
    "layout": "uint8, row by row, the channels of a pixel side by side; normalization is part of the program",
}


ImageFile = str | os.PathLike[str] | IO[bytes]  # of an image file


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

    def read(self, path: ImageFile) -> NDArray[np.uint8]:
        """The pixels of an image file, by its path or opened, uint8 [height, width, 3].

        Raises:
            Exception: it cannot be decoded, see ``decode``.
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


def decode(path: ImageFile) -> Image.Image:
    """An image file as RGB, 8 bits a channel, as ``SAID`` tells. Of several frames the first is taken.

    Raises:
        ValueError: a depth whose white is not known.
        Exception: what Pillow raises where a file cannot be decoded.
    """
    with Image.open(path) as file:
        file.load()
        try:
            image = ImageOps.exif_transpose(file)
        except Exception:  # what the tags say cannot be read: the pixels can
            image = file.copy()
        return _rgb(image, file.format or "", getattr(file, "tag_v2", {}).get(PHOTOMETRIC))


def _rgb(image: Image.Image, form: str, photometric: int | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        if photometric == WHITE_IS_ZERO:
            raise ValueError("16 bits with zero as white; save it with zero as black")
        image = Image.fromarray(
            ((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        )
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "I" or not (low >= 0 and high <= 1):
            raise ValueError(
                f"numbers of 32 bits from {low:g} to {high:g}; save it with 8 or 16 bits, or as floats in 0..1"
            )
        image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def main() -> int:
    """Write the pixels of the image files named on the command line to standard output, as ``program`` reads them."""
    if len(sys.argv) < 2:
        print("usage: image.py IMAGE ... > images.raw", file=sys.stderr)
        return 2
    try:
        preprocessing = Preprocessing.of_manifest(Path(__file__).with_name("manifest.json"))
        for path in sys.argv[1:]:
            sys.stdout.buffer.write(preprocessing.read(path).tobytes())
    except Exception as error:  # damaged images raise nearly anything
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
