"""A detector quantized by a plan and taught by its own fp32 outputs: images are needed, boxes are not."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.plan import Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import ArrayImages, normalize
from pipeline.training.evaluation import few_batches, fixed_sample
from pipeline.training.loop import Loop, OnStep
from pipeline.training.settings import TrainSettings
from quantizers.calibration.fisher import Score
from quantizers.calibration.norms import NormMatcher
from quantizers.network import Hardened, harden, parameter_groups, quantize, set_progress


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


class Distillation(Loop):
    """The training of one plan.

    Args:
        model: the fp32 detector; it is copied, not changed.
        pixels: uint8 [N, H, W, 3], what it learns from.

    Otherwise as ``Loop``.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        pixels: Tensor,
        settings: TrainSettings,
        mean: Sequence[float],
        std: Sequence[float],
        progress: OnStep | None = None,
    ) -> None:
        images = ArrayImages(
            pixels, torch.zeros(len(pixels))
        )  # the loop wants labels; the loss does not read them
        data = ImageData("", ("any", "none"), images.image_size, images, images, images, "none")
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        network = quantize(model, plan, normalize(pixels[: settings.calibration_images], mean, std))
        fitting = fixed_sample(len(pixels), min(settings.batch_norm_images, len(pixels)))
        self._matcher = NormMatcher(self.teacher, lambda: few_batches(images, fitting, mean, std))
        groups = parameter_groups(network, settings.learning_rate, settings.weight_decay)
        device = torch.device("cpu")
        super().__init__(network, data, settings, mean, std, groups, device=device, progress=progress)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(images).float()
        return divergence(self.called(images).float(), wanted)

    def before_step(self, share: float) -> None:
        set_progress(self.network, share)

    def hardened(self) -> Hardened:
        """The network as it would be deployed, its batch-norm statistics fitted to its weights."""
        set_progress(self.network, self.step / self.total_steps)
        hardened = harden(self.network)
        self._matcher.match(hardened.network)
        return hardened
