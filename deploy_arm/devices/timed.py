"""Wall time on a real CPU, with repetitions until its confidence interval is narrow, between two timings of a fixed network
(``deploy_arm.devices.canary``) that tell whether the CPU itself stayed as fast as it was."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.boards.conditions import CpuConditions
from deploy_arm.devices import canary
from deploy_arm.devices.base import Device, LayerProfile, Profile
from deploy_arm.emulate import emulator
from deploy_arm.target.fault import DeviceFault

EMULATED = "times are the emulator's, of no ARM CPU"
ENTRIES = ()  # what kinds of device have in common is none

WIDTH = 0.02  # of the median: repeat until the 95 % confidence interval is narrower
WARM_UP = 3
BATCH = 20
LONGEST_S = 30.0  # stop repeating then, whatever the width
RESAMPLES = 1000
DRIFT = 0.03  # of the canary's median: when it differs by more before and after, the measurement is repeated
ATTEMPTS = 3  # then the steadiest is taken and marked
THREADS = (2, 4)  # besides one: how many share an inference, where there are so many CPUs
SHORT_REPEAT, SHORT_S = (
    20,
    2.0,
)  # repetitions per operation and per number of threads, and about how long they may take
CANARY_REPEAT, CANARY_WARM_UP = 200, 200  # long enough for a clock that was asleep to rise


@dataclass(frozen=True)
class Attempt:
    """One measurement: samples in ms with the interval of their median, conditions, and the canary's medians in ms."""

    samples: NDArray[np.float64]
    low: float
    high: float
    before: CpuConditions
    after: CpuConditions
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


def threads_of(arguments: list[str]) -> int:
    """How many threads a program's command line asks for."""
    return int(arguments[arguments.index("--threads") + 1]) if "--threads" in arguments else 1


class TimedDevice(Device):
    """A device whose programs take their time themselves."""

    cpus: list[int]

    @property
    def cpu(self) -> int:
        """That a program of one thread runs on."""
        return self.cpus[0]

    @abstractmethod
    def conditions(self) -> CpuConditions:
        """Of the CPU that programs run on, now."""

    def told(self) -> dict[str, Any]:
        """What else belongs to a profile's conditions."""
        return {}

    def measure(self, program: Path, blob: Path, image: NDArray[np.uint8]) -> Profile:
        """Measures until the canary takes as long before as after, at most ``ATTEMPTS`` times; the steadiest counts."""
        information = self.information(program, blob)
        attempts: list[Attempt] = []
        canary_time = self.time_canary(program)
        while len(attempts) < ATTEMPTS and all(attempt.drift > DRIFT for attempt in attempts):
            attempts.append(self.attempt(program, blob, image, canary_time))
            canary_time = attempts[-1].canary_after
        best = min(attempts, key=lambda attempt: attempt.drift)
        given, repeat = (
            emulator.checked_images(image[None]),
            int(np.clip(SHORT_S * 1000 / best.median, 5, SHORT_REPEAT)),
        )
        details = {
            **self.told(),
            **({"caution": EMULATED} if self.source == "modelled" else {}),
            "cpu": self.cpu,
            "repetitions": len(best.samples),
            "threads_ms": {"1": best.median, **self.time_threads(program, blob, given, repeat)},
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
            layers=self.time_layers(program, blob, given, repeat, information["operations"]),
            details=details,
        )

    def attempt(self, program: Path, blob: Path, image: NDArray[np.uint8], canary_before: float) -> Attempt:
        """Batches of repetitions, each with warm-ups, until the interval is narrow or time is up; then the canary."""
        given = emulator.checked_images(image[None])
        before = self.conditions()
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
        after = self.conditions()
        return Attempt(samples, low, high, before, after, canary_before, self.time_canary(program))

    def time_threads(self, program: Path, blob: Path, given: bytes, repeat: int) -> dict[str, float]:
        """Median ms by the number of threads that share an inference, each on a CPU of its own."""
        return {
            str(count): float(
                np.median(self.bench(program, blob, given, repeat, WARM_UP, "--threads", str(count)))
            )
            for count in THREADS
            if count <= len(self.cpus)
        }

    def time_layers(
        self, program: Path, blob: Path, given: bytes, repeat: int, operations: list[dict[str, Any]]
    ) -> tuple[LayerProfile, ...]:
        """Each operation's median with its 95 % confidence interval. Taking the time adds some 50 ns to each."""
        times = self.operation_times(program, blob, given, repeat, len(operations))
        intervals = [median_interval(column) for column in times.T]
        return tuple(
            LayerProfile(
                number,
                operation["operation"],
                operation.get("kernel", ""),
                "",
                float(np.median(times[:, number])),
                *intervals[number],
                None,
                operation.get("multiplications", 0),
            )
            for number, operation in enumerate(operations)
        )

    def operation_times(
        self, program: Path, blob: Path, given: bytes, repeat: int, operations: int
    ) -> NDArray[np.float64]:
        """Times in ms [repeat, operations]."""
        arguments = ["bench", str(blob), "--repeat", str(repeat), "--warmup", str(WARM_UP), "--layers"]
        answer = self.execute(program, arguments, given, 600.0)
        try:
            times = np.array(json.loads(answer)["layers"], dtype=np.float64) / 1e6
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DeviceFault(f"{self.name} answered no times of operations: {answer[:80]!r}") from error
        if times.shape != (repeat, operations) or not (np.isfinite(times) & (times >= 0)).all():
            raise DeviceFault(
                f"{self.name} answered times {list(times.shape)} of {repeat} x {operations} operations"
            )
        return times

    def bench(
        self, program: Path, blob: Path, given: bytes, repeat: int, warm_up: int, *further: str
    ) -> NDArray[np.float64]:
        """Times in ms that the program takes of itself."""
        arguments = ["bench", str(blob), "--repeat", str(repeat), "--warmup", str(warm_up), *further]
        answer = self.execute(program, arguments, given, 600.0)
        try:
            times = np.array(json.loads(answer)["ns"], dtype=np.float64) / 1e6
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DeviceFault(f"{self.name} answered no times: {answer[:80]!r}") from error
        if times.shape != (repeat,) or not (np.isfinite(times) & (times > 0)).all():
            raise DeviceFault(
                f"{self.name} answered {times.size} times for {repeat} repetitions, or none that can be"
            )
        return times

    def information(self, program: Path, blob: Path) -> dict[str, Any]:
        """As every device's; raises DeviceFault where the answer is no such record."""
        try:
            record = super().information(program, blob)
            int(record["memory_bytes"])
            record["operations"] = [dict(operation) for operation in record["operations"]]
            [str(operation["operation"]) for operation in record["operations"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DeviceFault(f"{self.name} answered no information about the network") from error
        return record

    def time_canary(self, program: Path) -> float:
        """Median time of the fixed network in ms."""
        given = emulator.checked_images(canary.IMAGE[None])
        times = self.bench(program, canary.canary_blob(), given, CANARY_REPEAT, CANARY_WARM_UP)
        return float(np.median(times))
