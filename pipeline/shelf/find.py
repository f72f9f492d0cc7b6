"""Which folder somebody means who names a study."""

from __future__ import annotations

import difflib
from pathlib import Path

from foundation.errors import UserError
from pipeline.study.paths import SETTINGS, absolute

DATABASE = "study.db"


def is_study(folder: Path) -> bool:
    """Whether a search has begun there."""
    return (folder / SETTINGS).is_file() or (folder / DATABASE).is_file()


def studies_in(out: Path) -> list[Path]:
    """The studies of an output folder, by name; what only leads to one elsewhere (a symbolic link) counts too."""
    if not out.is_dir():
        return []
    return sorted(folder for folder in out.iterdir() if not folder.name.startswith(".") and is_study(folder))


def others_like(folder: Path, most: int = 3) -> list[str]:
    """Studies beside the one in ``folder``, the latest first, that have a front."""
    beside = [
        one for one in studies_in(folder.parent) if one.name != folder.name and (one / "front.json").is_file()
    ]
    beside.sort(key=lambda one: (one / "front.json").stat().st_mtime, reverse=True)
    return [one.name for one in beside[:most]]


def find_study(text: str, out: Path) -> Path:
    """The folder of a study that is named as in ``out``, or by a path.

    Raises:
        UserError: there is none; the message names those that are there, or the closest one.
    """
    if "/" not in text and is_study(out / text):
        return out / text
    path = absolute(text)
    if is_study(path):
        return path
    if path.name == SETTINGS and is_study(path.parent):
        return path.parent
    known = [folder.name for folder in studies_in(out)]
    close = difflib.get_close_matches(text, known, n=1)
    there = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"
    raise UserError(
        f"no study {text!r} in {out}; {there} (--out names the folder, and a path names a study anywhere)"
    )
