"""Layers rebuilt one by one: each is to give, from quantized inputs, the output that the fp32 layer gave; without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizers.calibration.assignment import Problem, solve
from quantizers.calibration.lockstep import MEMORY, lockstep
from quantizers.calibration.norms import channel_statistics, match_batch_norm
from quantizers.calibration.patches import apply, sampled
from quantizers.core.activation import LeftReLU, TrainableStep
from quantizers.core.base import WeightQuantizer
from quantizers.core.placement import RELU, RELU6, kind
from quantizers.network import quantizers_of
from quantizers.tracing.trace import traced

ACTIVATIONS = (nn.LeakyReLU, nn.Hardswish, nn.SiLU, nn.GELU)
FUNCTIONS = frozenset({F.leaky_relu, F.hardswish, F.silu, F.gelu})


@dataclass(frozen=True)
class Reconstruction:
    """How layers are rebuilt.

    Attributes:
        steps: of Adam for each layer; 0 learns nothing.
        solve: solve first which value each weight takes.
        solve_int8: also of layers with 8-bit weights, and of any other whose quantizer is ``fine``.
        clip_int8: let the ranges of those that are not solved end where the weights' squared error is least
            (``WeightQuantizer.clip``).
        match_biases: where ``solve``, let biases that no batch-norm follows keep the outputs' means.
        match_steps: fit activation steps anew, each once the layers before it are rebuilt.
        rounds, passes, damping: of that; see ``quantizers.calibration.assignment``.
        match_norms: give each batch-norm, once the layers before it have learned, the statistics that keep mean and variance of
            its outputs (``quantizers.calibration.norms.match_batch_norm``).
        positions: of the output, drawn from each image; ``batch`` of them are taken in a step.
        rate: of Adam; what is measured as weights are takes it in units of the weights' standard deviation.
        penalty: weight of a quantizer's own penalty, summed over the weights, against the squared error, summed over the outputs
            and relative to their variance.
        turns: of solving again for what arrives behind a ReLU (``rectified_aim``); 0 looks at the layer's output alone.
        memory: bytes of activations that are kept in memory; a temporary file takes what is beyond.
    """

    steps: int = 0
    solve: bool = True
    solve_int8: bool = False
    clip_int8: bool = False
    match_biases: bool = True
    match_steps: bool = False
    rounds: int = 6
    passes: int = 2
    damping: float = 0.01
    positions: int = 32
    batch: int = 256
    rate: float = 0.01
    penalty: float = 0.01
    seed: int = 0
    match_norms: bool = True
    memory: int = MEMORY
    turns: int = 0


class Kept(Protocol):
    """Where what is settled of a layer or a batch-norm is kept, so that a rebuilding that was cut off goes on from there."""

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The module's state as it was kept; None where it was not."""

    def put(self, name: str, state: dict[str, Tensor]) -> None:
        """Keep it."""


