"""How much a network's answers depend on each weight: the diagonal of its Fisher information, from images without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundation.errors import UserError
from foundation.modes import evaluating

Score = Callable[[Any, int], Tensor]
"""Of a batch's outputs and its number: a scalar whose gradient is the sum of the images' scores, each of mean zero."""


def diagonal_fisher(
    network: nn.Module,
    layers: Sequence[str],
    batches: Sequence[Tensor],
    score: Score,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of each layer's weights, for one image on average: float32, of the weight's shape.

    With it, half the sum of ``fisher * change ** 2`` is, to the second order and as if weights acted one by one, the divergence
    from the network's answers in nats (Kirkpatrick et al., 2017, arXiv:1612.00796; HAWQ-V2, arXiv:1911.03852, uses it so). Scores
    of independent draws have mean zero, so the square of their sum over a batch is on average the sum of their squares:
    one backward pass for each batch.

    Args:
        network: on any device, used in evaluation mode; it is not changed.
        batches: normalized images, float [n, C, H, W] each, of at least one image.
        score: ``drawn_answers`` or another.
        progress: called with the images that are done and all of them.

    Raises:
        UserError: the outputs have no gradient, or one that is not finite.
    """
    weights = [cast(Tensor, network.get_submodule(name).weight) for name in layers]
    total = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    images, done = sum(map(len, batches)), 0
    with evaluating(network), _only_these_learn(network, weights), torch.enable_grad():
        for number, x in enumerate(batches):
            value = score(network(x), number)
            if not value.requires_grad:
                raise UserError(
                    "the network's outputs have no gradient (a forward under torch.no_grad?), so nothing is known of its layers"
                )
            slopes = torch.autograd.grad(value, weights, allow_unused=True)
            for sum_of_squares, slope in zip(total, slopes):
                if slope is not None:
                    sum_of_squares.addcmul_(slope.float(), slope.float())
            done += len(x)
            if progress is not None:
                progress(done, images)
    for name, found in zip(layers, total):
        if not bool(found.isfinite().all()):
            raise UserError(
                f"the gradient of layer {name} is not finite; the network, or its loss, is broken"
            )
    return {name: found / images for name, found in zip(layers, total)}


def drawn_answers(seed: int = 0) -> Score:
    """Of logits [N, classes]: the log-likelihood of classes drawn from the network's own answers."""

    def score(logits: Tensor, number: int) -> Tensor:
        chances = logits.detach().float().softmax(1).cpu()
        drawn = torch.multinomial(chances, 1, generator=_generator(seed, number)).squeeze(1)
        return F.cross_entropy(logits.float(), drawn.to(logits.device), reduction="sum")

    return score


def drawn_outputs(seed: int = 0) -> Score:
    """Of any floating-point outputs, also in tuples, lists and mappings: as if each number were the mean of a normal
    distribution whose deviation is that of its tensor's values."""

    def score(outputs: Any, number: int) -> Tensor:
        tensors = list(_tensors(outputs))
        if not tensors:
            raise UserError("the network answers no floating-point tensor, so nothing is known of its layers")
        generator = _generator(seed, number)
        parts = []
        for tensor in tensors:
            draw = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device) * 2.0 - 1.0
            deviation = tensor.detach().float().std(correction=0).clamp(min=1e-12)
            parts.append((tensor.float() * draw).sum() / deviation)
        return torch.stack(parts).sum()

    return score


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from _tensors(value)


@contextmanager
def _only_these_learn(network: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Gradients of these weights alone; what learned before learns again afterwards."""
    before = {parameter: parameter.requires_grad for parameter in network.parameters()}
    wanted = {id(weight) for weight in weights}
    try:
        for parameter in before:
            parameter.requires_grad_(id(parameter) in wanted)
        yield
    finally:
        for parameter, learned in before.items():
            parameter.requires_grad_(learned)
