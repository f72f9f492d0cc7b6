"""A board that was added: how it is reached, and what it runs. Everything is checked, typed or read from a file alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy_arm.target.targets import TARGETS
from foundation.errors import UserError

# No part can be taken for a flag, and none means anything to a shell.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_WORD = re.compile(r"[\w./=,:+@-]+", re.ASCII)
ARM = "aarch64"


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name: what a person calls it.
        user, host, port: where OpenSSH connects; what is None, the user's ``~/.ssh/config`` says.
        identity, known_hosts: files, where not OpenSSH's own are meant.
        runner: words put before each program's command line, of an emulator.
        target: which processors' programs it runs.
        machine: its processor's architecture, as ``uname -m`` told it when it was added.

    Raises:
        UserError: one of them is not so.
    """

    name: str
    host: str
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    known_hosts: Path | None = None
    runner: tuple[str, ...] = ()
    target: str = "a76"
    machine: str = ARM

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"{self.name!r} is no name of a device; give letters, digits, '-', '_' and '.', a letter or digit first"
            )
        parse_address(self.address)
        for flag, path in (("--identity", self.identity), ("--known-hosts", self.known_hosts)):
            if path is not None and re.search(r'["\x00-\x1f]', str(path)):
                raise UserError(
                    f"{flag} {str(path)!r}: OpenSSH takes no path with quotes or control characters"
                )
        bad = next((word for word in self.runner if not _WORD.fullmatch(word)), None)
        if bad is not None:
            raise UserError(
                f"--runner: {bad!r} has more than letters, digits and ./=,:+@_- in it; give words of these"
            )
        TARGETS[self.target]

    @property
    def address(self) -> str:
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"ssh://{user}{self.host}{port}"

    @property
    def source(self) -> Literal["measured", "modelled"]:
        """Of its times: an emulator's are of no ARM CPU."""
        return "measured" if self.machine == ARM and not self.runner else "modelled"

    def to_record(self) -> dict[str, Any]:
        """For a file; ``from_record`` takes it."""
        return {
            "address": self.address,
            "identity": self.identity and str(self.identity),
            "known_hosts": self.known_hosts and str(self.known_hosts),
            "runner": list(self.runner),
            "target": self.target,
            "machine": self.machine,
        }

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> Board:
        """Raises UserError, KeyError or TypeError where the record is none."""
        identity, known = record.get("identity"), record.get("known_hosts")
        words = [name, record["address"], record["target"], record["machine"], *record["runner"]]
        if not all(isinstance(word, str) for word in [*words, identity or "", known or ""]):
            raise TypeError("text is expected")
        return cls(
            name,
            **parse_address(record["address"]),
            identity=Path(identity) if identity else None,
            known_hosts=Path(known) if known else None,
            runner=tuple(record["runner"]),
            target=record["target"],
            machine=record["machine"],
        )


def parse_address(text: str) -> dict[str, Any]:
    """User, host and port of ``ssh://user@board:port``.

    Raises:
        UserError: it is none.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65535):
        raise UserError(f"{text!r} is no address of a board; give ssh://user@board or ssh://user@board:port")
    return {"user": found["user"], "host": found["host"], "port": port}
