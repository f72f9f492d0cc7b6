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
from pipeline.training.outputs import answers
from pipeline.training.settings import TrainSettings


@dataclass(frozen=True)
class Judgement:
    """What was found: the share of wrong answers (0..1), the Kullback-Leibler divergence from
    the fp32 network's class probabilities in nats, a mean over images with its standard error, and the share of images on which
    exactly one of the two networks is right."""

    error: float
    divergence: float
    standard_error: float
    discordant: float


class Judge:
    """Judges networks on some images.

    Args:
        model: the fp32 network.
        indices: which of ``images``.
        mean, std: normalization, per channel, for pixels in 0..1.
        batch: images at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        indices: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        batch: int,
    ) -> None:
        self._model, self._images, self._indices = model, images, indices
        self._mean, self._std, self._batch = tuple(mean), tuple(std), batch

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def _wanted(self) -> Tensor:
        return self._log_probabilities(self._model, self._indices)

    @torch.no_grad()
    def _log_probabilities(self, network: nn.Module, indices: Tensor) -> Tensor:
        seen = batches(self._images, self._mean, self._std, self._batch, device_of(network), indices)
        with evaluating(network):
            return torch.cat([answers(network, x).float().log_softmax(1).cpu() for x in seen])

    def answers(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N, classes] of the fp32 network and of this one, on all of the images."""
        return self._wanted, self._log_probabilities(network, self._indices)

    @cached_property
    def fp32_error(self) -> float:
        """Share of the images that the fp32 network gets wrong."""
        return float((self._wanted.argmax(1) != self.labels).double().mean())

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
        given, wanted = self._log_probabilities(network, self._indices[mine]), self._wanted[mine]
        labels = self._images.labels[self._indices[mine]]
        wrong = (given.argmax(1) != labels).double()
        parted = wrong != (wanted.argmax(1) != labels).double()
        off = (wanted.double().exp() * (wanted.double() - given.double())).sum(1)
        sums = torch.stack([wrong.sum(), off.sum(), off.square().sum(), parted.double().sum()]).to(
            device_of(network)
        )
        if world > 1:
            torch.distributed.all_reduce(sums)
        count = len(self)
        wrongs, total, squares, apart = sums.tolist()
        spread = max(0.0, squares / count - (total / count) ** 2) / max(1, count - 1)
        return Judgement(wrongs / count, total / count, spread**0.5, apart / count)


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
    ) -> Judges:
        """The judges of trials with these settings; the network is copied where it has to lie on another ``device``."""
        total = len(data.train)
        count = min(settings.kept_images, total // 10)
        order = fixed_sample(total, total)  # its first images calibrate
        taught, kept = order[: total - count].sort().values, order[total - count :]
        if device is not None and device != device_of(model):
            model = copy.deepcopy(model).to(device)
        part = min(settings.rung_images or len(data.search), len(data.search))

        def judge(images: Images, indices: Tensor) -> Judge:
            return Judge(model, images, indices, mean, std, settings.evaluation_batch)

        search = judge(data.search, torch.arange(len(data.search)))
        return cls(
            taught,
            kept,
            judge(data.train, kept) if count else None,
            search if part == len(data.search) else judge(data.search, torch.arange(part)),
            search,
        )
