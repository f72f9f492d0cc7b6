"""What is tidied in a finished graph: operations nobody reads, slices of slices, additions behind convolutions."""

from __future__ import annotations

import dataclasses
from collections import Counter

from deploy_arm.compiler.unread import drop_unread_channels
from deploy_arm.ir import graph as g


def simplify(graph: g.Graph) -> g.Graph:
    """An equal graph without operations whose result nobody reads and without channels that nobody reads, with each chain of
    slices as one slice, and with additions as part of the convolution before them."""
    return fuse_additions(drop_unread_channels(merge_slices(drop_unread(graph))))


def drop_unread(graph: g.Graph) -> g.Graph:
    """Without operations and tensors that the output does not depend on."""
    needed = {graph.output}
    kept: list[g.Operation] = []
    for op in reversed(graph.operations):
        if op.output in needed:
            needed.update(op.inputs)
            kept.append(op)
    tensors = {name: t for name, t in graph.tensors.items() if name in needed or name == graph.input.name}
    return g.Graph(graph.input, graph.output, tensors, kept[::-1])


def merge_slices(graph: g.Graph) -> g.Graph:
    """A slice of a slice that nobody else reads becomes one slice: ``x[:, :, ::2, ::2]`` is exported as rows, then columns."""
    readers = Counter(name for op in graph.operations for name in op.inputs)
    made: dict[str, g.Slice] = {}
    operations: list[g.Operation] = []
    for op in graph.operations:
        inner = made.get(op.inputs[0]) if isinstance(op, g.Slice) else None
        if isinstance(op, g.Slice) and inner is not None and readers[inner.output] == 1:
            pairs = list(zip(inner.starts, inner.steps, op.starts, op.steps, strict=True))
            starts = [start + step * inner_start for start, step, inner_start, _ in pairs]
            steps = [first * second for _, first, _, second in pairs]
            merged = dataclasses.replace(
                op,
                inputs=inner.inputs,
                starts=(starts[0], starts[1], starts[2]),
                steps=(steps[0], steps[1], steps[2]),
            )
            operations = [other for other in operations if other is not inner]
            op = merged
        if isinstance(op, g.Slice):
            made[op.output] = op
        operations.append(op)
    return drop_unread(g.Graph(graph.input, graph.output, graph.tensors, operations))


def fuse_additions(graph: g.Graph) -> g.Graph:
    """An addition that alone reads a convolution's bytes becomes the convolution's last step, where the other summand is
    already there when the convolution runs. The layer is then the convolution's."""
    readers = Counter(name for op in graph.operations for name in op.inputs)
    place = {op.output: index for index, op in enumerate(graph.operations)}
    operations: list[g.Operation | None] = list(graph.operations)
    for index, op in enumerate(graph.operations):
        if not isinstance(op, g.Add):
            continue
        last = max((0, 1), key=lambda side: place.get(op.inputs[side], -1))
        own, other = op.inputs[last], op.inputs[1 - last]
        made = operations[place[own]] if own in place else None
        if not isinstance(made, g.Convolution) or made.residual or readers[own] != 1 or own == graph.output:
            continue
        multipliers = (op.multipliers[last], op.multipliers[1 - last])
        operations[place[own]] = dataclasses.replace(
            made,
            inputs=(*made.inputs, other),
            output=op.output,
            residual=g.FusedAdd(multipliers, op.right, op.low, op.high),
        )
        operations[index] = None
        place[op.output] = place[own]
    kept = [op for op in operations if op is not None]
    return drop_unread(g.Graph(graph.input, graph.output, graph.tensors, kept))
