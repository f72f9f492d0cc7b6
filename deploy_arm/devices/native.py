"""The machine's own ARM CPU as a device."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy_arm.boards.conditions import CpuConditions, conditions, fastest_cpus, read_tree
from deploy_arm.devices import canary
from deploy_arm.devices.base import Source
from deploy_arm.devices.timed import DRIFT, TimedDevice, threads_of
from deploy_arm.target.fault import DeviceBusy
from deploy_arm.target.host import execute
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from foundation.files import cache_directory, sha256


class NativeDevice(TimedDevice):
    """One CPU of this machine, pinned.

    ``launcher`` is put before the program's command line, of an emulator: then its times are of no ARM CPU, and it says so.
    Without one this machine must be an aarch64 one.
    """

    source: Source = "measured"
    of_the_node = True

    def __init__(self, target: str = "a76", *, cpu: int | None = None, launcher: Sequence[str] = ()) -> None:
        if not launcher and not is_arm():
            raise UserError(
                "programs are Linux executables and run natively on aarch64 only; this machine is "
                f"{platform.machine()} with {platform.system()}: use --devices emulated, or a board by `devices add ssh://...`"
            )
        self.target = target
        self.launcher = list(launcher)
        if launcher:
            self.source = "modelled"
        allowed = sorted(os.sched_getaffinity(0))
        if cpu is not None and cpu not in allowed:
            raise UserError(f"CPU {cpu} is not among those this process may use: {allowed}")
        self.cpus = fastest_cpus(allowed, read_tree()) if cpu is None else [cpu]
        self.name = f"{platform.node()} cpu{self.cpu}"

    def identity(self) -> str:
        board = (self.name, self.source, self.target, platform.release(), self.launcher)
        return repr((*board, sha256(canary.canary_blob()), DRIFT))

    def conditions(self) -> CpuConditions:
        return conditions(self.cpu, read_tree())

    @contextlib.contextmanager
    def _hold(self, patience: float) -> Iterator[None]:
        """By the file that who comes by ssh locks too; it ends with this process."""
        path = cache_directory("board") / f"lock-{platform.node()}"
        end = time.monotonic() + patience
        with path.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise DeviceBusy(
                            f"{self.name} is in use by another, and was for {patience:.0f} s"
                        ) from None
                    time.sleep(0.1)
            yield

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        """Runs on the pinned CPU, of several threads on as many. It inherits the affinity of the thread that starts it."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus[: threads_of(arguments)])
        try:
            command = [*self.launcher, str(program), *arguments]
            return execute(command, given, timeout, f"{program.name} {arguments[0]} on {self.name}")
        finally:
            os.sched_setaffinity(0, before)


native = NativeDevice
