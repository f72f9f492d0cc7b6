"""Image files in a folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from foundation.errors import UserError
from pipeline.datasets.base import ImageData, Size, halved, needed
from pipeline.datasets.images import FileImages

ENTRIES = ("imagefolder",)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def imagefolder(place: str, size: Size | None, fallback: Size) -> ImageData:
    """A folder with train/CLASS/IMAGE and val/CLASS/IMAGE; a class is called like its folder, and may have folders of its own."""
    name = f"imagefolder:{place}"
    root = Path(needed("imagefolder:DIR", place)).expanduser()
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
            for file in image_files(root / split / c)
        ]
        present = {label for _, label in files}
        if empty := [c for k, c in enumerate(classes) if k not in present]:
            raise UserError(
                f"{name}: no images in {root / split / empty[0]} (looked for {', '.join(sorted(SUFFIXES))})"
            )
        labels = torch.tensor([label for _, label in files])
        parts.append(FileImages(root, [file for file, _ in files], labels, size or fallback))
    train, validation = parts
    return halved(name, classes, train, validation, "crop_flip")


def image_files(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted; links are followed, litter is left out."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_litter(name)]
        files = [Path(place, name) for name in names if not _is_litter(name)]
        found += [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(found)


def _is_litter(name: str) -> bool:
    """What systems and editors leave in folders: ``__MACOSX``, ``._a.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``."""
    return name.startswith(".") or name == "__MACOSX"
