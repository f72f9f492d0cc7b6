"""What MLflow lacks of a study, noted in its folder until it is there."""

from __future__ import annotations

from pathlib import Path

from foundation.files import write_atomically

FILE = "unsent.txt"


def unsent(folder: Path) -> str | None:
    """Why MLflow does not have everything of the study in ``folder``; None where it has, as far as is known."""
    try:
        return (folder / FILE).read_text().strip() or "it is not known why"
    except (OSError, UnicodeDecodeError):
        return None


def note_unsent(folder: Path, why: str | None) -> None:
    """Note that it has not, and why; None: it has everything."""
    if why is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        write_atomically(folder / FILE, why + "\n")
