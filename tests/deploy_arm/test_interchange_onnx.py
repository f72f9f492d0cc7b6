"""ONNX models beside the integer reference, another implementation of the same graph: operation by operation, at random."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from deploy_arm.fuzz.graphs import Builder
from deploy_arm.fuzz.networks import random_convolution, random_network
from deploy_arm.interchange.windows import Regular, regular
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from deploy_arm.lowering.requantize import convolution_bound
from deploy_arm.lowering.windows import pool_windows
from foundation.errors import UserError

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))),
    reason="onnx and onnxruntime are not installed: pip install 'dgms-arm-search[onnx]'",
)


def answers(graph: g.Graph, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime

    from deploy_arm.interchange.qdq import to_onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        to_onnx(graph, "random"), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"images": images})
    return np.asarray(found)


def near(graph: g.Graph, images: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The share of outputs within an integer of the reference's, and of those that are as good as equal."""
    wanted, found = run(graph, images), answers(graph, images)
    assert found.shape == wanted.shape and found.dtype == np.float32
    if not wanted.size:
        return 1.0, 1.0
    off, alike = np.abs(found - wanted), 1e-4 * np.abs(wanted).max(initial=1.0)
    floats = graph.operations[-1].output == graph.output and not isinstance(graph.operations[-1], g.Output)
    return float((off <= alike + (0.0 if floats else 1.001)).mean()), float((off <= alike).mean())


def proven(graph: g.Graph) -> bool:
    """Whether no sum saturates before it is rounded, which the compiler proves of what it compiles and a random graph may do."""
    for op in graph.operations:
        if isinstance(op, g.Convolution) and isinstance(op.finish, g.Requantize):
            source = graph.tensors[op.inputs[0]]
            bound = convolution_bound(op.weights, source.low, source.high) << op.finish.left
            factors = np.abs(op.finish.multiplier.astype(np.float64)) * 2.0**-31
            if max(bound, (bound * factors + np.abs(op.finish.offset)).max()) >= 2**31:
                return False
    return True


@needs_onnx
def test_single_convolutions_are_within_an_integer() -> None:
    tried = [graph for graph in map(random_convolution, range(80)) if proven(graph[0])]
    shares = [near(*one) for one in tried]
    assert len(tried) > 30 and all(within == 1 for within, _ in shares), shares
    assert np.mean([alike for _, alike in shares]) > 0.97  # and nearly all are the same


@needs_onnx
def test_every_operation_means_there_what_it_means_here() -> None:
    kinds, shares = set[str](), list[float]()
    for seed in range(100):
        graph, images = random_network(seed, 1)
        if not proven(graph):
            continue
        try:
            within, _ = near(graph, images)
        except UserError as error:
            assert "windows of different sizes" in str(error), error
            continue
        rounded = sum(hasattr(op, "finish") for op in graph.operations)
        assert within == 1 or rounded > 1, (seed, [type(op).__name__ for op in graph.operations])
        shares.append(within)
        kinds |= {type(op).__name__ for op in graph.operations}
    wanted = {
        "Convolution",
        "Add",
        "Multiply",
        "Concatenate",
        "MaxPool",
        "AveragePool",
        "Table",
        "Slice",
        "Pad",
        "Reshape",
    }
    assert kinds >= wanted | {"Gather", "LayerNorm", "Limit"}, kinds


@needs_onnx
@pytest.mark.parametrize("residual", [False, True])
def test_a_negative_scale_and_a_constant_channel(residual: bool) -> None:
    builder = Builder(np.random.default_rng(3), (6, 6, 4))
    source = builder.input(-128, 127)
    last = builder.convolution(source, 4, (3, 3), padding=(1, 1, 1, 1), to=(-128, 127))
    if residual:
        last = builder.add(last, source, -128, 127)
    graph = builder.done(last)
    op = next(op for op in graph.operations if isinstance(op, g.Convolution))
    assert isinstance(op.finish, g.Requantize)
    op.finish.multiplier[:2] = -np.abs(op.finish.multiplier[:2])
    op.finish.multiplier[3] = 0
    assert near(graph, builder.images(4))[0] == 1


@needs_onnx
@pytest.mark.parametrize("low", [0, -128])
def test_tables_are_exact(low: int) -> None:
    for last in ("look_up", "look_up_floats"):
        builder = Builder(np.random.default_rng(5), (3, 4, 2))
        source = builder.look_up(builder.input(low, low + 255), low, low + 255)
        found = (
            builder.look_up_floats(source) if last == "look_up_floats" else builder.look_up(source, -64, 63)
        )
        graph, images = builder.done(found), builder.images(8)
        np.testing.assert_array_equal(answers(graph, images), run(graph, images))


@needs_onnx
def test_pixels_chosen_by_row_and_column_are_exact() -> None:
    builder = Builder(np.random.default_rng(6), (3, 4, 2))
    graph = builder.done(builder.resize(builder.input(-128, 127), (0, 0, 1, 1, 2, 2), (0, 0, 0, 3, 1)))
    images = builder.images(8)
    np.testing.assert_array_equal(answers(graph, images), run(graph, images))


def test_regular_windows_are_found_and_others_are_not() -> None:
    for size in range(1, 12):
        for kernel in range(1, min(size, 4) + 1):
            for stride in (1, 2, 3):
                for padding in range(kernel // 2 + 1):
                    if size + 2 * padding < kernel:
                        continue
                    windows = pool_windows(size, kernel, stride, padding, ceil_mode=False)
                    found = regular(windows, size)
                    assert found is not None
                    starts = [max(0, i * found.stride - found.before) for i in range(len(windows))]
                    ends = [
                        min(size, i * found.stride - found.before + found.kernel) for i in range(len(windows))
                    ]
                    assert [(w.start, w.end) for w in windows] == list(zip(starts, ends))
    assert regular([g.Window(0, 2, 1), g.Window(2, 4, 1), g.Window(3, 5, 1)], 5) is None
    assert regular([g.Window(0, 7, 7)], 7) == Regular(7, 1, 0, 0)
