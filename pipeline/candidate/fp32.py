"""How good the fp32 network is before anything is done to it: what does not classify is not worth compressing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.show import show_percent
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.images import normalize
from pipeline.datasets.normalization import BYTES, CENTRED, CIFAR, IMAGENET, UNIT, Normalization, show
from pipeline.study.confidence import standard_error
from pipeline.training.evaluation import batches, device_of, fixed_sample
from pipeline.training.judges import Judge
from pipeline.training.outputs import answers

TRIED = 256  # images on which other normalizations are tried
FEW = 32  # images on which a detector is judged where there is little time
LEAST_PRECISION = 0.01  # below it a detector has learned nothing
SURE = 2.0  # standard errors above guessing from which a network is taken to have learned something


@dataclass(frozen=True)
class Answered:
    """How many of ``images`` were right of ``total`` that there are, and the share (0..1) that would be right by guessing:
    by answers as frequent as the network's that do not look at the images."""

    images: int
    total: int
    right: int
    guessed: float

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def standard_error(self) -> float:
        return standard_error(self.accuracy, self.images)

    @property
    def at_chance(self) -> bool:
        """Whether guessing explains it: not ``SURE`` standard errors above."""
        error = (self.guessed * (1 - self.guessed) / self.images) ** 0.5
        return bool(self.accuracy <= self.guessed + SURE * error)

    def __str__(self) -> str:
        part = f"{self.images:,}" if self.images == self.total else f"{self.images:,} of {self.total:,}"
        return (
            f"{show_percent(self.accuracy, self.standard_error)} right on {part} images that guide the search"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "guessing": self.guessed,
        }


@dataclass(frozen=True)
class Detected:
    """How good a detector is on ``images`` of ``total`` that there are: average precision with its standard error; and that of
    the same boxes on other images, ``guessed``."""

    images: int
    total: int
    average_precision: float
    standard_error: float
    guessed: float

    @property
    def at_chance(self) -> bool:
        """Whether it finds hardly more than that."""
        return self.average_precision <= max(2 * self.guessed, LEAST_PRECISION)

    def __str__(self) -> str:
        part = f"{self.images:,}" if self.images == self.total else f"{self.images:,} of {self.total:,}"
        return f"AP50 {show_percent(self.average_precision, self.standard_error)} on {part} images that guide the search"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def answered(predicted: Tensor, labels: Tensor, total: int | None = None) -> Answered:
    """Count; ``predicted`` and ``labels`` are classes, int64 [N]."""
    classes = int(max(predicted.max(), labels.max())) + 1
    shares = [torch.bincount(x, minlength=classes).double() / len(labels) for x in (predicted, labels)]
    return Answered(
        len(labels), total or len(labels), int((predicted == labels).sum()), float(shares[0] @ shares[1])
    )


def predicted_within(workspace: Workspace, seconds: float) -> Tensor:
    """Predicted classes of images of the search half in the order of ``fixed_sample``, as many as ``seconds`` allow (at least one
    batch)."""
    network, found, end = workspace.model.eval(), [], time.monotonic() + seconds
    images = workspace.data.search
    order = fixed_sample(len(images), len(images))
    with torch.no_grad():
        for x in batches(images, workspace.mean, workspace.std, 64, device_of(network), order):
            found.append(answers(network, x).argmax(1).cpu())
            if time.monotonic() > end:
                break
    return torch.cat(found)


def judged(workspace: Workspace, seconds: float | None = None) -> tuple[Answered | Detected, str | None]:
    """How good the network is, on all of the search half or on what ``seconds`` allow, and why a search would be senseless:
    None where it is not."""
    images = workspace.data.search
    if not workspace.task.classifies:
        return _detected(workspace, len(images) if seconds is None else FEW)
    if seconds is None:
        predicted, labels = workspace.judges.search.wanted.argmax(1), images.labels
    else:
        predicted = predicted_within(workspace, seconds)
        labels = images.labels[fixed_sample(len(images), len(predicted))]
    found = answered(predicted, labels, len(images))
    return found, _why(workspace, found, predicted, labels) if found.at_chance else None


