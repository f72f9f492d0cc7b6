"""The cache directory, files that appear whole or not at all, and JSON that every reader takes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundation.errors import UserError


def cache_home() -> Path:
    """``$XDG_CACHE_HOME`` or ``~/.cache``, then ``dgms-arm-search``. A relative value counts as none, as XDG's specification
    asks: it would mean another folder in every process."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "dgms-arm-search"


def config_home() -> Path:
    """``$XDG_CONFIG_HOME`` or ``~/.config``, then ``dgms-arm-search``: what a person has set up, which cannot be made again."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".config") / "dgms-arm-search"


def cache_directory(*parts: str) -> Path:
    """A folder below ``cache_home`` for things that can be made again. It exists on return."""
    folder = cache_home().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Writes ``path`` so that a reader sees the old file or the whole new one, whoever else writes it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_text(value: Any, **options: Any) -> str:
    """``value`` as JSON; a float that is not finite, for which JSON has no word, becomes null.

    Args:
        options: of ``json.dumps``.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
