"""Modelled cycles of one inference, as an interval, from executed counts.

For each block, with n instructions, on a core whose front end delivers between p (pessimistic) and o (optimistic) instructions a
cycle, one execution takes

    low    max(resource bound, n / o)
    point  max(50-iteration figure, n / p)
    high   the point, and per operation L1 misses x L2 latency + L2 misses x memory latency on top

The point has no cache penalty: the kernels' access is sequential and blocked for the caches, which prefetchers serve well, and a
simulation without a prefetcher cannot say what remains; the whole penalty, unhidden, is in ``high``. It takes the pessimistic
front end: a promise should not rest on the operation cache. None of this was compared with silicon.

Blocks are analysed until they cover 99.5 % of the executed instructions; the rest is taken at their average.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_arm.cycles import mca
from deploy_arm.cycles.mca import BlockCycles
from deploy_arm.cycles.throughput import throughput_bound
from deploy_arm.emulate.counts import Block, Counts
from deploy_arm.emulate.elf import read_executable
from deploy_arm.target.cores import Core

MODEL_VERSION = 2  # raise it when a figure of this module changes its meaning
COVERAGE = 0.995
# Where llvm-mca is missing, only a throughput bound is known. The analyser's points for whole networks are 1.05 (dense
# kernels) to 1.5 times (depthwise) this bound.
TABLE_POINT, TABLE_HIGH = 1.25, 2.0
# Where no caches were simulated, the interval's upper end is raised by this factor instead.
UNSIMULATED_CACHES = 1.5


@dataclass(frozen=True)
class OperationCycles:
    """Modelled cycles of one operation of one inference."""

    operation: int
    instructions: int
    low: float
    point: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """Modelled cycles of one inference; ``model`` names the source of the block figures."""

    operations: tuple[OperationCycles, ...]
    model: str

    @property
    def low(self) -> float:
        return sum(operation.low for operation in self.operations)

    @property
    def point(self) -> float:
        return sum(operation.point for operation in self.operations)

    @property
    def high(self) -> float:
        return sum(operation.high for operation in self.operations)


def hot_blocks(blocks: Mapping[Block, int], coverage: float = COVERAGE) -> list[Block]:
    """The fewest blocks that hold at least ``coverage`` of the executed instructions."""
    weights = {block: block.instructions * executions for block, executions in blocks.items()}
    needed = coverage * sum(weights.values())
    chosen: list[Block] = []
    covered = 0
    for block in sorted(weights, key=lambda block: (-weights[block], block)):
        if covered >= needed:
            break
        chosen.append(block)
        covered += weights[block]
    return chosen


def is_branch(word: int) -> bool:
    """Whether an A64 instruction may go elsewhere than to the next one (branches, exceptions, system)."""
    return (word >> 26) & 0b111 == 0b101


def join_fall_through(blocks: Mapping[Block, int], code: mca.Code) -> dict[Block, int]:
    """Joins blocks with the one that always runs next.

    The emulator cuts a loop body at page ends and at its own limits; modelled apart, each piece would loop on itself. A block
    is joined to all that end where it begins, not in a branch, when it was executed as often as they together.
    """
    ending: dict[int, list[Block]] = {}
    beginning: dict[int, int] = {}
    for block in blocks:
        end = block.address + block.size
        beginning[block.address] = beginning.get(block.address, 0) + 1
        if not is_branch(int.from_bytes(code.read(end - 4, 4), "little")):
            ending.setdefault(end, []).append(block)
    whole = {block: block for block in blocks}
    for block in sorted(blocks, reverse=True):
        before = ending.get(block.address, [])
        if (
            not before
            or beginning[block.address] > 1
            or sum(map(blocks.__getitem__, before)) != blocks[block]
        ):
            continue
        rest = whole.pop(block)
        for first in before:
            whole[first] = Block(
                first.address, first.instructions + rest.instructions, first.size + rest.size
            )
    joined: dict[Block, int] = {}
    for first, result in whole.items():
        joined[result] = joined.get(result, 0) + blocks[first]
    return joined


def table_cycles(code: mca.Code, blocks: list[Block], core: Core) -> dict[Block, BlockCycles]:
    """Block figures from the own throughput table."""
    figures = {}
    for block in blocks:
        bound = throughput_bound(code.read(block.address, block.size), core.scheduler)
        figures[block] = BlockCycles(bound, max(bound, block.instructions / core.front_end[0]) * TABLE_POINT)
    return figures


def estimate(program: Path, counts: Counts, core: Core, *, use_mca: bool | None = None) -> Estimate:
    """Modelled cycles per operation of the inference that ``counts`` describes.

    ``use_mca`` False takes the own throughput table, None decides by whether llvm-mca is installed.

    Raises:
        UserError: llvm-mca is asked for and missing, or fails.
    """
    listing = functools.partial(mca.disassemble, program)
    return estimate_code(read_executable(program), listing, counts, core, use_mca=use_mca)


def estimate_code(
    code: mca.Code, listing: mca.Listing, counts: Counts, core: Core, *, use_mca: bool | None = None
) -> Estimate:
    """As ``estimate``, of machine code from anywhere (``block_code.BlockCode`` for shared libraries).

    Raises:
        UserError: as ``estimate``.
    """
    operations = [(counted, join_fall_through(counted.blocks, code)) for counted in counts.operations]
    total: dict[Block, int] = {}
    for _, blocks in operations:
        for block, executions in blocks.items():
            total[block] = total.get(block, 0) + executions
    chosen = hot_blocks(total)
    with_mca = mca.find_tools() is not None if use_mca is None else use_mca
    if with_mca:
        figures = mca.block_cycles(code, listing, chosen, core.scheduler)
        model = f"llvm-mca {mca.version()} {core.scheduler}"
    else:
        figures = table_cycles(code, chosen, core)
        model = f"own throughput table, widths of {core.scheduler}"
    pessimistic, optimistic = core.front_end

    def low(block: Block) -> float:
        return max(min(figures[block]), block.instructions / optimistic)

    def point(block: Block) -> float:
        return max(figures[block].iterated, block.instructions / pessimistic)

    covered = sum(block.instructions * total[block] for block in chosen) or 1
    average_low = sum(low(block) * total[block] for block in chosen) / covered
    average_point = sum(point(block) * total[block] for block in chosen) / covered
    result = []
    for counted, blocks in operations:
        known = {block: executions for block, executions in blocks.items() if block in figures}
        rest = counted.instructions - sum(
            block.instructions * executions for block, executions in known.items()
        )
        lowest = sum(low(block) * executions for block, executions in known.items()) + rest * average_low
        middle = sum(point(block) * executions for block, executions in known.items()) + rest * average_point
        highest = middle if with_mca else middle * TABLE_HIGH / TABLE_POINT
        if counted.first_misses is None or counted.second_misses is None:
            highest *= UNSIMULATED_CACHES
        else:
            highest += (
                counted.first_misses * core.second_latency + counted.second_misses * core.memory_latency
            )
        result.append(OperationCycles(counted.operation, counted.instructions, lowest, middle, highest))
    return Estimate(tuple(result), model)
