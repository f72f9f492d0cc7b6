"""The stages of one candidate: profile before training, co-tune rung by rung, finish. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.candidate.answers import compare_answers
from pipeline.candidate.bench import Bench
from pipeline.candidate.deployment import deploy
from pipeline.candidate.devices import Devices
from pipeline.candidate.folder import candidate_path, send_candidate
from pipeline.candidate.inheritance import read_incumbent
from pipeline.candidate.workspace import Workspace, as_figures
from pipeline.study.checkpoints import (
    forget_checkpoints,
    keep_between,
    last_checkpoint,
    save_checkpoint,
    save_record,
)
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.storage import LocalStorage, Storage
from pipeline.training.cotuning import Cotuning
from pipeline.training.early import HOPELESS, given_up
from pipeline.training.incumbent import Incumbent
from pipeline.training.rung import Rung
from pipeline.training.stages import FREE, INHERITED, REBUILT, SMALL, Stage, with_inherited
from quantizers.network import synthetic

Train = Callable[[Plan, Stage], None]
"""Takes a plan through a stage elsewhere: reads and writes the checkpoints in the storage."""


class CandidateRun:
    """One candidate on its way. ``folder`` is where its own is written; ``storage`` has its checkpoints and outcome, and gets the
    finished candidate too, where that is not the place it was written to; ``stages`` are those that it goes through.

    Whatever was reached before (by a trial that died) is taken up again; ``damaged`` says what could not be.
    """

    def __init__(
        self,
        bench: Bench,
        plan: Plan,
        number: int,
        devices: Devices,
        references: Sequence[Reference] = (),
        *,
        device: str = "cpu",
        train: Train | None = None,
        storage: Storage | None = None,
        inherits: str | None = None,
    ) -> None:
        """
        Args:
            inherits: hash of the candidate whose weights it may start from.
        """
        self.bench, self.plan, self.number, self.devices = bench, plan, number, devices
        self.references, self.device, self._train = tuple(references), device, train
        self.folder = bench.settings.folder
        self.storage = storage or LocalStorage(self.folder)
        saved = last_checkpoint(self.storage, plan)
        self.curve, self.damaged = saved.curve, saved.damaged
        self.stages, incumbent = bench.settings.stages, None
        passed = {rung.stage for rung in self.curve}
        if inherits is not None and not passed & {INHERITED, FREE}:
            found = read_incumbent(self.folder / "candidates" / inherits, self.storage)
            if isinstance(found, Incumbent):
                incumbent = found
            else:
                self.damaged = (*self.damaged, f"no weights to inherit: {found}")
        if incumbent is not None or INHERITED in passed:
            self.stages = with_inherited(self.stages)
        self.cotuning = cotuning(bench.workspace, plan, device=device, state=saved.state, incumbent=incumbent)

    def profile(self) -> Figures:
        """Latency and size of the plan, known before any training: they follow from shapes, bits, components and shares
        of zeros, so the network is built with weights of just that kind. How short their code becomes depends on how even their
        other levels are too, so that size is only nearly known: ``finish`` has the trained weights' own."""
        network = synthetic(self.cotuning.network, self.plan, self.bench.settings.seed)
        return self.bench.cost(network, self.devices)

    def reach(self, place: int, stage: Stage) -> Rung:
        """The end of a stage, which is the trial's stage number ``place``; from the checkpoint when it was reached before.

        Raises:
            Diverged: training failed for good, and there was no network before it.
        """
        if place < len(self.curve):
            return self.curve[place]
        if self._train is None or stage.name in (SMALL, REBUILT, INHERITED):
            keep_between(self.storage, self.plan, self.cotuning, self.curve)
            reached = self.cotuning.reach(stage, may_give_up=True)
            save_checkpoint(self.storage, self.plan, self.cotuning, (*self.curve, reached))
            self.curve = (*self.curve, reached)
        else:
            self._train(self.plan, stage)
            saved = last_checkpoint(self.storage, self.plan)
            self.cotuning.load_state_dict(saved.state or {})
            self.curve = saved.curve
        return self.curve[place]

    def given_up(self, figures: Figures) -> TrialRecord | None:
        """How the trial ends where it is hardly better than guessing although it was trained, beside ``figures``; else None."""
        judge = self.cotuning.judges.rung
        if not given_up(self.curve, judge.fp32_error, judge.guessed):
            return None
        last = self.curve[-1]
        found = replace(
            figures, error=last.error, divergence=last.divergence,
            divergence_standard_error=last.divergence_standard_error,
        )  # fmt: skip
        reason = f"{HOPELESS} after {self.cotuning.step} steps"
        return TrialRecord(self.number, self.plan, "stopped", found, reason, curve=self.curve)

    def finish(self) -> TrialRecord:
        """Take the network of the best rung, judge it on all of the search half, compile it, compare with the reference bit for
        bit, profile, write the candidate's folder.

        Raises:
            ProgramDiffers: on some image some output differs.
        """
        self.cotuning.settle()
        hardened = self.cotuning.hardened()
        answers, judge = as_figures(self.cotuning.judgement()), self.cotuning.judges.rung
        classes = self.bench.workspace.data.classes
        beside = json_text(compare_answers(judge, hardened.network, classes))
        figures = deploy(
            self.bench,
            self.plan,
            self.cotuning.network,
            hardened,
            self.devices,
            answers,
            self.references,
            beside,
        )
        failed = self.cotuning.diverged
        reason = None if failed is None else f"co-tuning diverged ({failed}); the network before it is kept"
        record = TrialRecord(self.number, self.plan, "finished", figures, reason, curve=self.curve)
        if not (isinstance(self.storage, LocalStorage) and self.storage.folder == self.folder):
            send_candidate(candidate_path(self.folder, self.plan), self.storage)
        # From here on the outcome is kept, even if nobody lives to hear of it; only then the checkpoints may go.
        save_record(self.storage, record)
        forget_checkpoints(self.storage, self.plan)
        return record


def cotuning(workspace: Workspace, plan: Plan, **rest: Any) -> Cotuning:
    """The co-tuning of a plan with the settings of the search."""
    return Cotuning(
        workspace.model,
        plan,
        workspace.data,
        workspace.settings.training(),
        workspace.mean,
        workspace.std,
        judges=workspace.judges,
        **rest,
    )
