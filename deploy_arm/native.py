"""The machine's own ARM CPU as a device: wall time, with repetitions until its confidence interval is narrow."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm import emulator
from deploy_arm.profiling import DEVICES, Device, Profile
from quantizers.errors import UserError

WIDTH = 0.02  # of the median: repeat until the 95 % confidence interval is narrower
WARM_UP = 3
BATCH = 20
LONGEST_S = 30.0  # stop repeating then, whatever the width
RESAMPLES = 1000


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


@DEVICES.register("native")
class NativeDevice(Device):
    """One CPU of this machine, pinned.

    ``launcher`` is put before the program's command line (a remote shell, an emulator); without one this machine must be
    an aarch64 one.
    """

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
        return repr((self.name, self.target, platform.release(), self.launcher))

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        """Runs on the pinned CPU. The program inherits the affinity of the thread that starts it."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.cpu})
        try:
            command = [*self.launcher, str(program), *arguments]
            return emulator.execute(command, given, timeout, f"{program.name} {arguments[0]} on {self.name}")
        finally:
            os.sched_setaffinity(0, before)

    def measure(self, program: Path, blob: Path, image: NDArray[np.uint8]) -> Profile:
        """Batches of repetitions, each with warm-ups, until the interval is narrow or time is up."""
        information = self.information(program, blob)
        given = emulator.checked_images(image[None])
        before = conditions(self.cpu)
        samples: list[float] = []
        batch = BATCH
        end = time.monotonic() + LONGEST_S
        while True:
            arguments = ["bench", str(blob), "--repeat", str(batch), "--warmup", str(WARM_UP)]
            record: dict[str, Any] = json.loads(self.execute(program, arguments, given, 600.0))
            samples += [float(value) for value in record["ns"]]
            times = np.array(samples) / 1e6
            low, high = median_interval(times)
            median = float(np.median(times))
            narrow = high - low <= WIDTH * median
            if narrow or time.monotonic() > end:
                break
            # Batches of at most about a tenth of the time left, so that slow networks stop near the limit.
            batch = int(np.clip((end - time.monotonic()) * 100 / max(median, 1e-3), 5, 200))
        after = conditions(self.cpu)
        details = {
            "cpu": self.cpu,
            "repetitions": len(samples),
            "narrow": narrow,
            "minimum_ms": float(times.min()),
            "before": before,
            "after": after,
        }
        return Profile(
            latency_ms=median,
            low_ms=low,
            high_ms=high,
            source="measured",
            device=self.name,
            instructions=None,
            peak_memory_bytes=int(information["memory_bytes"]),
            size_bytes=blob.stat().st_size,
            details=details,
        )
