"""Layers rebuilt one by one: each is to give, from quantized inputs, the output that the fp32 layer gave; without labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from quantizers.calibration.assignment import Problem, solve
from quantizers.calibration.lockstep import channel_statistics, lockstep, match_batch_norm
from quantizers.core.activation import TrainableStep
from quantizers.core.base import WeightQuantizer
from quantizers.network import quantizers_of
from quantizers.tracing.trace import traced

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.SiLU, nn.GELU)


@dataclass(frozen=True)
class Reconstruction:
    """How layers are rebuilt.

    Attributes:
        steps: of Adam for each layer; 0 learns nothing.
        solve: solve first which value each weight takes, and let biases keep the outputs' means.
        rounds, passes, damping: of that; see ``quantizers.calibration.assignment``.
        match_norms: give each batch-norm, once the layers before it have learned, the statistics that keep mean and variance of
            its outputs (``quantizers.calibration.lockstep.match_batch_norm``).
        positions: of the output, drawn from each image; ``batch`` of them are taken in a step.
        rate: of Adam; what is measured as weights are takes it in units of the weights' standard deviation.
        penalty: weight of a quantizer's own penalty, summed over the weights, against the squared error, summed over the outputs
            and relative to their variance.
    """

    steps: int = 0
    solve: bool = True
    rounds: int = 6
    passes: int = 2
    damping: float = 0.01
    positions: int = 32
    batch: int = 256
    rate: float = 0.01
    penalty: float = 0.01
    seed: int = 0
    match_norms: bool = True


def patches(module: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    """What the layer sees at ``places`` of its output: [P, in, kh, kw] of an input [n, in, H, W].

    Args:
        places: int64 [P], indices into the flattened output positions of all images, [n * Ho * Wo]; of a linear layer, into the
            rows of its input.
    """
    if not isinstance(module, nn.Conv2d):
        return x.flatten(0, -2)[places][:, :, None, None]
    padded = F.pad(x, padding_of(module))
    rows, columns = output_size(module, x)
    image, place = places // (rows * columns), places % (rows * columns)
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    top = (place // columns * sh)[:, None] + torch.arange(kh) * dh
    left = (place % columns * sw)[:, None] + torch.arange(kw) * dw
    seen = padded.permute(0, 2, 3, 1)[image[:, None, None], top[:, :, None], left[:, None, :]]
    return seen.permute(0, 3, 1, 2)


def output_size(module: nn.Module, x: Tensor) -> tuple[int, int]:
    """Rows and columns of the layer's output for an input [n, in, H, W]; a linear layer has one for each row of its input."""
    if not isinstance(module, nn.Conv2d):
        return 1, x.numel() // (x.shape[0] * x.shape[-1])
    left, right, top, bottom = padding_of(module)
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    return (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1


def padding_of(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Rows and columns of zeros that the layer adds: left, right, top, bottom. ``same`` puts the odd one right and below."""
    around: list[int] = []
    for axis in (1, 0):
        if module.padding == "valid":
            before = after = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(module.padding[axis])
        around += [before, after]
    left, right, top, bottom = around
    return left, right, top, bottom


def apply(weight: Tensor, seen: Tensor, groups: int) -> Tensor:
    """The layer's output [P, out] at each patch [P, in, kh, kw]."""
    grouped = seen.reshape(len(seen), groups, -1)
    return torch.einsum("pgk,gok->pgo", grouped, weight.reshape(groups, -1, grouped.shape[2])).flatten(1)


@torch.no_grad()
def reconstruct(
    network: fx.GraphModule,
    original: nn.Module,
    batches: list[Tensor],
    how: Reconstruction,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Rebuild the layers of ``network`` in the order of execution, so that each gives, from the inputs that the quantized network
    gives it, what the fp32 layer gives in the fp32 network.

    Where a quantizer says which values weights may take (``grid``), the assignment of weights to them is solved
    (``quantizers.calibration.assignment``); where it says what can learn (``reconstruction``), that learns for ``how.steps``
    steps, judged behind the batch-norm and the activation function that directly follow (equation 25 of AdaRound). Both networks
    run side by side, so that in memory are only the values that nodes still to come will read.

    Args:
        network: made by ``quantizers.network.quantize`` from ``original``.
        batches: normalized images, float [n, C, H, W] each.
        progress: called with the layers that are done and all of them.
    """
    layers = {name: (q, w) for name, q, w in quantizers_of(network)}
    plain = traced(original)
    side = _Beside(plain, batches)
    done = 0
    for node, values in lockstep(network, batches):
        name = str(node.target)
        module = network.get_submodule(name)
        if isinstance(module, nn.BatchNorm2d) and how.match_norms:
            _, meant = side.at(name)
            source = cast(nn.BatchNorm2d, plain.get_submodule(name))
            match_batch_norm(module, source, values, channel_statistics(meant))
        if name not in layers:
            continue
        twin, meant = side.at(name)
        source_layer = plain.get_submodule(name)
        groups = getattr(module, "groups", 1)
        seen = _sample(module, values, how, done)
        given = _sample(source_layer, meant, how, done)
        wanted = apply(cast(Tensor, source_layer.weight), given, groups)
        if how.solve:
            behind = _behind(plain, twin)
            solved(*layers[name], seen, given, _importance(behind, wanted), groups, how)
        if how.steps:
            learn(*layers[name], seen, _behind(plain, twin)(wanted), _behind(network, node), groups, how)
        if how.solve and module.bias is not None and not _normalized(network, node):
            _correct_bias(module, layers[name], seen, wanted, groups)
        done += 1
        if progress is not None:
            progress(done, len(layers))


class _Beside:
    """The fp32 network, run as far as the quantized one is."""

    def __init__(self, network: fx.GraphModule, batches: list[Tensor]) -> None:
        self._walk = lockstep(network, batches)

    def at(self, name: str) -> tuple[fx.Node, list[Any]]:
        """The node that calls this module, and its inputs; the names are asked for in the order of execution."""
        for node, values in self._walk:
            if str(node.target) == name:
                return node, values
        raise ValueError(f"{name} is not called behind the layers that were asked for before")


def solved(
    quantizer: WeightQuantizer,
    latent: nn.Parameter,
    seen: Tensor,
    given: Tensor,
    importance: Tensor,
    groups: int,
    how: Reconstruction,
) -> None:
    """Solve which value each weight takes, and have the quantizer adopt it.

    Args:
        seen, given: patches [P, in, kh, kw] of the layer's inputs, quantized and fp32.
        importance: of each output channel's squared error, [O].
    """
    grid = quantizer.grid(latent.detach())
    if grid is None:
        return
    weight = latent.detach().reshape(groups, len(latent) // groups, -1)
    grid = replace(grid, scale=grid.scale.reshape(weight.shape[:2]))
    seen, given = (x.reshape(len(x), groups, -1).transpose(0, 1) for x in (seen, given))
    problem = Problem.of(weight, seen, given, importance.reshape(weight.shape[:2]), how.damping)
    grid, owner = solve(problem, grid, quantizer.zero_target, how.rounds, how.passes)
    quantizer.adopt(latent, grid, owner)
    quantizer.set_progress(1.0)
    quantizer.eval()


def _importance(behind: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
    """How much of a small error of each output channel [O] arrives behind what follows: its squared slope, on average."""
    small = 1e-3 * out.std(0).clamp(min=1e-6)
    slope = (behind(out + small) - behind(out - small)) / (2 * small)
    square = slope.square().mean(0).double()
    return square + 1e-3 * square.mean().clamp(
        min=1e-12
    )  # a channel that is silent here may not be so elsewhere


def _normalized(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a batch-norm, which takes up any mean, is all that reads the layer."""
    (reader, *others) = node.users or [None]
    if others or reader is None or reader.op != "call_module":
        return False
    return isinstance(network.get_submodule(str(reader.target)), nn.BatchNorm2d)


def _correct_bias(
    module: nn.Module, layer: tuple[WeightQuantizer, nn.Parameter], seen: Tensor, wanted: Tensor, groups: int
) -> None:
    """Let the bias keep the mean of each output channel (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, with
    images instead of statistics)."""
    quantizer, latent = layer
    out = apply(quantizer.eval()(latent.detach()), seen, groups)
    cast(Tensor, module.bias).add_((wanted - out).mean(0))


def _sample(module: nn.Module, values: list[Tensor], how: Reconstruction, number: int) -> Tensor:
    """Patches at random output positions of every image; the same positions whenever the sizes are the same."""
    generator = torch.Generator().manual_seed(how.seed * 1_000_003 + number)
    found = []
    for x in values:
        rows, columns = output_size(module, x)
        inside = torch.randint(0, rows * columns, (len(x), how.positions), generator=generator)
        places = inside + torch.arange(len(x))[:, None] * (rows * columns)
        found.append(patches(module, x, places.flatten()))
    return torch.cat(found)


def _behind(network: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor]:
    """The layer's bias and what directly follows it, batch-norm and activation, without quantizers, on outputs [P, out]."""
    module = network.get_submodule(str(node.target))
    bias = cast("Tensor | None", module.bias)
    modules: list[nn.Module] = []
    while len(node.users) == 1:
        (node,) = node.users
        if node.op != "call_module":
            break
        module = network.get_submodule(str(node.target))
        if isinstance(module, (nn.BatchNorm2d, *ACTIVATIONS)):
            modules.append(module)
        elif not isinstance(module, TrainableStep):
            break

    def run(out: Tensor) -> Tensor:
        out = out if bias is None else out + bias.detach()
        out = out[:, :, None, None]
        for module in modules:
            out = module(out)
        return out.flatten(1)

    return run


def learn(
    quantizer: WeightQuantizer,
    latent: nn.Parameter,
    seen: Tensor,
    wanted: Tensor,
    behind: Callable[[Tensor], Tensor],
    groups: int,
    how: Reconstruction,
) -> None:
    """Adam on the mean squared error of the layer's output over the output's variance; what learns, the quantizer says."""
    what = quantizer.reconstruction(latent)
    if what is None:
        return
    unit = float(latent.detach().std(correction=0)) or 1.0
    sizes = ((what.like_weights, how.rate * unit), (what.others, how.rate))
    optimizer = torch.optim.Adam([{"params": list(params), "lr": rate} for params, rate in sizes if params])
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    peaks = [group["lr"] for group in optimizer.param_groups]
    variance = wanted.var().clamp(min=1e-12)
    generator = torch.Generator().manual_seed(how.seed)
    quantizer.train()
    with torch.enable_grad():
        for step in range(how.steps):
            progress = step / how.steps
            quantizer.set_progress(progress)
            if what.cosine:
                for group, peak in zip(optimizer.param_groups, peaks):
                    group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))
            rows = torch.randint(0, len(seen), (how.batch,), generator=generator)
            out = behind(apply(quantizer(latent), seen[rows], groups))
            loss = (out - wanted[rows]).square().mean() / variance
            if what.penalty is not None:
                loss = loss + how.penalty * what.penalty(progress) / wanted.shape[1]
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=learned)
            optimizer.step()
    quantizer.set_progress(1.0)
    quantizer.eval()
