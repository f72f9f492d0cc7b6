"""Cycles of instruction blocks without LLVM: a small table of execution pipes by instruction class.

Only a throughput bound (no latencies, no dependencies), for machines where llvm-mca cannot be had. Instructions are
told apart by the top-level encoding groups of the A64 instruction set. Pipe numbers are the widths of the LLVM scheduling models
for the same cores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Pipes(NamedTuple):
    """Instructions of each class per cycle: vector, load and store, integer, branch."""

    vector: float
    memory: float
    integer: float
    branch: float


PIPES = {
    "neoverse-n1": Pipes(2, 2, 3, 1),
    "neoverse-v1": Pipes(4, 3, 4, 2),
    "cortex-a72": Pipes(2, 1.5, 2, 1),
    "cortex-a55": Pipes(1, 1, 2, 1),
    "cortex-a53": Pipes(1, 1, 2, 1),
}
# Registers moved by a structure load or store, by its opcode field (bits 15..12): LD4, LD1 x4, LD3, LD1 x3, LD1, LD2, LD1 x2.
STRUCTURE_REGISTERS = {0b0000: 4, 0b0010: 4, 0b0100: 3, 0b0110: 3, 0b0111: 1, 0b1000: 2, 0b1010: 2}


def memory_work(words: NDArray[np.uint32]) -> float:
    """Load and store operations of instructions of the load/store group: pairs count two, structures one a register."""
    pair = (words >> 27) & 0b111 == 0b101
    multiple = (words & 0xBF000000) == 0x0C000000
    work = np.where(pair, 2.0, 1.0)
    for index in np.flatnonzero(multiple):
        work[index] = STRUCTURE_REGISTERS.get(int(words[index] >> 12) & 0xF, 1)
    return float(work.sum())


def throughput_bound(code: bytes, scheduler: str) -> float:
    """Cycles per execution of little-endian A64 machine code: the busiest class of pipes.

    >>> throughput_bound(bytes.fromhex("40e0824f") * 4, "neoverse-n1")  # four SDOT on two vector pipes
    2.0
    """
    words = np.frombuffer(code, dtype="<u4").astype(np.uint32)
    group = (words >> 25) & 0xF
    memory = (group & 0b0101) == 0b0100
    vector = (group & 0b0111) == 0b0111
    integer = ((group & 0b0111) == 0b0101) | ((group & 0b1110) == 0b1000)
    branch = (group & 0b1110) == 0b1010
    # Multiplications (three-source group) have one pipe, like divisions, whose latency is ignored.
    multiply = integer & ((words >> 24) & 0x1F == 0b11011)
    pipes = PIPES[scheduler]
    cycles = (
        vector.sum() / pipes.vector,
        memory_work(words[memory]) / pipes.memory,
        integer.sum() / pipes.integer,
        multiply.sum(),
        branch.sum() / pipes.branch,
    )
    return float(max(cycles))
