"""Statistics of batch-norms that fit quantized layers: the fp32 network's, changed by what quantization changed.

Statistics taken anew are those of few images, and of images that are or are not varied as those were with which the fp32 network
was trained. Here both networks see the same images and only the difference between them counts: what is peculiar to the images
cancels out.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.modes import evaluating

TINY = 1e-30
SILENT = 1e-6  # of a channel's usual variance
Channels = tuple[Tensor, Tensor]
"""Mean and variance of each channel, float64 [C]."""
Calls = dict[str, list[Channels]]
"""Of what each batch-norm is given in one batch, at each of its calls."""


def channel_statistics(values: Iterable[Tensor]) -> Channels:
    """Mean and variance of each channel over all batches, [n, C] or [n, C, H, W] each."""
    counts, means, variances = [], [], []
    # Centred batch by batch: a difference of large sums has no digits left for a small variance.
    for x in values:
        others = [dimension for dimension in range(x.dim()) if dimension != 1]
        variance, mean = torch.var_mean(x, others, correction=0)
        counts.append(_count(x))
        means.append(mean.double())
        variances.append(variance.double())
    return _pooled(list(zip(means, variances)), counts)


def _count(x: Tensor) -> float:
    """How many values each channel has."""
    return x.numel() / x.shape[1]


def _pooled(parts: Sequence[Channels], counts: Sequence[float]) -> Channels:
    """Of all values together, from those of parts with so many values each."""
    means, within = (torch.stack(each) for each in zip(*parts))
    shares = torch.tensor(counts, dtype=torch.float64, device=means.device)[:, None] / sum(counts)
    mean = (shares * means).sum(0)
    return mean, (shares * (within + (means - mean).square())).sum(0)


@torch.no_grad()
def match_batch_norm(norm: nn.Module, original: nn.Module, found: Channels, wanted: Channels) -> None:
    """Give a batch-norm the statistics with which its outputs have, channel by channel, the mean and the variance that the fp32
    network's have on the same images, as long as both scale and shift alike.

    Args:
        found: of what the batch-norm is given.
        wanted: of what the fp32 network's is given.
    """
    assert isinstance(norm, _BatchNorm) and isinstance(original, _BatchNorm)
    if norm.running_mean is None or original.running_mean is None:
        return  # statistics of the batch: nothing to keep
    assert norm.running_var is not None and original.running_var is not None
    # Of a channel that is all but constant in the fp32 network, on these images, nothing is known: it keeps its variance.
    known = wanted[1] > SILENT * (original.running_var + original.eps)
    ratio = torch.where(known, found[1] / wanted[1].clamp(min=TINY), 1.0).clamp(min=1e-6)
    norm.running_var.copy_((ratio * (original.running_var + original.eps) - norm.eps).clamp(min=0))
    norm.running_mean.copy_(found[0] - (wanted[0] - original.running_mean) * ratio.sqrt())


class NormMatcher:
    """Gives the batch-norms of quantized copies of a network statistics that fit them.

    In one pass, unlike ``quantizers.calibration.reconstruction``: behind a batch-norm a batch goes on as the statistics of that
    batch have it, and what stays is by those of all batches together. So nothing is kept but a few figures of each channel.

    Args:
        original: the fp32 network.
        images: gives the same batches each time, normalized, float [n, C, H, W] each, on the network's device.
    """

    def __init__(self, original: nn.Module, images: Callable[[], Iterable[Tensor]]) -> None:
        self._norms = {
            name: module
            for name, module in original.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        self._images = images
        self._wanted: list[Calls] = []
        if not self._norms:
            return
        with evaluating(original), torch.no_grad():
            for batch in images():
                calls: Calls = defaultdict(list)
                with _watched(self._norms, lambda name, found, _, calls=calls: calls[name].append(found)):  # type: ignore[misc]
                    original(batch)
                self._wanted.append(calls)

    @torch.no_grad()
    def match(self, network: nn.Module) -> None:
        """Settle the batch-norms of ``network``, whose names are those of the fp32 network's, in place."""
        norms = {name: module for name, module in network.named_modules() if name in self._norms}
        seen: dict[str, list[tuple[Channels, Channels]]] = defaultdict(list)
        counts: dict[str, list[float]] = defaultdict(list)
        with evaluating(network):
            for batch, calls in zip(self._images() if norms else (), self._wanted):
                wanted = {name: iter(found) for name, found in calls.items()}

                def settle(name: str, found: Channels, count: float, wanted: Any = wanted) -> None:
                    seen[name].append((found, next(wanted[name])))
                    counts[name].append(count)
                    match_batch_norm(norms[name], self._norms[name], *seen[name][-1])

                with _watched(norms, settle):
                    network(batch)
        for name, pairs in seen.items():  # a channel may be all but silent in a batch, and not in all
            found, meant = (_pooled(parts, counts[name]) for parts in zip(*pairs))
            match_batch_norm(norms[name], self._norms[name], found, meant)


@contextlib.contextmanager
def _watched(norms: dict[str, Any], see: Callable[[str, Channels, float], None]) -> Iterator[None]:
    """``see`` is called before each of them runs, with its name, the statistics of what it is given, and of how many values."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: see(name, channel_statistics(inputs[:1]), _count(inputs[0]))

    with contextlib.ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_pre_hook(hook(name)).remove)
        yield
