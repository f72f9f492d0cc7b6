"""Boards added, checked and removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy_arm.boards.added import edit_added, quarantine, read_added, release
from deploy_arm.boards.board import Board
from deploy_arm.boards.conditions import CpuConditions
from deploy_arm.boards.connection import ask
from deploy_arm.boards.facts import Facts, read_facts
from deploy_arm.devices import canary
from deploy_arm.devices.ssh import SshDevice
from deploy_arm.devices.timed import EMULATED
from deploy_arm.runtime.program import build_program
from deploy_arm.target.fault import DeviceBusy, DeviceFault
from foundation.errors import UserError

PATIENCE = 60.0  # seconds that a check waits for whoever uses the board
STEADY = "performance"  # the governor that keeps the clock where it is


@dataclass(frozen=True)
class Checked:
    """What a check found.

    ``fault`` is empty where the board works; then ``canary_ms`` is the median time of the fixed network, and ``conditions`` are
    clock, governor and temperature of CPU ``cpu``.
    """

    name: str
    address: str
    source: str
    fault: str = ""
    cpu: int | None = None
    canary_ms: float | None = None
    conditions: CpuConditions = dataclasses.field(default_factory=dict)

    @property
    def cautions(self) -> list[str]:
        """What a person should know before relying on its times."""
        told = []
        if self.source == "modelled":
            told.append(EMULATED)
        governor = self.conditions.get("governor")
        if governor and governor != STEADY:
            told.append(f"the governor is {governor}: the clock changes with the load, {STEADY} keeps it")
        return told


def add_board(board: Board, target: str | None = None) -> Checked:
    """Ask a board what it is, see that it computes, and keep it in the file. ``target`` None: what its fastest CPU runs.

    Raises:
        UserError: its name or address is taken, or it fails; then nothing is kept.
    """
    _free(board)
    facts = read_facts(board)
    board = dataclasses.replace(board, machine=facts.machine, target=target or target_of(board, facts))
    found = examine(board)
    with edit_added() as added:
        _free(board)
        added.boards[board.name] = board
        added.quarantines.pop(board.name, None)
    return found


def _free(board: Board) -> None:
    added = read_added()
    if board.name in added.boards:
        raise UserError(
            f"a board is called {board.name!r} already; choose another by --name, or remove that one first"
        )
    same = next((name for name, known in added.boards.items() if known.address == board.address), None)
    if same is not None:
        raise UserError(f"{board.address} was added already, as {same!r}")


def target_of(board: Board, facts: Facts) -> str:
    """The target of the CPU that programs will run on; of an emulator, which runs any, what the board says already."""
    core = SshDevice(board.target, board, facts).core
    return board.target if core is None else core.target


def remove_board(name: str) -> str:
    """Forget a board and what is known of it, and delete its folder there.

    Returns:
        Why its folder could not be deleted; empty where it is gone.

    Raises:
        UserError: there is no such board.
    """
    with edit_added() as added:
        board = added.board(name)
        del added.boards[name]
        added.quarantines.pop(name, None)
        added.calibrations.pop(name, None)
    try:
        ask(board, 'cd .. && rm -rf "$d"', seconds=20.0)
    except UserError as error:
        return str(error)
    return ""


def check_boards(names: Sequence[str] = ()) -> Iterator[Checked]:
    """Check each of these boards, or all; who fails is in quarantine from then on, who works no longer.

    Raises:
        UserError: there is no such board.
    """
    added = read_added()
    for board in [added.board(name) for name in names] or list(added.boards.values()):
        try:
            found = examine(board)
        except DeviceBusy as error:  # who is at work needs no quarantine
            yield Checked(board.name, board.address, board.source, str(error))
            continue
        except DeviceFault as error:
            quarantine(board.name, str(error))
            yield Checked(board.name, board.address, board.source, str(error))
            continue
        release(board.name)
        yield found


def examine(board: Board) -> Checked:
    """See that a board computes what it should, and how fast it is now.

    Raises:
        DeviceFault: it does not.
    """
    device, program = SshDevice(board.target, board), build_program(board.target)
    with device.reserved(PATIENCE):
        canary.prove(device, program)
        milliseconds = device.time_canary(program)
        return Checked(
            board.name,
            board.address,
            board.source,
            "",
            device.cpu,
            milliseconds,
            conditions=device.conditions(),
        )
