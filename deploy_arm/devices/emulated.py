"""A core that is emulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy_arm.cycles import estimate as cycles
from deploy_arm.cycles import mca
from deploy_arm.devices.base import Device, LayerProfile, Profile, Source
from deploy_arm.emulate import emulator
from deploy_arm.target.cores import CORES
from foundation.errors import UserError

# Under unicorn a simulated memory access costs half a microsecond: caches are simulated up to this many multiplications.
UNICORN_CACHES = 100_000_000


class EmulatedDevice(Device):
    """A core that is emulated: outputs are exact, time is modelled.

    ``under`` and ``use_mca`` choose the emulator and the cycle model; by default the best that is installed.
    """

    source: Source = "modelled"
    exclusive = False

    def __init__(
        self, target: str = "a76", *, under: emulator.EmulatorName | None = None, use_mca: bool | None = None
    ) -> None:
        self.core = CORES[target]
        self.target = target
        self.name = f"emulated {target}" + (f" ({self.core.mark})" if self.core.mark else "")
        self.under = under
        self.use_mca = use_mca

    def ready(self) -> None:
        emulator.choose_emulator()
        emulator.choose_counter()

    def identity(self) -> str:
        tools = mca.find_tools() is not None if self.use_mca is None else self.use_mca
        analyser = mca.version() if tools else "own table"
        return repr(
            (self.name, self.core, self.under or emulator.choose_counter(), analyser, cycles.MODEL_VERSION)
        )

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        return emulator.emulate(
            program, arguments, given, target=self.target, timeout=timeout, under=self.under
        )

    def measure(self, program: Path, blob: Path, image: NDArray[np.uint8]) -> Profile:
        """One counted inference; a network that fits the second-level cache is counted with warm caches, as repeated
        inferences find it."""
        information = self.information(program, blob)
        memory = int(information["memory_bytes"])
        fits = memory <= self.core.caches.second_bytes
        # The number of multiplications, since it is the same for every candidate of a model.
        multiplications = sum(operation.get("multiplications", 0) for operation in information["operations"])
        under = self.under or emulator.choose_counter()
        caches = under == "qemu" or multiplications <= UNICORN_CACHES
        counts = emulator.count(
            program, blob, image, target=self.target, caches=caches, warm_up=int(fits and caches), under=under
        )
        estimate = cycles.estimate(program, counts, self.core, use_mca=self.use_mca)
        per_ms = self.core.frequency_ghz * 1e6
        operations = information["operations"]
        if len(operations) != len(estimate.operations):
            counted = len(estimate.operations)
            raise UserError(f"{program.name} announces {counted} operations and lists {len(operations)}")
        layers = tuple(
            LayerProfile(
                operation=part.operation,
                kind=operation["operation"],
                kernel=operation.get("kernel", ""),
                layer="",
                ms=part.point / per_ms,
                low_ms=part.low / per_ms,
                high_ms=part.high / per_ms,
                instructions=part.instructions,
                multiplications=operation.get("multiplications", 0),
            )
            for part, operation in zip(estimate.operations, operations)
        )
        simulated = counts.operations[0].first_misses is not None
        details = {
            "board": self.core.board,
            "frequency_ghz": self.core.frequency_ghz,
            "emulator": counts.emulator,
            "model": estimate.model,
            "caches": ("simulated, " + ("warm" if fits else "cold")) if simulated else "not simulated",
            "first_misses": sum(part.first_misses or 0 for part in counts.operations) if simulated else None,
            "second_misses": sum(part.second_misses or 0 for part in counts.operations)
            if simulated
            else None,
            "cycles": round(estimate.point),
            "multiplications": multiplications,
            "ordering_only": self.core.ordering_only,
            "stands_for": self.core.stands_for,
            "caution": self.core.caution,
        }
        return Profile(
            latency_ms=estimate.point / per_ms,
            low_ms=estimate.low / per_ms,
            high_ms=estimate.high / per_ms,
            source=self.source,
            device=self.name,
            instructions=counts.instructions,
            peak_memory_bytes=memory,
            size_bytes=blob.stat().st_size,
            layers=layers,
            details=details,
        )


emulated = EmulatedDevice