@torch.no_grad()
def reconstruct(
    network: fx.GraphModule,
    original: nn.Module,
    batches: Sequence[Tensor],
    how: Reconstruction,
    progress: Callable[[int, int], None] | None = None,
    kept: Kept | None = None,
) -> None:
    """Rebuild the layers of ``network`` in the order of execution, so that each gives, from the inputs that the quantized network
    gives it, what the fp32 layer gives in the fp32 network.

    Where a quantizer says which values weights may take (``grid``), the assignment of weights to them is solved
    (``quantizers.calibration.assignment``); where it says what can learn (``reconstruction``), that learns for ``how.steps``
    steps, judged behind the batch-norm and the activation function that directly follow (equation 25 of AdaRound). What the
    plan's dimensions want of a layer's weights (``WeightQuantizer.effect``) holds throughout. What is called several times is
    settled for its first call: what ran behind that has seen it so. Both networks run side by side, so that kept are only the
    values that layers still to come will read, in memory at most ``how.memory`` bytes of them.

    Args:
        network: made by ``quantizers.network.quantize`` from ``original``, on any device.
        batches: normalized images, float [n, C, H, W] each, on that device.
        progress: called with the layers that are done and all of them.
        kept: gives what an earlier run of the same settled, and gets what this one settles.
    """
    layers = {name: (q, w) for name, q, w in quantizers_of(network)}
    plain = traced(original)
    side = _Beside(plain, batches, how.memory // 2)
    done = 0
    settled: set[str] = set()

    def stops(module: nn.Module) -> bool:
        return _settled(module) or (how.match_steps and isinstance(module, TrainableStep))

    for node, values in lockstep(network, batches, stops, how.memory // 2):
        name = str(node.target)
        if name in settled:
            continue
        settled.add(name)
        module = network.get_submodule(name)
        state = kept.get(name) if kept is not None else None
        if state is not None:
            module.load_state_dict(state)
        elif name in layers:
            twin, meant = side.at(name)
            _rebuild(network, node, layers[name], values, plain, twin, meant, how, done)
        elif isinstance(module, TrainableStep):
            if module.step.requires_grad:  # the input's keeps its whole range
                module.calibrate(values)
        elif isinstance(module, _BatchNorm) and how.match_norms:
            _, meant = side.at(name)
            found, wanted = channel_statistics(values), channel_statistics(meant)
            match_batch_norm(module, plain.get_submodule(name), found, wanted)
        if kept is not None and state is None:
            kept.put(name, module.state_dict())
        if name in layers:
            layers[name][0].set_progress(1.0)
            layers[name][0].eval()
            done += 1
            if progress is not None:
                progress(done, len(layers))


def work_of(network: fx.GraphModule) -> list[float]:
    """About how long each layer takes to be rebuilt, in the order of execution, relative to each other."""
    weights = {name: latent for name, _, latent in quantizers_of(network)}
    called = [str(node.target) for node in network.graph.nodes if str(node.target) in weights]
    # Columns are settled one after another; what each settles is taken out of those that are correlated with it.
    return [weights[name].numel() * (weights[name][0].numel() + 1000.0) for name in dict.fromkeys(called)]


def _settled(module: nn.Module) -> bool:
    """Whether rebuilding changes such a module."""
    return isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm))


def _rebuild(
    network: fx.GraphModule,
    node: fx.Node,
    layer: tuple[WeightQuantizer, nn.Parameter],
    values: Iterable[Tensor],
    plain: fx.GraphModule,
    twin: fx.Node,
    meant: Iterable[Tensor],
    how: Reconstruction,
    number: int,
) -> None:
    """One layer, the ``number``-th, from the ``values`` that it is given and those that are ``meant``, its ``twin``'s."""
    module, source = (net.get_submodule(str(at.target)) for net, at in ((network, node), (plain, twin)))
    groups = getattr(module, "groups", 1)
    seed = how.seed * 1_000_003 + number
    seen, given = (sampled(source, each, how.positions, seed) for each in (values, meant))
    wanted = apply(cast(Tensor, source.weight), given, groups)
    behind = _behind(plain, twin)
    if how.clip_int8:
        layer[0].clip(layer[1])
    if how.solve and (how.solve_int8 or not layer[0].fine):
        solved(*layer, seen, given, _importance(behind, wanted), groups, how, _rectified(plain, twin))
    if how.steps:
        learn(*layer, seen, behind(wanted), _behind(network, node), groups, how)
    if how.solve and how.match_biases and module.bias is not None and not _normalized(network, node):
        _correct_bias(module, layer, seen, wanted, groups)


