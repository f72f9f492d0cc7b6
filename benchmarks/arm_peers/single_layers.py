"""Networks of one layer, so that runtimes can be compared layer by layer: the layer, ReLU, and the mean over positions."""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from foundation.errors import UserError

NAME = re.compile(r"(conv|depthwise)(\d+)x(\d+)(?:to(\d+))?(?:k(\d+))?(?:s(\d+))?")
# The convolutions of ResNet-18: the four stages, what leads from one to the next, a shortcut.
RESNET18 = "conv64x56,conv128x28,conv256x14,conv512x7,conv64x56to128s2,conv128x28to256s2,conv256x14to512s2,conv64x56to128k1s2"
IMAGES = 24


def is_single_layer(name: str) -> bool:
    return NAME.fullmatch(name) is not None


class SingleLayer(nn.Module):
    """``conv64x56`` is a 3 x 3 convolution of 64 channels of 56 x 56 pixels; ``to128`` changes the number of channels, ``k1`` the
    kernel, ``s2`` the stride. ``depthwise64x56`` has one kernel for each channel.

    Raises:
        UserError: another name, or sizes that no layer has.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        found = NAME.fullmatch(name)
        if found is None:
            raise UserError(f"single layer {name!r}: give a name like conv64x56to128k3s2")
        sort, channels, size = found[1], int(found[2]), int(found[3])
        outs, kernel, stride = int(found[4] or channels), int(found[5] or 3), int(found[6] or 1)
        if not (
            0 < channels <= 4096
            and 0 < size <= 512
            and 0 < outs <= 4096
            and 0 < kernel <= size
            and stride > 0
        ):
            raise UserError(
                f"single layer {name!r}: channels are 1 to 4096, pixels 1 to 512, the kernel no larger"
            )
        if sort == "depthwise" and outs != channels:
            raise UserError(f"single layer {name!r}: a depthwise layer keeps its channels")
        self.channels, self.size = channels, size
        groups = channels if sort == "depthwise" else 1
        self.conv = nn.Conv2d(channels, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(outs), nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.pool(self.relu(self.norm(self.conv(x)))), 1)


def single_layer(name: str) -> tuple[SingleLayer, NDArray[np.uint8]]:
    """The network in evaluation mode, untrained, and smooth random images uint8 [N, H, W, C].

    Raises:
        UserError: as ``SingleLayer``.
    """
    torch.manual_seed(0)
    network = SingleLayer(name)
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, network.channels, 8, 8), dtype=np.uint8)
    edge = (network.size, network.size)
    planes = [[np.asarray(Image.fromarray(plane).resize(edge)) for plane in image] for image in coarse]
    return network.eval(), np.ascontiguousarray(np.array(planes).transpose(0, 2, 3, 1))
