"""Files that are either wholly there or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_arm.storage import json_text, sha256, write_atomically
from quantizers.errors import UserError

__all__ = ["check_place", "folder_atomically", "json_text", "sha256", "write_atomically"]


def check_place(folder: Path, typed: str) -> None:
    """See that files can be written in ``folder``, which need not be there yet, before the work whose results go there.

    Raises:
        UserError: they cannot; the message begins with what was ``typed``.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise UserError(f"{typed}: {place} is not a folder; name one, or where one can be made")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{typed}: no right to write in {place}; name another folder")


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A new folder to fill; on success it takes the place of ``folder``, on an exception nothing has changed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    temporary, old = (folder.with_name(f".{folder.name}.{mark}{end}") for end in ("", ".old"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
