"""A fixed small network that is timed before and after a measurement: if it has become slower or faster, so has the CPU.

It depends on nothing of the user's, and no random generator: the same bytes everywhere and always.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.devices.base import Device
from deploy_arm.ir import graph as g
from deploy_arm.ir import reference
from deploy_arm.target.fault import DeviceFault
from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.files import cache_directory, write_atomically

SIZE, CHANNELS, LAYERS, CLASSES = (
    16,
    32,
    2,
    16,
)  # 5.1 million multiplications: 0.1 ms on an A76 at 2.4 GHz (modelled)
LEVELS = np.arange(-8, 8, dtype=np.int8)
IMAGE: NDArray[np.uint8] = (np.arange(SIZE * SIZE * 3) * 37 % 256).astype(np.uint8).reshape(SIZE, SIZE, 3)


def _codebook(*shape: int) -> Codebook:
    """4-bit weights whose indices are scattered (multiplicative hashing, Knuth 6.4)."""
    scattered = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(12)
    indices = (scattered % np.uint64(16)).astype(np.uint8).reshape(shape)
    return Codebook(indices, LEVELS, np.ones(1, np.float32), 4)


def canary_graph() -> g.Graph:
    """A table, 3 x 3 convolutions of 3 to 32 and 32 to 32 channels on 16 x 16 pixels, and one over all pixels to 16 results."""
    image = g.Tensor("image", (SIZE, SIZE, 3))
    graph = g.Graph(image, "", {"image": image})

    def emit(operation: g.Operation, channels: int, *, size: int = SIZE, floating: bool = False) -> str:
        tensor = g.Tensor(operation.output, (size, size, channels), 1.0, 0, 0 if floating else 255, floating)
        graph.tensors[operation.output] = tensor
        graph.operations.append(operation)
        return operation.output

    table = np.tile(np.arange(256, dtype=np.int16), (3, 1))
    last, channels = emit(g.InputTable(("image",), "pixels", "input", table), 3), 3
    # A sum over 32, rounded; clamped to the byte.
    finish = g.Requantize(
        np.full(CHANNELS, 2**30, np.int32), np.full(CHANNELS, 2**11, np.int32), 8, 12, 0, 255
    )
    for layer in range(1 + LAYERS):
        weights, name = _codebook(CHANNELS, 3, 3, channels), f"layer{layer}"
        padding = (1, 1, 1, 1)
        last = emit(g.Convolution((last,), name, name, weights, (1, 1), padding, (1, 1), 1, finish), CHANNELS)
        channels = CHANNELS
    ones = np.ones(CLASSES, np.float32)
    weights = _codebook(CLASSES, SIZE, SIZE, CHANNELS)
    scores = g.Convolution(
        (last,), "scores", "scores", weights, (1, 1), (0, 0, 0, 0), (1, 1), 1, g.Dequantize(ones, 0 * ones)
    )
    graph.output = emit(scores, CLASSES, size=1, floating=True)
    return graph


@functools.cache
def canary_blob() -> Path:
    """The network as a file in the cache."""
    content = write_blob(canary_graph())
    path = cache_directory("canary") / "canary.blob"
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
    return path


@functools.cache
def _expected() -> bytes:
    return reference.run(canary_graph(), IMAGE[None]).tobytes()


def prove(device: Device, program: Path) -> None:
    """See that a device computes: the network is known to be good, and so is what it answers.

    Raises:
        DeviceFault: it fails, or answers with other bits than the reference.
    """
    try:
        answer = device.run(program, canary_blob(), IMAGE[None])
    except DeviceFault:
        raise
    except UserError as error:
        raise DeviceFault(f"{device.name} fails on a network that is known to be good: {error}") from error
    if answer.tobytes() != _expected():
        raise DeviceFault(
            f"{device.name} answers otherwise than the reference: it does not compute as it should"
        )


def drift(before: float, after: float) -> float:
    """How far apart two times are, as a share of the shorter."""
    return abs(after - before) / min(before, after)
