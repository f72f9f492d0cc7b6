"""Which layer hurts, as it is kept in a study's folder."""

from __future__ import annotations

from pathlib import Path

from foundation.errors import UserError
from search_spaces.sensitivity import Sensitivity

FILE = "sensitivity.json"


def read_sensitivity(folder: Path) -> Sensitivity | None:
    """That of a study's folder; None where none was kept, or it cannot be read."""
    try:
        return Sensitivity.from_json((folder / FILE).read_text())
    except (OSError, UserError, UnicodeDecodeError):
        return None
