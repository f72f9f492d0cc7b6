"""Co-tuning: a trained network's weights and its layers' mixtures learned together from the task's loss."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, fx, nn

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import normalize
from pipeline.training.evaluation import divergence, fixed_sample, predictions, reestimate_batch_norm
from pipeline.training.loop import Loop, OnStep, Wrap
from pipeline.training.rung import Rung
from pipeline.training.settings import TrainSettings
from quantizers.calibration.channel_scale import with_even_channels
from quantizers.calibration.reconstruction import Reconstruction, reconstruct
from quantizers.network import (
    Hardened,
    harden,
    parameter_groups,
    quantize,
    set_progress,
)

OnLayer = Callable[[int, int], None]


class Cotuning(Loop):
    """The co-tuning of one plan.

    The loss is cross-entropy with the labels and, by the share ``settings.distillation``, the divergence from what the
    fp32 network answers. ``train_until`` goes from rung to rung; between rungs the run can be saved and resumed.

    Args:
        model: the trained fp32 network; it is copied, not changed.
        plan: what to do to it.
        data: teaches by ``train``, is judged on ``search``; ``report`` is never looked at.
        mean, std: normalization of the network's input, per channel, for pixels in 0..1.
        device: where to train.
        wrap, rank, world, progress: see ``Loop``. With ``world`` above 1 every rank calls the same methods.
        state: a ``state_dict`` to go on from; then nothing is calibrated or clustered anew.

    Raises:
        UserError: the plan does not fit the model, or the settings do not fit the data.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        data: ImageData,
        settings: TrainSettings,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: str | torch.device = "cpu",
        wrap: Wrap | None = None,
        rank: int = 0,
        world: int = 1,
        progress: OnStep | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        where = torch.device(device)
        self.plan = plan
        self.teacher: nn.Module | None = None
        if settings.distillation:
            self.teacher = copy.deepcopy(model).eval().requires_grad_(False).to(where)
        calibration = None if state is not None else _calibration(data, settings, mean, std)
        self.original = with_even_channels(model) if settings.even_channels else model
        self.rebuilt = False
        network = quantize(self.original, plan, calibration, **settings.of_quantizer()).to(where)
        super().__init__(
            network, data, settings, mean, std, self.groups(network, settings),
            device=where, wrap=wrap, rank=rank, world=world, progress=progress,
        )  # fmt: skip
        self._hardened: tuple[int, Hardened] | None = None
        if state is not None:
            self.load_state_dict(state)

    def groups(self, network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, each with its peak rate."""
        return parameter_groups(network, settings.learning_rate, settings.weight_decay)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        share, temperature = self.settings.distillation, self.settings.distillation_temperature
        logits = self.logits(self.called, images)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = nn.functional.log_softmax(self.logits(self.teacher, images) / temperature, dim=1)
        given = nn.functional.log_softmax(logits / temperature, dim=1)
        divergence = nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        # The square keeps the gradient's size independent of the temperature (Hinton et al. 2015, section 2).
        return (1 - share) * loss + share * temperature**2 * divergence

    def before_step(self, share: float) -> None:
        set_progress(self.network, share)

    def train_until(self, epochs: float) -> Rung:
        """Train up to ``epochs``, counted from the start, and evaluate there.

        Returns:
            The rung: error on the search half with hard weights, mean training loss since the previous rung, seconds of
            training since the start.

        Raises:
            Diverged: see ``Loop.run_until``.
        """
        self.run_until(epochs)
        return Rung(epochs=epochs, error=self.error(), loss=self.take_loss(), seconds=self.seconds)

    def rebuild(self, images: int, how: Reconstruction, progress: OnLayer | None = None) -> Rung:
        """Rebuild every layer from so many training images, without their labels, before any step of training.

        Args:
            images: how many; all where there are fewer.
            progress: called with the layers that are done and all of them.

        Returns:
            The rung at 0 epochs; its loss is the divergence from what the fp32 network answers to those images, in nats.
        """
        if self.step or self.rebuilt:
            raise ValueError("layers are rebuilt once, before training")
        started = time.perf_counter()
        chosen = fixed_sample(len(self.data.train), min(images, len(self.data.train)))
        seen = [
            normalize(self.data.train.batch(part), self.mean, self.std).to(self.device)
            for part in chosen.split(self.settings.evaluation_batch)
        ]
        reconstruct(cast(fx.GraphModule, self.network), self.original, seen, how, progress)
        self.rebuilt, self._hardened = True, None
        self.seconds += time.perf_counter() - started
        off, _ = divergence(self._hard().network, self.original, seen)
        return Rung(0.0, self.error(), off, self.seconds)

    def hardened(self) -> Hardened:
        """The network as it would be deployed now: hard weights, frozen steps, batch-norm statistics that fit them.

        A copy, in evaluation mode, on the CPU; training goes on unaffected.
        """
        network, codebooks = self._hard()
        return Hardened(network if self.device.type == "cpu" else copy.deepcopy(network).cpu(), codebooks)

    def _hard(self) -> Hardened:
        """The same on the device; made once for a step."""
        if self._hardened is None or self._hardened[0] != self.step:
            set_progress(self.network, self.step / self.total_steps)
            hardened = harden(self.network)
            if self.step or not self.rebuilt:  # rebuilt layers have norms that fit them
                self.refit_norms(hardened.network, self.settings.augment or self.data.augment)
            self._hardened = (self.step, hardened)
        return self._hardened[1]

    def refit_norms(self, network: nn.Module, augment: str) -> None:
        """Give the batch-norms of a hardened network the statistics of training images, augmented in this way."""
        s = self.settings
        reestimate_batch_norm(
            network, self.data.train, s.batch_norm_images, self.mean, self.std, s.evaluation_batch, augment
        )

    def error(self) -> float:
        """Share of the search half (0..1) that the hardened network gets wrong, over all ranks."""
        images = self.data.search
        mine = torch.arange(len(images))[self.rank :: self.world]
        network = self._hard().network
        answers = predictions(network, images, self.mean, self.std, self.settings.evaluation_batch, mine)
        wrong = (answers != images.labels[mine]).sum().to(self.device)
        if self.world > 1:
            torch.distributed.all_reduce(wrong)
        return int(wrong) / len(images)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "identity": self._identity(), "rebuilt": self.rebuilt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``.

        Raises:
            ValueError: it belongs to another plan, other settings or other data.
        """
        if state["identity"] != self._identity():
            raise ValueError(
                f"the checkpoint belongs to another run: {state['identity']}, this is {self._identity()}"
            )
        super().load_state_dict(state)
        self.rebuilt, self._hardened = state.get("rebuilt", False), None

    def _identity(self) -> str:
        record = {"plan": self.plan.hash, "settings": self.settings.as_dict(), "data": self.data.name}
        return json_text(
            {**record, "images": len(self.data.train), "size": self.data.image_size}, sort_keys=True
        )


def _calibration(
    data: ImageData, settings: TrainSettings, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    chosen = fixed_sample(len(data.train), settings.calibration_images)
    return normalize(data.train.batch(chosen), mean, std)
