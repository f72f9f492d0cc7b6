"""A look at a data set's images before they are needed: what cannot be decoded should not be found out after hours."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from foundation.errors import UserError
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import Images, UnreadableImage

BATCH = 64
SHOWN = 5


@dataclass(frozen=True)
class Seen:
    """How many images were looked at, of how many; mean and standard deviation of their pixels (0..255); and how many of those
    that judge are ``copies``, of training images or of images of the other half, pixel for pixel."""

    seen: int
    total: int
    mean: float
    deviation: float
    copies: int = 0

    def __str__(self) -> str:
        part = "all" if self.seen == self.total else f"{self.seen:,} of"
        text = f"{part} {self.total:,} images were decoded; pixels {self.mean:.0f} +- {self.deviation:.0f} of 255"
        if not self.copies:
            return text
        return (
            f"{text}; {self.copies:,} validation images are copies of training images or lie in both halves: what is measured by "
            "them comes out too good; leave them out"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def look(data: ImageData, seconds: float = 10.0) -> Seen:
    """Decode images in a fixed random order over all splits, for ``seconds`` at most (at least one batch).

    Raises:
        UserError: some cannot be decoded; the message names the first of them and says how many there are.
    """
    splits: list[Images] = [data.train, data.search, data.report]
    places = torch.tensor([(s, i) for s, images in enumerate(splits) for i in range(len(images))])
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    end, seen = time.monotonic() + seconds, 0
    bad: list[UnreadableImage] = []
    total, squares, pixels = 0.0, 0.0, 0
    where: dict[bytes, list[int]] = defaultdict(list)
    for part in places.split(BATCH):
        for number, images in enumerate(splits):
            for batch in _decoded(images, part[part[:, 0] == number, 1].tolist(), bad):
                values = batch.double()
                total, squares = total + float(values.sum()), squares + float(values.square().sum())
                pixels += values.numel()
                for image in batch.numpy():
                    where[hashlib.blake2b(image.tobytes(), digest_size=16).digest()].append(number)
        seen += len(part)
        if time.monotonic() > end:
            break
    if bad:
        raise _refusal(bad, seen)
    mean = total / pixels
    copies = sum(len(found) - found.count(0) for found in where.values() if len(set(found)) > 1)
    return Seen(seen, len(places), mean, max(0.0, squares / pixels - mean**2) ** 0.5, copies)


def _decoded(images: Images, indices: list[int], bad: list[UnreadableImage]) -> Iterator[torch.Tensor]:
    """The images at ``indices``; those that cannot be decoded are added to ``bad``."""
    if not indices:
        return
    try:
        yield images.batch(indices)
    except UnreadableImage as error:
        if len(indices) == 1:
            bad.append(error)
            return
        for index in indices:
            yield from _decoded(images, [index], bad)


def _refusal(bad: list[UnreadableImage], seen: int) -> UserError:
    if len(bad) == 1:
        return bad[0]
    names = ", ".join(f"{error.path} ({error.why})" for error in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return UserError(
        f"{len(bad)} of {seen:,} images cannot be decoded: {names}{more}; mend them or take them out of the data set"
    )
