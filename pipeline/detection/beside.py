"""What two networks detect on the same image, beside each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from foundation.show import show_percent
from pipeline.detection.decode import Detections
from pipeline.detection.quality import partners

CERTAIN = 0.3  # the score from which a detection counts where two networks are compared
CLEAR = 0.5  # and from which it is one that the other network should have


def pairs(found: Detections, wanted: Detections, overlap: float = 0.5) -> list[tuple[int, int]]:
    """The places, in both, of detections of one class that overlap (intersection over union); each is in one pair at most."""
    both = []
    for number in found.classes.unique().tolist():
        own, other = ((one.classes == number).nonzero().flatten() for one in (found, wanted))
        had = partners(found.of(number), wanted.of(number).boxes, overlap)
        both += [(int(own[i]), int(other[j])) for i, j in enumerate(had) if j >= 0]
    return both


def agreement(found: Detections, wanted: Detections, score: float = CERTAIN, overlap: float = 0.5) -> float:
    """How alike two networks see one image, 0 to 1: of the detections of at least ``score``, the share (of both networks'
    together) that are :func:`pairs`. 1 where neither sees anything."""
    found, wanted = found.above(score), wanted.above(score)
    total = len(found.scores) + len(wanted.scores)
    return 2 * len(pairs(found, wanted, overlap)) / total if total else 1.0


def boxes_beside(wanted: Detections, given: Detections) -> dict[str, list[list[Any]]]:
    """What at least one of two networks detects on an image with a score of at least ``CLEAR``, the highest first: ``fp32`` and
    ``given``, what only one of them detects, as [class, score, left, top, right, bottom], relative to the image; and ``both``,
    a row of fp32's followed by the candidate's score and box. Both have it if the pair of it that the other one has
    (:func:`pairs`) is of at least ``CERTAIN``: to be a little less sure is no difference."""
    wanted, given = wanted.above(CERTAIN), given.above(CERTAIN)
    found = {j: i for i, j in pairs(given, wanted)}
    rows, others = _rows(wanted), _rows(given)
    both = [[*row, *others[found[j]][1:]] for j, row in enumerate(rows) if j in found]
    return {
        "both": [row for row in both if max(row[1], row[6]) >= CLEAR],
        "fp32": [row for j, row in enumerate(rows) if j not in found and row[1] >= CLEAR],
        "given": [row for i, row in enumerate(others) if i not in set(found.values()) and row[1] >= CLEAR],
    }


def _rows(found: Detections) -> list[list[Any]]:
    measures = torch.cat([found.scores[:, None], found.boxes], 1).tolist()
    return [
        [kind, *(round(value, 3) for value in row)]
        for kind, row in zip(found.classes.tolist(), measures, strict=True)
    ]


@dataclass(frozen=True)
class BoxAgreement:
    """How the detections of two networks compare that are to be the same.

    Attributes:
        images: seen.
        differing: of those the ones with a box of a score of at least ``CLEAR`` that only one of both has; 0 is what is asked.
        agreement: the mean of :func:`agreement`, 0..1.
    """

    images: int
    differing: int
    agreement: float

    def __str__(self) -> str:
        same = self.images - self.differing
        sure, seen = show_percent(CLEAR, digits=0), show_percent(CERTAIN, digits=0)
        return (
            f"{same} of {self.images} images have the same boxes with scores of {sure} and more as by the integer reference; "
            f"from {seen} on, {show_percent(self.agreement, digits=1)} of the boxes are pairs"
        )


def compared_boxes(seen: Iterable[tuple[Detections, Detections]]) -> BoxAgreement:
    """Of what both detect on each image."""
    alone, alike = list[bool](), list[float]()
    for wanted, given in seen:
        beside = boxes_beside(wanted, given)
        alone.append(bool(beside["fp32"] or beside["given"]))
        alike.append(agreement(given, wanted))
    return BoxAgreement(len(alone), sum(alone), sum(alike) / max(1, len(alike)))
