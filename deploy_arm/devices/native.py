"""The machine's own ARM CPU as a device: wall time, with repetitions until its confidence interval is narrow, between two
timings of a fixed network (``deploy_arm.devices.canary``) that tell whether the CPU itself stayed as fast as it was."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.devices import canary
from deploy_arm.devices.base import Device, Profile, Source
from deploy_arm.emulate import emulator
from deploy_arm.target.host import execute
from foundation.errors import UserError
from foundation.files import sha256

WIDTH = 0.02  # of the median: repeat until the 95 % confidence interval is narrower
WARM_UP = 3
BATCH = 20
LONGEST_S = 30.0  # stop repeating then, whatever the width
RESAMPLES = 1000
DRIFT = 0.03  # of the canary's median: when it differs by more before and after, the measurement is repeated
ATTEMPTS = 3  # then the steadiest is taken and marked
CANARY_REPEAT, CANARY_WARM_UP = 200, 200  # long enough for a clock that was asleep to rise


@dataclass(frozen=True)
class Attempt:
    """One measurement: samples in ms with the interval of their median, conditions, and the canary's medians in ms."""

    samples: NDArray[np.float64]
    low: float
    high: float
    before: dict[str, float | None]
    after: dict[str, float | None]
    canary_before: float
    canary_after: float

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def narrow(self) -> bool:
        return self.high - self.low <= WIDTH * self.median

    @property
    def drift(self) -> float:
        return canary.drift(self.canary_before, self.canary_after)


def median_interval(samples: NDArray[np.float64], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % bootstrap confidence interval of the median (percentile method, fixed seed)."""
    generator = np.random.default_rng(0)
    chosen = samples[generator.integers(0, len(samples), size=(resamples, len(samples)))]
    low, high = np.percentile(np.median(chosen, axis=1), [2.5, 97.5])
    return float(low), float(high)


def read_number(path: Path) -> float | None:
    """The number a kernel file holds, None where it does not exist or holds none."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def conditions(cpu: int, root: Path = Path("/sys")) -> dict[str, float | None]:
    """Clock of a CPU in GHz and the hottest sensor in degrees Celsius, None where the kernel does not tell."""
    clock = read_number(root / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")
    zones = (root / "class/thermal").glob("thermal_zone*/temp")
    heat = [value for zone in zones if (value := read_number(zone)) is not None]
    return {
        "frequency_ghz": None if clock is None else clock / 1e6,
        "temperature_c": max(heat) / 1000 if heat else None,
    }


def fastest_cpu(allowed: Sequence[int], root: Path = Path("/sys")) -> int:
    """The allowed CPU with the highest maximal clock: the big cores of a mixed chip. The last of equals."""
    clocks = {
        cpu: read_number(root / f"devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq") for cpu in allowed
    }
    return max(allowed, key=lambda cpu: (clocks[cpu] or 0.0, cpu))


class NativeDevice(Device):
    """One CPU of this machine, pinned.

    ``launcher`` is put before the program's command line (a remote shell, an emulator); without one this machine must be
    an aarch64 one.
    """

    source: Source = "measured"
    of_the_node = True

    def __init__(self, target: str = "a76", *, cpu: int | None = None, launcher: Sequence[str] = ()) -> None:
        if not launcher and platform.machine() not in ("aarch64", "arm64"):
            raise UserError(f"programs run natively on aarch64 only; this machine is {platform.machine()}")
        self.target = target
        self.launcher = list(launcher)
        allowed = sorted(os.sched_getaffinity(0))
        self.cpu = fastest_cpu(allowed) if cpu is None else cpu
        if self.cpu not in allowed:
            raise UserError(f"CPU {self.cpu} is not among those this process may use: {allowed}")
        self.name = f"{platform.node()} cpu{self.cpu}"

    def identity(self) -> str:
        return repr(
            (self.name, self.target, platform.release(), self.launcher, sha256(canary.canary_blob()), DRIFT)
        )

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        """Runs on the pinned CPU. The program inherits the affinity of the thread that starts it."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.cpu})
        try:
            command = [*self.launcher, str(program), *arguments]
            return execute(command, given, timeout, f"{program.name} {arguments[0]} on {self.name}")
        finally:
            os.sched_setaffinity(0, before)

    def measure(self, program: Path, blob: Path, image: NDArray[np.uint8]) -> Profile:
        """Measures until the canary takes as long before as after, at most ``ATTEMPTS`` times; the steadiest counts."""
        information = self.information(program, blob)
        attempts: list[Attempt] = []
        canary_time = self.time_canary(program)
        while len(attempts) < ATTEMPTS and all(attempt.drift > DRIFT for attempt in attempts):
            attempts.append(self.attempt(program, blob, image, canary_time))
            canary_time = attempts[-1].canary_after
        best = min(attempts, key=lambda attempt: attempt.drift)
        details = {
            "cpu": self.cpu,
            "repetitions": len(best.samples),
            "narrow": best.narrow,
            "minimum_ms": float(best.samples.min()),
            "before": best.before,
            "after": best.after,
            "steady": best.drift <= DRIFT,
            "canary": {
                "before_ms": best.canary_before,
                "after_ms": best.canary_after,
                "allowed": DRIFT,
                "attempts": len(attempts),
            },
        }
        return Profile(
            latency_ms=best.median,
            low_ms=best.low,
            high_ms=best.high,
            source=self.source,
            device=self.name,
            instructions=None,
            peak_memory_bytes=int(information["memory_bytes"]),
            size_bytes=blob.stat().st_size,
            details=details,
        )

    def attempt(self, program: Path, blob: Path, image: NDArray[np.uint8], canary_before: float) -> Attempt:
        """Batches of repetitions, each with warm-ups, until the interval is narrow or time is up; then the canary."""
        given = emulator.checked_images(image[None])
        before = conditions(self.cpu)
        samples = np.empty(0)
        batch = BATCH
        end = time.monotonic() + LONGEST_S
        while True:
            samples = np.append(samples, self.bench(program, blob, given, batch, WARM_UP))
            low, high = median_interval(samples)
            median = float(np.median(samples))
            if high - low <= WIDTH * median or time.monotonic() > end:
                break
            # Batches of at most about a tenth of the time left, so that slow networks stop near the limit.
            batch = int(np.clip((end - time.monotonic()) * 100 / max(median, 1e-3), 5, 200))
        after = conditions(self.cpu)
        return Attempt(samples, low, high, before, after, canary_before, self.time_canary(program))

    def bench(
        self, program: Path, blob: Path, given: bytes, repeat: int, warm_up: int
    ) -> NDArray[np.float64]:
        """Times in ms that the program takes of itself."""
        arguments = ["bench", str(blob), "--repeat", str(repeat), "--warmup", str(warm_up)]
        record: dict[str, Any] = json.loads(self.execute(program, arguments, given, 600.0))
        return np.array(record["ns"], dtype=np.float64) / 1e6

    def time_canary(self, program: Path) -> float:
        """Median time of the fixed network in ms."""
        given = emulator.checked_images(canary.IMAGE[None])
        times = self.bench(program, canary.canary_blob(), given, CANARY_REPEAT, CANARY_WARM_UP)
        return float(np.median(times))


native = NativeDevice
