"""A model as a graph of ``torch.nn`` modules and functions, without writes: what is quantized, calibrated and compiled."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from foundation.errors import UserError
from foundation.modes import evaluating
from quantizers.tracing.frozen_norm import FrozenNorm, with_frozen_norms
from quantizers.tracing.memory import IN_PLACE, layer_of
from quantizers.tracing.modules import InTraining, acts_in_training_alone, is_torch_module
from quantizers.tracing.writes import without_writes

CONVOLUTION: frozenset[Any] = frozenset({F.conv2d, torch.conv2d})
LINEAR: frozenset[Any] = frozenset({F.linear})
NORM: frozenset[Any] = frozenset({F.batch_norm, torch.batch_norm})
DROPOUT: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    torch.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class _Proxy(fx.Proxy):
    """Records ``x += y`` and ``x[...] = y`` as what they are; fx's own takes the first for ``x = x + y``."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        count = _parts_of(self.node)
        return super().__len__() if count is None else count


def _recorded(target: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def write(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return write


for _target in IN_PLACE:
    setattr(_Proxy, f"__{_target.__name__}__", _recorded(_target))


class _Tracer(fx.Tracer):
    """Keeps modules whole that compute what a class of ``torch.nn`` does, or act in training alone, and remembers where it
    failed."""

    failed: str | None = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # found before tracing, which stands in for every module's call
        self.in_training = {
            module: name
            for name, module in model.named_modules()
            if name and not is_torch_module(module) and acts_in_training_alone(module)
        }

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FrozenNorm) or is_torch_module(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Of the parts of a tensor whose number is written in the call; ``a, b = x`` is counted by fx itself."""
        count = _parts_of(obj.node)
        return super().iter(obj) if count is None else iter([cast(Any, obj)[place] for place in range(count)])

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m in self.in_training and len(args) == 1 and isinstance(args[0], fx.Proxy) and not kwargs:
            return self.create_proxy("call_module", self.in_training[m], args, kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = self.path_of_module(m)
            raise


def traced(model: nn.Module) -> fx.GraphModule:
    """A copy as a graph of what the model does in evaluation, without operations that overwrite their input.

    Raises:
        UserError: ``torch.fx`` cannot follow the model, a layer's weights are not its own, or a write in place cannot be
            followed; the message names the layer.
    """
    _check_parametrizations(model)
    original = copy.deepcopy(model)
    if not with_frozen_norms(original):
        return _traced(model, original)
    try:
        return _traced(model, original)
    except UserError:  # the forward asks of them what norms have not
        return _traced(model, copy.deepcopy(model))


def _traced(model: nn.Module, original: nn.Module) -> fx.GraphModule:
    """The graph of ``original``, which is a copy of the model, with norms put in its place perhaps."""
    tracer = _Tracer(original)
    with evaluating(original):
        try:
            graph = tracer.trace(original)
        except UserError:
            raise
        except Exception as error:  # a forward fails in any way it likes; all mean the same to the person
            place = (
                f"layer {tracer.failed} ({_class_of(original, tracer.failed)})"
                if tracer.failed
                else "its forward"
            )
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
            raise UserError(
                f"torch.fx cannot trace {type(model).__name__}: {place} fails with {reason!r}; a forward must take no "
                "decision on values or on the image's size: move the decision into the constructor"
            ) from error
    for node in graph.nodes:
        if node.op == "call_module" and not node.args and len(node.kwargs) == 1:  # self.conv(input=x)
            node.args, node.kwargs = tuple(node.kwargs.values()), {}
    network = fx.GraphModule(tracer.root, graph, type(model).__name__)
    _keep_modes(network, original)
    _gather_layers(network, original)
    called = {node.target for node in network.graph.nodes if node.op == "call_module"}
    for module, name in tracer.in_training.items():
        if name in called:
            network.set_submodule(name, InTraining(module).train(module.training))
    without_writes(network)
    _keep_dropout(network, model)
    _free_of_layout(network)
    return network


def _free_of_layout(network: fx.GraphModule) -> None:
    """``view`` fails where images lie in memory with channels last, ``reshape`` does not; without writes they are the same."""
    for node in network.graph.nodes:
        if (node.op, node.target) == ("call_method", "view") and not any(
            isinstance(argument, torch.dtype) for argument in (*node.args, *node.kwargs.values())
        ):
            node.target = "reshape"
    _without_expansion(network)
    network.recompile()


def _without_expansion(network: fx.GraphModule) -> None:
    """``x * y.expand_as(x)`` is ``x * y``."""
    for node in list(network.graph.nodes):
        if (node.op, node.target) != ("call_method", "expand_as") or len(node.args) != 2 or node.kwargs:
            continue
        small, large = node.args
        for user in list(node.users):
            pair = {operator.add, operator.mul, torch.add, torch.mul, "add", "mul"}
            if user.target in pair and set(user.args) == {node, large} and not user.kwargs:
                user.replace_input_with(node, small)
        if not node.users:
            network.graph.erase_node(node)


def _keep_dropout(network: fx.GraphModule, model: nn.Module) -> None:
    """Dropout by a function, which a trace in evaluation has switched off, becomes a module where it drops in training."""
    calls = [node for node in network.graph.nodes if node.target in DROPOUT]
    if not calls:
        return
    try:
        original = copy.deepcopy(model).train()
        training = _Tracer(original).trace(original)
    except Exception:  # what goes on in training cannot be traced; nothing is known of it
        return
    others = [node for node in training.nodes if node.target in DROPOUT]
    if [node.target for node in calls] != [node.target for node in others]:
        return
    for node, other in zip(calls, others, strict=True):
        share, drops = _dropped(other)
        if not drops or _dropped(node)[1] or not isinstance(share, int | float):
            continue
        name = f"dropout_of_{node.name}"
        network.add_module(name, DROPOUT[node.target](share).train(network.training))
        source = next(iter(node.all_input_nodes))
        node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}
    network.recompile()


def _dropped(node: fx.Node) -> tuple[Any, Any]:
    """Of a call of dropout: the share, and whether it drops at all."""
    given = {**dict(zip(("input", "p", "training"), node.args)), **dict(node.kwargs)}
    return given.get("p", 0.5), given.get("training", given.get("train", True))


def _parts_of(node: fx.Node) -> int | None:
    """How many tensors a ``chunk`` or ``split`` gives, where the call says it."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    how = next(
        (v for v in (*node.args[1:], *(v for k, v in node.kwargs.items() if k not in ("dim", "input")))), None
    )
    if name in ("split", "split_with_sizes") and isinstance(how, list | tuple):
        return len(how)
    return how if name in ("chunk", "unsafe_chunk") and isinstance(how, int) else None


def _class_of(model: nn.Module, path: str | None) -> str:
    return type(model.get_submodule(path or "")).__name__


def _check_parametrizations(model: nn.Module) -> None:
    for name, module in model.named_modules():
        hooked = any(
            type(hook).__name__ in ("WeightNorm", "SpectralNorm")
            for hook in module._forward_pre_hooks.values()
        )
        if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):
            raise UserError(
                f"layer {name}: it is pruned by a mask that is applied each time; make that permanent first, by "
                "torch.nn.utils.prune.remove"
            )
        if isinstance(module, nn.Conv2d | nn.Linear) and (parametrize.is_parametrized(module) or hooked):
            raise UserError(
                f"layer {name}: its weight is computed from other parameters (weight norm, spectral norm or the like); fold "
                "it first, by torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm"
            )


