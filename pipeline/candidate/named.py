"""A candidate of a study by the beginning of its hash."""

from __future__ import annotations

from pathlib import Path

from foundation.errors import UserError


def candidate_name(folder: Path, given: str) -> str:
    """The full hash of a candidate of the study in ``folder``.

    Raises:
        UserError: it is none, or the beginning of several.
    """
    known = sorted(path.name for path in (folder / "candidates").glob("*") if not path.name.startswith("."))
    found = [name for name in known if name.startswith(given)]
    if given in found:
        return given
    if len(found) != 1:
        what = "is not a candidate" if not found else "is the beginning of several candidates"
        raise UserError(f"{given!r} {what} of {folder}; there are: {', '.join(found or known) or 'none'}")
    return found[0]
