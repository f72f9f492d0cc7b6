"""A network with quantized weights and activations: made for co-tuning, hardened for evaluation and deployment.

The model is traced by ``torch.fx``; its own modules stay as they are, with a parametrization on each weight
(``torch.nn.utils.parametrize``) and quantizers where ``quantizers.core.placement`` says. In a program exported from a hardened
network every activation quantizer is one node ``aten.fake_quantize_per_tensor_affine.default(x, step, 0, low, high)``.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from foundation.codebook import Codebook
from foundation.dimension import DIMENSIONS
from foundation.errors import UserError
from foundation.modes import evaluating
from foundation.plan import LayerPlan, Plan
from quantizers.core.activation import FrozenStep, LeftReLU, TrainableStep
from quantizers.core.base import WeightQuantizer
from quantizers.core.placement import RELU, Placement, kind, placements
from quantizers.core.uncompiled import uncompiled
from quantizers.registry import QUANTIZERS
from quantizers.tracing.memory import layer_of
from quantizers.tracing.trace import traced

INPUT_BITS = 8
PREFIX = "quantize_"
PARTS = ("indices", "levels", "scale")
MIDDLE = "middle"  # of codebooks that have it


class Hardened(NamedTuple):
    """A network with plain weights ``codebook.dequantize()`` and frozen activation steps, and its codebooks by layer."""

    network: nn.Module
    codebooks: dict[str, Codebook]


def layer_names(model: nn.Module) -> list[str]:
    """Every convolution and linear layer, first and last included, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def end_layers(network: fx.GraphModule) -> set[str]:
    """The layers of a traced network that no other comes before, and those that no other comes behind: a network may have several
    of each."""
    layers = set(layer_names(network))

    def outer(nodes: list[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> set[str]:
        passed: set[fx.Node] = set()
        found = set()
        for node in nodes:
            is_layer = node.op == "call_module" and str(node.target) in layers
            if any(other in passed for other in neighbours(node)):
                passed.add(node)
            elif is_layer:
                found.add(str(node.target))
                passed.add(node)
        return found

    nodes = list(network.graph.nodes)
    return outer(nodes, lambda node: node.all_input_nodes) | outer(nodes[::-1], lambda node: node.users)


def quantize(model: nn.Module, plan: Plan, calibration: Tensor | None, **options: Any) -> fx.GraphModule:
    """A copy of ``model`` to be co-tuned by ``plan``.

    Args:
        calibration: normalized float images [N, C, H, W] from which first activation steps are taken, with the fp32
            weights; None gives a skeleton whose state is to be loaded.
        options: of the plan's quantizer, fields of its ``Options``.

    Raises:
        UserError: the model cannot be traced, or the plan names other layers than the model has, or it or an option asks its
            quantizer for what that cannot do.
    """
    network = traced(model)
    _check_layers(network, plan)
    _untie(network, plan)
    sorts = {name: quantizer_for(plan, layer) for name, layer in plan.layers.items()}
    chosen = QUANTIZERS[plan.quantizer]
    told = chosen.options_for(plan, options)
    for place in placements(network):
        bits = INPUT_BITS if place.is_input else plan.activation_bits
        step = TrainableStep(bits, signed=place.signed, learned=not place.is_input)
        _insert(network, place.node, step)
        step.alone = True  # all others read its output instead
        _leave_relu_to(step, network, place)
    network.recompile()
    if calibration is not None:
        _calibrate(network, calibration)
    for name, layer in plan.layers.items():
        module = network.get_submodule(name)
        weight = cast(Tensor, module.weight).detach()
        wanted = layer.apply(weight)
        sort = sorts[name]
        mine = told if sort is chosen else sort.options_for(plan, {})
        quantizer = sort.for_layer(wanted, layer, mine, initialise=calibration is not None)
        if wanted is not weight:
            quantizer.effect = layer.apply
            quantizer.register_forward_hook(leave_zeros)
        parametrize.register_parametrization(module, "weight", quantizer)
    if any(quantizer.effect for _, quantizer, _ in quantizers_of(network)):
        network.register_forward_pre_hook(keep_effects)
    network.register_forward_pre_hook(prepare)
    return network


def quantizers_of(network: nn.Module) -> Iterator[tuple[str, WeightQuantizer, nn.Parameter]]:
    """Name, quantizer and latent weight of every quantized layer."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            entry: Any = module.parametrizations["weight"]
            yield name, entry[0], entry.original


def prepare(network: nn.Module, inputs: Any = None) -> None:
    """A network's forward pre-hook: in training, quantizers do for many layers together what the coming forward pass needs. A
    layer that is called by itself does it alone."""
    if network.training:
        _prepare(network)


@uncompiled  # a compiled network calls it as it is
def _prepare(network: nn.Module) -> None:
    together: dict[type[WeightQuantizer], list[tuple[WeightQuantizer, Tensor]]] = defaultdict(list)
    for _, quantizer, weight in quantizers_of(network):
        together[type(quantizer)].append((quantizer, weight))
    for sort, layers in together.items():
        sort.prepare(layers)


def leave_zeros(quantizer: nn.Module, latent: tuple[Tensor], quantized: Tensor) -> Tensor:
    """A weight that the plan's dimensions made zero is zero, whatever the quantizer's levels. Its gradient goes to the latent
    weight alone, which may so grow back while that is allowed."""
    return torch.where(latent[0] == 0, latent[0], quantized)


@uncompiled  # a compiled network calls it as it is
@torch.no_grad()
def keep_effects(network: nn.Module, inputs: Any = None) -> None:
    """Let latent weights be as their plan's dimensions want them (``Dimension.apply``), which a step of training undoes."""
    for _, quantizer, weight in quantizers_of(network):
        if quantizer.effect is not None:
            wanted = quantizer.effect(weight, quantizer.effect_progress)
            # What was computed from a weight is kept for as long as nobody writes to it.
            if not torch.equal(wanted, weight):
                weight.copy_(wanted)


def set_progress(network: nn.Module, progress: float) -> None:
    """Tell every weight quantizer how much of the training lies behind, 0 to 1."""
    for module in network.modules():
        if isinstance(module, WeightQuantizer):
            module.effect_progress = progress
            module.set_progress(progress)


def parameter_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimizer, each once: weights with decay; a quantizer's own at its own rate, activation steps, and
    batch-norm and biases, all without."""
    own: dict[float, list[nn.Parameter]] = defaultdict(list)
    for _, quantizer, _ in quantizers_of(network):
        own[quantizer.rate] += quantizer.own_parameters()
    steps = [m.step for m in network.modules() if isinstance(m, TrainableStep)]
    special = {id(p) for p in (*(p for ps in own.values() for p in ps), *steps)}
    others = [p for p in network.parameters() if id(p) not in special]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        *({"params": own[rate], "lr": rate * lr, "weight_decay": 0.0} for rate in own),
        {"params": steps, "lr": lr, "weight_decay": 0.0},
    ]
    for group in groups:
        group["params"] = [p for p in cast(list[nn.Parameter], group["params"]) if p.requires_grad]
    return [group for group in groups if group["params"]]


def harden(network: nn.Module) -> Hardened:
    """What would be deployed now: a copy in evaluation mode with weights projected once and steps frozen.

    Raises:
        UserError: a quantizer cannot store what a dimension of the plan makes of the weights.
    """
    books = {}
    for name, quantizer, latent in quantizers_of(network):
        weight = latent.detach()
        if quantizer.effect is not None:
            weight = quantizer.effect(weight)  # as at the end of training, which goes on unaffected
        books[name] = quantizer.codebook(weight)
        _check_effect(name, quantizer, books[name])
    hard = copy.deepcopy(network)
    for name in books:
        hard.set_submodule(name, _plain(hard.get_submodule(name)))
    for name, module in list(hard.named_modules()):
        if isinstance(module, TrainableStep):
            hard.set_submodule(name, module.frozen())
        elif isinstance(module, LeftReLU):
            hard.set_submodule(name, nn.ReLU())
    return _with_weights(hard, books)


def _check_effect(name: str, quantizer: WeightQuantizer, book: Codebook) -> None:
    if quantizer.effect is not None:
        stored = torch.from_numpy(book.dequantize())
        if not torch.equal(quantizer.effect(stored), stored):
            raise UserError(
                f"layer {name}: {type(quantizer).__name__} has no level for what the plan's dimensions make of its weights "
                "(such as zeros); choose another quantizer, or leave that dimension out"
            )


def hard_state(hardened: Hardened) -> dict[str, Tensor]:
    """A hardened network as tensors: of each layer ``indices`` (uint8), ``levels`` (int8) and ``scale``, with ``middle`` (int8)
    where its codebook has it; of each activation quantizer ``step``, ``low`` and ``high`` (float64); and what else it holds."""
    state = {
        key: value.detach().clone()
        for key, value in hardened.network.state_dict().items()
        if key.removesuffix(".weight") not in hardened.codebooks or not key.endswith(".weight")
    }
    for name, book in hardened.codebooks.items():
        for part in PARTS:
            state[f"{name}.{part}"] = torch.from_numpy(getattr(book, part).copy())
        if book.middle is not None:
            state[f"{name}.{MIDDLE}"] = torch.from_numpy(book.middle.copy())
    for name, module in hardened.network.named_modules():
        if isinstance(module, FrozenStep):
            state[name] = torch.tensor([module.step, module.low, module.high], dtype=torch.float64)
    return state


def load_hard(model: nn.Module, plan: Plan, state: dict[str, Tensor]) -> Hardened:
    """The hardened network of a ``hard_state``.

    Raises:
        UserError: the state does not fit the model or the plan.
    """
    network, state = traced(model), dict(state)
    _check_layers(network, plan)
    try:
        for place in placements(network):
            step, low, high = state.pop(f"{PREFIX}{place.node.name}").tolist()
            _insert(network, place.node, FrozenStep(step, int(low), int(high)))
        books = {}
        for name, layer in plan.layers.items():
            indices, levels, scale = (state.pop(f"{name}.{part}").numpy() for part in PARTS)
            middle = state.pop(f"{name}.{MIDDLE}", None)
            own = None if middle is None else middle.numpy()
            books[name] = Codebook(indices, levels, scale, layer.bits, own)
        for name, book in books.items():
            weight = cast(Tensor, network.get_submodule(name).weight)
            if weight.shape != book.indices.shape:
                raise ValueError(f"{name} has {tuple(weight.shape)} weights, the state {book.indices.shape}")
            state[f"{name}.weight"] = weight.detach()
        network.recompile()
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"the network's state does not fit the model and plan: {error}") from error
    return _with_weights(network, books)


def synthetic(network: nn.Module | Hardened, plan: Plan, seed: int = 0) -> Hardened:
    """The hardened network a plan leads to as far as cost goes, without training: its bits, components, and what its other
    dimensions make of untrained weights. ``network`` is quantized by that plan, or hardened by it."""
    if isinstance(network, Hardened):
        hardened = Hardened(copy.deepcopy(network.network), dict(network.codebooks))
        originals = {name: torch.from_numpy(book.dequantize()) for name, book in hardened.codebooks.items()}
    else:
        hardened = harden(network)
        originals = {name: weight.detach() for name, _, weight in quantizers_of(network)}
    generator = np.random.default_rng(seed)
    books = dict(hardened.codebooks)
    for name, layer in plan.layers.items():
        weight = layer.apply(originals[name].float()).cpu().numpy()  # what one leaves out counts for the next
        for dimension, value in layer.values.items():
            books[name] = DIMENSIONS[dimension].synthesize(books[name], weight, value, generator)
    return _with_weights(hardened.network, books)


def _with_weights(network: nn.Module, books: dict[str, Codebook]) -> Hardened:
    device = next((t.device for t in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    for name, book in books.items():
        module = network.get_submodule(name)
        weight = torch.from_numpy(book.dequantize()).to(device)
        module.weight = nn.Parameter(weight, requires_grad=False)
    return Hardened(network.eval(), books)


def _plain(module: nn.Module) -> nn.Module:
    """The layer without its parametrization. (``remove_parametrizations`` would strip the class, which copies share.)"""
    sort: type[nn.Module] = type(module).__mro__[1]
    plain = sort.__new__(sort)
    plain.__dict__.update(module.__dict__)
    plain.__dict__["_modules"] = {k: v for k, v in module._modules.items() if k != "parametrizations"}
    plain.__dict__["_parameters"] = {"weight": None, **module._parameters}
    return plain


def quantizer_for(plan: Plan, layer: LayerPlan) -> type[WeightQuantizer]:
    """What quantizes a layer: int8 at 8 bits, else the plan's own; refused where that cannot do it."""
    name = "int8" if layer.bits == 8 else plan.quantizer
    QUANTIZERS[name].check(name, layer)
    return QUANTIZERS[name]


def _check_layers(network: fx.GraphModule, plan: Plan) -> None:
    names, planned = set(layer_names(network)), set(plan.layers)
    if names != planned:
        extra, missing = sorted(planned - names), sorted(names - planned)
        said = [f"lacks {', '.join(missing[:3])}"] if missing else []
        said += [f"has {', '.join(extra[:3])}, which the model has not"] if extra else []
        raise UserError(f"the plan does not fit the model: it {' and '.join(said)}")
    kinds = {name: cast(Tensor, network.get_submodule(name).weight).dtype for name in plan.layers}
    if other := [name for name, dtype in kinds.items() if dtype != torch.float32]:
        raise UserError(
            f"layer {other[0]}: its weight is {str(kinds[other[0]]).removeprefix('torch.')}; only float32 is quantized: call the "
            "model's float() first"
        )


def _untie(network: fx.GraphModule, plan: Plan) -> None:
    """Give each layer a weight of its own, in place of one that several share: each has a codebook of its own, and would write
    its values over the others'."""
    seen: set[int] = set()
    for name in plan.layers:
        module = network.get_submodule(name)
        weight = cast(nn.Parameter, module.weight)
        if id(weight) in seen:
            module.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        seen.add(id(weight))


def _insert(network: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    name = f"{PREFIX}{node.name}"
    network.add_module(name, module)
    with network.graph.inserting_after(node):
        new = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _leave_relu_to(step: TrainableStep, network: fx.GraphModule, place: Placement) -> None:
    """Let an unsigned quantizer do the work of a ReLU that nobody else reads."""
    node = place.node
    if node.op == "placeholder" or len(node.users) != 1 or kind(network, node) not in RELU:
        return
    name = f"left_{node.name}"
    network.add_module(name, LeftReLU())
    node.op, node.target, node.args, node.kwargs = "call_module", name, (node.all_input_nodes[0],), {}
    step.rectifies = True


def unquantized(network: nn.Module) -> nn.Module:
    """A copy of a network made by ``quantize`` that computes with its float weights and activations, in evaluation mode:
    up to rounding, what the given network computes."""
    plain = copy.deepcopy(network)
    for name, _, weight in quantizers_of(network):
        layer = _plain(plain.get_submodule(name))
        layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
        plain.set_submodule(name, layer)
    without_steps(plain)
    return plain.eval()


def without_steps(network: nn.Module) -> None:
    """Leave activations in float: remove every activation quantizer from a network in training or hardened."""
    for name, module in list(network.named_modules()):
        if isinstance(module, (TrainableStep, FrozenStep)) and "parametrizations" not in name:
            rectifies = isinstance(module, TrainableStep) and module.rectifies
            network.set_submodule(name, nn.ReLU() if rectifies else nn.Identity())


@torch.no_grad()
def _calibrate(network: fx.GraphModule, images: Tensor) -> None:
    """One pass in evaluation mode; every quantizer takes its step from what it sees, and passes on what it makes of it."""

    sources = {
        network.get_submodule(str(node.target)): node.all_input_nodes[0]
        for node in network.graph.nodes
        if node.op == "call_module" and node.all_input_nodes
    }

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(inputs[0], Tensor):
            raise UserError(
                f"layer {layer_of(sources[module])} gives a {type(inputs[0]).__name__}, not one tensor; such layers are not "
                "supported on ARM (docs/operators.md says which are)"
            )
        cast(TrainableStep, module).calibrate(inputs[0])

    hooks = [
        module.register_forward_pre_hook(take)
        for module in network.modules()
        if isinstance(module, TrainableStep)
    ]
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
