"""A trained detector and images for it, as classifiers have them in ``pipeline.candidate.workspace``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.modes import evaluating
from pipeline.candidate.likeness import BATCH, Likeness, likeness
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.base import ImageData, Size
from pipeline.datasets.images import FileImages
from pipeline.datasets.normalization import described
from pipeline.datasets.registry import load_data
from pipeline.detection.coco import BoxedImages, coco
from pipeline.detection.data import BlueGreenRed
from pipeline.detection.decode import Detections, decode
from pipeline.detection.distillation import divergences
from pipeline.detection.quality import agreement, average_precision
from pipeline.networks.registry import classes_of, find_network, load_model
from pipeline.study.settings import Settings
from pipeline.training.evaluation import batches, device_of

RULE = "training images rebuild (train); of the validation images every second, from the first: search; the others: report"


@dataclass(frozen=True)
class DetectorWorkspace:
    """``workspace`` is what candidates are made from; ``boxes`` float32 [m, 6] what is on its search images, and behind them its
    report images (see ``BoxedImages``); None where that is not known."""

    workspace: Workspace
    boxes: NDArray[np.float32] | None

    @classmethod
    def open(cls, settings: Settings) -> DetectorWorkspace:
        """Load both.

        Raises:
            UserError: no trained weights, or data without boxes that is no plain folder of images, or files that do not fit.
        """
        look_in(settings.modules)
        network = find_network(settings.model)
        if settings.weights is None:
            raise UserError(
                f"{settings.model} is a detector, and detectors are not trained here: give trained --weights"
            )
        side = settings.image_size or network.image_size
        data, boxes = detection_data(settings.data, (side, side))
        classes = data.classes
        if not classes:
            count = classes_of(network, settings.weights, side)
            classes = tuple(map(str, range(count)))
        model = load_model(network, classes=len(classes), image_size=side, weights=settings.weights)
        mean, std, declared = network.normalized(settings.mean, settings.std)
        images = ImageData(
            settings.data, classes, (side, side), data.train, data.search, data.report, "none", labelled=False,
            rule=data.rule,
        )  # fmt: skip
        workspace = Workspace(settings, images, model, mean, std, described(mean, std, declared))
        return cls(workspace, boxes)

    def compared(self, networks: Mapping[str, nn.Module]) -> tuple[float | None, dict[str, Likeness]]:
        """The fp32 detector's average precision, and networks beside it, on the search and the report images."""
        workspace = self.workspace
        seen: dict[str, list[Detections]] = {name: [] for name in networks}
        wanted: list[Detections] = []
        off: dict[str, list[Tensor]] = {name: [] for name in networks}
        for images in (workspace.data.search, workspace.data.report):
            for x in batches(images, workspace.mean, workspace.std, BATCH, device_of(workspace.model)):
                meant = raw_output(workspace.model, x)
                wanted += decode(meant)
                for name, network in networks.items():
                    given = raw_output(network, x)
                    seen[name] += decode(given)
                    off[name].append(divergences(given, meant).double())
        alike = {
            name: likeness(
                torch.tensor([agreement(one, other) for one, other in zip(found, wanted, strict=True)]),
                torch.cat(off[name]),
                self._precision(found),
            )
            for name, found in seen.items()
        }
        return self._precision(wanted), alike

    def _precision(self, found: list[Detections]) -> float | None:
        return None if self.boxes is None or not len(self.boxes) else average_precision(found, self.boxes)


@dataclass(frozen=True)
class DetectionData:
    """Images of a detector, channels blue, green, red. ``classes`` may be empty: how many there are, the network knows."""

    classes: tuple[str, ...]
    train: BlueGreenRed
    search: BlueGreenRed
    report: BlueGreenRed
    rule: str


def detection_data(spec: str, size: Size) -> tuple[DetectionData, NDArray[np.float32] | None]:
    """What ``coco:DIR`` or ``unlabelled:DIR`` means for a detector, and the boxes of its search and its report images.

    Raises:
        UserError: another kind of data, or files that are not as they should be.
    """
    kind, _, place = spec.partition(":")
    if kind == "coco":
        train, val = coco(place, size)
        if len(val.images) < 2:
            raise UserError(
                f"{spec}: {len(val.images)} validation images; at least 2 are needed, one for each half"
            )
        rows = list(range(len(val.images)))
        search, report = val.subset(rows[::2]), val.subset(rows[1::2])
        of = DetectionData(val.classes, _images(train), _images(search), _images(report), RULE)
        return of, joined(search, report)
    if kind != "unlabelled":
        raise UserError(
            f"data {spec!r}: a detector takes coco:DIR, or --images-from DIR where no boxes are known"
        )
    data = load_data(spec, size)
    parts = []
    for images in (data.train, data.search, data.report):
        assert isinstance(images, FileImages)
        parts.append(BlueGreenRed(images.stretched()))
    train_images, search_images, report_images = parts
    return DetectionData((), train_images, search_images, report_images, data.rule), None


def boxed(spec: str, size: Size, split: str) -> BoxedImages:
    """The images of ``search``, ``report`` or ``train`` with their boxes.

    Raises:
        UserError: data without boxes, or files that are not as they should be.
    """
    kind, _, place = spec.partition(":")
    if kind != "coco":
        raise UserError(f"{spec} has no boxes; name images that have some by --data coco:DIR")
    train, val = coco(place, size)
    rows = list(range(len(val.images)))
    return train if split == "train" else val.subset(rows[::2] if split == "search" else rows[1::2])


def joined(first: BoxedImages, second: BoxedImages) -> NDArray[np.float32]:
    """The boxes of both as if the second's images came behind the first's."""
    moved = second.boxes.copy()
    moved[:, 0] += len(first.images)
    return np.concatenate([first.boxes, moved])


def raw_output(network: nn.Module, x: Tensor) -> Tensor:
    """[N, 5 + classes, H, W], on the CPU."""
    with torch.no_grad(), evaluating(network):
        output: Tensor = network(x)
    return output.float().cpu()


def _images(part: BoxedImages) -> BlueGreenRed:
    assert isinstance(part.images, BlueGreenRed)
    return part.images
