"""Networks of single convolutions whose profiles the cost models are fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from deploy_arm.blob.packing import OCTET, QUAD, has_blocks
from deploy_arm.costs.model import KERNELS, ProfiledWeights
from deploy_arm.ir import graph as g
from foundation.codebook import Codebook
from foundation.windows import output_size, places_along

MACS, WEIGHTS = 12_000_000, 60_000  # of one convolution, at most: emulation and load take time
SIZES = (1, 4, 7, 8, 14, 16, 20, 28, 32, 40, 56)
CHANNELS = (3, 12, 16, 24, 32, 48, 64, 96, 128, 160, 256, 320, 512, 1024)
TAPS = (1, 1, 3, 3, 3, 3, 5, 7)


@dataclass(frozen=True)
class ConvolutionSample:
    """A shape: the input's side and channels, output channels, taps a side, stride."""

    size: int
    channels: int
    outs: int
    taps: int
    stride: int


def samples(count: int, seed: int = 0) -> Iterator[ConvolutionSample]:
    """Shapes of CNN layers, at random but always the same."""
    random = np.random.default_rng(seed)
    while count:
        size, channels, outs, taps = (int(random.choice(axis)) for axis in (SIZES, CHANNELS, CHANNELS, TAPS))
        taps = 1 if size == 1 else taps
        stride = int(random.choice((1, 1, 1, 2))) if size >= 4 else 1
        weights = channels * outs * taps * taps
        macs = weights * places_along(size, taps, stride, taps // 2 * 2) ** 2
        if (weights <= WEIGHTS and 50_000 <= macs <= MACS) or (size == 1 and 4096 <= weights <= WEIGHTS):
            count -= 1
            yield ConvolutionSample(size, channels, outs, taps, stride)


def network(sample: ConvolutionSample, seed: int = 0) -> g.Graph:
    """Every setting of a shape behind two inputs, of 7 and of 8 bits. Results are read by nobody; the last convolution's, in
    floats, are the output."""
    random = np.random.default_rng(seed)
    shape = (sample.size, sample.size, sample.channels)
    image = g.Tensor("image", shape)
    graph = g.Graph(image, "", {"image": image})

    def emit(operation: g.Operation, tensor: g.Tensor) -> None:
        graph.tensors[tensor.name] = tensor
        graph.operations.append(operation)

    half = np.tile(np.arange(256, dtype=np.int16) // 2, (sample.channels, 1))
    emit(g.InputTable(("image",), "narrow", "", half), g.Tensor("narrow", shape, high=127))
    emit(g.Table(("narrow",), "full", "", np.arange(256, dtype=np.int16)), g.Tensor("full", shape))
    settings = [
        (cast(g.Kernel, kernel), setting)
        for kernel in KERNELS
        if kernel != "blocks" or has_blocks((sample.outs, sample.taps, sample.taps, sample.channels), 1)
        for setting in KERNELS[kernel].settings
    ]
    geometry = (sample.stride,) * 2, (sample.taps // 2,) * 4, (1, 1)
    result = (*output_size(shape, (sample.taps,) * 2, *geometry), sample.outs)
    last = settings[seed % len(settings)]
    for number, (kernel, setting) in enumerate([*settings, last]):
        floating = number == len(settings)
        finish: g.Requantize | g.Dequantize = g.Requantize(
            np.full(sample.outs, 2**30, np.int32), np.zeros(sample.outs, np.int32), 8, 18, 0, 127
        )
        if floating:
            finish = g.Dequantize(np.ones(sample.outs, np.float32), np.zeros(sample.outs, np.float32))
        name = f"result{number}"
        emit(
            g.Convolution(
                ("narrow" if setting.narrow else "full",),
                name,
                "",
                weights(random, sample, setting),
                *geometry,
                1,
                finish,
                kernel=kernel,
            ),
            g.Tensor(name, result, high=127, floating=floating),
        )
        graph.output = name
    return graph


def weights(random: np.random.Generator, sample: ConvolutionSample, setting: ProfiledWeights) -> Codebook:
    """Independent weights, a share of them zero, the others evenly spread over all other levels; then a share of blocks kept."""
    bits, size = setting.bits, (sample.outs, sample.taps, sample.taps, sample.channels)
    zero = 2 ** (bits - 1) - 1
    levels = (np.arange(2**bits) - zero).astype(np.int8) * np.int8(127 // 2 ** (bits - 1))
    indices = random.integers(0, 2**bits - 1, size)
    indices += indices >= zero
    indices[random.random(size) < setting.zeros] = zero
    if setting.blocks < 1:
        blocks = indices.reshape(sample.outs // QUAD, QUAD, -1, OCTET).transpose(0, 2, 1, 3)
        blocks[random.random(blocks.shape[:2]) >= setting.blocks] = zero  # a view: reshaping copies nothing
    return Codebook(indices.astype(np.uint8), levels, np.ones(1, np.float32), bits)
