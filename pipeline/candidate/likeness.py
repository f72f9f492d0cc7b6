"""How alike compressed networks answer to the fp32 network, image by image; no labels are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foundation.modes import evaluating
from foundation.show import aligned, show_percent
from pipeline.study.confidence import standard_error
from pipeline.training.evaluation import batches, device_of
from pipeline.training.outputs import answers

if TYPE_CHECKING:
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.images import Images

BATCH = 64


@dataclass(frozen=True)
class Likeness:
    """A network beside fp32 on the same images.

    Attributes:
        images: how many.
        agreement: of a classifier the share (0..1) of equal answers; of a detector the mean share of detections that pair up
            (``pipeline.detection.quality.agreement``).
        divergence: from the fp32 network's answers, in nats, on average over the images.
        agreement_error, divergence_error: the standard errors of both.
        average_precision: of a detector, at an overlap of one half, 0..1; None where no boxes are known.
    """

    images: int
    agreement: float
    agreement_error: float
    divergence: float
    divergence_error: float
    average_precision: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def judged_images(workspace: Workspace) -> tuple[Images, ...]:
    """The images on which networks are compared: those that guide a search, and without labels all that did not rebuild."""
    data = workspace.data
    return (data.search,) if data.labelled else (data.search, data.report)


def compared(workspace: Workspace, networks: Mapping[str, nn.Module]) -> dict[str, Likeness]:
    """Classifiers beside the fp32 network, all in one pass over the images that none was made from."""
    agrees: dict[str, list[Tensor]] = {name: [] for name in networks}
    off: dict[str, list[Tensor]] = {name: [] for name in networks}
    for x in _seen(workspace):
        with torch.no_grad(), evaluating(workspace.model):
            wanted = answers(workspace.model, x).double().log_softmax(1)
        for name, network in networks.items():
            with torch.no_grad(), evaluating(network):
                given = answers(network, x).double().log_softmax(1)
            agrees[name].append(given.argmax(1) == wanted.argmax(1))
            off[name].append((wanted.exp() * (wanted - given)).sum(1))
    return {name: likeness(torch.cat(agrees[name]).double(), torch.cat(off[name])) for name in networks}


def likeness(agreement: Tensor, divergence: Tensor, average_precision: float | None = None) -> Likeness:
    """From both figures of each image, [N] each."""
    count, share = len(agreement), float(agreement.mean())
    binary = bool(((agreement == 0) | (agreement == 1)).all())
    spread = standard_error(share, count) if binary else _error_of_mean(agreement)
    return Likeness(
        count, share, spread, float(divergence.mean()), _error_of_mean(divergence), average_precision
    )


def likeness_table(found: Mapping[str, Likeness], fp32_precision: float | None = None) -> str:
    """For a terminal; with a detector's precision where it is known, fp32's first."""
    precise = fp32_precision is not None
    rows = [["", "agreement", "divergence", *(["AP50"] if precise else [])]]
    if precise:
        rows.append(["fp32", "", "", show_percent(fp32_precision)])
    for name, one in found.items():
        off = f"{one.divergence:.4f} +- {one.divergence_error:.4f} nats"
        row = [name, show_percent(one.agreement, one.agreement_error), off]
        rows.append([*row, *([show_percent(one.average_precision)] if precise else [])])
    count = next(iter(found.values())).images
    note = f"agreement with fp32, divergence from it: on {count:,} images that rebuilt nothing, +- the standard error"
    return f"{aligned(rows)}\n{note}"


def _error_of_mean(values: Tensor) -> float:
    return float(values.double().std() / len(values) ** 0.5) if len(values) > 1 else 0.0


def _seen(workspace: Workspace) -> Iterator[Tensor]:
    for images in judged_images(workspace):
        yield from batches(images, workspace.mean, workspace.std, BATCH, device_of(workspace.model))
