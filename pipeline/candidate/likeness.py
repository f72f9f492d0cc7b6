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
            (``pipeline.detection.beside.agreement``).
        divergence: from the fp32 network's answers, in nats, on average over the images.
        agreement_error, divergence_error: the standard errors of both.
    """

    images: int
    agreement: float
    agreement_error: float
    divergence: float
    divergence_error: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judged_images(workspace: Workspace) -> tuple[Images, ...]:
    """The images on which networks are compared: those that guide a search, and without labels all that did not rebuild."""
    data = workspace.data
    return (data.search,) if data.labelled else (data.search, data.report)


def compared(workspace: Workspace, networks: Mapping[str, nn.Module]) -> dict[str, Likeness]:
    """Networks beside the fp32 network, all in one pass over the images that none was made from."""
    task = workspace.task
    agrees: dict[str, list[Tensor]] = {name: [] for name in networks}
    off: dict[str, list[Tensor]] = {name: [] for name in networks}
    for x in _seen(workspace):
        with torch.no_grad(), evaluating(workspace.model):
            wanted = task.outputs(workspace.model, x).cpu()
        for name, network in networks.items():
            with torch.no_grad(), evaluating(network):
                given = task.outputs(network, x).cpu()
            agrees[name].append(task.agreements(given, wanted))
            off[name].append(task.divergences(given, wanted))
    return {name: _likeness(torch.cat(agrees[name]), torch.cat(off[name])) for name in networks}


def _likeness(agreement: Tensor, divergence: Tensor) -> Likeness:
    """From both figures of each image, [N] each."""
    count, share = len(agreement), float(agreement.mean())
    binary = bool(((agreement == 0) | (agreement == 1)).all())
    spread = standard_error(share, count) if binary else _error_of_mean(agreement)
    return Likeness(count, share, spread, float(divergence.mean()), _error_of_mean(divergence))


def likeness_table(found: Mapping[str, Likeness]) -> str:
    """For a terminal."""
    rows = [["", "agreement", "divergence"]]
    for name, one in found.items():
        off = f"{one.divergence:.4f} +- {one.divergence_error:.4f} nats"
        rows.append([name, show_percent(one.agreement, one.agreement_error), off])
    count = next(iter(found.values())).images
    note = f"agreement with fp32, divergence from it: on {count:,} images that rebuilt nothing, +- the standard error"
    return f"{aligned(rows)}\n{note}"


def _error_of_mean(values: Tensor) -> float:
    return float(values.double().std() / len(values) ** 0.5) if len(values) > 1 else 0.0


def _seen(workspace: Workspace) -> Iterator[Tensor]:
    for images in judged_images(workspace):
        yield from batches(images, workspace.mean, workspace.std, BATCH, device_of(workspace.model))
