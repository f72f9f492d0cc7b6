"""Who runs a study: the process that holds its lock, which is asked to end as one does with Ctrl-C."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from foundation.errors import UserError
from pipeline.study.lock import FILE

STEP = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Driver:
    """A process of this machine that has a study open."""

    pid: int
    started: float  # seconds since the epoch: with the number, which process it is for good
    command: str


def driver_of(folder: Path) -> Driver | None:
    """The process that runs the study in ``folder``; None where nobody on this machine does.

    The number in the lock file alone proves nothing, for numbers are given again: the process must have that very file open,
    which a driver has as long as it holds the lock.
    """
    lock = folder / FILE
    try:
        match = re.match(r"\d+", lock.read_text())
        process = psutil.Process(int(match[0])) if match else None
        if process is None or process.pid == os.getpid():
            return None
        if not any(_same(Path(file.path), lock) for file in process.open_files()):
            return None
        return Driver(process.pid, process.create_time(), " ".join(process.cmdline()))
    except (OSError, UnicodeDecodeError, psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    except psutil.AccessDenied:
        return Driver(process.pid, 0.0, "of another user") if process and process.is_running() else None


def stop(
    folder: Path, driver: Driver, patience: float, waiting: Callable[[float], None] = lambda seconds: None
) -> bool:
    """Ask a driver to end in good order (SIGTERM) and wait until it has; whether it has within ``patience`` seconds.

    Raises:
        UserError: it is another user's.
    """
    try:
        process = psutil.Process(driver.pid)
        if process.create_time() != driver.started and driver.started:
            return True
        process.terminate()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        raise UserError(
            f"process {driver.pid} runs {folder} and belongs to {_owner(driver.pid)}: only they can stop it"
        ) from error
    began = time.monotonic()
    while time.monotonic() - began < patience:
        if driver_of(folder) != driver:
            return True
        waiting(time.monotonic() - began)
        time.sleep(STEP)
    return False


def _owner(pid: int) -> str:
    try:
        return str(psutil.Process(pid).username())
    except (psutil.Error, KeyError):
        return "another user"


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
