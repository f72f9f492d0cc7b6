"""The folder of a Ray cluster that a command starts for itself: sockets, logs and what is spilled.

Ray leaves one behind for each cluster that there ever was. Ours goes with the command; where that was killed, the next one
of this user removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.errors import UserError
from pipeline.study.lock import held, lock


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for one cluster, below ``RAY_TMPDIR`` or ``/tmp``: the paths of Ray's sockets have room for no more."""
    home = Path(os.environ.get("RAY_TMPDIR") or "/tmp", f"dgms-ray-{os.getuid()}")
    with held(home / ".lock"):
        home.chmod(0o700)
        remove_left(home)
        folder = Path(tempfile.mkdtemp(prefix="", dir=home))
        ours = lock(folder, "cluster")
    try:
        yield folder
    finally:
        ours.close()
        remove(folder)
        with held(home / ".lock"):
            remove_left(home)


def remove_left(home: Path) -> None:
    """Remove the folders of those that were killed: whoever lives holds the lock of its own."""
    for folder in home.iterdir():
        if folder.is_dir() and not folder.is_symlink():
            try:
                lock(folder, "cluster").close()
            except (UserError, OSError):
                continue
            remove(folder)


def remove(folder: Path, patience: float = 5.0) -> None:
    """Remove a folder in which processes that are just ending may still write; what resists is the next command's."""
    end = time.monotonic() + patience
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.2)
        shutil.rmtree(folder, ignore_errors=True)
