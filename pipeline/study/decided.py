"""What a person decided of candidates: to keep one, or to reject it. The study's folder holds it, MLflow shows it."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from foundation.errors import UserError
from foundation.files import json_text, write_atomically

FILE = "decisions.json"
TAG = "decision"  # of a candidate's run in MLflow
Choice = Literal["keep", "reject"]


@dataclass(frozen=True)
class Decided:
    """A decision, and who took it when (ISO 8601, with the offset from UTC) and why."""

    decision: Choice
    by: str
    when: str
    note: str = ""

    def __str__(self) -> str:
        words = {"keep": "kept", "reject": "rejected"}[self.decision]
        return f"{words} by {self.by} on {self.when[:10]}{f': {self.note}' if self.note else ''}"


def read_decisions(folder: Path) -> dict[str, Decided]:
    """By candidate's hash; none where nothing was decided.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        found = {str(name): Decided(**record) for name, record in json.loads(file.read_text()).items()}
        if not all(one.decision in get_args(Choice) for one in found.values()):
            raise ValueError(f"a decision is one of {', '.join(get_args(Choice))}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}); put it right, or remove it to decide anew") from error
    return found


def decide(folder: Path, candidate: str, decision: Choice | None, note: str = "") -> Decided | None:
    """Write down a decision; None takes back an earlier one."""
    known = read_decisions(folder)
    known.pop(candidate, None)
    new = None
    if decision is not None:
        new = Decided(
            decision, getpass.getuser(), datetime.now().astimezone().isoformat(timespec="seconds"), note
        )
        known[candidate] = new
    records = {name: asdict(one) for name, one in known.items()}
    write_atomically(folder / FILE, json_text(records, indent=1) + "\n")
    return new


def without_rejected(front: Mapping[str, Any], decisions: Mapping[str, Decided]) -> dict[str, Any]:
    """The front without the points that were rejected."""
    rejected = {name for name, one in decisions.items() if one.decision == "reject"}
    return {**front, "points": [point for point in front["points"] if point["hash"] not in rejected]}
