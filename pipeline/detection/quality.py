"""How good detections are: average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.detection.decode import Detections


def corners(boxes: Tensor) -> Tensor:
    """[k, 4] from centre x, centre y, width, height to left, top, right, bottom."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), 1)


RECALLS = np.linspace(0, 1, 101)


def mean_precision(right: NDArray[np.bool_], present: int) -> float:
    """The mean of a precision-recall curve over the recalls 0, 0.01, ... 1, as COCO's evaluation takes it.

    Args:
        right: of detections in the order of falling score.
        present: how many objects were to be found.

    At each recall counts the best precision at that recall or beyond, 0 where it is not reached.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(hits, np.ceil(RECALLS * present - 1e-9))  # the detection that reaches each recall
    return float(np.append(best, 0.0)[first].mean())


def partners(found: Detections, wanted: Tensor, overlap: float) -> NDArray[np.int64]:
    """Which of the wanted boxes [m, 4] each detection (best first) has found, [k]; -1: none. Of those that no better detection
    had, it takes the one that it overlaps most, by at least ``overlap`` (intersection over union). All are of one class and
    image."""
    from torchvision.ops import box_iou  # as in ``decode``

    had = np.full(len(found.scores), -1)
    if not len(wanted):
        return had
    overlaps, taken = box_iou(found.boxes, wanted), torch.zeros(len(wanted), dtype=torch.bool)
    for i, row in enumerate(overlaps):
        row = torch.where(taken, -1.0, row)
        best = int(row.argmax())
        if row[best] >= overlap:
            had[i], taken[best] = best, True
    return had


@dataclass(frozen=True)
class ClassMatches:
    """Of one class on some images: its detections' ``scores``, best first, whether each is ``right``, and on which of the
    ``images`` it is; and the image of each box that is there, ``present``."""

    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    images: NDArray[np.int64]
    present: NDArray[np.int64]


def matches(
    found: Sequence[Detections], wanted: NDArray[np.float32], overlap: float = 0.5
) -> list[ClassMatches]:
    """Which detections are right, for each class that occurs.

    Args:
        found: the detections of each image.
        wanted: [m, 6] image, class, centre x, centre y, width, height.
        overlap: intersection over union from which a detection is right.
    """
    truth, classes = torch.from_numpy(wanted), []
    for number in truth[:, 1].unique():
        of_class = truth[truth[:, 1] == number]
        scores, right, images = [], [], []
        for image, detections in enumerate(found):
            chosen = detections.of(int(number))
            boxes = corners(of_class[of_class[:, 0] == image, 2:])
            scores.append(chosen.scores.numpy())
            right.append(partners(chosen, boxes, overlap) >= 0)
            images.append(np.full(len(chosen.scores), image))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        first, hits, places = (np.concatenate(part)[order] for part in (scores, right, images))
        classes.append(ClassMatches(first, hits, places, of_class[:, 0].long().numpy()))
    return classes


def precision_of(classes: Sequence[ClassMatches], images: NDArray[np.bool_] | None = None) -> float:
    """The mean of :func:`mean_precision` over all classes that occur, 0 to 1; of some ``images`` only, where [N] says which. 0
    where there is no box."""
    curves = []
    for one in classes:
        present = len(one.present) if images is None else int(images[one.present].sum())
        if present:
            curves.append(
                mean_precision(one.right if images is None else one.right[images[one.images]], present)
            )
    return float(np.mean(curves)) if curves else 0.0


def average_precision(
    found: Sequence[Detections], wanted: NDArray[np.float32], overlap: float = 0.5
) -> float:
    """:func:`precision_of` detections ``found`` where boxes [m, 6] are ``wanted``; see :func:`matches`.

    Raises:
        ValueError: no box is wanted.
    """
    if not len(wanted):
        raise ValueError("average precision of images without boxes")
    return precision_of(matches(found, wanted, overlap))
