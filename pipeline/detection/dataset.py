"""What ``coco:DIR`` and ``unlabelled:DIR`` mean for a detector: images in three parts, with what is on them as labels."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.errors import UserError
from pipeline.datasets.base import ImageData, Size
from pipeline.datasets.images import FileImages, Images
from pipeline.datasets.registry import load_data
from pipeline.detection.coco import coco
from pipeline.detection.data import BlueGreenRed

RULE = "training images rebuild (train); of the validation images every second, from the first: search; the others: report"


@dataclass(frozen=True)
class DetectionData:
    """Images of a detector, channels blue, green, red. ``classes`` may be empty: how many there are, the network knows. Labels
    are boxes (``pipeline.detection.data.padded``) where they are known, which is ``labelled``."""

    name: str
    classes: tuple[str, ...]
    train: Images
    search: Images
    report: Images
    rule: str
    labelled: bool

    def of_classes(self, classes: tuple[str, ...]) -> ImageData:
        """The data set of a detector with these classes."""
        return ImageData(
            self.name, classes, self.train.image_size, self.train, self.search, self.report, "none",
            labelled=self.labelled, rule=self.rule,
        )  # fmt: skip


def detection_data(spec: str, size: Size) -> DetectionData:
    """The images of ``coco:DIR`` or ``unlabelled:DIR``, stretched to ``size`` (height, width).

    Raises:
        UserError: another kind of data, files that are not as they should be, or no box in one of the halves that judge.
    """
    kind, _, place = spec.partition(":")
    if kind == "coco":
        train, val = coco(place, size)
        if len(val.images) < 2:
            raise UserError(
                f"{spec}: {len(val.images)} validation images; at least 2 are needed, one for each half"
            )
        every, rows = val.labelled(), list(range(len(val.images)))
        search, report = every.subset(rows[::2]), every.subset(rows[1::2])
        for half, images in (("search", search), ("report", report)):
            if not bool((images.labels[..., 0] >= 0).any()):
                raise UserError(f"{spec}: no boxes on the {len(images)} validation images of the half {half}")
        return DetectionData(spec, val.classes, train.labelled(), search, report, RULE, labelled=True)
    if kind != "unlabelled":
        raise UserError(
            f"data {spec!r}: a detector takes coco:DIR, or --images-from DIR where no boxes are known"
        )
    data = load_data(spec, size)
    train_images, search_images, report_images = map(_stretched, (data.train, data.search, data.report))
    return DetectionData(spec, (), train_images, search_images, report_images, data.rule, labelled=False)


def _stretched(images: Images) -> BlueGreenRed:
    assert isinstance(images, FileImages)
    return BlueGreenRed(images.stretched())
