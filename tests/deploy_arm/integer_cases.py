"""Small networks that between them have every integer operation and every form of weights."""

from __future__ import annotations

import numpy as np

from deploy_arm.compiler.passes import fuse_additions
from deploy_arm.ir import graph as g
from tests.deploy_arm.runtime_cases import Builder, in_blocks, with_middles


def everything() -> g.Graph:
    """A small network with every operation in it."""
    builder = Builder(np.random.default_rng(3), (9, 8, 3))
    last = builder.convolution(builder.input(0, 255), 16, (3, 3), padding=(1, 1, 1, 1), bits=8)
    last = builder.max_pool(last, 2, 2, 0)
    last = builder.convolution(last, 16, (3, 3), padding=(1, 1, 1, 1), groups=16, bits=4, to=(0, 127))
    last = builder.convolution(last, 16, (3, 3), padding=(1, 1, 1, 1), groups=2, bits=3, to=(0, 127))
    side = builder.convolution(last, 16, (1, 1), bits=4, to=(-128, 127))
    last = builder.add(last, side, 0, 127)  # becomes the end of the convolution
    other = builder.convolution(last, 16, (3, 3), padding=(1, 1, 1, 1), bits=2, zeros=0.9, to=(-64, 63))
    last = builder.add(builder.look_up(last, 0, 255), other, 0, 255)
    last = builder.multiply(
        last, builder.convolution(last, 16, builder.graph.tensors[last].shape[:2]), 0, 255
    )
    last = builder.layer_norm(builder.multiply(last, other, -64, 63), (-128, 127))
    last = builder.max_pool(builder.shuffle(last, 2), 2, 1, 1, 2)
    other = builder.max_pool(other, 2, 1, 1, 2)
    last = builder.concatenate([last, other], -128, 127)
    last = builder.slice(builder.pad(last, (1, 0, 2), (0, 1, 3)), (1, 0, 1), (1, 1, 2))
    last = builder.average_pool(last, 3, 2, 1, (0, 255), count=False)
    height, width, channels = builder.graph.tensors[last].shape
    last = builder.reshape(last, (1, 1, height * width * channels))
    last = builder.resize(last, [0], [0, 0])
    branches = [builder.convolution(last, outs, (1, 1), bits=4, to=None) for outs in (1, 4, 5)]
    return fuse_additions(builder.done(builder.limit(builder.join(branches), 0.0, 6.0)))


def blocks() -> g.Graph:
    """Two convolutions that leave out blocks, one of them coded, the other with an odd number of blocks."""
    builder = Builder(np.random.default_rng(4), (9, 7, 8))
    last = builder.convolution(builder.input(0, 255), 32, (3, 3), padding=(1, 1, 1, 1), bits=8, to=(0, 127))
    last = builder.convolution(last, 64, (3, 3), padding=(1, 1, 1, 1), bits=4, zeros=0.95, to=(0, 255))
    return in_blocks(builder.done(builder.average_pool(last, 3, 2, 1, None)), np.random.default_rng(1))


def middles() -> g.Graph:
    """Convolutions with a middle tap of 8 bits: of coded weights, of two groups, and of each channel by itself."""
    builder = Builder(np.random.default_rng(5), (9, 7, 16))
    last = builder.convolution(builder.input(0, 255), 48, (3, 3), padding=(1, 1, 1, 1), bits=4, to=(0, 127))
    last = builder.convolution(last, 64, (3, 5), padding=(1, 2, 1, 2), bits=2, zeros=0.95, to=(-128, 127))
    last = builder.convolution(last, 20, (3, 3), bits=3, groups=2, to=(0, 255))
    last = builder.convolution(last, 20, (3, 3), bits=4, groups=20, to=(0, 255))
    return with_middles(builder.done(builder.average_pool(last, 3, 2, 1, None)), np.random.default_rng(2))
