"""Hardened networks for the compiler's tests, made without training, and their comparison with integer graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import quantizers.network
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import execute
from foundation.codebook import Codebook
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.first_check import first_check
from quantizers.core.activation import FrozenStep
from quantizers.network import Hardened, layer_names, quantize


def codebook(weight: Tensor, bits: int, zeros: float = 0.0) -> Codebook:
    """Levels at the weights' quantiles, zero among them, and the smallest ``zeros`` of the weights there."""
    w = weight.detach().numpy()
    scale = float(np.abs(w).max()) / 127
    centres = np.quantile(w.reshape(-1)[:100_000], (np.arange(2**bits) + 0.5) / 2**bits)
    centres[np.abs(centres).argmin()] = 0
    levels = np.unique(np.rint(centres / scale).astype(np.int8))
    indices = np.searchsorted((levels[1:] + levels[:-1].astype(np.float64)) / 2, w / scale)
    if zeros:
        indices[np.abs(w) < np.quantile(np.abs(w), zeros)] = np.flatnonzero(levels == 0)[0]
    return Codebook(indices.astype(np.uint8), levels, np.array([scale], np.float32), bits)


def harden(
    model: nn.Module, images: Tensor, bits: int = 8, activation_bits: int = 8, zeros: float = 0.0
) -> Hardened:
    """The model with all weights in ``bits`` bits and activation steps from ``images`` (normalized float, NCHW)."""
    plan = Plan.uniform(layer_names(model), LayerPlan(8), activation_bits=activation_bits)
    network, codebooks = quantizers.network.harden(quantize(model, plan, images))
    if bits < 8:
        for name, module in network.named_modules():
            if name in codebooks:
                codebooks[name] = codebook(module.weight, bits, zeros)
                module.weight = nn.Parameter(torch.from_numpy(codebooks[name].dequantize()))
    return Hardened(network, codebooks)


def scramble_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch-norm statistics and parameters that matter."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.6, 1.4),
                (module.bias.data, -0.2, 0.4),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=random) * (high - low) + low)
    return model.eval()


@contextmanager
def quantized_values(network: nn.Module) -> Iterator[list[np.ndarray]]:
    """The integers of every activation quantizer, in the order of execution."""
    found: list[np.ndarray] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        assert isinstance(module, FrozenStep)
        found.append(np.rint(result.double().numpy() / module.step).astype(np.int32))

    hooks = [m.register_forward_hook(record) for m in network.modules() if isinstance(m, FrozenStep)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def normalized(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 NHWC to what the network sees."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class Noise:
    """Images for the first check: ``batch`` as of ``pipeline.datasets.images.Images``."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self.pixels = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (4, height, width, channels)).astype(np.uint8)
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]


def check_supported(model: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """The first check on noise of ``shape`` (C, H, W)."""
    return first_check(model, Noise(shape), [0.5] * shape[0], [0.5] * shape[0])  # type: ignore[arg-type]


class Comparison(NamedTuple):
    worst_share: float  # of integers that differ, in the worst operation
    worst_difference: int
    outputs: np.ndarray
    wanted: np.ndarray


def apart(graph: g.Graph) -> g.Graph:
    """The graph with additions as operations of their own."""
    tensors, operations = dict(graph.tensors), []
    for op in graph.operations:
        if not isinstance(op, g.Convolution) or op.residual is None:
            operations.append(op)
            continue
        assert isinstance(op.finish, g.Requantize)
        r, before = op.residual, f"{op.output} before"
        tensors[before] = g.Tensor(before, tensors[op.output].shape, 1.0, op.finish.low, op.finish.high)
        source, other = op.inputs
        operations.append(dataclasses.replace(op, inputs=(source,), output=before, residual=None))
        operations.append(g.Add((before, other), op.output, op.layer, r.multipliers, r.right, r.low, r.high))
    return g.Graph(graph.input, graph.output, tensors, operations)


def compare(network: nn.Module, graph: g.Graph, images: np.ndarray, x: Tensor) -> Comparison:
    """Every operation on the fake-quantized network's own integers, so that differences do not add up.

    ``x`` are the normalized ``images``. Both networks must quantize at the same places with the same steps.
    """
    with torch.no_grad(), quantized_values(network) as found_values:
        result = network(x)
        wanted = (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).reshape(len(x), -1).numpy()
    recorded = iter(found_values)
    graph = apart(graph)
    moving = (g.MaxPool, g.Slice, g.Pad, g.Reshape, g.Gather)
    values: dict[str, np.ndarray] = {graph.input.name: images.astype(np.int32)}
    share, difference = 0.0, 0
    for op in graph.operations:
        types = [graph.tensors[name] for name in (*op.inputs, op.output)]
        found = execute(op, [values[name] for name in op.inputs], types)
        if not types[-1].floating and not isinstance(op, moving):
            torchs = next(recorded)
            by_channel = torchs.transpose(0, 2, 3, 1) if torchs.ndim == 4 else torchs
            integers = by_channel if by_channel.shape == found.shape else torchs.reshape(found.shape)
            wrong = np.abs(integers - found)
            share, difference = max(share, float((wrong > 0).mean())), max(difference, int(wrong.max()))
            found = integers
        values[op.output] = found
    assert next(recorded, None) is None, "a quantizer of the network has no operation in the graph"
    return Comparison(share, difference, values[graph.output].reshape(len(x), -1), wanted)
