"""Co-tuning: a trained network's weights and its layers' mixtures learned together from the task's loss."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.datasets.base import ImageData
from pipeline.training.early import STEPS, hopeless
from pipeline.training.evaluation import drawn
from pipeline.training.incumbent import Incumbent, state_of
from pipeline.training.judges import Judgement, Judges
from pipeline.training.loop import ALONE, Diverged, Loop, OnStep, Portion, one_cycle
from pipeline.training.rung import Rung
from pipeline.training.settings import TrainSettings
from pipeline.training.stages import FREE, HELD, INHERITED, REBUILT, SMALL, Stage, begins_anew
from quantizers.calibration.channel_scale import with_even_channels
from quantizers.calibration.norms import NormMatcher
from quantizers.calibration.reconstruction import Reconstruction, reconstruct
from quantizers.network import (
    Hardened,
    harden,
    parameter_groups,
    quantize,
    quantizers_of,
    set_progress,
)
from quantizers.oscillation import Moves
from quantizers.tracing.trace import traced

LOOKS = 8  # at the weights' levels within a stage
OnLayer = Callable[[int, int], None]


class Cotuning(Loop):
    """The co-tuning of one plan.

    The loss is that of the judges' task. ``reach`` goes from stage to stage; between them, and whenever ``between`` is called,
    the run can be saved and resumed.

    Args:
        model: the trained fp32 network; it is copied, not changed.
        plan: what to do to it.
        data: teaches by ``train`` but for the kept images, is judged on ``search``; ``report`` is never looked at.
        mean, std: normalization of the network's input, per channel, for pixels in 0..1.
        device: where to train.
        portion, progress: see ``Loop``. Where several share the training, every rank calls the same methods.
        state: a ``state_dict`` to go on from; then nothing is calibrated or clustered anew.
        judges: those of this model, data and settings, where they are there already.
        incumbent: what the stage ``inherited`` takes over.

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
        portion: Portion = ALONE,
        progress: OnStep | None = None,
        state: dict[str, Any] | None = None,
        judges: Judges | None = None,
        incumbent: Incumbent | None = None,
    ) -> None:
        where = torch.device(device)
        self.judges = judges or Judges.of(model, data, settings, mean, std, where)
        self.task = self.judges.search.task
        data = dataclasses.replace(data, train=data.train.subset(self.judges.taught))
        self.plan, self.incumbent = plan, incumbent
        self.teacher: nn.Module | None = None
        if settings.distillation:
            self.teacher = copy.deepcopy(model).eval().requires_grad_(requires_grad=False).to(where)
        count = settings.calibration_images
        calibration = None if state is not None else torch.cat(drawn(data.train, count, mean, std))
        self.original = with_even_channels(model) if settings.even_channels else model
        self.rebuilt = False
        network = quantize(self.original, plan, calibration, **settings.of_quantizer()).to(where)
        super().__init__(
            network, data, settings, mean, std, self.groups(network, settings),
            device=where, portion=portion, progress=progress,
        )  # fmt: skip
        self._hardened: tuple[int, Hardened] | None = None
        self._best: dict[str, Any] | None = None
        self._settled: tuple[float, int] | None = None
        self.diverged: str | None = None
        self._here: tuple[Stage, int, Moves] | None = (
            None  # the stage that is gone through, its first step, its moves
        )
        self._left: dict[str, Any] | None = None  # the same of a run that was left in the middle of a stage
        if state is not None:
            self.load_state_dict(state)

    def groups(self, network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, each with its peak rate."""
        return parameter_groups(network, settings.learning_rate, settings.weight_decay)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs, wanted = self.task.outputs(self.called, images), None
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.task.outputs(self.teacher, images)
        return self.task.loss(outputs, wanted, labels, self.settings)

    def begin(self) -> None:
        super().begin()
        if self.task.frozen_norms and self.rebuilt:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def before_step(self, share: float) -> None:
        set_progress(self.network, share)

    def factor(self) -> float:
        if self.step >= self.before:
            return super().factor()
        rate = self.settings.held_rate / self.settings.learning_rate
        return rate * one_cycle(self.step / self.before, self.settings.warm_up)

    def reach(self, stage: Stage, progress: OnLayer | None = None, *, may_give_up: bool = False) -> Rung:
        """Go through one stage, after those before it, and judge the network at its end. ``settle`` takes up the best of them.

        Where training fails for good (``Loop.run_until``), the best network before it is taken up, and ``diverged`` says why;
        stages that follow train nothing.

        Args:
            progress: while layers are rebuilt, called with those that are done and all of them.
            may_give_up: a network that hardly does better than guessing after ``STEPS`` steps, and was no better before, is
                trained no further in this stage.

        Raises:
            Diverged: and there was no network before it.
        """
        moves: Moves | None = None
        loss: float | None = None
        if self.diverged is not None:
            pass
        elif stage.name in (SMALL, REBUILT):
            s = self.settings
            images = s.small_images if stage.name == SMALL else s.rebuild_images
            loss = self.rebuild(images, Reconstruction(), progress)
        elif stage.name == INHERITED:
            return self._inherit(stage)
        else:
            begins = stage.name == FREE and self.rebuilt and self.step == self.before
            if begins and not self._inherited and self._wants_many_zeros():
                self._begin_anew()
                self.optimizer.state.clear()
            holds = self._hold(held=stage.name == HELD)
            if stage.name == HELD and not self.step:
                self.before = self.settings.held_steps if holds else 0
            target = self.before if stage.name == HELD else self.step_of(stage.epochs)
            moves, first = Moves(self.network), self.step
            left, self._left = self._left, None
            if left is not None and (left["stage"], left["epochs"]) == stage.place:
                first = left["first"]
                moves.load_state_dict(left["moves"])
            self._here = stage, first, moves
            try:
                before = self._best is None or self._useless(self._best)
                # Who was left after that step has been judged there.
                asked = may_give_up and first < STEPS < target and self.step <= STEPS and before
                looked = first if asked else self.step
                if asked:
                    self.run_to(STEPS)
                    target = STEPS if self._useless(None) else target
                for look in range(1, LOOKS + 1):
                    if (place := first + round(look * (target - first) / LOOKS)) >= looked:
                        self.run_to(place)
                        moves.look()
            except Diverged as error:
                if self._best is None:
                    raise
                self.diverged, moves = str(error), None
                self.settle()
            finally:
                self._here = None
        return self._judged(stage, loss, moves)

    def _useless(self, best: dict[str, Any] | None) -> bool:
        """Whether the best network before, or where there is none the present one, is of no use; of an older checkpoint's that is
        not known."""
        if best is None:
            error = self.judges.rung(self._hard().network, self.rank, self.world).error
        else:
            error = best.get("error", 0.0)
        return hopeless(error, self.judges.rung.fp32_error, self.judges.rung.guessed)

    def train_until(self, epochs: float) -> Rung:
        """Train up to ``epochs`` with free weights, counted from the start, and judge the network there; as ``reach``, without
        any stage before."""
        return self.reach(Stage(FREE, epochs))

    def rebuild(self, images: int, how: Reconstruction, progress: OnLayer | None) -> float:
        """Rebuild every layer from so many training images, without their labels; the divergence from what the fp32 network
        answers to those images, in nats."""
        if self.step:
            raise ValueError("layers are rebuilt before training")
        started = time.perf_counter()
        if self.rebuilt:  # from fewer images
            self._begin_anew()
        seen, original = self._training_images(images), self._original_there
        reconstruct(cast(fx.GraphModule, self.network), original, seen, how, progress)
        self.rebuilt, self._hardened = True, None
        self.seconds += time.perf_counter() - started
        off = self.task.divergence(self._hard().network, original, seen)
        self.last_loss = off  # until a step is taken: a stage that has none to take has no other
        return off

    def _inherit(self, stage: Stage) -> Rung:
        """Take over what the incumbent has trained by the same choices, unless the best network so far is closer to fp32."""
        assert self.incumbent is not None
        own = state_of(self.network)
        self.incumbent.give(self.plan, self.network)
        self._settled, self._hardened = (1.0, self.step + 1), None  # as at the end of a training
        rung = self._judged(stage, None, None)
        self._settled, self._hardened = None, None
        if self._inherited:
            self.optimizer.state.clear()
        else:
            self.network.load_state_dict(own)
        return rung

    @property
    def _inherited(self) -> bool:
        """Whether the best network so far is that with inherited weights."""
        return self._best is not None and self._best.get("stage") == INHERITED

    def _begin_anew(self) -> None:
        """Take up the network as it was before layers were rebuilt."""
        calibration = torch.cat(drawn(self.data.train, self.settings.calibration_images, self.mean, self.std))
        fresh = quantize(self.original, self.plan, calibration, **self.settings.of_quantizer())
        self.network.load_state_dict(fresh.state_dict())

    def _wants_many_zeros(self) -> bool:
        """See ``begins_anew``; norms that are frozen in training need layers that fit them."""
        if self.task.frozen_norms:
            return False
        found = [
            (q.zero_target or 0.0, q.bits, latent.numel()) for _, q, latent in quantizers_of(self.network)
        ]
        zeros = sum(share * count for share, _, count in found) / sum(count for *_, count in found)
        pruned = sum(count for share, _, count in found if share)
        bits = sum(bits * count for share, bits, count in found if share) / max(pruned, 1)
        return begins_anew(zeros, self.total_steps, bits)

    def _hold(self, *, held: bool) -> bool:
        """Hold every weight at its level, or let it go half way back to where the fp32 network has it, so that it can move.
        Returns whether any is held: of plain int8, say, none can be."""
        self._hardened, some = None, False
        plain = traced(self.original)
        for name, quantizer, latent in quantizers_of(self.network):
            if held:
                some |= quantizer.hold(latent)
                continue
            weight = cast(Tensor, plain.get_submodule(name).weight).detach().to(latent.device)
            quantizer.release(latent, weight if quantizer.effect is None else quantizer.effect(weight))
        return some

    def _judged(self, stage: Stage, loss: float | None, moves: Moves | None) -> Rung:
        """The rung of a stage's end; its network is kept if it is the best yet."""
        network = self._hard().network
        rung = self.judges.rung(network, self.rank, self.world)
        kept = self.judges.kept_images
        on_kept = None if kept is None else kept(network, self.rank, self.world).divergence
        distance = rung.divergence if math.isfinite(rung.divergence) else math.inf
        if self._best is None or distance < self._best["divergence"]:
            share, step = self._settled or (self.share, self.step)
            self._best = {
                "divergence": distance,
                "error": rung.error,
                "network": state_of(self.network),
                "share": share,
                "step": step,
                "stage": stage.name,
            }
        return Rung(
            stage.epochs,
            rung.error,
            self.take_loss() if loss is None else loss,
            self.seconds,
            stage.name,
            rung.divergence,
            rung.standard_error,
            on_kept,
            None if moves is None else moves.moved,
            None if moves is None else moves.flipped,
        )

    def settle(self) -> None:
        """Take up the network of the best rung, by the divergence; then there is no more training."""
        if self._best is not None:
            self.network.load_state_dict(self._best["network"])
            self._settled, self._hardened = (self._best["share"], self._best["step"]), None

    def hardened(self) -> Hardened:
        """The network as it would be deployed now: hard weights, frozen steps, batch-norm statistics that fit them.

        A copy, in evaluation mode, on the CPU; training goes on unaffected.
        """
        network, codebooks = self._hard()
        return Hardened(network if self.device.type == "cpu" else copy.deepcopy(network).cpu(), codebooks)

    def _hard(self) -> Hardened:
        """The same on the device; made once for a step."""
        if self._hardened is None or self._hardened[0] != self.step:
            share, step = self._settled or (self.share, self.step)
            set_progress(self.network, share)
            hardened = harden(self.network)
            # Rebuilt layers have norms that fit them, and those that are frozen stay so.
            if not self.rebuilt or (step and not self.task.frozen_norms):
                self.refit_norms(hardened.network)
            self._hardened = (self.step, hardened)
        return self._hardened[1]

    def refit_norms(self, network: nn.Module) -> None:
        """Give the batch-norms of a hardened network statistics that fit its weights."""
        self._matcher.match(network)

    @cached_property
    def _matcher(self) -> NormMatcher:
        return NormMatcher(
            traced(self._original_there), partial(self._training_images, self.settings.batch_norm_images)
        )

    @cached_property
    def _original_there(self) -> nn.Module:
        """The fp32 network on the device."""
        on_cpu = self.device.type == "cpu"
        return self.original if on_cpu else copy.deepcopy(self.original).to(self.device)

    def _training_images(self, count: int) -> list[Tensor]:
        """So many of them, normalized, on the device: the same each time."""
        return [x.to(self.device) for x in drawn(self.data.train, count, self.mean, self.std)]

    def judgement(self) -> Judgement:
        """Error and divergence on all of the search half."""
        return self.judges.search(self._hard().network, self.rank, self.world)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "identity": self._identity(),
            "rebuilt": self.rebuilt,
            "best": self._best,
            "before": self.before,
            "diverged": self.diverged,
            "here": self._within(),
        }

    def _within(self) -> dict[str, Any] | None:
        """Where in a stage this is; None between two."""
        if self._here is None:
            return None
        stage, first, moves = self._here
        return {"stage": stage.name, "epochs": stage.epochs, "first": first, "moves": moves.state_dict()}

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
        self.before = state["before"]
        self.rebuilt, self._best, self._hardened = state["rebuilt"], state["best"], None
        self.diverged, self._left = state["diverged"], state.get("here")
        if self.diverged is not None:
            self.settle()

    def _identity(self) -> str:
        record = {"plan": self.plan.hash, "settings": self.settings.as_dict(), "data": self.data.name}
        return json_text(
            {**record, "images": len(self.data.train), "size": self.data.image_size}, sort_keys=True
        )
