"""The boards that were added, which of them are not to be used and why, and what calibration found: one file for all drivers.

``$XDG_CONFIG_HOME/dgms-arm-search/devices.json`` (``~/.config``), written whole or not at all, by one at a time.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy_arm.boards.board import Board
from foundation.errors import UserError
from foundation.files import config_home, json_text, write_atomically

VERSION = 1


@dataclass(frozen=True)
class Quarantine:
    """Why a board is not used, and since when (seconds since 1970)."""

    reason: str
    since: float


@dataclass(frozen=True)
class Calibration:
    """Measured time divided by modelled time, over programs that are known.

    Attributes:
        factor, low, high: geometric mean over the programs, and the smallest and largest ratio.
        programs: how many.
        core: the core that was modelled.
        date: when, as ``2026-01-31``.
    """

    factor: float
    low: float
    high: float
    programs: int
    core: str
    date: str


@dataclass
class Added:
    """What the file holds, by the names of devices."""

    boards: dict[str, Board] = field(default_factory=dict)
    quarantines: dict[str, Quarantine] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    def board(self, name: str) -> Board:
        """The board of that name. Raises UserError where there is none."""
        if name not in self.boards:
            raise UserError(
                f"no board is called {name!r}; there is: {', '.join(self.boards) or 'none was added'}"
            )
        return self.boards[name]


def registry_file() -> Path:
    return config_home() / "devices.json"


def read_added() -> Added:
    """What was added so far.

    Raises:
        UserError: the file is damaged, or no such file.
    """
    path = registry_file()
    try:
        record = json.loads(path.read_text())
        if record["version"] != VERSION:
            raise UserError(f"version {record['version']}, where {VERSION} is read")
        return Added(
            {name: Board.from_record(name, board) for name, board in record["boards"].items()},
            {
                name: Quarantine(**_checked(Quarantine, entry))
                for name, entry in record["quarantines"].items()
            },
            {
                name: Calibration(**_checked(Calibration, entry))
                for name, entry in record["calibrations"].items()
            },
        )
    except FileNotFoundError:
        return Added()
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no list of devices ({error}); mend it, or move it away and add them again"
        ) from error


def _checked(kind: type[Quarantine] | type[Calibration], entry: Any) -> dict[str, Any]:
    """Raises TypeError where a field has another type than it should."""
    numbers = {"since", "factor", "low", "high", "programs"}
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, (int, float) if key in numbers else str):
            raise TypeError(f"{key} is {value!r}")
    return dict(entry)


@contextmanager
def edit_added() -> Iterator[Added]:
    """What was added, to be changed; written when the context ends well, and nobody else writes meanwhile.

    Raises:
        UserError: as ``read_added``.
    """
    path = registry_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        added = read_added()
        yield added
        record = {
            "version": VERSION,
            "boards": {name: board.to_record() for name, board in added.boards.items()},
            "quarantines": {name: asdict(entry) for name, entry in added.quarantines.items()},
            "calibrations": {name: asdict(entry) for name, entry in added.calibrations.items()},
        }
        write_atomically(path, json_text(record, indent=1) + "\n", mode=0o600)


def quarantine(name: str, reason: str) -> None:
    """Let nobody use a board until it is checked; where it is not among those added, nothing."""
    with edit_added() as added:
        if name in added.boards:
            added.quarantines[name] = Quarantine(reason, time.time())


def release(name: str) -> None:
    """It may be used again."""
    if name in read_added().quarantines:
        with edit_added() as added:
            added.quarantines.pop(name, None)
