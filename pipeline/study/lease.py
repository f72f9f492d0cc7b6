"""One driver per study where two machines keep it in one storage: the driver leaves word there, again and again.

No two machines' clocks are compared: a driver lives as long as its word changes while one watches. Object stores know no
exclusive creation that pyarrow could ask for, so two drivers that begin within a moment both write, and who finds the other's
word afterwards gives way (Lamport, "A fast mutual exclusion algorithm", 1987, has the same last look).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from foundation.errors import UserError
from foundation.files import json_text
from pipeline.study.storage import DamagedFile, Storage

FILE = "driver"


class LeaseLimits(NamedTuple):
    """Seconds: between two words of a driver, without a new one before it counts as gone, and before the last look."""

    beat: float = 15.0
    patience: float = 60.0
    settle: float = 0.5


LIMITS = LeaseLimits()


@dataclass(frozen=True)
class Holder:
    """A driver's word: a secret of its own, on which machine it is which process, and how often it has written."""

    word: str
    host: str
    boot: str
    process: int
    started: float
    beats: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        me = psutil.Process()
        return cls(secrets.token_hex(8), socket.gethostname(), _boot(), me.pid, me.create_time())

    @property
    def gone(self) -> bool:
        """Whether it was a process of this machine and is none any more."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            return bool(psutil.Process(self.process).create_time() != self.started)
        except psutil.NoSuchProcess:
            return True


class Lease:
    """What a driver holds of a study in its storage."""

    def __init__(self, storage: Storage, holder: Holder) -> None:
        self._storage, self._holder = storage, holder
        self._taken: Holder | None = None

    def check(self) -> None:
        """See that no other driver has taken the study over, as one does where this one was not heard of for long.

        Raises:
            UserError: one has; what this one would still write would spoil the other's.
        """
        if self._taken is not None:
            raise UserError(
                f"{self._taken} has taken the study in --storage {self._storage} over, since this driver was not heard of there "
                "for a while; it goes on there"
            )

    def beat(self) -> None:
        """Write again, unless another driver has. Raises what the storage raises."""
        found = holder_of(self._storage)
        if found is not None and found.word != self._holder.word:
            self._taken = found
            return
        self._holder = dataclasses.replace(self._holder, beats=self._holder.beats + 1)
        self._storage.write(FILE, json_text(dataclasses.asdict(self._holder)).encode())

    def keep(self, ended: threading.Event, every: float) -> None:
        """Write until ``ended``; a storage that is down is asked again."""
        while not ended.wait(every) and self._taken is None:
            with contextlib.suppress(Exception):  # each file system has errors of its own
                self.beat()


@contextlib.contextmanager
def leased(
    storage: Storage, waiting: Callable[[str], None] = lambda text: None, limits: LeaseLimits = LIMITS
) -> Iterator[Lease]:
    """This process as the one driver of the study in ``storage``; ``waiting`` is told where one watches whether another lives.

    Raises:
        UserError: another driver, on whatever machine, runs it.
    """
    holder = Holder.here()
    found = holder_of(storage)
    if found is not None and not found.gone and _lives(storage, found, waiting, limits):
        raise _runs(storage, found)
    lease = Lease(storage, holder)
    storage.write(FILE, json_text(dataclasses.asdict(holder)).encode())
    time.sleep(limits.settle)
    found = holder_of(storage)
    if found is not None and found.word != holder.word:
        raise _runs(storage, found)
    ended = threading.Event()
    thread = threading.Thread(target=lease.keep, args=(ended, limits.beat), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join(limits.patience)
        with contextlib.suppress(Exception):
            if (found := holder_of(storage)) is not None and found.word == holder.word:
                storage.remove(FILE)


def holder_of(storage: Storage) -> Holder | None:
    """Who wrote last; None where nobody has, or nothing whole."""
    try:
        return Holder(**json.loads(storage.read(FILE)))
    except (FileNotFoundError, DamagedFile, ValueError, TypeError):
        return None


def _lives(storage: Storage, found: Holder, waiting: Callable[[str], None], limits: LeaseLimits) -> bool:
    """Whether a driver is heard of: on this machine its process says so, on another one its word changes."""
    if (found.host, found.boot) == (socket.gethostname(), _boot()):
        return True
    end = time.monotonic() + limits.patience
    while (left := end - time.monotonic()) > 0:
        waiting(f"seeing for {left:.0f} s whether {found}, which ran this study, still does")
        time.sleep(min(limits.beat / 3, left))
        now = holder_of(storage)
        if now is None:
            return False
        if now != found:
            return True
    return False


def _runs(storage: Storage, holder: Holder) -> UserError:
    return UserError(
        f"the study in --storage {storage} is being run by {holder}; wait for it, or choose another name"
    )


def _boot() -> str:
    """Which start of which machine this is; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
