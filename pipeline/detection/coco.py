"""Images with boxes as ``coco:DIR``: COCO's own files, as they are exported by many tools, or npz files.

``DIR`` holds ``annotations/instances_train*.json`` and ``instances_val*.json`` beside the folders of images that they are named
after (``train2017/``, also below ``images/``); or ``train/`` and ``valid/`` (or ``val/``) with ``_annotations.coco.json`` beside
the images; or one ``train*.npz`` and one ``val*.npz`` (``pipeline.detection.data.load_boxes``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.errors import UserError
from pipeline.datasets.base import Size
from pipeline.datasets.images import ArrayImages, FileImages
from pipeline.detection.data import BlueGreenRed, load_boxes, padded

SPLITS = (("train",), ("val", "valid"))
FORM = (
    "give annotations/instances_train*.json and instances_val*.json beside the folders of images, or train/ and valid/ with "
    "_annotations.coco.json, or one train*.npz and one val*.npz"
)


@dataclass(frozen=True)
class BoxedImages:
    """Images, channels blue, green, red, and what is on them: ``boxes`` float32 [m, 6] are image, class, centre x, centre y,
    width, height, the last four relative to the image. ``classes``: their names; empty where only the network knows how many."""

    images: BlueGreenRed
    boxes: NDArray[np.float32]
    classes: tuple[str, ...] = ()

    def labelled(self) -> BlueGreenRed:
        """The images with their boxes as labels."""
        return self.images.with_labels(padded(self.boxes, len(self.images)))

    def subset(self, rows: list[int]) -> BoxedImages:
        """The images at ``rows`` with their boxes, in that order."""
        place = {row: index for index, row in enumerate(rows)}
        kept = [(place[int(box[0])], *box[1:]) for box in self.boxes if int(box[0]) in place]
        boxes = np.array(kept, np.float32).reshape(-1, 6)
        return BoxedImages(self.images.subset(rows), boxes, self.classes)


def coco(place: str, size: Size) -> tuple[BoxedImages, BoxedImages]:
    """Training and validation images of ``place``, stretched to ``size`` (height, width).

    Raises:
        UserError: no such files, or files that are not of their form.
    """
    root, name = Path(place).expanduser(), f"coco:{place}"
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; give one with COCO's images and annotations")
    parts = [_part(name, root, words, size) for words in SPLITS]
    train, val = parts
    if train.classes != val.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))[:5]
        raise UserError(f"{name}: categories differ between both parts: {', '.join(differing)}")
    return train, val


def _part(name: str, root: Path, words: tuple[str, ...], size: Size) -> BoxedImages:
    found = [
        *((file, _folders(root, file)) for w in words for file in root.glob(f"annotations/instances_{w}*.json")),
        *((file, [file.parent]) for w in words for file in root.glob(f"{w}/_annotations.coco.json")),
        *((file, []) for w in words for file in root.glob(f"{w}*.npz")),
    ]  # fmt: skip
    if len(found) != 1:
        many = ", ".join(sorted(str(file.relative_to(root)) for file, _ in found)) or "none"
        raise UserError(f"{name}: {len(found)} files of {words[0]} images ({many}) instead of one; {FORM}")
    file, folders = found[0]
    if file.suffix == ".npz":
        return _of_npz(file, size)
    return _of_json(name, file, folders, size)


def _folders(root: Path, file: Path) -> list[Path]:
    """Where the images of COCO's own annotation file may lie."""
    called = file.stem.removeprefix("instances_")
    return [root / called, root / "images" / called, root / called.rstrip("0123456789"), root / "images"]


def _of_npz(file: Path, size: Size) -> BoxedImages:
    if size[0] != size[1]:
        raise UserError(f"{file}: images of npz files are made square, not {size[0]} x {size[1]}")
    loaded = load_boxes(file, size[0])
    rgb = ArrayImages(loaded.pixels.flip(3), torch.zeros(len(loaded.pixels)))
    return BoxedImages(BlueGreenRed(rgb), loaded.boxes, loaded.classes)


def _of_json(name: str, file: Path, folders: list[Path], size: Size) -> BoxedImages:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted((int(each["id"]), str(each["name"])) for each in content["categories"])
        images = {
            each["id"]: (str(each["file_name"]), float(each["width"]), float(each["height"]))
            for each in content["images"]
        }
        number = {identity: place for place, (identity, _) in enumerate(categories)}
        index = {identity: place for place, identity in enumerate(images)}
        boxes = np.array(list(_boxes(content["annotations"], images, index, number)), np.float32)
    except Exception as error:  # any bytes may lie there
        raise UserError(f"{name}: {file} is not of COCO's form ({type(error).__name__}: {error})") from error
    folder = next((f for f in folders if all((f / image[0]).is_file() for image in images.values())), None)
    if folder is None or not images:
        lacking = next(
            (image[0] for image in images.values() if not (folders[0] / image[0]).is_file()), "any"
        )
        tried = ", ".join(map(str, folders))
        raise UserError(f"{name}: {file} names {lacking}, which lies in none of {tried}")
    files = FileImages(folder, [image[0] for image in images.values()], torch.zeros(len(images)), size)
    names = tuple(word for _, word in categories)
    return BoxedImages(BlueGreenRed(files.stretched()), boxes.reshape(-1, 6), names)


def _boxes(
    annotations: list[dict[str, Any]],
    images: dict[Any, tuple[str, float, float]],
    index: dict[Any, int],
    number: dict[int, int],
) -> Iterator[tuple[float, ...]]:
    """Boxes of single things; crowds, which no detection can match, are left out."""
    for each in annotations:
        if each.get("iscrowd"):
            continue
        _, width, height = images[each["image_id"]]
        x, y, w, h = map(float, each["bbox"])
        yield (
            index[each["image_id"]], number[int(each["category_id"])],
            (x + w / 2) / width, (y + h / 2) / height, w / width, h / height,
        )  # fmt: skip
