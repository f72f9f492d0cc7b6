"""A network run node by node over all its images, so that what a node needs can be settled before anything behind it runs.

Layer by layer, calibration would otherwise run the network once for each. In memory are, for all images, the values that nodes
still to come will read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn


@torch.no_grad()
def lockstep(network: fx.GraphModule, batches: Iterable[Tensor]) -> Iterator[tuple[fx.Node, list[Any]]]:
    """Run ``network`` in evaluation mode on all batches, one node at a time.

    Yields:
        Each node that calls a module, before it runs, with the value of its first argument for every batch. Modules may be
        changed then; the node runs as they are when the iterator goes on.
    """
    network.eval()
    batches = list(batches)
    runs = [fx.Interpreter(network, garbage_collect_values=False) for _ in batches]
    for run, batch in zip(runs, batches):
        run.args_iter = iter((batch,))
    last_reader: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        for source in node.all_input_nodes:
            last_reader[source] = node
    for node in network.graph.nodes:
        if node.op == "call_module" and node.args:
            yield node, [run.env[node.args[0]] for run in runs]
        for run in runs:
            with torch.no_grad():  # the reader of a generator may have switched gradients on
                run.env[node] = run.run_node(node)
            for source in node.all_input_nodes:
                if last_reader[source] is node:
                    del run.env[source]


def channel_statistics(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all batches [n, C, H, W], float64 [C]."""
    count = sum(x.numel() // x.shape[1] for x in values)
    mean = torch.stack([x.sum((0, 2, 3)).double() for x in values]).sum(0) / count
    square = torch.stack([x.square().sum((0, 2, 3)).double() for x in values]).sum(0) / count
    return mean, (square - mean.square()).clamp(min=0)


@torch.no_grad()
def match_batch_norm(
    norm: nn.BatchNorm2d, original: nn.BatchNorm2d, values: list[Tensor], wanted: tuple[Tensor, Tensor]
) -> None:
    """Give a batch-norm the statistics with which its outputs have, channel by channel, the mean and the variance that the fp32
    network's have on the same images.

    Unlike statistics taken anew, which are those of few images, these differ from the fp32 network's only by what quantization
    changed: that the images are few cancels out.

    Args:
        values: what the batch-norm is given, [n, C, H, W] each.
        wanted: ``channel_statistics`` of what the fp32 network's is given.
    """
    if norm.running_mean is None or original.running_mean is None:
        return  # statistics of the batch: nothing to keep
    assert norm.running_var is not None and original.running_var is not None
    mean, variance = channel_statistics(values)
    ratio = (variance / wanted[1].clamp(min=1e-30)).clamp(min=1e-6)
    norm.running_var.copy_(ratio * original.running_var)
    norm.running_mean.copy_(mean - (wanted[0] - original.running_mean) * ratio.sqrt())
