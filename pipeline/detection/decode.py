"""From a detector's raw output to detections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SCORE = 0.001  # for a precision-recall curve, which needs the doubtful ones too
OVERLAP = 0.45  # beyond it the lower-scored of two boxes of one class goes


@dataclass(frozen=True)
class Detections:
    """Of one image, best first: ``boxes`` [k, 4] as left, top, right, bottom relative to the image, ``scores`` [k] in 0..1,
    ``classes`` [k]."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def above(self, score: float) -> Detections:
        """Those with at least that score."""
        return self._those(self.scores >= score)

    def of(self, number: int) -> Detections:
        """Those of one class."""
        return self._those(self.classes == number)

    def _those(self, kept: Tensor) -> Detections:
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept])


def boxes_of_cells(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each cell of FastestDet's output [N, 5 + classes, H, W] stands for.

    With o the objectness, (t, u, v, w) the box terms and p the classes' logits of cell (row, column): the box has its centre at
    ((tanh t + column) / W, (tanh u + row) / H) and the size (sigmoid v, sigmoid w); its class is the likeliest and its score
    sigmoid(o)**0.6 * softmax(p)**0.4. (https://github.com/dog-qiuqiu/FastestDet)

    Returns:
        boxes [N, H * W, 4] as left, top, right, bottom; scores [N, H * W]; classes [N, H * W].
    """
    height, width = raw.shape[2:]
    likely, classes = raw[:, 5:].softmax(1).max(1)
    scores = raw[:, 0].sigmoid() ** 0.6 * likely**0.4
    columns, rows = torch.arange(width, device=raw.device), torch.arange(height, device=raw.device)[:, None]
    x, y = (raw[:, 1].tanh() + columns) / width, (raw[:, 2].tanh() + rows) / height
    w, h = raw[:, 3].sigmoid() / 2, raw[:, 4].sigmoid() / 2
    boxes = torch.stack((x - w, y - h, x + w, y + h), -1)
    return boxes.flatten(1, 2), scores.flatten(1), classes.flatten(1)


def cells_of(outputs: Tensor, classes: int, image_size: tuple[int, int]) -> Tensor:
    """The raw output [N, 5 + classes, H, W] in what a program gives for images of (height, width): [N, H * W * (5 + classes)]."""
    cells = outputs.shape[1] // (5 + classes)
    rows = round((cells * image_size[0] / image_size[1]) ** 0.5)
    return outputs.reshape(-1, rows, cells // rows, 5 + classes).permute(0, 3, 1, 2)


def decode(raw: Tensor, least: float = LEAST_SCORE, overlap: float = OVERLAP) -> list[Detections]:
    """The detections of each image in a raw output [N, 5 + classes, H, W], after non-maximum suppression by class."""
    # Here, since it loads PyTorch's compiler: seconds, which only detectors are to cost.
    from torchvision.ops import batched_nms

    found = []
    for boxes, scores, classes in zip(*boxes_of_cells(raw.float()), strict=True):
        likely = scores >= least
        boxes, scores, classes = boxes[likely], scores[likely], classes[likely]
        kept = batched_nms(boxes, scores, classes, overlap)
        found.append(Detections(boxes[kept], scores[kept], classes[kept]))
    return found
