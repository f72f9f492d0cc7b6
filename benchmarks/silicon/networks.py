"""The networks of ncnn's own benchmark, built anew: what was measured on real chips is what is modelled.

The benchmark's weights are made up there too. Small differences remain: its last layer is followed by a softmax, and its
MobileNetV2 may bound activations otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.arm_peers.workload import CALIBRATION, Workload, imagenet, settle
from foundation.registry import Registry
from pipeline.networks.registry import find_network

SIZE = 224
CLASSES = 1000
SAME_AS_PEERS = ("resnet18", "mobilenet_v2")  # ``benchmarks.arm_peers`` has the very same under these names
NETWORKS: Registry[Callable[[], nn.Module]] = Registry("network of the comparison with chips")


@NETWORKS.register("resnet18")
def _resnet18() -> nn.Module:
    from torchvision.models import resnet18

    network: nn.Module = resnet18()
    return network


@NETWORKS.register("resnet50")
def _resnet50() -> nn.Module:
    """As it was first published: the first convolution of a stage has the stride, not the second."""
    from torchvision.models import resnet50

    network = resnet50()
    for stage in (network.layer2, network.layer3, network.layer4):
        block = stage[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return cast(nn.Module, network)


@NETWORKS.register("mobilenet_v2")
def _mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2

    network: nn.Module = mobilenet_v2()
    return network


@NETWORKS.register("mobilenet")
def _mobilenet() -> nn.Module:
    return MobileNet()


class MobileNet(nn.Module):
    """MobileNet of 2017 (Howard et al.): a depthwise and a pointwise convolution in turn."""

    WIDTHS = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        layers, before = [self.block(3, 32, 3, 2, 1)], 32
        for width, stride in self.WIDTHS:
            layers += [self.block(before, before, 3, stride, before), self.block(before, width, 1, 1, 1)]
            before = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, CLASSES)

    @staticmethod
    def block(ins: int, outs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
        convolution = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(torch.flatten(self.pool(self.features(x)), 1))
        return scores


def workload(name: str) -> Workload:
    """A network with untrained weights, batch-norms settled, and its images.

    Raises:
        UserError: no such network.
    """
    torch.manual_seed(0)
    model = NETWORKS[name]()
    images, source = imagenet(SIZE)
    mean, std = find_network("resnet18").normalization
    settle(model, mean, std, images)
    rest = images[1 : 1 + CALIBRATION]
    return Workload(name, model.eval(), "untrained", images[:1], source, rest, mean, std)
