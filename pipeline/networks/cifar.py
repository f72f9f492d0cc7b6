"""Small networks for images of about 32 x 32: CIFAR residual networks, VGG-small and a smaller one, and a narrow MobileNetV2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.base import ModelSpec

ENTRIES = (
    "resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "vgg_tiny", "vgg_small", "mobilenet_v2_cifar",
)  # fmt: skip


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters.

    Where the resolution halves, the shortcut takes every second pixel and pads the channels with zeros, half before and
    half after ("option A" of He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.padding:
            shortcut = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding)
            )
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """Residual network of 6 * ``blocks`` + 2 layers for CIFAR-sized images (He et al. 2015, section 4.2).

    Input float [N, 3, H, W], output logits [N, classes]. Sub-modules are called as in the common CIFAR checkpoints.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def initialize(network: nn.Module) -> None:
    """He initialization for the weights of every convolution and linear layer, zero for their biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class VggSmall(nn.Module):
    """Six 3x3 convolutions 128-128-256-256-512-512, a 2x2 maximum after every second, one linear layer.

    The network of Zhang et al., "LQ-Nets", 2018. Input float [N, 3, H, W] with H and W at least 8 and equal to
    ``image_size``, on which the linear layer's width depends; output logits [N, classes].
    """

    def __init__(self, classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for width in (128, 256, 512):
            for _ in range(2):
                modules += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            modules.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*modules)
        height, width = image_size
        self.classifier = nn.Linear(512 * (height // 8) * (width // 8), classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(x).flatten(1))
        return scores


class VggTiny(nn.Module):
    """Four 3x3 convolutions 16-32-64-64, a 2x2 maximum after the second, a global average, one linear layer.

    Small enough to be trained within a minute on a CPU and to lose a little by each step of compression, and wide enough for
    its planes that zeros pay in time. Input float [N, 3, H, W] of about 16 x 16, output logits [N, classes].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        channels = 3
        for place, width in enumerate((16, 32, 64, 64)):
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            modules += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            if place == 1:
                modules.append(nn.MaxPool2d(2, 2))
            channels = width
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return scores


def _mobilenet_v2(classes: int) -> nn.Module:
    """torchvision's MobileNetV2 at half width with the first two strides left out, so that 32 x 32 ends at 4 x 4."""
    from torchvision.models import MobileNetV2

    # Rows are expansion, channels, repeats, stride, as in Sandler et al. 2018, table 2; only strides differ.
    rows = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    network: nn.Module = MobileNetV2(num_classes=classes, width_mult=0.5, inverted_residual_setting=rows)
    stem: nn.Conv2d = network.get_submodule("features.0.0")  # type: ignore[assignment]
    stem.stride = (1, 1)
    return network


resnet8 = ModelSpec(lambda classes, size: CifarResNet(1, classes), 32)
resnet20 = ModelSpec(lambda classes, size: CifarResNet(3, classes), 32)
resnet32 = ModelSpec(lambda classes, size: CifarResNet(5, classes), 32)
resnet44 = ModelSpec(lambda classes, size: CifarResNet(7, classes), 32)
resnet56 = ModelSpec(lambda classes, size: CifarResNet(9, classes), 32)
vgg_tiny = ModelSpec(lambda classes, size: VggTiny(classes), 16)
vgg_small = ModelSpec(VggSmall, 32)
mobilenet_v2_cifar = ModelSpec(lambda classes, size: _mobilenet_v2(classes), 32)
