"""Image files of any folder, without labels: some rebuild a network, the others only show how alike its answers are."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch

from foundation.errors import UserError
from foundation.files import sha256
from pipeline.datasets.base import ImageData, Size, needed
from pipeline.datasets.imagefolder import SUFFIXES, image_files
from pipeline.datasets.images import FileImages

ENTRIES = ("unlabelled",)
LEAST = 4  # two on either side: neither a batch-norm nor a standard error can do with one
MOST_KEPT = 2000  # beyond so many a standard error is below a point
RULE = (
    "image files of different content in an order drawn from their names; the first half, at most 2,000, are only compared on "
    "(search and report), the others rebuild (train)"
)


def unlabelled(place: str, size: Size | None, fallback: Size) -> ImageData:
    """Every image file below a folder, flat or nested. Copies of one file count as one image: none is on both sides."""
    name = f"unlabelled:{place}"
    root = Path(needed("unlabelled:DIR", place)).expanduser()
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; give one that holds image files, flat or nested")
    files = [file.relative_to(root).as_posix() for file in _distinct(image_files(root))]
    if len(files) < LEAST:
        raise UserError(
            f"{name}: {len(files)} different images below it (looked for {', '.join(sorted(SUFFIXES))}); at least {LEAST} are "
            "needed: half of them, at most 2,000, are kept to compare on"
        )
    images = FileImages(root, files, torch.zeros(len(files)), size or fallback)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    kept = min(len(files) // 2, MOST_KEPT)
    rows = order[kept:], order[:kept:2], order[1:kept:2]
    train, search, report = (images.subset(part.sort().values) for part in rows)
    classes = ("0", "1")  # how many there are, only the network knows
    return ImageData(
        name, classes, images.image_size, train, search, report, "none", labelled=False, rule=RULE
    )


def _distinct(files: list[Path]) -> list[Path]:
    """The first of those that hold the same bytes."""
    by_size = defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    found: list[Path] = []
    for alike in by_size.values():
        found += alike if len(alike) == 1 else {sha256(file): file for file in reversed(alike)}.values()
    return sorted(found)
