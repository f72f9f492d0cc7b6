"""Where each activation lies in the arena: tensors that live at the same time never overlap."""

from __future__ import annotations

from dataclasses import dataclass

from deploy_arm.ir.graph import Graph, Reshape, Tensor

ALIGNMENT = 64


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes (multiples of 64) by tensor name, and the arena's size."""

    offsets: dict[str, int]
    size: int


@dataclass(frozen=True)
class Lifetime:
    """A block of memory that one tensor, or several that are reshapes of each other, occupy from operation ``first`` (where it is
    written; -1 for the input) to operation ``last`` (where it is last read; the number of operations for the output)."""

    names: tuple[str, ...]
    size: int
    first: int
    last: int


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of one tensor: one per element, four where it is float32."""
    height, width, channels = tensor.shape
    return height * width * channels * (4 if tensor.floating else 1)


def lifetimes(graph: Graph) -> list[Lifetime]:
    """The memory blocks of ``graph`` and when each is in use."""
    root = {graph.input.name: graph.input.name}
    first = {graph.input.name: -1}
    last = {graph.input.name: -1}
    for index, operation in enumerate(graph.operations):
        for name in operation.inputs:
            last[root[name]] = index
        if isinstance(operation, Reshape):
            root[operation.output] = root[operation.inputs[0]]
        else:
            root[operation.output] = operation.output
            first[operation.output] = last[operation.output] = index
    last[root[graph.output]] = len(graph.operations)
    names: dict[str, list[str]] = {}
    for name, owner in root.items():
        names.setdefault(owner, []).append(name)
    return [
        Lifetime(
            tuple(members), max(tensor_bytes(graph.tensors[m]) for m in members), first[owner], last[owner]
        )
        for owner, members in names.items()
    ]


def plan_memory(graph: Graph) -> MemoryPlan:
    """Greedy by size: the largest block first, each at the lowest offset free during its whole life.

    An operation's inputs and output never share memory (except a reshape's, which are the same bytes).
    """
    placed: list[tuple[int, int, Lifetime]] = []  # offset, end, block
    offsets: dict[str, int] = {}
    for block in sorted(lifetimes(graph), key=lambda b: (-b.size, b.first)):
        length = -(-block.size // ALIGNMENT) * ALIGNMENT
        offset = 0
        for start, end, other in sorted(placed, key=lambda entry: entry[0]):
            if other.first > block.last or other.last < block.first:
                continue
            if offset + length <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + length, block))
        offsets.update(dict.fromkeys(block.names, offset))
    return MemoryPlan(offsets, max((end for _, end, _ in placed), default=0))
