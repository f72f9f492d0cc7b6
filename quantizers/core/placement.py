"""Where activations are quantized: a pure function of a traced network's graph.

Quantized are the network's input; the output of every convolution, linear layer, addition, multiplication, average pool,
concatenation, layer norm and standalone batch-norm, after the batch-norm and ReLU or ReLU6 that directly follow it with
nobody else reading in between; and the output of every other activation function, whose input is then quantized too, so
that it is a table of 256 entries. What only moves or selects values keeps its input's step. The network's last operation is
left alone: its integers become floats. Where that is a concatenation, so are the operations before it. The compiler
(``deploy_arm``) relies on these rules.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from quantizers.tracing.frozen_norm import FrozenNorm
from quantizers.tracing.modules import InTraining, torch_class

RELU: frozenset[Any] = frozenset({nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"})
RELU6: frozenset[Any] = frozenset({nn.ReLU6, F.relu6})
NORM: frozenset[Any] = frozenset({nn.BatchNorm2d, nn.BatchNorm1d})
WEIGHTED: frozenset[Any] = frozenset({nn.Conv2d, nn.Linear})
AVERAGE: frozenset[Any] = frozenset(
    {nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean"}
)
SUM: frozenset[Any] = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
PRODUCT: frozenset[Any] = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})
CONCATENATE: frozenset[Any] = frozenset({torch.cat, torch.concat, torch.concatenate})
LAYER_NORM: frozenset[Any] = frozenset({nn.LayerNorm, F.layer_norm})
COMPUTING = WEIGHTED | AVERAGE | SUM | PRODUCT | CONCATENATE | NORM | LAYER_NORM
RESHAPING: frozenset[Any] = frozenset(
    {nn.Flatten, torch.flatten, torch.squeeze, torch.unsqueeze, nn.Unflatten, torch.reshape}
    | {"flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous"}
    | {nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout}
    | {F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout, nn.Identity, InTraining}
)
MOVING: frozenset[Any] = RESHAPING | frozenset(
    {nn.MaxPool2d, F.max_pool2d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d, operator.getitem, F.pad}
    | {nn.UpsamplingNearest2d, nn.Upsample, F.interpolate}  # by the nearest pixel; nothing else is compiled
    | {nn.ZeroPad2d, torch.chunk, torch.split, torch.transpose, torch.permute, nn.ChannelShuffle}
    | {"chunk", "split", "transpose", "permute"}
)
# In evaluation these return their input; they are named, since torchvision's own modules are not imported here.
MOVING_NAMES = frozenset({"StochasticDepth", "stochastic_depth"})
NEVER_NEGATIVE: frozenset[Any] = frozenset(
    {nn.Sigmoid, nn.Hardsigmoid, F.sigmoid, F.hardsigmoid, torch.sigmoid, "sigmoid"}
)
NO_TENSOR: frozenset[Any] = frozenset({"size", "dim", "numel", getattr, torch.numel})


@dataclass(frozen=True)
class Placement:
    """A quantizer goes behind ``node``; ``signed`` says whether the value there can be negative."""

    node: fx.Node
    signed: bool

    @property
    def is_input(self) -> bool:
        return self.node.op == "placeholder"


def placements(network: fx.GraphModule) -> list[Placement]:
    """The places of the activation quantizers, in the order of execution."""
    found: list[Placement] = []
    tensors = _tensors(network)
    positive = _never_negative(network, tensors)
    inner: set[fx.Node] = set()  # batch-norms and ReLUs that belong to the operation before them
    for node in network.graph.nodes:
        if node not in tensors or node in inner:
            continue
        if node.op == "placeholder":
            end = node
        else:
            sort = kind(network, node)
            if sort in MOVING or sort in RELU or getattr(sort, "__name__", "") in MOVING_NAMES:
                continue
            chain = list(_chain(network, node)) if sort in COMPUTING else [node]
            inner.update(chain)
            end = chain[-1]
        if not _is_last(network, end):
            found.append(Placement(end, end not in positive))
    return found


def kind(network: fx.GraphModule, node: fx.Node) -> Any:
    """What a node does: a module's class, a function, or a method's name. ReLU6 comes in three spellings."""
    if node.op != "call_module":
        if node.target is F.hardtanh and _bounds(node.args[1:], dict(node.kwargs)) == (0, 6):
            return F.relu6
        return node.target
    module = network.get_submodule(str(node.target))
    if isinstance(module, FrozenNorm):
        return nn.BatchNorm2d
    for weighted in WEIGHTED:
        if isinstance(module, weighted):  # a parametrized layer is of a class made for it
            return weighted
    sort = torch_class(module)
    if sort is nn.Hardtanh and isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, 6):
        return nn.ReLU6
    return sort


def _bounds(rest: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    low = rest[0] if rest else named.get("min_val", -1)
    high = rest[1] if len(rest) > 1 else named.get("max_val", 1)
    return low, high


def _chain(network: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """The operation, the batch-norm behind a weighted one, and the ReLU behind that."""
    may_norm = kind(network, node) in WEIGHTED
    yield node
    while len(node.users) == 1:
        (node,) = node.users
        sort = kind(network, node) if node.op != "output" else None
        if sort in NORM and may_norm:
            may_norm = False
            yield node
        else:
            if sort in RELU or sort in RELU6:
                yield node
            return


def _is_last(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether nothing but reshaping and concatenation lies between a node and the network's output. (What is concatenated
    there becomes floats part by part.)"""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    return user.op == "output" or (kind(network, user) in RESHAPING | CONCATENATE and _is_last(network, user))


def _never_negative(network: fx.GraphModule, tensors: set[fx.Node]) -> set[fx.Node]:
    """The nodes whose value cannot be below zero, whatever the input."""
    found: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node not in tensors or node.op == "placeholder":
            continue
        sort = kind(network, node)
        moves = sort in MOVING or getattr(sort, "__name__", "") in MOVING_NAMES
        keeps = moves or sort in AVERAGE or sort in SUM or sort in PRODUCT or sort in CONCATENATE
        given = (*node.args, *node.kwargs.values())  # ``alpha`` of a sum too
        numbers = [a for a in given if isinstance(a, (int, float)) and sort in SUM | PRODUCT]
        if (
            sort in RELU
            or sort in RELU6
            or sort in NEVER_NEGATIVE
            or (
                keeps
                and all(source in found for source in node.all_input_nodes if source in tensors)
                and all(
                    source in tensors
                    for source in node.all_input_nodes
                    if sort in SUM | PRODUCT | CONCATENATE
                )
                and all(number >= 0 for number in numbers)
            )
        ):
            found.add(node)
    return found


def _tensors(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes that are tensors computed from the input: not shapes, not constants."""
    found: set[fx.Node] = set()
    for node in network.graph.nodes:
        if node.op == "placeholder" or (
            node.op in ("call_module", "call_function", "call_method")
            and node.target not in NO_TENSOR
            and any(source in found for source in node.all_input_nodes)
        ):
            found.add(node)
    return found