def _keep_modes(network: fx.GraphModule, original: nn.Module) -> None:
    network.training = original.training
    for name, module in network.named_modules():
        try:
            module.training = original.get_submodule(name).training
        except AttributeError:
            module.training = original.training


def _gather_layers(network: fx.GraphModule, original: nn.Module) -> None:
    """Where a subclass of a convolution, linear layer or batch-norm computes by the function of its parent, with its own
    parameters, the call becomes a call of such a layer: under its own name, as if the subclass had overridden nothing."""
    layers: dict[str, nn.Module] = {}
    for node in list(network.graph.nodes):
        sort = _sort(node)
        if sort is None:
            continue
        arguments = _arguments(node)
        weight = arguments["running_mean" if sort is nn.BatchNorm2d else "weight"]
        path = _path(weight)
        home = original.get_submodule(path) if path is not None else None
        if home is None or not isinstance(home, sort):
            if sort is not nn.BatchNorm2d:
                raise UserError(_why_not(node, weight, original))
            continue
        layer = _layer(sort, home, arguments, path or "")
        if layer is None or not _same(layers.setdefault(path or "", layer), layer):
            if sort is not nn.BatchNorm2d:
                raise UserError(
                    f"layer {path} ({type(home).__name__}) computes {_said(node)} with other values than its own weight, bias or "
                    "constants; such a layer cannot be quantized: use a plain torch.nn layer"
                )
            continue
        for name, child in network.get_submodule(path or "").named_children():
            layers[path or ""].add_module(
                name, child
            )  # an activation that the subclass calls after its parent's function
        network.set_submodule(path or "", layers[path or ""])
        node.op, node.target = "call_module", path
        node.args, node.kwargs = (arguments["input"],), {}
    for node in reversed(network.graph.nodes):
        if node.op == "get_attr" and not node.users:
            network.graph.erase_node(node)
    network.recompile()


