"""What an emulated inference executed: blocks of instructions and simulated cache misses, per operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Block(NamedTuple):
    """Consecutive instructions that were translated together. ``size`` is in bytes."""

    address: int
    instructions: int
    size: int


@dataclass
class OperationCounts:
    """One operation of the program: executions per block, cache lines accessed and missed. The last three are None where
    no caches were simulated."""

    operation: int
    blocks: dict[Block, int] = field(default_factory=dict)
    accesses: int | None = None
    first_misses: int | None = None
    second_misses: int | None = None

    @property
    def instructions(self) -> int:
        return sum(block.instructions * executions for block, executions in self.blocks.items())


@dataclass(frozen=True)
class Counts:
    """One inference. ``emulator`` is ``qemu`` or ``unicorn``; ``code`` the blocks' machine code, where it was asked for.
    ``entry`` is the address at which the program began, None where the emulator did not tell."""

    operations: tuple[OperationCounts, ...]
    emulator: str
    code: dict[Block, bytes] = field(default_factory=dict)
    entry: int | None = None

    def relocated(self, entry: int) -> Counts:
        """The same with the addresses of a program that begins at ``entry``: those of its file, wherever it was loaded."""
        distance = 0 if self.entry is None else entry - self.entry

        def move(block: Block) -> Block:
            return block._replace(address=block.address + distance)

        operations = tuple(
            dataclasses.replace(
                part, blocks={move(block): executions for block, executions in part.blocks.items()}
            )
            for part in self.operations
        )
        code = {move(block): content for block, content in self.code.items()}
        return dataclasses.replace(self, operations=operations, code=code, entry=entry)

    @property
    def instructions(self) -> int:
        return sum(operation.instructions for operation in self.operations)

    @property
    def blocks(self) -> dict[Block, int]:
        """Executions per block over all operations."""
        total: dict[Block, int] = {}
        for operation in self.operations:
            for block, executions in operation.blocks.items():
                total[block] = total.get(block, 0) + executions
        return total


def operations_of(regions: dict[int, OperationCounts]) -> tuple[OperationCounts, ...]:
    """Operations from the regions between markers: region i is operation i; what ran before the first marker (-1) and after
    the last is start-up and end of the program.

    Raises:
        ValueError: there are not at least two markers, or one of them is missing.
    """
    last = max(regions)
    if last < 1 or any(index not in regions for index in range(last)):
        raise ValueError(f"the program announced operations {sorted(regions)}")
    return tuple(regions[index] for index in range(last))


def parse_plugin_output(lines: Iterable[str], *, caches: bool) -> tuple[OperationCounts, ...]:
    """Reads the plugin's file (format: ``plugin/counter.c``); regions that were entered twice are added.

    Raises:
        ValueError: the file is cut off, or the markers are not complete.
    """
    regions: dict[int, OperationCounts] = {}
    region = OperationCounts(-1)
    complete = False
    for line in lines:
        kind, *fields = line.split()
        if kind in ("code", "entry"):
            continue
        numbers = [int(text) for text in fields]
        if kind == "region":
            region = regions.setdefault(numbers[0], OperationCounts(numbers[0]))
            if caches:
                region.accesses = (region.accesses or 0) + numbers[1]
                region.first_misses = (region.first_misses or 0) + numbers[2]
                region.second_misses = (region.second_misses or 0) + numbers[3]
        elif kind == "block":
            block = Block(numbers[0], numbers[1], numbers[2])
            region.blocks[block] = region.blocks.get(block, 0) + numbers[3]
        complete = kind == "end"
    if not complete:
        raise ValueError("the counts are cut off")
    return operations_of(regions)


def parse_entry(lines: Iterable[str]) -> int | None:
    """The address at which the program began, where the plugin's file has it."""
    found = [int(line.split()[1]) for line in lines if line.startswith("entry ")]
    return found[0] if found else None


def parse_code(lines: Iterable[str]) -> dict[Block, bytes]:
    """The machine code in the plugin's file, by block."""
    code = {}
    for line in lines:
        if line.startswith("code "):
            _, address, digits = line.split()
            content = bytes.fromhex(digits)
            code[Block(int(address), len(content) // 4, len(content))] = content
    return code
