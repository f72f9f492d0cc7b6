"""Searches as processes of this machine, each with a log of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from foundation.files import write_atomically
from pipeline.sweeps.asked import Asked

PATIENCE = 120.0  # seconds that the search of a killed sweep may take to end
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


class LoggedProcess:
    """A command and its log."""

    def __init__(self, words: list[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.where, self._log = f"log {log}", log
        self._before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            # A group of its own: Ctrl-C reaches the sweep alone, which then ends it in good order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                process_group=0,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def status(self) -> int | None:
        return self._process.poll()

    def stop(self, *, at_once: bool = False) -> None:
        self._process.send_signal(signal.SIGTERM)
        if at_once:
            os.killpg(self._process.pid, signal.SIGKILL)

    def text(self) -> str:
        """What this run of it wrote."""
        with self._log.open("rb") as stream:
            stream.seek(self._before)
            return stream.read().decode(errors="replace")

    def why(self) -> str:
        lines = [line for line in self.text().splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else ""
        )
        return said.removeprefix("error: ").strip()


def _die_with_parent() -> None:
    """A killed sweep leaves no search behind: the kernel tells it to end in good order."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGTERM)


class Here:
    """This machine. The settings of each search are written below ``folder``, and the log of its command.

    Args:
        say: told where one waits.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say

    def start(self, asked: Asked) -> LoggedProcess:
        self._wait_for(asked)
        config = self._folder / "searches" / f"{asked.study}.yaml"
        write_atomically(config, yaml.safe_dump(asked.config(), sort_keys=False), 0o600)
        words = ["pipeline.search", "--config", str(config)]
        words += ["--allow-bad-fp32"] if asked.allow_bad_fp32 else []
        return LoggedProcess(words, self._folder / "logs" / f"{asked.study}.log")

    def _wait_for(self, asked: Asked) -> None:
        """Until the search of a sweep that was killed has let the study go; it is ending."""
        end, told = time.monotonic() + PATIENCE, False
        while time.monotonic() < end and _is_held(asked.settings.folder / ".lock"):
            if not told:
                self._say(
                    f"{asked.study} is being run by another process; waiting up to {PATIENCE:.0f} s for its end"
                )
                told = True
            time.sleep(0.5)


def _is_held(file: Path) -> bool:
    try:
        with file.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