def _detected(workspace: Workspace, most: int) -> tuple[Detected, str | None]:
    data, judge = workspace.data, workspace.judges.search
    if most < len(judge):
        rows = fixed_sample(len(judge), most)
        judge = Judge(workspace.model, data.search, rows, workspace.mean, workspace.std, most, workspace.task)
    found = judge.fp32
    seen = Detected(
        len(judge), len(data.search), 1 - found.error, found.error_standard_error or 0.0, judge.guessed
    )
    if not seen.at_chance:
        return seen, None
    settings, mean, std = workspace.settings, show(workspace.mean), show(workspace.std)
    return seen, (
        f"{settings.model} finds hardly any box: AP50 is {show_percent(seen.average_precision)} on {seen.images:,} images; "
        f"likely causes: the weights ({settings.weights}), the normalization (mean {mean}, std {std}; --mean and --std change "
        "it), the order of the classes. --allow-bad-fp32 goes on all the same"
    )


def refuse_chance(workspace: Workspace, *, allow: bool) -> Answered | Detected:
    """How good the network is on the search half.

    Raises:
        UserError: no better than guessing, unless ``allow``; the message has the likely causes.
    """
    found, why = judged(workspace)
    if why and not allow:
        raise UserError(why)
    return found


def _why(workspace: Workspace, found: Answered, predicted: Tensor, labels: Tensor) -> str:
    settings, classes = workspace.settings, workspace.data.classes
    causes = [
        f"the weights ({settings.weights or 'trained here: too few images, or labels that are not theirs'})",
        f"the normalization (mean {show(workspace.mean)}, std {show(workspace.std)}; --mean and --std change it)",
        f"the order of the classes (here {', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})",
    ]
    better = [text for text in (_other_input(workspace, found), _other_order(predicted, labels)) if text]
    return (
        f"{settings.model} is right on {show_percent(found.accuracy)} of {found.images:,} images, where guessing is on "
        f"{show_percent(found.guessed)}; likely causes: {', '.join(causes)}. {'; '.join(better)}{'. ' if better else ''}"
        "--allow-bad-fp32 goes on all the same"
    )


def _other_input(workspace: Workspace, found: Answered) -> str | None:
    """Another usual normalization or order of channels under which the network does classify."""
    images, network = workspace.data.search, workspace.model
    rows = fixed_sample(len(images), min(TRIED, len(images)))
    pixels, labels = images.batch(rows), images.labels[rows]
    best, hint = 0.0, None
    for (mean, std), text, shown in _usual(pixels):
        with torch.no_grad():
            x = normalize(shown, mean, std).to(device_of(network))
            tried = answered(answers(network.eval(), x).argmax(1).cpu(), labels)
        if not tried.at_chance and tried.accuracy > max(best, 2 * found.accuracy):
            best, hint = tried.accuracy, f"with {text} it is right on {show_percent(tried.accuracy)}"
    return hint


def _usual(pixels: Tensor) -> Iterator[tuple[Normalization, str, Tensor]]:
    for mean, std in (IMAGENET, CIFAR, UNIT, CENTRED, BYTES):
        typed = f"--mean {show(mean)} --std {show(std)}"
        yield (mean, std), typed, pixels
        yield (mean, std), f"channels blue, green, red and {typed}", pixels.flip(3)


def _other_order(predicted: Tensor, labels: Tensor) -> str | None:
    """Whether the answers are right under other names."""
    classes = int(max(predicted.max(), labels.max())) + 1
    if len(labels) < 5 * classes:
        return None
    table = torch.zeros(classes, classes, dtype=torch.int64)
    table.index_put_((predicted, labels), torch.ones_like(labels), accumulate=True)
    given = table.sum(1) > 0
    names = table.argmax(1)[given]
    share = float(table.max(1).values.sum()) / len(labels)
    if len(names) < 2 or len(names.unique()) < len(names) or share < 0.5:
        return None
    return f"with its classes in another order it is right on {show_percent(share)}"
