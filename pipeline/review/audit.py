"""Who promoted what, when, and by which gates: tags of the registry's version, and a line of ``promotions.jsonl``."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foundation.files import json_text

FILE = "promotions.jsonl"  # in a study's folder


def person() -> str:
    """``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def now() -> str:
    """The time in UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True)
class Event:
    """One thing that was done to a registered model.

    Attributes:
        what: ``promoted``, ``refused`` or ``rolled back``.
        details: gates, figures, versions and checksums, plain values.
    """

    what: str
    candidate: str
    details: Mapping[str, Any]
    by: str = field(default_factory=person)
    at: str = field(default_factory=now)

    def as_dict(self) -> dict[str, Any]:
        """A line of the file."""
        return {
            "event": self.what,
            "at": self.at,
            "by": self.by,
            "candidate": self.candidate,
            **self.details,
        }

    def tags(self, gates: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """For the version: who, when, and the gates that were passed, each in its words."""
        words = {f"gate.{gate['name']}": str(gate["text"])[:500] for gate in gates}
        return {"promoted.by": self.by, "promoted.at": self.at, **words}


def keep(folder: Path, event: Event) -> None:
    """Add the event as a line to the study's file, in one write: two processes' lines never mix."""
    line = (json_text(event.as_dict()) + "\n").encode()
    handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)
