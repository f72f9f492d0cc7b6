"""The front that a search left, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foundation.errors import UserError


def read_front(folder: Path) -> dict[str, Any]:
    """The content of a study's front.json.

    Raises:
        UserError: there is none, or it holds no front.
    """
    try:
        front: dict[str, Any] = json.loads((folder / "front.json").read_text())
        if not isinstance(front, dict) or not isinstance(front.get("points"), list):
            raise ValueError("it holds no front")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / 'front.json'} cannot be read ({error}): let the search reach its front first"
        ) from error
    return front
