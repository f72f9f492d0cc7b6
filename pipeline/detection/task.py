"""What is asked of a detector: average precision where boxes are known, and answers like those of the fp32 network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.detection.beside import agreement
from pipeline.detection.data import listed
from pipeline.detection.decode import cells_of, decode
from pipeline.detection.divergence import divergence, divergences, drawn_boxes
from pipeline.detection.quality import matches, precision_of
from pipeline.training.settings import AP50, TrainSettings
from pipeline.training.task import Task, spread_over
from quantizers.calibration.fisher import Score


class Detection(Task):
    """Boxes in images; outputs are FastestDet's (``pipeline.detection.decode``), float32 [N, 5 + classes, H, W], labels boxes
    (``pipeline.detection.data.padded``). Its scores are average precision at an overlap of one half, a number of all images. The
    loss is the divergence from what the fp32 network gives, whatever the share of distillation: it needs no boxes.

    Args:
        classes: how many there are.
        image_size: (height, width).
    """

    metric, classifies = AP50, False
    # Of a batch of few images statistics say so little that a network trained with them is another one when it is used.
    frozen_norms = True

    def __init__(self, classes: int, image_size: tuple[int, int]) -> None:
        self.classes, self.image_size = classes, image_size

    def outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        raw: Tensor = network(images)
        return raw.float()

    def of_program(self, answers: Tensor) -> Tensor:
        return cells_of(answers, self.classes, self.image_size)

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        known = matches(decode(outputs), listed(labels))

        def precision(kept: Tensor | None) -> Tensor:
            chosen = np.ones(len(labels), bool)
            if kept is not None:
                chosen[:] = False
                chosen[kept.numpy()] = True
            return torch.tensor(precision_of(known, chosen), dtype=torch.float64)

        return spread_over(precision(None), precision, len(labels))

    def divergences(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return divergences(outputs, wanted).double()

    def agreements(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        pairs = zip(decode(outputs), decode(wanted), strict=True)
        return torch.tensor([agreement(one, other) for one, other in pairs], dtype=torch.float64)

    def loss(self, outputs: Tensor, wanted: Tensor | None, labels: Tensor, settings: TrainSettings) -> Tensor:
        if wanted is None:
            raise ValueError("a detector learns from the fp32 network alone: distillation is above 0")
        return divergence(outputs, wanted)

    def drawn(self) -> Score:
        return drawn_boxes()
