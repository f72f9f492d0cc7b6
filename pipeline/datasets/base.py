"""What a data set is once it is loaded, and the fixed halves of its validation images.

A pretrained network has seen its training images, so they cannot tell how good a compressed network is: one half of the
validation images guides a search, the other reports its results. The halves depend on the labels alone, on no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from pipeline.datasets.augmentations.base import AUGMENTATIONS
from pipeline.datasets.images import Images

SPLIT_RULE = "validation images in order of label, then of place; every second from the first: search; the others: report"
Size = tuple[int, int]


@dataclass(frozen=True)
class ImageData:
    """A data set: ``train`` teaches, ``search`` guides, ``report`` reports.

    Attributes:
        name: the specification it was loaded by.
        classes: class names; a label is an index into them.
        image_size: (height, width) of every image.
        augment: how training images are varied, an entry of ``AUGMENTATIONS``.
        labelled: False where the labels mean nothing; then ``search`` and ``report`` are only compared on, not judged by labels.
        rule: by which the images were divided, for a person.
    """

    name: str
    classes: tuple[str, ...]
    image_size: Size
    train: Images
    search: Images
    report: Images
    augment: str
    labelled: bool = True
    rule: str = SPLIT_RULE

    def __post_init__(self) -> None:
        try:
            AUGMENTATIONS[self.augment]
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        if len(self.classes) < 2:
            raise UserError(f"{self.name}: {len(self.classes)} classes; a classifier needs at least 2")
        for split in ("train", "search", "report"):
            images: Images = getattr(self, split)
            if not len(images):
                raise UserError(f"{self.name}: no images in {split}")
            if split == "train" and len(images) < 2:
                raise UserError(f"{self.name}: 1 training image; batch-norm needs at least 2")
            low, high = int(images.labels.min()), int(images.labels.max())
            if images.labels.ndim == 1 and (low < 0 or high >= len(self.classes)):
                raise UserError(
                    f"{self.name}: labels {low}..{high} in {split}, but there are {len(self.classes)} classes"
                )
            if images.image_size != self.image_size:
                raise UserError(
                    f"{self.name}: images of {images.image_size} in {split} instead of {self.image_size}"
                )


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the search half and of the report half: disjoint, together everything, classes alike in both.

    The rule is ``SPLIT_RULE``. Within a half the classes take turns: its first n images are as many of each class, however rare
    that is, so a part that is to stand for all is drawn (``pipeline.training.evaluation.limited``).
    """
    order = torch.argsort(labels, stable=True)
    first, second = (_in_turns(order[start::2], labels) for start in (0, 1))
    return first, second


def _in_turns(indices: Tensor, labels: Tensor) -> Tensor:
    """``indices``, grouped by label, reordered: the first of each class, then the second of each class, ..."""
    groups = labels[indices]
    starts = torch.searchsorted(groups, groups)
    turn = torch.arange(len(groups)) - starts
    return indices[torch.argsort(turn, stable=True)]


def split_manifest(data: ImageData) -> dict[str, Any]:
    """Which images were which, as plain values for a manifest: rule, counts, and of each half names and SHA-256."""
    record: dict[str, Any] = {"data": data.name, "rule": data.rule, "train": {"count": len(data.train)}}
    for split in ("search", "report"):
        images: Images = getattr(data, split)
        record[split] = {"count": len(images), "images": images.names(), "sha256": images.digest()}
    return record


def needs_labels(data: ImageData, then: str) -> ImageData:
    """The data, if its labels mean something.

    Raises:
        UserError: they do not; the message goes on with what to do ``then``.
    """
    if not data.labelled:
        raise UserError(f"{data.name} has no labels; {then}")
    return data


def halved(name: str, classes: Sequence[str], train: Images, validation: Images, augment: str) -> ImageData:
    """A data set whose ``validation`` images are split into the half that guides a search and the half that reports.

    Raises:
        UserError: there is none for each half; or as ``ImageData``.
    """
    if len(validation) < 2:
        raise UserError(
            f"{name}: {len(validation)} validation images; at least 2 are needed, one for each half"
        )
    search, report = (validation.subset(half) for half in halves(validation.labels))
    return ImageData(name, tuple(classes), train.image_size, train, search, report, augment)


def needed(form: str, place: str) -> str:
    """The ``place`` of a data set that has one; raises UserError with the ``form`` to type where it was left out."""
    if not place:
        raise UserError(f"data set {form.partition(':')[0]!r} needs a place: {form}")
    return place