def _sort(node: fx.Node) -> type[nn.Module] | None:
    if node.op != "call_function":
        return None
    for targets, sort in ((CONVOLUTION, nn.Conv2d), (LINEAR, nn.Linear), (NORM, nn.BatchNorm2d)):
        if node.target in targets:
            return sort
    return None


_NAMES = {
    nn.Conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    nn.Linear: ("input", "weight", "bias"),
    nn.BatchNorm2d: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
_DEFAULTS: dict[str, Any] = {
    "bias": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "weight": None,
}
_DEFAULTS |= {"training": False, "momentum": 0.1, "eps": 1e-5}


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Of a convolution, linear layer or batch-norm, by name (PyTorch's own order differs for ``torch.batch_norm``)."""
    sort = _sort(node)
    assert sort is not None
    names = _NAMES[sort]
    if node.target is torch.batch_norm:
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    return {**_DEFAULTS, **dict(zip(names, node.args)), **dict(node.kwargs)}


def _path(argument: Any) -> str | None:
    """The module that holds a parameter or buffer."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    return str(argument.target).rpartition(".")[0]


def _layer(sort: type[nn.Module], home: nn.Module, arguments: dict[str, Any], path: str) -> nn.Module | None:
    """A plain layer with the parameters of ``home`` that computes the call; None if it is another layer's or takes numbers
    that are computed."""
    own = {name for name in _NAMES[sort] if isinstance(arguments[name], fx.Node)} - {"input"}
    for name in own:
        if not (arguments[name].op == "get_attr" and arguments[name].target == f"{path}.{name}".lstrip(".")):
            return None
    values: dict[str, Any] = {
        name: value for name, value in arguments.items() if name not in own and name != "input"
    }
    if any(
        isinstance(part, fx.Node)
        for value in values.values()
        for part in (value if isinstance(value, tuple) else (value,))
    ):
        return None
    layer: nn.Module
    if sort is nn.BatchNorm2d:
        old = cast(nn.BatchNorm2d, home)
        if values["training"] or not {"running_mean", "running_var"} <= own:
            return None
        layer = nn.BatchNorm2d(old.num_features, values["eps"], old.momentum, affine=False, device="meta")
        layer.affine = "weight" in own
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(layer, name, getattr(old, name))
    elif sort is nn.Conv2d:
        conv = cast(nn.Conv2d, home)
        geometry = {name: values[name] for name in ("stride", "padding", "dilation", "groups")}
        out, inner, *kernel = conv.weight.shape
        layer = nn.Conv2d(
            inner * geometry["groups"],
            out,
            cast(Any, tuple(kernel)),
            bias="bias" in own,
            device="meta",
            **geometry,
        )
    else:
        linear = cast(nn.Linear, home)
        layer = nn.Linear(linear.in_features, linear.out_features, "bias" in own, device="meta")
    for name in own & {"weight", "bias"}:
        setattr(layer, name, getattr(home, name))
    layer.train(home.training)
    return layer


def _same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two layers of one place compute the same."""
    return repr(first) == repr(second) and (getattr(first, "bias", None) is None) == (
        getattr(second, "bias", None) is None
    )


def _said(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _why_not(node: fx.Node, weight: Any, original: nn.Module) -> str:
    layer, what = layer_of(node), _said(node)
    if not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
        return (
            f"layer {layer} calls {what} with weights that are computed while it runs (weight standardization, dynamic "
            "convolution or the like); compute them once and keep them in a torch.nn layer"
        )
    name = str(weight.target)
    kind = "a parameter" if name in dict(original.named_parameters()) else "a buffer of fixed weights"
    return (
        f"layer {layer} calls {what} with {name}, {kind}; only the weights of nn.Conv2d and nn.Linear are quantized: make it "
        "such a layer (for fixed weights, one whose weight does not require a gradient)"
    )
