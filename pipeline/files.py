"""Files that are either wholly there or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_arm.storage import json_text, sha256, write_atomically

__all__ = ["folder_atomically", "json_text", "sha256", "write_atomically"]


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
