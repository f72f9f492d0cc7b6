"""The first check: the whole way of a candidate, walked with the network as it was given, before anything is trained.

It runs the product's own stages: trace, quantize, harden, compile, the integer reference on a few images, and the
fake-quantized network beside it. What passes compiles later; what cannot is refused with its layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir.graph import Convolution, Graph
from deploy_arm.ir.reference import run as run_reference
from foundation.errors import UserError
from foundation.modes import evaluating
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.images import Images, normalize
from pipeline.training.evaluation import reestimate_batch_norm
from quantizers.core.activation import FrozenStep
from quantizers.network import Hardened, harden, layer_names, quantize, unquantized
from quantizers.tracing.trace import traced
from search_spaces.layers import layers_of

IMAGES = 4  # that calibrate and that are shown to the given and to the traced network
REFERENCE_IMAGES = 2
TRACED_TOLERANCE = 1e-4  # of the largest output: the same arithmetic, perhaps by another kernel
# Root mean squares. A value on the edge between two integers may fall to the other side, which deep networks of random weights
# magnify: what such slips do to the answers is measured, and so much more than that is another network.
REFERENCE_TOLERANCE = 0.05  # of the outputs' standard deviation, whatever slips do
SLIPS = 1e-3  # share of the activations that slip by one step
SLIPS_TOLERANCE = 3.0


def first_check(
    model: nn.Module,
    images: Images,
    mean: Sequence[float],
    std: Sequence[float],
    plan: Plan | None = None,
    *,
    trained: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Walk the whole way with ``model``; it is not changed.

    Args:
        images: of which the first few are shown to it.
        trained: False for random weights. Their batch-norms know nothing of the values that reach them, which fade or grow from
            layer to layer, so a copy whose batch-norms have seen images is walked.
        plan: what is going to be trained, where that is known; without, every layer gets 8 bits.
        say: is told, in a line, where the network does something in training that co-tuning will not do.

    Returns:
        The names of the layers that a plan must speak of.

    Raises:
        UserError: the network cannot be traced, quantized or compiled, or would become another network on the way. The message
            names the layer where one is at fault.
    """
    pixels = images.batch(torch.arange(min(IMAGES, len(images))))
    x = normalize(pixels, mean, std).contiguous()  # as a forward with view() wants them
    shape = (x.shape[1], x.shape[2], x.shape[3])
    with _stage("traced"):
        for given in (
            model,
            _stirred(model),
        ):  # the second, since what starts at zero hides the branch behind it
            graph = traced(given)
            _compare_traced(given, graph, x)
        names = layer_names(graph)
        running = [layer.name for layer in layers_of(model, shape)]
    if not names:
        raise UserError("the network has no convolution and no linear layer, so there is nothing to compress")
    walked = model
    if not trained:
        walked = _stirred(model)
        with _stage("shown images in training mode"):
            reestimate_batch_norm(walked, images, IMAGES, mean, std)
    with _stage("quantized"):
        quantized = quantize(walked, plan or Plan.uniform(names, LayerPlan(8)), x)
        _compare_traced(walked, unquantized(quantized), x)
        hardened = harden(quantized)
    with _stage("compiled"):
        program = compile_graph(hardened, shape, mean, std)
        write_blob(program)
    _compare_layers(running, names, program)
    with _stage("run as integers"):
        _compare_reference(hardened, program, pixels[:REFERENCE_IMAGES], x[:REFERENCE_IMAGES])
    if say is not None:
        _compare_training(model, x, say)
    return names


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Turns what a stage raises on a network of someone else's into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise UserError(
            f"the network fails while it is {what} ({type(error).__name__}: {reason}); nothing was trained. Write that part with "
            "plain torch.nn modules, or choose another model"
        ) from error


@torch.no_grad()
def _compare_traced(given: nn.Module, graph: nn.Module, x: Tensor) -> None:
    """Refuse a network whose traced form computes something else."""
    given = copy.deepcopy(given).eval()
    given(x.clone())  # the second answer counts: a forward may keep something of the first
    wanted, found = given(x.clone()), graph.eval()(x.clone())
    if not isinstance(wanted, Tensor):
        raise UserError(f"the model must return one tensor, not a {type(wanted).__name__}")
    if not _same(wanted, found):
        raise UserError(
            f"the network becomes another one when torch.fx traces it (first different in {_parting(given, graph, x)}); its "
            "forward depends on something that tracing fixes or does not see, such as a write into a tensor that is read "
            "later, a counter, a hook of the whole network, or random numbers: write that without side effects"
        )


