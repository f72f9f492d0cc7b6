"""Which finished candidates of a study have no files any more, because somebody wanted the room; they are on no front."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from foundation.errors import UserError
from foundation.files import json_text, write_atomically

FILE = "pruned.json"


def read_pruned(folder: Path) -> frozenset[str]:
    """Their hashes. ``folder`` is the study's.

    Raises:
        UserError: the list cannot be read.
    """
    file = folder / FILE
    try:
        return frozenset(map(str, json.loads(file.read_text()))) if file.is_file() else frozenset()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}); it should be a JSON list of candidates' hashes"
        ) from error


def note_pruned(folder: Path, hashes: Iterable[str]) -> None:
    """Add to the list; done before the first file goes, so that no front ever names what is not there."""
    found = sorted(read_pruned(folder) | set(hashes))
    write_atomically(folder / FILE, json_text(found, indent=1) + "\n")
