"""Tiny Darknet: an ImageNet classifier of 1 M parameters out of 3x3 and 1x1 convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.datasets.normalization import UNIT
from pipeline.networks.base import ModelSpec
from pipeline.networks.cifar import initialize

ENTRIES = ("tiny_darknet",)

# (channels, kernel) of each convolution; None is a 2x2 maximum. From https://pjreddie.com/darknet/tiny-darknet/
FEATURES: tuple[tuple[int, int] | None, ...] = (
    *((16, 3), None, (32, 3), None),
    *((16, 1), (128, 3), (16, 1), (128, 3), None),
    *((32, 1), (256, 3), (32, 1), (256, 3), None),
    *((64, 1), (512, 3), (64, 1), (512, 3), (128, 1)),
)


class TinyDarknet(nn.Module):
    """Input float [N, 3, H, W] in 0..1 without normalization (224 x 224 in training), output logits [N, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for row in FEATURES:
            if row is None:
                modules.append(nn.MaxPool2d(2, 2))
                continue
            width, kernel = row
            modules += [
                nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(0.1),
            ]
            channels = width
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Conv2d(channels, classes, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        # The mean over the positions, written as the pooling that it is: compilers know it under that name.
        return F.adaptive_avg_pool2d(self.classifier(self.features(x)), 1).flatten(1)


tiny_darknet = ModelSpec(lambda classes, size: TinyDarknet(classes), 224, UNIT)
