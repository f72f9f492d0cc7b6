"""How much memory a trial takes and how much there is: said when a worker process is killed for it."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from foundation.show import show_bytes

FILE = "memory.txt"
INTERVAL = 0.2  # seconds between two looks
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TORCH = re.compile(r"tried to allocate (\d+) bytes")
_NO_ROOM = re.compile(r"can't allocate memory|out of memory|unable to allocate|cannot allocate memory", re.I)


@dataclass(frozen=True)
class Death:
    """What is known of a trial's process that died.

    Attributes:
        memory: it died for memory; False where nothing tells.
        asked: what it asked for at last, where it was refused rather than killed.
        held: the most bytes it was seen to hold.
        total: bytes of memory where it ran.
        trouble: what failed around it, where that ended it: a disk, the network, its node.
    """

    memory: bool = False
    asked: str | None = None
    held: int | None = None
    total: int | None = None
    trouble: str | None = None

    def __str__(self) -> str:
        if self.trouble:
            return f"could not go on ({self.trouble})"
        there = f" of {show_bytes(self.total)}" if self.total else ""
        if self.asked:
            return f"was refused memory ({self.asked}; it held {show_bytes(self.held)}{there})"
        held = (
            f" when it held {show_bytes(self.held)}{there}" if self.held else there and f" ({there.strip()})"
        )
        return f"{'was killed for memory' if self.memory else 'lost its process'}{held}"


class Watch:
    """Notes in a file, from a thread of this process, the most memory that the process held while it worked on a trial. Whoever
    finds the process dead reads it with ``last_seen``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stream = (folder / FILE).open("w")
        self._ended = threading.Event()
        self._peak = 0
        self._note()
        threading.Thread(target=self._run, daemon=True, name="memory").start()

    @property
    def peak(self) -> int:
        """Bytes, as they were noted."""
        return self._peak

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._note()
        self._stream.close()

    def _note(self) -> None:
        held = psutil.Process().memory_info().rss
        if held > 1.02 * self._peak:
            self._peak = held
            # One small write over the former one: there is never half a note.
            self._stream.seek(0)
            self._stream.write(f"{held:>20} {total_memory():>20}\n")
            self._stream.flush()


def last_seen(folder: Path) -> tuple[int, int] | None:
    """Bytes that the process working in ``folder`` held at most, and that there are where it ran; None where nothing is known."""
    with contextlib.suppress(OSError, ValueError):
        held, total = (folder / FILE).read_text().split()
        return int(held), int(total)
    return None


def total_memory() -> int:
    """Bytes of memory that processes here may use: the machine's, or what its container is limited to."""
    total = int(psutil.virtual_memory().total)
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total


def refused(error: BaseException) -> str | None:
    """What was asked for, where ``error`` says that there was not memory enough; else None."""
    text = " ".join(str(error).split())
    if wanted := _TORCH.search(text):
        return f"it wanted {show_bytes(int(wanted[1]))} more"
    if isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError)) and _NO_ROOM.search(text)
    ):
        return text[:200] or "no amount is named"
    return None


def kernel_kills() -> int:
    """How many processes the kernel of this machine has killed for memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
