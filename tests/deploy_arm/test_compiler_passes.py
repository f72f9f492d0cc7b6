"""Additions as the end of convolutions: where that is done, where it must not be, and that it changes nothing."""

from __future__ import annotations

import numpy as np

from deploy_arm.blob.memory import lifetimes
from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.passes import fuse_additions
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from tests.deploy_arm.runtime_cases import Builder


def kinds(graph: g.Graph) -> list[str]:
    return [
        "fused" if isinstance(op, g.Convolution) and op.residual else type(op).__name__
        for op in graph.operations[1:-1]
    ]


def test_the_later_of_two_convolutions_takes_the_addition() -> None:
    builder = Builder(np.random.default_rng(1), (7, 6, 5))
    source = builder.input(0, 255)
    first = builder.convolution(source, 9, (3, 3), padding=(1, 1, 1, 1), to=(-128, 127))
    last = builder.convolution(source, 9, (1, 1), to=(0, 127))
    sum_ = builder.add(last, first, -64, 63)
    graph, images = builder.done(sum_), builder.images(3)
    fused = fuse_additions(graph)
    assert kinds(fused) == ["Convolution", "fused"] and last not in fused.tensors
    assert fused.operations[2].inputs == (source, first) and fused.operations[2].output == sum_
    np.testing.assert_array_equal(run(fused, images), run(graph, images))
    residual = next(block for block in lifetimes(fused) if first in block.names)
    assert residual.last == 2  # kept until the convolution that adds it
    blob = write_blob(fused)
    assert write_blob(read_graph(blob)) == blob
    np.testing.assert_array_equal(run(read_graph(blob), images), run(graph, images))


def test_additions_that_stay() -> None:
    def block(read_twice: bool, late_table: bool) -> g.Graph:
        builder = Builder(np.random.default_rng(2), (5, 5, 4))
        source = builder.input(0, 255)
        made = builder.convolution(source, 4, (1, 1))
        other = builder.look_up(made if read_twice else source, 0, 255) if late_table else made
        return fuse_additions(builder.done(builder.add(made, other, 0, 255)))

    assert kinds(block(True, False)) == ["Convolution", "Add"]  # a sum with itself
    assert kinds(block(True, True)) == ["Convolution", "Table", "Add"]  # read by the table too
    assert kinds(block(False, True)) == ["Convolution", "Table", "Add"]  # what is added is not there yet


def test_a_chain_of_additions_is_fused_once_per_convolution() -> None:
    builder = Builder(np.random.default_rng(3), (5, 5, 4))
    source = builder.input(-128, 127)
    made = builder.convolution(source, 4, (3, 3), padding=(1, 1, 1, 1))
    graph, images = (
        builder.done(builder.add(builder.add(made, source, 0, 255), source, 0, 127)),
        builder.images(2),
    )
    fused = fuse_additions(graph)
    assert kinds(fused) == ["fused", "Add"]
    np.testing.assert_array_equal(run(fused, images), run(graph, images))
