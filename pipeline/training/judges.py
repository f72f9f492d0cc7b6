"""Images on which a network is judged beside the fp32 one, whose answers to them are computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed
from torch import Tensor, nn

from foundation.modes import evaluating
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import Images
from pipeline.training.evaluation import batches, device_of, fixed_sample
from pipeline.training.settings import TrainSettings
from pipeline.training.task import Classification, Task


@dataclass(frozen=True)
class Judgement:
    """What was found: the error (1 minus how good it is, 0..1), the divergence from the fp32 network in nats, a mean over images
    with its standard error, and the mean squared difference between the two networks' scores of an image (where an answer is
    right or wrong, the share of images on which exactly one of them is right). ``error_standard_error`` is None where all is
    right or wrong, and the number of images says it."""

    error: float
    divergence: float
    standard_error: float
    discordant: float
    error_standard_error: float | None = None


class Judge:
    """Judges networks on some images.

    Args:
        model: the fp32 network.
        indices: which of ``images``.
        mean, std: normalization, per channel, for pixels in 0..1.
        batch: images at a time.
        task: what is asked of the networks.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        indices: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        batch: int,
        task: Task | None = None,
    ) -> None:
        self._model, self._images, self._indices = model, images, indices
        self.task = task or Classification()
        self._mean, self._std, self._batch = tuple(mean), tuple(std), batch

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def wanted(self) -> Tensor:
        """What the fp32 network gives for all of the images [N, ...]."""
        return self._outputs(self._model, self._indices)

    @torch.no_grad()
    def _outputs(self, network: nn.Module, indices: Tensor) -> Tensor:
        seen = batches(self._images, self._mean, self._std, self._batch, device_of(network), indices)
        with evaluating(network):
            return torch.cat([self.task.outputs(network, x).cpu() for x in seen])

    def answers(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Outputs [N, ...] of the fp32 network and of this one, on all of the images."""
        return self.wanted, self._outputs(network, self._indices)

    @cached_property
    def fp32_scores(self) -> Tensor:
        """Of the fp32 network's answers, float64 [N]."""
        return self.task.scores(self.wanted, self.labels)

    @cached_property
    def fp32(self) -> Judgement:
        """Of the fp32 network itself."""
        return Judgement(float((1 - self.fp32_scores).mean()), 0.0, 0.0, 0.0, _spread(self.fp32_scores))

    @property
    def fp32_error(self) -> float:
        """The fp32 network's error, 0..1."""
        return self.fp32.error

    @cached_property
    def guessed(self) -> float:
        """How good answers are that do not look at the images, 0..1."""
        return self.task.guessed(self.wanted, self.labels)

    @property
    def labels(self) -> Tensor:
        """Of the images [N]; negative where there is none."""
        return self._images.labels[self._indices]

    def pixels(self, places: Sequence[int]) -> Tensor:
        """Some of the images, by their places among them: uint8 [n, H, W, C]."""
        return self._images.batch(self._indices[torch.as_tensor(list(places), dtype=torch.long)])

    def index(self, place: int) -> int:
        """Which image of the data that is."""
        return int(self._indices[place])

    def __call__(self, network: nn.Module, rank: int = 0, world: int = 1) -> Judgement:
        """Judge a network, in evaluation mode, where it lies. With ``world`` above 1 every rank takes its share of the images,
        and all come to the same judgement."""
        mine = torch.arange(len(self))[rank::world]
        given = self._outputs(network, self._indices[mine])
        if world > 1:
            # Nobody can say of a part of the images what a metric of all of them comes to.
            every = torch.zeros((len(self), *given.shape[1:]), device=device_of(network))
            every[mine.to(every.device)] = given.to(every.device)
            torch.distributed.all_reduce(every)
            given = every.cpu()
        scores, off = self.task.scores(given, self.labels), self.task.divergences(given, self.wanted)
        return Judgement(
            float((1 - scores).mean()),
            float(off.mean()),
            float(off.std() / len(off) ** 0.5) if len(off) > 1 else 0.0,
            float((scores - self.fp32_scores).square().mean()),
            _spread(scores),
        )


def _spread(scores: Tensor) -> float | None:
    """The standard error of the scores' mean; None where each is 0 or 1."""
    if bool(((scores == 0) | (scores == 1)).all()):
        return None
    return float(scores.std() / len(scores) ** 0.5) if len(scores) > 1 else 0.0


@dataclass(frozen=True)
class Judges:
    """Those of a trial.

    Attributes:
        taught, kept: indices of the training images from which something is learned, and of those from which nothing is.
        kept_images: on the kept ones; None where there are none.
        rung: on the first images of the search half, which are a fair sample of it; by it a trial chooses among its rungs.
        search: on all of it.
    """

    taught: Tensor
    kept: Tensor
    kept_images: Judge | None
    rung: Judge
    search: Judge

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: ImageData,
        settings: TrainSettings,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | None = None,
        task: Task | None = None,
    ) -> Judges:
        """The judges of trials with these settings; the network is copied where it has to lie on another ``device``. Without a
        ``task``, networks classify."""
        total = len(data.train)
        count = min(settings.kept_images, total // 10)
        order = fixed_sample(total, total)  # its first images calibrate
        taught, kept = order[: total - count].sort().values, order[total - count :]
        if device is not None and device != device_of(model):
            model = copy.deepcopy(model).to(device)
        part = min(settings.rung_images or len(data.search), len(data.search))

        def judge(images: Images, indices: Tensor) -> Judge:
            return Judge(model, images, indices, mean, std, settings.evaluation_batch, task)

        search = judge(data.search, torch.arange(len(data.search)))
        return cls(
            taught,
            kept,
            judge(data.train, kept) if count else None,
            search if part == len(data.search) else judge(data.search, fixed_sample(len(data.search), part)),
            search,
        )
