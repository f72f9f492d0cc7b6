"""Commands with a limit of time and of output, for what may hang or never stop talking."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Said:
    """What a command said. ``status`` is None where it did not end in time and was ended; ``cut`` says whether it was ended since
    it said more than was allowed."""

    status: int | None
    output: bytes
    errors: bytes
    cut: bool = False


def run_bounded(command: Sequence[str], given: bytes = b"", *, seconds: float, most: int) -> Said:
    """Run a command with ``given`` on its standard input, at most ``seconds`` long and at most ``most`` bytes of output.

    Whatever happens, Ctrl-C included, it and what it started in its process group have ended on return.

    Raises:
        OSError: it cannot be started.
    """
    with tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        process = subprocess.Popen(
            command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        )
    assert process.stdout and process.stderr
    kept: tuple[list[bytes], list[bytes]] = ([], [])
    cut = threading.Event()

    def read(stream: IO[bytes], into: list[bytes]) -> None:
        left = most
        while chunk := os.read(stream.fileno(), 1 << 16):
            into.append(chunk[:left])
            left -= len(chunk)
            if left < 0:
                cut.set()
                end_group(process)
                return

    readers = [
        threading.Thread(target=read, args=pair, daemon=True)
        for pair in zip((process.stdout, process.stderr), kept)
    ]
    status: int | None = None
    try:
        for reader in readers:
            reader.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(seconds)
    finally:
        end_group(process)
        for reader in readers:
            reader.join(5.0)
        if not any(
            reader.is_alive() for reader in readers
        ):  # else whom it left behind has the pipe, and the thread
            process.stdout.close()
            process.stderr.close()
    return Said(status, b"".join(kept[0]), b"".join(kept[1]), cut.is_set())


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own, and the group, at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
