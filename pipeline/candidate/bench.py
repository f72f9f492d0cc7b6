"""What every candidate of a search is compiled, checked and profiled with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels, foreseen
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from foundation.show import show_percent
from pipeline.candidate.devices import Devices
from pipeline.candidate.folder import Compiled, Origin
from pipeline.candidate.workspace import Workspace
from pipeline.study.records import Figures, Reference
from pipeline.study.settings import Settings

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from deploy_arm.ir.graph import Graph
    from quantizers.network import Hardened

CHECKED_IMAGES = 4  # on which a finished program is compared with the reference, every output bit


class ProgramDiffers(Exception):
    """A compiled program does not answer what the integer reference answers."""


class Bench:
    """What every candidate of one search needs, loaded once: data, fp32 network, program."""

    def __init__(
        self, settings: Settings, workspace: Workspace | None = None, program: Path | None = None
    ) -> None:
        """
        Args:
            workspace: that of the settings, where it is open already.
            program: the kernel library's executable, where it is built already.
        """
        self.settings = settings
        self.workspace = workspace or Workspace.open(settings)
        self.program = program or build_program(settings.target)
        self.program_bytes = self.program.read_bytes()
        indices = torch.arange(min(CHECKED_IMAGES, len(self.workspace.data.search)))
        self.images: NDArray[np.uint8] = self.workspace.data.search.batch(indices).numpy()

    @cached_property
    def origin(self) -> Origin:
        """What the manifest of every candidate of the search says."""
        workspace, data = self.workspace, self.workspace.data
        return Origin(
            self.settings.model,
            self.settings.target,
            tuple(data.classes),
            data.image_size,
            workspace.mean,
            workspace.std,
            workspace.data_record(),
            metric=self.settings.metric,
        )

    def cost(self, hardened: Hardened, devices: Devices) -> Figures:
        """Latency and size of a network whose answers do not matter."""
        return figures_of(Figures(None), self._profile(*self._compile(hardened), devices))

    def checked(
        self,
        hardened: Hardened,
        devices: Devices,
        answers: Figures,
        references: Sequence[Reference] = (),
    ) -> Compiled:
        """The network as it is deployed: compared with the reference bit for bit, then profiled.

        Args:
            answers: what is known of its answers: error and divergence.

        Raises:
            ProgramDiffers: on some image some output differs.
        """
        blob, graph = self._compile(hardened)
        expected = run_reference(graph, self.images)
        answered = devices.run(self.program_bytes, blob, self.images)
        # Compared as bytes: -0.0 and 0.0 differ, equal NaNs do not.
        if expected.shape != answered.shape or expected.tobytes() != answered.tobytes():
            wrong = (
                np.mean(expected.view(np.uint32) != answered.view(np.uint32))
                if expected.shape == answered.shape
                else 1.0
            )
            raise ProgramDiffers(
                f"the program differs from the reference in {show_percent(float(wrong))} of its outputs"
            )
        profile = self._profile(blob, graph, devices, urgent=True)
        cycles = foreseen(graph, self.settings.target)
        return Compiled(self.program, blob, figures_of(answers, profile), profile, tuple(references), cycles)

    def _compile(self, hardened: Hardened) -> tuple[bytes, Graph]:
        workspace = self.workspace
        graph = compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)
        graph = choose_kernels(graph, self.settings.target)
        return write_blob(graph), graph

    def _profile(self, blob: bytes, graph: Graph, devices: Devices, *, urgent: bool = False) -> Profile:
        layers = [operation.layer for operation in graph.operations]
        return devices.profile(self.program_bytes, blob, self.images[0], layers, urgent=urgent)


def figures_of(answers: Figures, profile: Profile) -> Figures:
    """A profile's figures beside what is known of the network's answers."""
    return replace(
        answers,
        latency_ms=profile.latency_ms,
        latency_low_ms=profile.low_ms,
        latency_high_ms=profile.high_ms,
        source=profile.source,
        device=profile.device,
        size_bytes=profile.size_bytes,
        peak_memory_bytes=profile.peak_memory_bytes,
    )
