"""What one operation of a traced network does to memory: which tensor it overwrites, whose memory its result shares, where a view
lies in what it is a view of. Each question is about a node alone; ``quantizers.tracing.writes`` follows them through a forward.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from foundation.errors import UserError
from quantizers.tracing.modules import torch_class

IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.ipow: operator.pow,
}
NO_WRITE = frozenset({"requires_grad_", "detach_", "share_memory_"})  # underscored, but no value changes
RESHAPE = frozenset({"squeeze_", "unsqueeze_", "transpose_", "swapaxes_", "swapdims_", "t_"})
SPLITTING = frozenset({"chunk", "split", "split_with_sizes", "tensor_split"})
SHAPES = frozenset({"view", "view_as", "unsqueeze", "squeeze", "unflatten", "Unflatten"})
SAME = frozenset({"Identity", "detach", "alias", "data"})
ATTRIBUTES = frozenset({"data", "T", "mT"})  # of a tensor, that share its memory
# These share memory only for some layouts, or only in evaluation.
UNSURE = frozenset(
    {"reshape", "reshape_as", "flatten", "ravel", "Flatten", "contiguous", "to", "type_as", "float"}
)
DROPPING = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
    | {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}
    | {"stochastic_depth", "StochasticDepth", "InTraining"}
)
QUERIES = frozenset({"size", "dim", "numel", "ndimension", "stride"})  # methods that read no value


def layer_of(node: fx.Node) -> str:
    """The module in which an operation runs, or the operation's own name at the top level."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (stack[-1][0] if stack else "") or node.name


def operation_of(network: fx.GraphModule, node: fx.Node) -> str:
    """The name of what a node computes: of a module's class in PyTorch, a function or a method."""
    if node.op == "call_module":
        return torch_class(network.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def overwritten(network: fx.GraphModule, node: fx.Node, name: str) -> fx.Node | None:
    """The tensor that an operation overwrites."""
    if node.op == "call_module":
        return (
            first_input(node) if getattr(network.get_submodule(str(node.target)), "inplace", False) else None
        )
    if node.op == "call_method":
        writes = name.endswith("_") and not name.endswith("__") and name not in NO_WRITE
        return first_input(node) if writes else None
    if node.op == "call_function":
        out = node.kwargs.get("out")
        if isinstance(out, fx.Node):
            return out
        if node.target in IN_PLACE or (
            _of_torch(node) and ((name.endswith("_") and not name.endswith("__")) or _inplace_argument(node))
        ):
            return first_input(node)
    return None


def shares(node: fx.Node, name: str) -> bool | None:
    """Whether the result surely (True) or perhaps (False) is a view of the first input; None if it never is."""
    if node.target is operator.getitem:
        return not any(isinstance(part, fx.Node) for part in parts_of(node.args[1]))
    if node.target is getattr:
        return True if node.args[1] in ATTRIBUTES else None
    if name in DROPPING:
        return False
    if name in SAME or name == "Unflatten":
        return True
    if name in UNSURE:
        return False
    if node.op == "call_method" or (node.op == "call_function" and _of_torch(node)):
        return True if _is_view(name) else None
    return None


def make_pure(node: fx.Node, name: str) -> None:
    """The same operation with a result of its own."""
    if node.op == "call_module":
        return
    pure: Any = None
    if "out" in node.kwargs:
        pure = node.target
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    elif node.op == "call_method":
        pure = name[:-1] if callable(getattr(torch.Tensor, name[:-1], None)) else None
    elif node.target in IN_PLACE:
        pure = IN_PLACE[node.target]
    elif name.endswith("_"):
        homes = (F, torch) if getattr(F, name, None) is node.target else (torch, F)
        pure = next((getattr(home, name[:-1]) for home in homes if hasattr(home, name[:-1])), None)
    else:
        bound = _bound(node)
        assert bound is not None
        bound.arguments["inplace"] = False
        node.args, node.kwargs, pure = bound.args, bound.kwargs, node.target
    if pure is None:
        raise UserError(
            f"layer {layer_of(node)} overwrites a tensor by {name}, which has no form with a result of its own; "
            "write a new tensor instead"
        )
    node.target = pure


def first_input(node: fx.Node) -> fx.Node | None:
    found = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    return found if isinstance(found, fx.Node) else None


def parts_of(value: Any) -> Iterator[Any]:
    """The entries of a value that may be nested."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from parts_of(part)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def asks_for_shape(node: fx.Node, name: str) -> bool:
    if node.op == "call_method":
        return name in QUERIES
    return node.target is getattr and node.args[1] not in ATTRIBUTES


def _of_torch(node: fx.Node) -> bool:
    module = getattr(node.target, "__module__", None)
    return (module or "torch").partition(".")[0] in ("torch", "_operator")


@cache
def _is_view(name: str) -> bool:
    """Whether PyTorch's own schema says that the result shares the memory of the first argument, unchanged."""
    packet = getattr(torch.ops.aten, name, None)
    for overload in () if packet is None else packet.overloads():
        schema = getattr(packet, overload)._schema
        first = schema.arguments[0].alias_info if schema.arguments else None
        if first is not None and not first.is_write and any(r.alias_info for r in schema.returns):
            return True
    return False


def _bound(node: fx.Node) -> inspect.BoundArguments | None:
    """The arguments of a Python function by name."""
    target: Any = node.target
    try:
        return inspect.signature(target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return None


def _inplace_argument(node: fx.Node) -> bool:
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    if not inspect.isfunction(target):
        return False
    bound = _bound(node)
    return bound is not None and bool(bound.arguments.get("inplace"))


def span(start: int | None, stop: int | None) -> tuple[slice, slice]:
    return slice(None), slice(start, stop)


def span_of(index: Any) -> tuple[int, int | None] | None:
    """First and last channel of an index that chooses consecutive channels and all positions."""
    if all(part in (slice(None), Ellipsis) for part in (index if isinstance(index, tuple) else (index,))):
        return 0, None
    if not isinstance(index, tuple) or len(index) < 2 or not isinstance(index[1], slice):
        return None
    start, stop, step = index[1].start or 0, index[1].stop, index[1].step
    numbers = (
        isinstance(start, int) and start >= 0 and (stop is None or (isinstance(stop, int) and stop >= 0))
    )
    others = index[0] == slice(None) and all(part in (slice(None), Ellipsis) for part in index[2:])
    return (start, stop) if numbers and others and step in (None, 1) else None


def channels_of(node: fx.Node, name: str) -> tuple[int, int | None] | None:
    """As ``_span_of``, of the operation that made a view."""
    if node.target is operator.getitem:
        return span_of(node.args[1])
    if name == "narrow" and not node.kwargs and node.args[1] == 1:
        _, _, start, length = node.args
        if isinstance(start, int) and isinstance(length, int) and start >= 0:
            return start, start + length
    return None