class _Beside:
    """The fp32 network, run as far as the quantized one is."""

    def __init__(self, network: fx.GraphModule, batches: Sequence[Tensor], memory: int) -> None:
        self._walk = lockstep(network, batches, _settled, memory)

    def at(self, name: str) -> tuple[fx.Node, Iterable[Tensor]]:
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
    rectified: Rectified | None = None,
) -> None:
    """Solve which value each weight takes, and have the quantizer adopt it.

    Args:
        seen, given: patches [P, in, kh, kw] of the layer's inputs, quantized and fp32.
        importance: of each output channel's squared error, [O].
    """
    if quantizer.grid(latent.detach()) is None:  # then nothing needs to be worked out
        return
    zeros = _wanted_zeros(quantizer, latent)
    weight = latent.detach().reshape(groups, len(latent) // groups, -1)
    seen, given = (x.reshape(len(x), groups, -1).transpose(0, 1) for x in (seen, given))
    problem = Problem.of(weight, seen, given, importance.reshape(weight.shape[:2]), how.damping)
    wanted = problem.target.view_as(latent)
    quantizer.suit(wanted if zeros is None else wanted.masked_fill(zeros, 0.0))
    grid = quantizer.grid(latent.detach())
    if grid is None or (zeros is not None and grid.zero < 0):
        return
    grid = replace(grid, scale=grid.scale.reshape(weight.shape[:2]))
    pinned = None if zeros is None else zeros.reshape(weight.shape)
    grid, owner = solve(problem, grid, quantizer.zero_target, how.rounds, how.passes, pinned)
    if rectified is not None and how.turns:
        outputs = given @ weight.mT  # [G, P, O]
        bound, size = (x.reshape(groups, 1, -1) for x in (rectified.bound, rectified.slope))
        problem = replace(problem, importance=rectified.slope.square().double().reshape(weight.shape[:2]))
        for _ in range(how.turns):
            out = seen @ grid.values(owner).to(seen.dtype).mT
            aim = rectified_aim(out, outputs, bound, size)
            problem = problem.aimed(seen, aim, weight, how.damping)
            grid, owner = solve(problem, grid, quantizer.zero_target, 2, how.passes, pinned, owner)
    quantizer.adopt(latent, grid, owner)
    _keep_effect(quantizer, latent)


@dataclass(frozen=True)
class Rectified:
    """A layer behind which, after a batch-norm at most, comes a ReLU: outputs beyond ``bound`` [O] (below it where ``slope`` [O]
    of the batch-norm is positive, else above) become 0."""

    bound: Tensor
    slope: Tensor


def rectified_aim(out: Tensor, wanted: Tensor, bound: Tensor, slope: Tensor) -> Tensor:
    """What outputs ``out`` should become so that their squared distance to it is an upper bound of the squared error behind the
    ReLU, and equal to that where they are now (majorization-minimization), but where the ReLU stops what it should pass: there
    an equal bound would leave them.

    Where the ReLU passes what is ``wanted``, that; where it does not, what there is if it is stopped too, and else the bound.
    """
    sign = torch.where(slope < 0, -1.0, 1.0)
    stopped = (bound - out) * sign >= 0
    return torch.where((wanted - bound) * sign > 0, wanted, torch.where(stopped, out, bound))


def _rectified(network: fx.GraphModule, node: fx.Node) -> Rectified | None:
    """The ReLU behind a layer, if nobody reads anything before it."""
    module = network.get_submodule(str(node.target))
    bias = cast("Tensor | None", module.bias)
    weight = cast(Tensor, module.weight)
    shift = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    slope = torch.ones_like(shift)
    while len(node.users) == 1:
        (node,) = node.users
        sort = kind(network, node) if node.op != "output" else None
        if sort in RELU:
            bound = torch.where(slope == 0, -shift, -shift / torch.where(slope == 0, 1.0, slope))
            return Rectified(bound, slope)
        norm = _norm(network, node, len(weight))
        if norm is None or norm.running_var is None or norm.running_mean is None:
            return None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        moved = 0.0 if norm.bias is None else norm.bias.detach()
        shift, slope = (shift - norm.running_mean) * scale + moved, slope * scale
    return None


def _wanted_zeros(quantizer: WeightQuantizer, latent: Tensor) -> Tensor | None:
    """Which weights the plan's dimensions want to be zero; None where they want nothing."""
    return None if quantizer.effect is None else quantizer.effect(latent.detach()) == 0


@torch.no_grad()
def _keep_effect(quantizer: WeightQuantizer, latent: nn.Parameter) -> None:
    """Let the weights be as the plan's dimensions want them."""
    if quantizer.effect is not None:
        latent.copy_(quantizer.effect(latent.detach()))


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
    if others or reader is None:
        return False
    return (
        _norm(network, reader, len(cast(Tensor, network.get_submodule(str(node.target)).weight))) is not None
    )


def _norm(network: fx.GraphModule, node: fx.Node, channels: int) -> _BatchNorm | None:
    """The batch-norm that a node calls, if it has as many channels as a layer before it has outputs: behind a linear layer of
    several rows for each image it would norm the rows."""
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, _BatchNorm) and module.num_features == channels else None


