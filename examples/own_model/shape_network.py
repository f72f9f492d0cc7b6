"""A network as anyone might have written it: two residual blocks, an average, a linear layer."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(inner)) + self.shortcut(x)).relu()


class ShapeNet(nn.Module):
    """Tells a few shapes apart."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 8, 1), Block(8, 16, 2), Block(16, 16, 2))
        self.last = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x).mean((2, 3)))


def shape_net(num_classes: int) -> nn.Module:
    """What ``--model shape_network:shape_net`` calls, with as many classes as the data has."""
    return ShapeNet(num_classes)


shape_net.image_size = 24  # type: ignore[attr-defined]  # side of the images it was made for
shape_net.normalization = ((0.5,) * 3, (0.25,) * 3)  # type: ignore[attr-defined]  # means, deviations; else ImageNet's
