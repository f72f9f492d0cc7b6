"""The stages of one candidate: profile before training, co-tune rung by rung, finish. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from foundation.files import write_atomically
from foundation.plan import Plan
from pipeline.candidate.details import dump_details, layer_details
from pipeline.candidate.devices import Devices
from pipeline.candidate.folder import write_candidate
from pipeline.candidate.workspace import Workspace
from pipeline.study.checkpoints import (
    checkpoint_path,
    read_checkpoint,
    record_path,
    rungs_of,
    save_checkpoint,
)
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.training.cotuning import Cotuning
from pipeline.training.rung import Rung
from quantizers.network import Hardened, synthetic

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from deploy_arm.ir.graph import Graph

CHECKED_IMAGES = 4  # on which a finished program is compared with the reference, every output bit


class ProgramDiffers(Exception):
    """A compiled program does not answer what the integer reference answers."""


Train = Callable[[Plan, float, Path], None]
"""Trains a plan up to some epochs elsewhere: reads and writes the checkpoint at a path."""


class Bench:
    """What every candidate of one search needs, loaded once: data, fp32 network, program."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workspace = Workspace.open(settings)
        self.program = build_program(settings.target)
        self.program_bytes = self.program.read_bytes()
        indices = torch.arange(min(CHECKED_IMAGES, len(self.workspace.data.search)))
        self.images: NDArray[np.uint8] = self.workspace.data.search.batch(indices).numpy()


class CandidateRun:
    """One candidate on its way. ``folder`` is the study's; the candidate's checkpoint is ``trials/HASH/checkpoint.pt``.

    Whatever was reached before (by a trial that died) is taken up again: rungs from the checkpoint, and the outcome of a
    finished candidate from ``trials/HASH/record.json``.
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
    ) -> None:
        self.bench, self.plan, self.number, self.devices = bench, plan, number, devices
        self.references, self.device, self._train = tuple(references), device, train
        self.folder = bench.settings.folder
        self.curve: tuple[Rung, ...] = ()
        state = None
        if self.checkpoint.is_file():
            saved = read_checkpoint(self.checkpoint)
            state, self.curve = saved["state"], rungs_of(saved)
        self.cotuning = cotuning(bench.workspace, plan, device=device, state=state)

    @property
    def checkpoint(self) -> Path:
        return checkpoint_path(self.folder, self.plan)

    def profile(self) -> Figures:
        """Latency and size of the plan, known before any training: they follow from shapes, bits, components and shares
        of zeros, so the network is built with weights of just that kind. How short their code becomes depends on how even their
        other levels are too, so that size is only nearly known: ``finish`` has the trained weights' own."""
        network = synthetic(self.cotuning.network, self.plan, self.bench.settings.seed)
        blob, graph = self._compile(network)
        return figures_of(None, self._profile(blob, graph))

    def reach(self, rung: int, epochs: float) -> Rung:
        """The rung of this index, at ``epochs``; from the checkpoint when it was reached before.

        Raises:
            Diverged: training failed for good.
        """
        if rung < len(self.curve):
            return self.curve[rung]
        if self._train is None:
            reached = self.cotuning.train_until(epochs)
            save_checkpoint(self.checkpoint, self.cotuning, (*self.curve, reached))
            self.curve = (*self.curve, reached)
        else:
            self._train(self.plan, epochs, self.checkpoint)
            saved = read_checkpoint(self.checkpoint)
            self.cotuning.load_state_dict(saved["state"])
            self.curve = rungs_of(saved)
        return self.curve[rung]

    def finish(self) -> TrialRecord:
        """Compile with the trained weights, compare with the reference bit for bit, profile, write the candidate's folder.

        Raises:
            ProgramDiffers: on some image some output differs.
        """
        bench, workspace = self.bench, self.bench.workspace
        hardened = self.cotuning.hardened()
        hardened = hardened._replace(network=hardened.network.cpu())
        blob, graph = self._compile(hardened)
        expected = run_reference(graph, bench.images)
        answered = self.devices.run(bench.program_bytes, blob, bench.images)
        # Compared as bytes: -0.0 and 0.0 differ, equal NaNs do not.
        if expected.shape != answered.shape or expected.tobytes() != answered.tobytes():
            wrong = (
                np.mean(expected.view(np.uint32) != answered.view(np.uint32))
                if expected.shape == answered.shape
                else 1.0
            )
            raise ProgramDiffers(
                f"the program differs from the reference in {100 * wrong:.1f} % of its outputs"
            )
        profile = self._profile(blob, graph)
        figures = figures_of(self.curve[-1].error, profile)
        write_candidate(
            self.folder / "candidates" / self.plan.hash,
            plan=self.plan,
            hardened=hardened,
            program=bench.program,
            blob=blob,
            model=bench.settings.model,
            target=bench.settings.target,
            classes=workspace.data.classes,
            image_size=workspace.data.image_size,
            mean=workspace.mean,
            std=workspace.std,
            data=workspace.data_record(),
            figures=figures,
            profile=profile,
            details=dump_details(layer_details(self.cotuning.network, hardened.codebooks)),
            references=self.references,
        )
        record = TrialRecord(self.number, self.plan, "finished", figures, curve=self.curve)
        # From here on the outcome is kept, even if nobody lives to hear of it; only then the checkpoint may go.
        write_atomically(record_path(self.folder, self.plan), record.to_json())
        self.checkpoint.unlink(missing_ok=True)
        return record

    def _compile(self, hardened: Hardened) -> tuple[bytes, Graph]:
        workspace = self.bench.workspace
        graph = compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)
        graph = choose_kernels(graph, self.bench.settings.target)
        return write_blob(graph), graph

    def _profile(self, blob: bytes, graph: Graph) -> Profile:
        layers = [operation.layer for operation in graph.operations]
        return self.devices.profile(self.bench.program_bytes, blob, self.bench.images[0], layers)


def cotuning(workspace: Workspace, plan: Plan, **rest: Any) -> Cotuning:
    """The co-tuning of a plan with the settings of the search."""
    return Cotuning(
        workspace.model,
        plan,
        workspace.data,
        workspace.settings.training(),
        workspace.mean,
        workspace.std,
        **rest,
    )


def figures_of(error: float | None, profile: Profile) -> Figures:
    """A profile's figures beside an error."""
    return Figures(
        error,
        profile.latency_ms,
        profile.low_ms,
        profile.high_ms,
        profile.source,
        profile.device,
        profile.size_bytes,
        profile.peak_memory_bytes,
    )