def _correct_bias(
    module: nn.Module, layer: tuple[WeightQuantizer, nn.Parameter], seen: Tensor, wanted: Tensor, groups: int
) -> None:
    """Let the bias keep the mean of each output channel (Nagel et al., "Data-Free Quantization", ICCV 2019, section 4.2, with
    images instead of statistics)."""
    quantizer, latent = layer
    out = apply(quantizer.eval()(latent.detach()), seen, groups)
    cast(Tensor, module.bias).add_((wanted - out).mean(0))


def _behind(network: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor]:
    """The layer's bias and what directly follows it, batch-norm and activation, without quantizers, on outputs [P, out]."""
    module = network.get_submodule(str(node.target))
    bias = cast("Tensor | None", module.bias)
    steps: list[Callable[[Tensor], Tensor]] = []
    while len(node.users) == 1:
        (node,) = node.users
        norm = _norm(network, node, len(cast(Tensor, module.weight)))
        step = _activation(network, node) if norm is None else _on_maps(norm)
        if step is not None:
            steps.append(step)
        elif node.op != "call_module" or not isinstance(
            network.get_submodule(str(node.target)), TrainableStep
        ):
            break

    def run(out: Tensor) -> Tensor:
        out = out.clone() if bias is None else out + bias.detach()  # some activations work in place
        out = out[:, :, None, None]
        for step in steps:
            out = step(out)
        return out.flatten(1)

    return run


def _on_maps(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    """What a batch-norm, also one behind a linear layer, makes of outputs [P, out, 1, 1]. One without statistics has those of the
    first outputs that it is given: by their own, a shift of all would have no slope."""
    if norm.running_mean is not None:
        return lambda x: norm(x.flatten(1))[..., None, None] if isinstance(norm, nn.BatchNorm1d) else norm(x)
    first: list[tuple[Tensor, Tensor]] = []

    def run(x: Tensor) -> Tensor:
        if not first:
            variance, mean = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
            first.append((mean, variance))
        return F.batch_norm(x, *first[0], norm.weight, norm.bias, training=False, eps=norm.eps)

    return run


def _activation(network: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
    """What an activation makes of values, whether it is a module, a function or a method; None: it is something else."""
    if node.op == "output":
        return None
    sort = kind(network, node)
    if sort in RELU or sort is LeftReLU:
        return torch.relu
    if sort in RELU6:
        return F.relu6
    if sort in FUNCTIONS:
        named = {name: value for name, value in node.kwargs.items() if name != "input"}
        return lambda x: cast(Any, node.target)(x, *node.args[1:], **named)
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, ACTIVATIONS) else None


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
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if not learned:
        return
    peaks = [group["lr"] for group in optimizer.param_groups]
    variance = wanted.var().clamp(min=1e-12)
    generator = torch.Generator().manual_seed(how.seed)  # on the CPU: the same on every device
    quantizer.train()
    with torch.enable_grad():
        for step in range(how.steps):
            progress = step / how.steps
            quantizer.set_progress(progress)
            if what.cosine:
                for group, peak in zip(optimizer.param_groups, peaks):
                    group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))
            rows = torch.randint(0, len(seen), (how.batch,), generator=generator, device="cpu").to(
                seen.device
            )
            out = behind(apply(quantizer(latent), seen[rows], groups))
            loss = (out - wanted[rows]).square().mean() / variance
            if what.penalty is not None:
                loss = loss + how.penalty * what.penalty(progress) / wanted.shape[1]
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=learned)
            optimizer.step()
            _keep_effect(quantizer, latent)
    quantizer.set_progress(1.0)
    quantizer.eval()
