"""What a network is for: what its answers are worth, how far from another network's they are, what loss brings them nearer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.factories import article, find_factory, story
from foundation.modes import evaluating
from pipeline.training.evaluation import fixed_sample
from pipeline.training.outputs import answers
from pipeline.training.settings import ACCURACY, TrainSettings, word_of
from quantizers.calibration.fisher import Score

GROUPS = 32  # of images, each left out once, where one number stands for all images


class Task(ABC):
    """What is asked of networks. Outputs are float32 [N, ...], of one network to N images; labels [N, ...] are the data set's.

    Attributes:
        metric: what ``scores`` are of: a word, or ``package.module:function``.
        classifies: whether an answer is one class.
        frozen_norms: once its layers are rebuilt, a network is trained with the statistics that its batch-norms have then.
    """

    metric: str
    classifies: bool = True
    frozen_norms: bool = False

    @property
    def called(self) -> str:
        """The metric in a word."""
        return word_of(self.metric)

    @abstractmethod
    def outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        """What a network gives for normalized images [N, 3, H, W]."""

    @abstractmethod
    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """float64 [N], whose mean is how good the outputs are, 0..1; and whose standard deviation over the root of N is its
        standard error, also of differences between two networks' scores."""

    @abstractmethod
    def divergences(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """How far the outputs for each image are from the fp32 network's, float64 [N], in nats; 0 where they are equal."""

    @abstractmethod
    def agreements(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """How alike the outputs for each image are to the fp32 network's, float64 [N], 0..1."""

    @abstractmethod
    def loss(self, outputs: Tensor, wanted: Tensor | None, labels: Tensor, settings: TrainSettings) -> Tensor:
        """What training makes small, of one batch; ``wanted`` is what the fp32 network gives, None where nothing is distilled."""

    def of_program(self, answers: Tensor) -> Tensor:
        """The outputs in what a program answers, float32 [N, K]."""
        return answers

    def drawn(self) -> Score | None:
        """By which layers are looked at without labels (``quantizers.calibration.fisher``); None: as classifiers are."""
        return None

    @torch.no_grad()
    def divergence(self, network: nn.Module, original: nn.Module, seen: Iterable[Tensor]) -> float:
        """How far one network is from another, in nats, on average over all images of normalized batches."""
        found = []
        with evaluating(network), evaluating(original):
            for x in seen:
                found.append(self.divergences(self.outputs(network, x), self.outputs(original, x)))
        return float(torch.cat(found).mean())

    def guessed(self, outputs: Tensor, labels: Tensor) -> float:
        """How good answers are that do not look at the images: the same ones, in another order."""
        order = fixed_sample(len(labels), len(labels))
        return float(self.scores(outputs[order], labels).mean())


class Classification(Task):
    """One class for an image; outputs are logits [N, classes], labels int64 [N]. The loss is cross-entropy with the labels and,
    by the share ``settings.distillation``, the divergence from what the fp32 network gives."""

    metric = ACCURACY

    def outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        return answers(network, images).float()

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.argmax(1) == labels).double()

    def divergences(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        given, meant = (x.log_softmax(1).double() for x in (outputs, wanted))
        return (meant.exp() * (meant - given)).sum(1)

    def agreements(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs.argmax(1) == wanted.argmax(1)).double()

    def loss(self, outputs: Tensor, wanted: Tensor | None, labels: Tensor, settings: TrainSettings) -> Tensor:
        share, temperature = settings.distillation, settings.distillation_temperature
        loss = nn.functional.cross_entropy(outputs, labels, label_smoothing=settings.label_smoothing)
        if wanted is None:
            return loss
        meant = nn.functional.log_softmax(wanted / temperature, dim=1)
        given = nn.functional.log_softmax(outputs / temperature, dim=1)
        divergence = nn.functional.kl_div(given, meant, reduction="batchmean", log_target=True)
        # The square keeps the gradient's size independent of the temperature (Hinton et al. 2015, section 2).
        return (1 - share) * loss + share * temperature**2 * divergence

    def guessed(self, outputs: Tensor, labels: Tensor) -> float:
        return 1 / outputs.shape[1]


class OwnMetric(Classification):
    """Classification whose answers are judged by a person's ``function``, called with outputs and labels of all images at once:
    it gives a score in 0..1 for each image, [N], or one number in 0..1 for all of them."""

    def __init__(self, metric: str, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.metric, self.function = metric, function

    @classmethod
    def named(cls, metric: str) -> OwnMetric:
        """That of ``package.module:function``.

        Raises:
            UserError: there is no such function.
        """
        return cls(metric, find_factory(metric))

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """As of every task.

        Raises:
            UserError: the function fails, or gives something else.
        """
        value = self._asked(outputs, labels)
        if value.ndim:
            return value
        return spread_over(value, lambda kept: self._asked(outputs[kept], labels[kept]).mean(), len(labels))

    def guessed(self, outputs: Tensor, labels: Tensor) -> float:
        return Task.guessed(self, outputs, labels)

    def _asked(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What the function gives, float64 [N] or a single number."""
        try:
            given = self.function(outputs.clone(), labels.clone())
        except (Exception, SystemExit) as error:  # a function of someone else's
            raise UserError(f"--metric {self.metric} failed: {story(error)}") from error
        shape = tuple(outputs.shape)
        wanted = f"; for outputs of shape {shape} give a tensor ({len(labels)},) of scores in 0..1, or one number in 0..1"
        try:
            value = torch.as_tensor(given).detach().double().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"--metric {self.metric} gives {article(given)}{wanted}") from error
        if value.ndim and tuple(value.shape) != (len(labels),):
            raise UserError(f"--metric {self.metric} gives a tensor of shape {tuple(value.shape)}{wanted}")
        bad = value[~((value >= 0) & (value <= 1))]
        if bad.numel():
            raise UserError(f"--metric {self.metric} gives {float(bad.flatten()[0]):g}{wanted}")
        return value


def task_of(metric: str | None) -> Task:
    """Classification judged by ``package.module:function``; None: by how often it is right.

    Raises:
        UserError: there is no such function.
    """
    return Classification() if metric is None else OwnMetric.named(metric)


def spread_over(value: Tensor, without: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """One number for all of ``count`` images as if each had its own, [count]: their mean is ``value``, and their spread says how
    much it depends on which images there are, by a jackknife over groups (Efron, "The Jackknife, the Bootstrap and Other
    Resampling Plans", 1982).

    Args:
        without: the number for some of the images, by their places.
    """
    groups = min(GROUPS, count)
    if groups < 2:
        return value.expand(count).clone()
    group = torch.empty(count, dtype=torch.long)
    group[fixed_sample(count, count)] = torch.arange(count) % groups
    left = torch.stack([without((group != one).nonzero().flatten()) for one in range(groups)])
    # A group's influence, in the spread of images: a mean of ``groups`` values is as sure as one of ``count`` wider ones.
    apart: Tensor = (groups - 1) * (left.mean() - left)[group] * (count / groups) ** 0.5
    return value + apart - apart.mean()
