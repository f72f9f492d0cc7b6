"""One driver per study, one writer per table, one promotion at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from foundation.errors import UserError

FILE = ".lock"


def lock(folder: Path, what: str = "study") -> IO[str]:
    """An open, locked file in ``folder``; closing it unlocks. The lock ends with the process, however that ends.
    ``what`` the folder holds is said to a person who finds it locked.

    Raises:
        UserError: another process holds it.
    """
    stream = (folder / FILE).open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise UserError(
            f"the {what} in {folder} is being run by process {holder}; wait for it, or choose another name"
        ) from error
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


@contextmanager
def held(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The file's lock, waited for; ``waiting`` is called once where another process has it. It ends with the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
