"""A board reached by ssh as a device: one of its CPUs, pinned, used by one at a time. Nothing is installed on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy_arm.boards.added import quarantine, read_added, release
from deploy_arm.boards.board import Board
from deploy_arm.boards.conditions import SCRIPT, CpuConditions, conditions, fastest_cpus, parse_tree
from deploy_arm.boards.connection import MISSING, ask, held, keep, printable, run_there
from deploy_arm.boards.facts import PINNING, Cpu, Facts, read_facts
from deploy_arm.devices import canary
from deploy_arm.devices.base import Device, Source
from deploy_arm.devices.timed import DRIFT, TimedDevice, threads_of
from deploy_arm.target.fault import OTHER_PROCESSOR, DeviceFault
from deploy_arm.target.targets import TARGETS
from foundation.command import typed
from foundation.errors import UserError
from foundation.files import sha256

COMMAND = "pipeline.devices"


class SshDevice(TimedDevice):
    """One board.

    ``board`` is by default the first that was added for the target and is not in quarantine (``python -m pipeline.devices add``).
    Its source is modelled where an emulator runs the programs there. ``facts`` are what it has answered already.
    """

    source: Source = "measured"

    def __init__(self, target: str = "a76", board: Board | None = None, facts: Facts | None = None) -> None:
        TARGETS[target]
        self.target = target
        self.board = board or next(iter(usable_boards(target).values()))
        self.name = self.board.name
        self.source = self.board.source
        self._facts = facts

    @classmethod
    def names(cls, target: str) -> list[str]:
        return list(usable_boards(target))

    @classmethod
    def named(cls, target: str, name: str) -> Device:
        return cls(target, read_added().board(name))

    @classmethod
    def report(cls, name: str, reason: str) -> None:
        if reason:
            quarantine(name, reason)
        else:
            release(name)

    @property
    def facts(self) -> Facts:
        """Asked once; raises DeviceFault as ``read_facts`` does."""
        if self._facts is None:
            self._facts = read_facts(self.board)
        return self._facts

    @property
    def cpus(self) -> list[int]:  # type: ignore[override]  # known once it has answered
        """Those a login may use, the fastest first."""
        return fastest_cpus(self.facts.allowed, self.facts.tree)

    @property
    def core(self) -> Cpu | None:
        """The processor that programs run on; the first is often a little one of a mixed chip."""
        return self.facts.cpus.get(self.cpu)

    @property
    def pinned(self) -> bool:
        return PINNING not in self.facts.missing

    def ready(self) -> None:
        self.facts  # noqa: B018

    def identity(self) -> str:
        board, facts = self.board, self.facts
        where = (board.address, facts.node, facts.release, self.core and self.core.part, self.pinned)
        return repr(
            (self.name, self.source, self.target, *where, board.runner, sha256(canary.canary_blob()), DRIFT)
        )

    def conditions(self) -> CpuConditions:
        return conditions(
            self.cpu, parse_tree(ask(self.board, SCRIPT, seconds=20.0).output.decode(errors="replace"))
        )

    def told(self) -> dict[str, Any]:
        part = self.core and self.core.part
        return {"address": self.board.address, "node": self.facts.node, "part": part, "pinned": self.pinned}

    @contextlib.contextmanager
    def _hold(self, patience: float) -> Iterator[None]:
        with held(self.board, patience):
            yield

    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        """Runs on the pinned CPU. Copies the files first that are not there yet, or differ.

        Raises:
            DeviceFault: the board's failure.
            UserError: the program's.
        """
        blob = Path(arguments[1])
        digests = {path: sha256(path) for path in (program, blob)}
        names = {program: f"{digests[program]}.program", blob: f"{digests[blob]}.blob"}
        files = {names[path]: (path, digests[path]) for path in names}
        words = [*self._launcher(arguments), f"./{names[program]}", arguments[0], names[blob], *arguments[2:]]
        checks = [(name, digest) for name, (_, digest) in files.items()]
        answer = run_there(self.board, checks, words, given, seconds=timeout)
        if answer.status == MISSING:
            asked = set(answer.output.decode(errors="replace").split())
            for name in [name for name in files if name in asked]:
                keep(self.board, files[name][0], name, files[name][1])
            answer = run_there(self.board, checks, words, given, seconds=timeout)
        if answer.status == 0:
            return answer.output
        what = f"{program.name} {arguments[0]} on {self.name} stopped with status {answer.status}: {printable(answer.errors)}"
        if (
            answer.status is None or answer.status >= MISSING or answer.status == OTHER_PROCESSOR
        ):  # not there, not started, out of time, ended by a signal; of another kind than was thought
            raise DeviceFault(what)
        raise UserError(what)

    def _launcher(self, arguments: list[str]) -> list[str]:
        """What is put before the program: its CPUs, as many as it has threads, and the emulator."""
        mask = sum(1 << cpu for cpu in self.cpus[: threads_of(arguments)])
        return [*([PINNING, f"{mask:x}"] if self.pinned else []), *self.board.runner]


def usable_boards(target: str) -> dict[str, Board]:
    """Those that measure, if any does, and are not in quarantine. Raises UserError where there is none for this target."""
    added = read_added()
    theirs = {name: board for name, board in added.boards.items() if board.target == target}
    if any(board.source == "measured" for board in theirs.values()):
        theirs = {name: board for name, board in theirs.items() if board.source == "measured"}
    if usable := {name: board for name, board in theirs.items() if name not in added.quarantines}:
        return usable
    if theirs:
        reasons = "; ".join(f"{name}: {added.quarantines[name].reason}" for name in theirs)
        raise UserError(
            f"every board for {target} is in quarantine ({reasons}); `{typed(COMMAND)} check` tries them again, "
            "--devices emulated does without"
        )
    others = ", ".join(f"{name} for {board.target}" for name, board in added.boards.items())
    raise UserError(
        f"no board was added for {target}{f' (there is {others})' if others else ''}; "
        f"`{typed(COMMAND)} add ssh://user@board` adds one"
    )


ssh = SshDevice
