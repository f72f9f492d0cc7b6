"""A network run node by node over all its images, so that what a node needs can be settled before anything behind it runs.

Calibration layer by layer would otherwise run the network once for each layer. Held in memory are the values that nodes still to come
will read, for all images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn


@torch.no_grad()
def lockstep(network: fx.GraphModule, batches: Iterable[Tensor]) -> Iterator[tuple[fx.Node, list[Any]]]:
    """Run ``network`` in evaluation mode on all batches, one node at a time.

    Yields:
        Each node that calls a module, before it runs, with the value of its first argument for every batch. Modules may be changed
        then; the node runs as they are when the iterator goes on.
    """
    network.eval()
    batches = list(batches)
    runs = [fx.Interpreter(network, garbage_collect_values=False) for _ in batches]
    for run, batch in zip(runs, batches):
        run.args_iter = iter((batch,))  # type: ignore[assignment]
    last_reader: dict[fx.Node, fx.Node] = {}
    for node in network.graph.nodes:
        for source in node.all_input_nodes:
            last_reader[source] = node
    for node in network.graph.nodes:
        if node.op == "call_module":
            yield node, [run.env[node.args[0]] for run in runs]
        for run in runs:
            with torch.no_grad():  # the reader of a generator may have switched gradients on
                run.env[node] = run.run_node(node)
            for source in node.all_input_nodes:
                if last_reader[source] is node:
                    del run.env[source]


@torch.no_grad()
def match_batch_norm(network: fx.GraphModule, original: nn.Module, batches: list[Tensor]) -> None:
    """Give each batch-norm of a quantized network the statistics with which its outputs have, channel by channel, the mean and the
    variance that the fp32 network's have on the same images.

    Unlike statistics taken anew, which are those of few images, these differ from the fp32 network's only by what quantization
    changed: that the images are few cancels out.

    Args:
        original: with modules of the same names, in evaluation mode.
        batches: normalized images, float [n, C, H, W] each.
    """
    wanted = _input_statistics(original, batches)
    theirs = dict(original.named_modules())
    for node, values in lockstep(network, batches):
        norm = network.get_submodule(str(node.target))
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
            continue
        mean, variance = _statistics(values)
        first_mean, first_variance = wanted[str(node.target)]
        source = cast(nn.BatchNorm2d, theirs[str(node.target)])
        assert source.running_mean is not None and source.running_var is not None
        ratio = (variance / first_variance.clamp(min=1e-30)).clamp(min=1e-6)
        norm.running_var.copy_(ratio * source.running_var)
        norm.running_mean.copy_(mean - (first_mean - source.running_mean) * ratio.sqrt())


def _statistics(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all batches [n, C, H, W], float64 [C]."""
    count = sum(x.numel() // x.shape[1] for x in values)
    mean = torch.stack([x.sum((0, 2, 3)).double() for x in values]).sum(0) / count
    square = torch.stack([x.square().sum((0, 2, 3)).double() for x in values]).sum(0) / count
    return mean, (square - mean.square()).clamp(min=0)


def _input_statistics(network: nn.Module, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The same of what each batch-norm of a network is given."""
    found = {}
    for node, values in lockstep(fx.symbolic_trace(network), batches):
        if isinstance(network.get_submodule(str(node.target)), nn.BatchNorm2d):
            found[str(node.target)] = _statistics(values)
    return found
