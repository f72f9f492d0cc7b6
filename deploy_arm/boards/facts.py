"""What a board is: its processors, what its system has, and its kernel's tree; all in one answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deploy_arm.boards.board import ARM, Board
from deploy_arm.boards.conditions import SCRIPT, parse_tree
from deploy_arm.boards.connection import ask, printable
from deploy_arm.target.fault import DeviceFault

NEEDED, PINNING = ("sha256sum", "flock", "timeout"), "taskset"
TELL = (
    "uname -m; uname -n; uname -r; grep Cpus_allowed_list: /proc/self/status; "
    f'for t in {" ".join((*NEEDED, PINNING))}; do command -v $t >/dev/null || echo "missing: $t"; done; '
    "echo cpuinfo; cat /proc/cpuinfo; echo tree; " + SCRIPT
)
# The part numbers of ARM's own cores (Main ID Register, as /proc/cpuinfo shows them) to the target whose programs they run.
PARTS = {
    "a53": ("0xd03",),
    "a72": ("0xd08", "0xd07", "0xd09"),  # with A57 and A73
    "a55": ("0xd05",),
    "a76": ("0xd0b", "0xd0c", "0xd0d", "0xd0e", "0xd41"),  # with N1, A77, A76AE, A78
    "x1": ("0xd44", "0xd40"),  # with V1
    "x2": ("0xd48", "0xd47", "0xd49", "0xd4d", "0xd4e", "0xd4f"),  # with A710, N2, A715, X3, V2
}


@dataclass(frozen=True)
class Cpu:
    """One processor of ``/proc/cpuinfo``: part number and features."""

    part: str
    features: frozenset[str]

    @property
    def target(self) -> str:
        """The most of what it runs: by its part, else by its features."""
        named = next((target for target, parts in PARTS.items() if self.part in parts), None)
        matrix = {"i8mm", "asimddp", "fphp", "lrcpc"} <= self.features
        return named or ("x2" if matrix else "a76" if "asimddp" in self.features else "a72")


@dataclass(frozen=True)
class Facts:
    """``allowed``: the CPUs that a login may use; ``missing``: commands that are not there."""

    machine: str
    node: str
    release: str
    allowed: tuple[int, ...]
    missing: tuple[str, ...]
    cpus: Mapping[int, Cpu]
    tree: Mapping[str, str]


def read_facts(board: Board) -> Facts:
    """Ask the board.

    Raises:
        DeviceFault: no connection; it answers something else; a command is missing without which nothing can be run.
    """
    answer = ask(board, TELL, seconds=20.0)
    try:
        facts = parse_facts(answer.output.decode(errors="replace"))
    except ValueError as error:
        raise DeviceFault(f"{board.name} does not say what it is: {printable(answer.output)}") from error
    if lacking := [tool for tool in facts.missing if tool in NEEDED]:
        raise DeviceFault(f"{board.name} has no {', '.join(lacking)}: install coreutils and util-linux there")
    if facts.machine != ARM and not board.runner:
        raise DeviceFault(
            f"{board.name} is {facts.machine}, not aarch64; ARM programs run there by an emulator alone, which --runner names"
        )
    return facts


def parse_facts(text: str) -> Facts:
    """Raises ValueError where the text is not what ``TELL`` prints."""
    head, has_cpus, rest = text.partition("\ncpuinfo\n")
    info, has_tree, tree = rest.partition("\ntree\n")
    lines = head.split("\n")
    if not (has_cpus and has_tree) or len(lines) < 4 or "Cpus_allowed_list:" not in lines[3]:
        raise ValueError("parts are missing")
    if not re.fullmatch(r"[\w.-]+", lines[1]):
        raise ValueError(f"{lines[1]!r} is no name of a machine")
    missing = tuple(line.removeprefix("missing: ") for line in lines[4:] if line.startswith("missing: "))
    allowed = tuple(cpu_list(lines[3].partition(":")[2].strip()))
    return Facts(lines[0], lines[1], lines[2], allowed, missing, parse_cpuinfo(info), parse_tree(tree))


def cpu_list(text: str) -> list[int]:
    """The numbers of ``0-3,6``, as the kernel writes them. Raises ValueError where it is none, or an empty one."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, last = int(low), int(high or low)
        if not 0 <= first <= last < 4096:
            raise ValueError(f"{text!r} is no list of CPUs")
        found += range(first, last + 1)
    return found


def parse_cpuinfo(text: str) -> dict[int, Cpu]:
    """The ARM processors in ``/proc/cpuinfo``: none on other machines."""
    cpus: dict[int, Cpu] = {}
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        if "CPU part" in values and values.get("processor", "").isdecimal():
            features = frozenset(values.get("Features", "").split())
            cpus[int(values["processor"])] = Cpu(values["CPU part"], features)
    return cpus