@torch.no_grad()
def _compare_training(model: nn.Module, x: Tensor, say: Callable[[str], None]) -> None:
    """Say it where the given network, in training mode, computes otherwise than the traced one that co-tuning trains."""
    given, graph = copy.deepcopy(model).train(), traced(model).train()
    answers, statistics = [], []
    for network in (given, graph):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                answers.append(network(x.clone()))
            except Exception:  # too few images for a batch-norm; training will tell
                return
        statistics.append({name: b for name, b in network.named_buffers() if b.is_floating_point()})
    wanted, found = answers
    if not isinstance(wanted, Tensor):
        return
    kept = all(
        torch.allclose(value, statistics[0][name], 1e-3, 1e-5, equal_nan=True)
        for name, value in statistics[1].items()
        if name in statistics[0]
    )
    if not kept or not _same(wanted, found):
        say(
            "note: in training mode the network computes otherwise than in evaluation, and co-tuning does not do that: it trains "
            "what the network does in evaluation, with dropout, drop-path modules and batch-norms as usual. Noise, drop-path "
            "without a module of its own, branches on self.training and a train() that freezes batch-norms are left out"
        )


def _same(wanted: Tensor, found: Tensor) -> bool:
    """Equal up to the rounding of another kernel."""
    return wanted.shape == found.shape and torch.allclose(
        found, wanted, 0.0, TRACED_TOLERANCE * float(wanted.abs().max()), equal_nan=True
    )


def _stirred(model: nn.Module) -> nn.Module:
    """A copy in which no floating-point parameter or statistic is constant."""
    stirred, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for name, tensor in (*stirred.named_parameters(), *stirred.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and (tensor == tensor.flatten()[0]).all():
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            tensor.data = 0.5 + noise if "var" in name or "weight" in name else 0.4 * (noise - 0.5)
    return stirred


def _parting(given: nn.Module, graph: nn.Module, x: Tensor) -> str:
    """The first module that gives the two networks different results."""
    seen: list[dict[str, Tensor]] = []
    for network in (given, graph):
        found: dict[str, Tensor] = {}
        handles = []
        for name, module in network.named_modules():
            if name and not list(module.children()):

                def note(
                    _: nn.Module,
                    __: object,
                    output: object,
                    name: str = name,
                    found: dict[str, Tensor] = found,
                ) -> None:
                    if isinstance(output, Tensor):
                        found.setdefault(name, output.clone())

                handles.append(module.register_forward_hook(note))
        try:
            with evaluating(network):
                network(x.clone())
        finally:
            for handle in handles:
                handle.remove()
        seen.append(found)
    wanted, found = seen
    for name, value in wanted.items():
        other = found.get(name)
        if other is not None and (other.shape != value.shape or not torch.allclose(value, other, 1e-3, 1e-5)):
            return f"what goes into layer {name}"
    return "what comes behind the last layer"


def _compare_layers(running: Sequence[str], names: Sequence[str], graph: Graph) -> None:
    """The layers that run, those that a plan speaks of and those that the compiler has seen must be the same."""
    compiled = {operation.layer for operation in graph.operations if isinstance(operation, Convolution)}
    for layer in dict.fromkeys((*running, *names)):
        if layer not in names:
            raise UserError(
                f"layer {layer} runs, but is lost when the network is traced; call it as a module, once"
            )
        if layer not in running or layer not in compiled:
            raise UserError(
                f"layer {layer} is part of the network, but its result does not reach the output; remove it from the forward"
            )


@torch.no_grad()
def _compare_reference(hardened: Hardened, graph: Graph, pixels: Tensor, x: Tensor) -> None:
    """The program's integers against the fake-quantized network in PyTorch."""
    answered = run_reference(graph, pixels.numpy())
    result = hardened.network(x)
    wanted = (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).reshape(len(x), -1).numpy()
    if answered.shape != wanted.shape:
        raise UserError(
            f"the compiled network gives {answered.shape[1]} values an image and PyTorch {wanted.shape[1]}"
        )
    spread, difference = float(wanted.std()), _distance(answered, wanted)
    allowed = REFERENCE_TOLERANCE * spread + 1e-6 * float(np.abs(wanted).max())
    if not difference <= allowed:
        with _slipping(hardened.network):
            slipped = hardened.network(x)
        allowed = max(allowed, SLIPS_TOLERANCE * _distance(slipped.numpy(), result.numpy()))
    if not difference <= allowed:
        raise UserError(
            "the compiled network answers otherwise than PyTorch's "
            f"(by {difference:.3g}, where answers differ by {spread:.3g}); its last "
            f"layers are {', '.join(dict.fromkeys(op.layer for op in graph.operations[-4:]))}. Please choose another model"
        )


def _distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(first - second).mean()))


@contextmanager
def _slipping(network: nn.Module) -> Iterator[None]:
    """A few values of every quantized activation, at least one, are the next integer."""
    generator = torch.Generator().manual_seed(0)

    def slip(module: nn.Module, _: object, output: Tensor) -> Tensor:
        step = cast(FrozenStep, module)
        chance = max(SLIPS, 1 / output.numel())
        falls = torch.rand(output.shape, generator=generator)
        falls.flatten()[0] = 0.0
        up = torch.where(output < step.step * step.high, step.step, -step.step)
        return torch.where(falls < chance, output + up, output)

    handles = [m.register_forward_hook(slip) for m in network.modules() if isinstance(m, FrozenStep)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
