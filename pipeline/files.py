"""Files that are either wholly there or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a kill, sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
