"""Hardened networks for the compiler's tests, made without training: rounded weights, steps from calibration images."""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deploy_arm import graph as g
from deploy_arm.reference import execute
from quantizers.codebook import Codebook

RELU = (nn.ReLU, nn.ReLU6, F.relu, F.relu6, torch.relu, "relu")
PASSING = (nn.MaxPool2d, nn.Dropout, nn.Identity, nn.Flatten, F.max_pool2d, F.pad, F.dropout, torch.flatten)
PASSING_METHODS = ("flatten", "view", "reshape", "squeeze", "contiguous", "chunk")
SIGNED_SAFE = (operator.add, operator.iadd, torch.add, torch.cat)
AVERAGE = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d, "mean")


class Hardened(NamedTuple):
    network: nn.Module
    codebooks: dict[str, Codebook]


class Quantize(nn.Module):
    """A frozen activation quantizer."""

    def __init__(self, step: float, low: int, high: int) -> None:
        super().__init__()
        self.step, self.low, self.high = step, low, high

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.step, 0, self.low, self.high)


def codebook(weight: Tensor, bits: int, zero_share: float = 0.0) -> Codebook:
    """int8 per channel for 8 bits, else levels at quantiles with zero among them."""
    w = weight.detach().numpy()
    if bits == 8:
        scale = np.abs(w.reshape(len(w), -1)).max(axis=1) / 127 + 1e-12
        levels = np.arange(-127, 128).astype(np.int8)
        integers = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1))).clip(-127, 127)
        return Codebook((integers + 127).astype(np.uint8), levels, scale.astype(np.float32), 8)
    scale = float(np.abs(w).max()) / 127 + 1e-12
    centres = np.quantile(w.reshape(-1)[:100_000], (np.arange(2**bits) + 0.5) / 2**bits)
    centres[np.abs(centres).argmin()] = 0
    levels = np.unique(np.rint(centres / scale).astype(np.int8))
    limit = np.quantile(np.abs(w), zero_share) if zero_share else 0.0
    indices = np.searchsorted((levels[1:] + levels[:-1].astype(np.float64)) / 2, w / scale)
    indices[np.abs(w) < limit] = np.flatnonzero(levels == 0)[0]
    return Codebook(indices.astype(np.uint8), levels, np.array([scale], np.float32), bits)


def kind(graph: fx.GraphModule, node: fx.Node) -> object:
    return type(graph.get_submodule(str(node.target))) if node.op == "call_module" else node.target


class _Ranges(fx.Interpreter):
    """Largest magnitude and smallest value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.ranges: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.ranges[n] = (float(result.min()), float(result.max()))
        return result


def _chain_end(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The batch-norm and ReLU that directly follow, each with one reader, belong to the node."""
    relu_seen = kind(graph, node) in RELU
    norm_seen = not isinstance(kind(graph, node), type) or not issubclass(
        kind(graph, node), nn.Conv2d | nn.Linear
    )
    while len(node.users) == 1:
        (user,) = node.users
        if kind(graph, user) is nn.BatchNorm2d and not norm_seen and not relu_seen:
            norm_seen = True
        elif kind(graph, user) in RELU and not relu_seen:
            relu_seen = True
        else:
            break
        node = user
    return node


def _is_final(graph: fx.GraphModule, node: fx.Node) -> bool:
    if [user.op for user in node.users] == ["output"]:
        return True
    moving = ("flatten", "view", "reshape", nn.Flatten, torch.flatten, nn.Dropout, F.dropout)
    return (
        len(node.users) == 1
        and kind(graph, next(iter(node.users))) in moving
        and _is_final(graph, next(iter(node.users)))
    )


def harden(
    model: nn.Module, images: Tensor, bits: int = 8, activation_bits: int = 8, zero_share: float = 0.0
) -> Hardened:
    """Quantize weights and insert activation quantizers where the co-tuning inserts them.

    ``images``: normalized float [N, C, H, W]. Standalone batch-norms get a quantizer, too.
    """
    graph = fx.symbolic_trace(model.eval())
    codebooks = {}
    for name, module in graph.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            codebooks[name] = codebook(module.weight, bits, zero_share)
            module.weight = nn.Parameter(torch.from_numpy(codebooks[name].dequantize()))
    ranges = _Ranges(graph)
    with torch.no_grad():
        ranges.run(images)
    done: set[fx.Node] = set()
    for node in list(graph.graph.nodes):
        found = kind(graph, node)
        quiet = found in RELU or found in PASSING or found in PASSING_METHODS or found is operator.getitem
        if node.op in ("output", "get_attr") or quiet or node in done or not node.users:
            continue
        end = node if node.op == "placeholder" else _chain_end(graph, node)
        absorbed = node
        while absorbed is not end:
            (absorbed,) = absorbed.users
            done.add(absorbed)
        if _is_final(graph, end) or end not in ranges.ranges:
            continue
        low, high = ranges.ranges[end]
        full = 2 ** (8 if node.op == "placeholder" else activation_bits)
        if low >= 0 and node.op != "placeholder":
            step = Quantize(max(high, 1e-6) / (full - 1), 0, full - 1)
        else:
            step = Quantize(max(-low, high, 1e-6) / (full // 2 - 1), -full // 2, full // 2 - 1)
        name = f"quantize_{end.name}"
        graph.add_module(name, step)
        with graph.graph.inserting_after(end):
            new = graph.graph.call_module(name, (end,))
        end.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
    graph.recompile()
    return Hardened(graph.eval(), codebooks)


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


class _QuantizedValues(TorchDispatchMode):
    """Records the integers of every fake quantization, in the order of execution."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[np.ndarray] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if "fake_quantize_per_tensor_affine" in str(func):
            values = result[0] if isinstance(result, tuple) else result
            self.found.append(np.rint(values.double().numpy() / args[1]).astype(np.int32))
        return result


def normalized(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 NHWC to what the network sees."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class Comparison(NamedTuple):
    worst_share: float  # of integers that differ, in the worst operation
    worst_difference: int
    outputs: np.ndarray
    wanted: np.ndarray


def compare(network: nn.Module, graph: g.Graph, images: np.ndarray, x: Tensor) -> Comparison:
    """Every operation on the fake-quantized network's own integers, so that differences do not add up.

    ``x`` are the normalized ``images``. Both networks must quantize at the same places with the same steps.
    """
    with torch.no_grad(), _QuantizedValues() as recorder:
        wanted = network(x).reshape(len(x), -1).numpy()
    recorded = iter(recorder.found)
    moving = (g.MaxPool, g.Slice, g.Pad, g.Reshape)
    values: dict[str, np.ndarray] = {graph.input.name: images.astype(np.int32)}
    share, difference = 0.0, 0
    for op in graph.operations:
        types = [graph.tensors[name] for name in (*op.inputs, op.output)]
        found = execute(op, [values[name] for name in op.inputs], types)
        if not types[-1].floating and not isinstance(op, moving):
            torchs = next(recorded)
            integers = torchs.transpose(0, 2, 3, 1) if torchs.ndim == 4 else torchs.reshape(found.shape)
            wrong = np.abs(integers - found)
            share, difference = max(share, float((wrong > 0).mean())), max(difference, int(wrong.max()))
            found = integers
        values[op.output] = found
    assert next(recorded, None) is None, "a quantizer of the network has no operation in the graph"
    return Comparison(share, difference, values[graph.output].reshape(len(x), -1), wanted)
