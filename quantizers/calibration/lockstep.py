"""A network run piece by piece over all its images, so that what a layer needs can be settled before anything behind it runs.

Layer by layer, calibration would otherwise run the network once for each. Kept are, for all images, the values that pieces still
to come will read, and of those in memory only as many bytes as asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from quantizers.calibration.shelf import Budget, Shelf

MEMORY = 1 << 30  # bytes of activations that are kept in memory unless told otherwise


@torch.no_grad()
def lockstep(
    network: fx.GraphModule,
    batches: Iterable[Tensor],
    stops: Callable[[nn.Module], bool] = lambda module: True,
    memory: int = MEMORY,
) -> Iterator[tuple[fx.Node, Iterable[Tensor]]]:
    """Run ``network`` in evaluation mode on all batches, up to one module after another.

    Args:
        stops: the modules to stop at.
        memory: bytes; what all batches' values take beyond that lies in a temporary file.

    Yields:
        Each node that calls such a module, before it runs, with the value of its first argument for every batch. Modules may be
        changed then; the node runs as they are when the iterator goes on.
    """
    network.eval()
    budget = Budget(memory)
    given = list(batches)
    last_reader = {source: node for node in network.graph.nodes for source in node.all_input_nodes}
    shelves: dict[fx.Node, Shelf] = {}
    for piece in _pieces(network, stops):
        first, inside = piece[0], set(piece)
        if _is_stop(network, first, stops):
            yield first, shelves[_argument(first)]
        read = {source for node in piece for source in node.all_input_nodes if source not in inside}
        done = [source for source in read if last_reader[source] in inside]
        kept = [node for node in piece if node in last_reader and last_reader[node] not in inside]
        shelves |= {node: Shelf(budget) for node in kept}
        for index, batch in enumerate(given):
            found = {s: shelves[s].take(index) if s in done else shelves[s][index] for s in read}
            with torch.no_grad():  # the reader of a generator may have switched gradients on
                _run(network, piece, found, batch, last_reader)
            for node in kept:
                shelves[node].put(found.pop(node))
        for source in done:
            del shelves[source]


def _pieces(network: fx.GraphModule, stops: Callable[[nn.Module], bool]) -> list[list[fx.Node]]:
    """The graph's nodes in order; each piece but the first begins with a stop."""
    pieces: list[list[fx.Node]] = []
    for node in network.graph.nodes:
        if not pieces or _is_stop(network, node, stops):
            pieces.append([])
        pieces[-1].append(node)
    return pieces


def _is_stop(network: fx.GraphModule, node: fx.Node, stops: Callable[[nn.Module], bool]) -> bool:
    return node.op == "call_module" and bool(node.args) and stops(network.get_submodule(str(node.target)))


def _argument(node: fx.Node) -> fx.Node:
    argument = node.args[0]
    assert isinstance(argument, fx.Node)
    return argument


def _run(
    network: fx.GraphModule,
    piece: Sequence[fx.Node],
    values: dict[fx.Node, object],
    batch: Tensor,
    last_reader: dict[fx.Node, fx.Node],
) -> None:
    """Compute a piece's nodes for one batch into ``values``, from which goes what nobody reads any more."""
    interpreter = fx.Interpreter(network, garbage_collect_values=False)
    interpreter.env, interpreter.args_iter = values, iter((batch,))
    for node in piece:
        values[node] = interpreter.run_node(node)
        for source in node.all_input_nodes:
            if last_reader[source] is node:
                values.pop(source, None)
