"""How far a detector's raw output is from another's; no boxes need be known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantizers.calibration.fisher import Score


def divergence(raw: Tensor, wanted: Tensor) -> Tensor:
    """``divergences`` of all images together, per wanted object."""
    return divergences(raw, wanted).sum() / wanted[:, 0].sigmoid().sum()


def divergences(raw: Tensor, wanted: Tensor) -> Tensor:
    """How far a raw output [N, 5 + classes, H, W] is from a wanted one, for each image [N]; 0 where they are equal.

    The Kullback-Leibler divergence of objectness, plus, in proportion to the wanted objectness, that of the classes and the
    absolute differences of the box terms after their tanh and sigmoid; summed over the cells.
    """
    objectness = wanted[:, 0].sigmoid()
    given, best = (
        F.binary_cross_entropy_with_logits(x[:, 0], objectness, reduction="none") for x in (raw, wanted)
    )
    classes = F.kl_div(
        raw[:, 5:].log_softmax(1), wanted[:, 5:].log_softmax(1), reduction="none", log_target=True
    )
    places = (raw[:, 1:3].tanh() - wanted[:, 1:3].tanh()).abs()
    sizes = (raw[:, 3:5].sigmoid() - wanted[:, 3:5].sigmoid()).abs()
    weighted = objectness * (classes.sum(1) + places.sum(1) + sizes.sum(1))
    return (given - best + weighted).flatten(1).sum(1)


def drawn_boxes(seed: int = 0) -> Score:
    """Of a raw output: the log-likelihood of an answer drawn from it, where its objectness and its classes are chances and its
    box terms, after tanh and sigmoid, means of normal distributions; classes and boxes count in proportion to objectness."""

    def score(raw: Tensor, number: int) -> Tensor:
        raw = raw.float()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        chance = raw[:, 0].detach().sigmoid()
        there = torch.bernoulli(chance, generator=generator)
        objectness = F.binary_cross_entropy_with_logits(raw[:, 0], there, reduction="none")
        logits = raw[:, 5:].movedim(1, -1)
        drawn = torch.multinomial(logits.detach().softmax(-1).flatten(0, -2), 1, generator=generator)
        classes = F.cross_entropy(logits.flatten(0, -2), drawn.squeeze(1), reduction="none")
        boxes = torch.cat([raw[:, 1:3].tanh(), raw[:, 3:5].sigmoid()], 1)
        noise = torch.randint(0, 2, boxes.shape, generator=generator) * 2.0 - 1.0
        weighted = chance.sqrt() * (classes.reshape(chance.shape) + (boxes * noise).sum(1))
        return (objectness + weighted).sum()

    return score
