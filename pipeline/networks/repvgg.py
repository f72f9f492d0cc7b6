"""RepVGG for images of 32 x 32: three branches for each layer while it learns, one 3x3 convolution once they are fused."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.base import ModelSpec
from pipeline.networks.branches import Reparameterized
from pipeline.networks.cifar import initialize

ENTRIES = ("repvgg_cifar",)
STAGES = ((16, 4, 1), (32, 4, 2), (64, 7, 2))  # channels, layers, stride of the first


class PlainBlock(nn.Module):
    """A 3x3 convolution and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class RepVggBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and, where shapes allow it, the input itself, each with its batch-norm; their sum, then ReLU
    (Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", 2021, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        return F.relu(y if self.bn is None else y + self.bn(x))

    def fused(self) -> tuple[Tensor, Tensor]:
        """Weight [O, I, 3, 3] and bias [O] of the one convolution, float64 (section 3.3)."""
        weight, bias = _folded(self.conv3.weight, self.bn3)
        kernels = [(self.conv1.weight, self.bn1)]
        if self.bn is not None:
            kernels.append((torch.eye(len(bias))[:, :, None, None], self.bn))
        for kernel, norm in kernels:
            middle, shift = _folded(kernel, norm)
            weight, bias = weight + F.pad(middle, (1, 1, 1, 1)), bias + shift
        return weight, bias


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A convolution's weight and bias with the batch-norm behind it."""
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    return weight.double() * scale[:, None, None, None], norm.bias.double() - mean * scale


class RepVgg(Reparameterized):
    """Plain 3x3 convolutions 16 x 4, 32 x 4, 64 x 7 at 32 x 32, 16 x 16 and 8 x 8, a global average, one linear layer: about
    0.3 M parameters. Its state may also be that of the network with branches, ``branched``.

    Input float [N, 3, H, W], output logits [N, classes].
    """

    def __init__(self, classes: int, block: type[PlainBlock | RepVggBlock] = PlainBlock) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 3
        for width, count, stride in STAGES:
            for place in range(count):
                blocks.append(block(channels, width, stride if place == 0 else 1))
                channels = width
        self.features = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return scores

    @torch.no_grad()
    def branched(self) -> RepVgg:
        with torch.random.fork_rng(devices=[]):
            other = RepVgg(self.linear.out_features, RepVggBlock)
        other.linear.load_state_dict(self.linear.state_dict())
        for plain, branches in self._pairs(other):
            branches.conv3.weight.copy_(plain.conv.weight)
            # As large as a 1x1 convolution is initialized, which sums a ninth of the products.
            branches.conv1.weight.copy_(3 * plain.conv.weight[:, :, :1, :1])
        return other.train(self.training)

    @torch.no_grad()
    def fuse(self, branched: nn.Module) -> None:
        assert isinstance(branched, RepVgg)
        self.linear.load_state_dict(branched.linear.state_dict())
        for plain, branches in self._pairs(branched):
            weight, bias = branches.fused()
            plain.conv.weight.copy_(weight)
            plain.conv.bias.copy_(bias)  # type: ignore[union-attr]  # it has one

    def _pairs(self, branched: RepVgg) -> list[tuple[PlainBlock, RepVggBlock]]:
        pairs = zip(self.features, branched.features, strict=True)
        return [(cast(PlainBlock, plain), cast(RepVggBlock, branches)) for plain, branches in pairs]


repvgg_cifar = ModelSpec(lambda classes, size: RepVgg(classes), 32)
