"""Channels of one size before they share a codebook: the batch-norm behind a convolution undoes any scale of its output channels,
so one scale per channel costs no byte."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import nn

from quantizers.tracing.trace import traced

DEAD = 1e-6  # of the layer's root mean square: a channel that small is left alone; its square would be none


@torch.no_grad()
def with_even_channels(model: nn.Module) -> nn.Module:
    """A copy that gives the same answers in evaluation mode, in which every output channel's weights of a convolution have the
    root mean square of the layer, wherever nothing but a batch-norm reads the convolution, neither is called again elsewhere and
    no other layer has its weight.

    Raises:
        UserError: the model cannot be traced.
    """
    model = copy.deepcopy(model)
    nodes = traced(model).graph.nodes
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    owners = Counter(
        id(module.weight) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    )
    for node in nodes:
        if node.op != "call_module" or len(node.users) != 1:
            continue
        conv, (reader,) = model.get_submodule(str(node.target)), node.users
        norm = model.get_submodule(str(reader.target)) if reader.op == "call_module" else None
        once = calls[str(node.target)] == calls[str(reader.target)] == 1
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if once and owners[id(conv.weight)] == 1:
            _rescale(conv, norm)
    return model


def _rescale(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Divide each output channel by its size, and let the batch-norm expect that."""
    if norm.running_mean is None or norm.running_var is None or not norm.affine:
        return
    square = conv.weight.double().square().mean((1, 2, 3))
    size = (square / square.mean()).sqrt()  # a layer keeps its size: learning rates are made for it
    size = torch.where(size > DEAD, size, torch.ones_like(size)).to(conv.weight.dtype)
    conv.weight.div_(size.view(-1, 1, 1, 1))
    if conv.bias is not None:
        conv.bias.div_(size)
    spread = (norm.running_var + norm.eps).sqrt()
    norm.running_mean.div_(size)
    norm.running_var.div_(size.square())
    # eps is not divided by the size, the weight makes up for it.
    norm.weight.mul_(size * (norm.running_var + norm.eps).sqrt() / spread)
