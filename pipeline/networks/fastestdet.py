"""FastestDet: an anchor-free detector of 0.24 M parameters on a narrow ShuffleNetV2.

Facts from https://github.com/dog-qiuqiu/FastestDet (commit 50473cd), whose checkpoints fit: the sub-modules are called alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.datasets.normalization import UNIT
from pipeline.networks.base import ModelSpec
from pipeline.networks.cifar import initialize

ENTRIES = ("fastestdet",)

STEM = 24
STAGES = ((48, 4), (96, 8), (192, 4))  # channels and blocks
WIDTH = 96  # of everything behind the backbone
STRIDE = 16  # pixels per cell


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = True) -> list[nn.Module]:
    """A convolution of 1 x 1, or a larger depthwise one, with its batch-norm and (unless linear) its ReLU."""
    convolution = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=1 if kernel == 1 else inputs, bias=False
    )
    return [convolution, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


class ShuffleBlock(nn.Module):
    """A ShuffleNetV2 unit (Ma et al., ECCV 2018) that shuffles at its start: of every two neighbouring channels the first
    passes by and the second is computed on. With stride 2 both branches compute on all channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        used, half = (inputs if stride == 2 else inputs // 2), outputs // 2
        self.branch_main = nn.Sequential(
            *_layer(used, half, 1),
            *_layer(half, half, 3, stride, relu=False),
            *_layer(half, outputs - used, 1),
        )
        self.branch_proj = (
            nn.Sequential(*_layer(used, used, 3, stride, relu=False), *_layer(used, used, 1))
            if stride == 2
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        passing = x[:, 0::2] if self.branch_proj is None else self.branch_proj(x)
        computed = x[:, 1::2] if self.branch_proj is None else x
        return torch.cat((passing, self.branch_main(computed)), 1)


class Backbone(nn.Module):
    """Features of the last three of four scales (strides 8, 16, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, STEM, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (STEM, *(channels for channels, _ in STAGES))
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                ShuffleBlock(inputs, outputs, 2),
                *(ShuffleBlock(outputs, outputs, 1) for _ in range(count - 1)),
            )
            for inputs, (outputs, count) in zip(widths[:-1], STAGES, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class PointWise(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*_layer(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv1x1(x)
        return mixed


class ReceptiveFields(nn.Module):
    """One, two and three 5 x 5 depthwise convolutions side by side, joined, around a shortcut."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.Conv1x1 = PointWise(inputs, WIDTH)
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(module for _ in range(count) for module in _layer(WIDTH, WIDTH, 5)))
            for count in (1, 2, 3)
        )
        self.output = nn.Sequential(*_layer(3 * WIDTH, WIDTH, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        joined = self.output(torch.cat((self.S1(x), self.S2(x), self.S3(x)), 1))
        return F.relu(x + joined)


class Branch(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*_layer(WIDTH, WIDTH, 5), *_layer(WIDTH, outputs, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv5x5(x)
        return answer


class Head(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1x1 = PointWise(WIDTH, WIDTH)
        self.obj_layers, self.reg_layers, self.cls_layers = Branch(1), Branch(4), Branch(classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return torch.cat((self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)), 1)


class FastestDet(nn.Module):
    """Input float [N, 3, H, W], channels blue, green, red in 0..1, H and W multiples of 32 (352 in training).

    Output float [N, 5 + classes, H / 16, W / 16], all before any sigmoid or softmax: objectness, four box terms, classes of
    each cell; ``pipeline.detection.decode`` makes boxes of them.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.SPP = ReceptiveFields(sum(channels for channels, _ in STAGES))
        self.detect_head = Head(classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        fine, middle, coarse = self.backbone(x)
        scales = (F.avg_pool2d(fine, 3, 2, 1), middle, F.interpolate(coarse, scale_factor=2.0))
        answer: Tensor = self.detect_head(self.SPP(torch.cat(scales, 1)))
        return answer


fastestdet = ModelSpec(lambda classes, size: FastestDet(classes), 352, UNIT, detects=True)
