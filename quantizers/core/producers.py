"""Which layers make a convolution's input for it alone: what it does not read of them, nobody reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from quantizers.core.placement import NORM, RELU, RELU6, kind
from quantizers.tracing.trace import traced

# What keeps channels apart: what goes into none of a channel's values comes out of none of another's.
CHANNELWISE: frozenset[Any] = (
    NORM | RELU | RELU6 | {nn.Hardswish, nn.SiLU, nn.LeakyReLU, nn.GELU, nn.Hardsigmoid, nn.Sigmoid, nn.Identity}
    | {nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d}
    | {F.hardswish, F.silu, F.leaky_relu, F.gelu, F.max_pool2d, F.avg_pool2d}
)  # fmt: skip


def producers_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each convolution of one group whose input comes from one other such convolution and goes nowhere else: that one, and
    before it in the tuple the depthwise ones between them. Others, as those that read a residual sum, are not named.

    Raises:
        UserError: the model cannot be traced.
    """
    network = traced(model)
    found = {}
    for node in network.graph.nodes:
        if _is_convolution(network, node) and network.get_submodule(str(node.target)).groups == 1:
            path = _path(network, node)
            if path:
                found[str(node.target)] = path
    return found


def _is_convolution(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and kind(network, node) is nn.Conv2d


def _path(network: fx.GraphModule, node: fx.Node) -> tuple[str, ...]:
    """The layers before a convolution, the nearest first, up to one of one group; nothing where something else comes before."""
    calls = Counter(str(other.target) for other in network.graph.nodes if other.op == "call_module")
    names: list[str] = []
    while True:
        inputs = node.all_input_nodes
        if len(inputs) != 1 or len(inputs[0].users) != 1 or _shared(network, node, calls):
            return ()
        (node,) = inputs
        if node.op in ("placeholder", "output", "get_attr"):
            return ()
        if _is_convolution(network, node):
            layer: Any = network.get_submodule(str(node.target))
            names.append(str(node.target))
            if layer.groups == 1:
                return () if _shared(network, node, calls) else tuple(names)
            if not layer.groups == layer.in_channels == layer.out_channels:
                return ()
        elif kind(network, node) not in CHANNELWISE:
            return ()


def _shared(network: fx.GraphModule, node: fx.Node, calls: Counter[str]) -> bool:
    """Whether a module with weights or statistics is called at other places too, whose channels are others. One without any,
    as the ReLU that a block of torchvision's calls everywhere, keeps nothing of a place."""
    name = str(node.target)
    return calls[name] > 1 and bool(network.get_submodule(name).state_dict())
