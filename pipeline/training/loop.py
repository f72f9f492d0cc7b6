"""The training loop: steps over shuffled, augmented batches, a one-cycle schedule, exact resume, divergence noticed.

Nothing random is remembered: the order of an epoch and the augmentation of a step follow from the seed and the step's
number, so a run resumed from a checkpoint takes exactly the steps that the uninterrupted one would have taken.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from foundation.errors import UserError
from pipeline.datasets.augmentations.base import augment
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import normalize
from pipeline.training.outputs import as_logits
from pipeline.training.settings import TrainSettings

OnStep = Callable[[int, int, float], None]
Wrap = Callable[[nn.Module], nn.Module]
START = 10  # steps whose mean loss later losses are compared with
BLOW_UP = 5.0  # how many times that is divergence
STEPS_BETWEEN_CHECKS = 16  # on an accelerator, where reading a loss waits for all work in flight


class Diverged(Exception):
    """Training has failed for good; the text names the step and the value."""


@dataclass(frozen=True)
class Portion:
    """What a process does of a training that several share: it takes every ``world``-th image of a batch, from the ``rank``-th
    on. ``wrap`` makes the module that is called in training out of the network, such as ``DistributedDataParallel``."""

    rank: int = 0
    world: int = 1
    wrap: Wrap | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world}")


ALONE = Portion()


class Loop:
    """Trains ``network`` on ``data``.

    Args:
        network: lies on ``device``; its forward takes float [n, 3, H, W] and gives logits.
        groups: parameter groups as ``torch.optim.SGD`` takes them; each group's ``lr`` is its peak.
        portion: what this process does of it; all, unless others do theirs.
        progress: called after each step with steps done, steps planned and the loss (of the last step that was checked).
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        settings: TrainSettings,
        mean: Sequence[float],
        std: Sequence[float],
        groups: list[dict[str, Any]],
        *,
        device: torch.device,
        portion: Portion = ALONE,
        progress: OnStep | None = None,
    ) -> None:
        self.network, self.data, self.settings, self.mean, self.std = network, data, settings, mean, std
        self.device, self.rank, self.world, self.progress = device, portion.rank, portion.world, progress
        self.batch_size, self.steps_per_epoch, self.total_steps = planned_steps(settings, len(data.train))
        world = portion.world
        if self.batch_size % world:
            raise UserError(
                f"batch size {self.batch_size} cannot be shared by {world} workers; give a multiple of {world}"
            )
        if self.batch_size < 2 * world:
            raise UserError(
                f"batch size {self.batch_size} for {world} workers: batch-norm needs 2 images on each; give {2 * world} or more"
            )
        self.optimizer = torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
        )
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]
        self.called = portion.wrap(network) if portion.wrap else network
        self.before = 0  # steps that are taken before the first epoch, on a schedule of their own
        self.step = 0
        self.seconds = 0.0
        self.between: Callable[[], None] | None = None  # called after a step where all state is whole
        self.loss_sum, self.loss_count, self.last_loss = 0.0, 0, math.nan
        self._first: list[float] = []
        self._average = math.nan
        self._pending: list[Tensor] = []
        self._order: tuple[int, Tensor] | None = None

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch; ``images`` are normalized."""
        logits = self.logits(self.called, images)
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """What ``network`` answers to a batch, float32 [n, classes]."""
        return as_logits(network(images), len(images), len(self.data.classes)).float()

    def begin(self) -> None:
        """Called before steps are taken: the network goes into training mode."""
        self.called.train()

    def before_step(self, share: float) -> None:
        """Called before each step with the share of planned steps that are done, 0..1."""

    def step_of(self, epochs: float) -> int:
        """The number of steps up to ``epochs``."""
        return self.before + steps_of(epochs, self.steps_per_epoch, self.total_steps)

    @property
    def share(self) -> float:
        """Of the planned epochs' steps those that are done, 0..1."""
        return max(0, self.step - self.before) / self.total_steps

    def factor(self) -> float:
        """On the peak learning rates, in the step to come."""
        return one_cycle(self.share, self.settings.warm_up)

    def run_until(self, epochs: float) -> None:
        """Take the steps that are left up to ``epochs``, counted from the start of training.

        Raises:
            Diverged: the loss is not finite, or far above where it started.
        """
        self.run_to(self.step_of(epochs))

    def run_to(self, target: int) -> None:
        """Take the steps that are left up to that number of steps; raises as ``run_until``."""
        before = time.perf_counter()
        self.begin()
        interval = STEPS_BETWEEN_CHECKS if self.device.type != "cpu" else 1
        while self.step < target:
            self._pending.append(self.one_step())
            if len(self._pending) >= interval or self.step == target:
                self._check()
            if self.progress:
                self.progress(self.step, self.before + self.total_steps, self.last_loss)
            now = time.perf_counter()
            self.seconds, before = self.seconds + now - before, now
            if self.between and not self._pending:
                self.between()

    def take_loss(self) -> float:
        """Mean loss of the steps since this was last asked."""
        mean = self.loss_sum / self.loss_count if self.loss_count else self.last_loss
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's share of a step's images (augmented, normalized) and labels, on the device."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (
                epoch,
                torch.randperm(len(self.data.train), generator=self._generator("order", epoch)),
            )
        indices = self._order[1][place * self.batch_size : (place + 1) * self.batch_size][
            self.rank :: self.world
        ]
        kind = self.settings.augment or self.data.augment
        pixels = augment(self.data.train.batch(indices), kind, self._generator("augment", step, self.rank))
        labels = self.data.train.labels[indices].to(self.device)
        return normalize(pixels.to(self.device), self.mean, self.std), labels

    def one_step(self) -> Tensor:
        """Take the next step, whatever its loss is, which nobody has looked at yet."""
        factor = self.factor()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.before_step(self.share)
        images, labels = self.batch(self.step)
        devices = [self.device] if self.device.type == "cuda" else []
        # Dropout draws from torch's global state: give it this step's own, and leave the caller's as it was.
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(self._number("forward", self.step, self.rank))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
                loss = self.loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _check(self) -> None:
        losses = torch.stack(self._pending)
        if self.world > 1:  # all ranks must come to the same judgement, or the others wait for ever
            torch.distributed.all_reduce(losses)
            losses = losses / self.world
        first = self.step - len(self._pending)
        self._pending.clear()
        for number, value in enumerate(losses.tolist(), start=first + 1):
            if not math.isfinite(value):
                raise Diverged(f"the loss is {value} at step {number} of {self.before + self.total_steps}")
            if len(self._first) < START:
                self._first.append(value)
            self._average = value if math.isnan(self._average) else 0.9 * self._average + 0.1 * value
            reference = max(sum(self._first) / len(self._first), math.log(len(self.data.classes)))
            if self._average > BLOW_UP * reference:
                raise Diverged(
                    f"the loss blew up: {self._average:.3g} on average at step {number} of {self.before + self.total_steps}, "
                    f"more than {BLOW_UP:g} times {reference:.3g} at the start"
                )
            self.last_loss = value
            self.loss_sum += value
            self.loss_count += 1

    def _number(self, *what: object) -> int:
        digest = hashlib.sha256(repr((self.settings.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def _generator(self, *what: object) -> torch.Generator:
        return torch.Generator().manual_seed(self._number(*what))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors and plain values only, loadable with ``weights_only=True``."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": [self.loss_sum, float(self.loss_count), self.last_loss, self._average, *self._first],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict`` of a run with the same settings, model, plan and data."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss_sum, count, self.last_loss, self._average, *self._first = state["losses"]
        self.loss_count = int(count)
        self._pending.clear()


def planned_steps(settings: TrainSettings, images: int) -> tuple[int, int, int]:
    """Batch size, steps in an epoch and steps altogether, with ``images`` to train on."""
    images = min(images, settings.images_per_epoch or images)
    batch = min(settings.batch_size, images)
    return batch, images // batch, max(1, round(settings.epochs * (images // batch)))


def steps_of(epochs: float, per_epoch: int, total: int) -> int:
    """The number of steps in ``epochs``, which are above 0: at least one, so that something is trained."""
    return min(max(1, round(epochs * per_epoch)), total)


def check_rungs(budgets: Sequence[float], settings: TrainSettings, images: int) -> None:
    """Refuse rungs between which nothing would be trained.

    Args:
        budgets: epochs at the rungs, ascending.

    Raises:
        UserError: two of them are the same number of steps.
    """
    batch, per_epoch, total = planned_steps(settings, images)
    steps = [steps_of(epochs, per_epoch, total) for epochs in budgets]
    if len(set(steps)) < len(steps):
        raise UserError(
            f"{settings.epochs:g} epochs of {images} images in batches of {batch} are {total} step{'s' if total > 1 else ''}, "
            f"too few for {len(steps)} rungs; give more epochs, smaller batches or fewer rungs (--epochs-per-trial, "
            "--batch-size, --rungs)"
        )


def one_cycle(share: float, warm_up: float) -> float:
    """Factor on the peak learning rate: from 1/25 up to 1 linearly in ``warm_up``, then down to 0 on a cosine.

    Args:
        share: of the steps that are done, 0..1.
    """
    if share < warm_up:
        return 1 / 25 + (1 - 1 / 25) * share / warm_up
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))
