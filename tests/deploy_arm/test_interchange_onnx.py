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


def close(graph: g.Graph, images: np.ndarray[Any, Any], seed: int, steps: float = 1.001) -> float:
    """The share of outputs that are the reference's; none is more than a step away."""
    wanted, found = run(graph, images), answers(graph, images)
    assert found.shape == wanted.shape and found.dtype == np.float32
    span = np.abs(wanted).max(initial=1.0)
    off = np.abs(found - wanted)
    floats = any(isinstance(getattr(op, "finish", None), g.Dequantize) for op in graph.operations)
    assert off.max(initial=0.0) <= (1e-4 * span if floats else steps), (
        seed,
        [type(op).__name__ for op in graph.operations],
    )
    return float((off < 1e-3 * max(span, 1.0)).mean()) if off.size else 1.0


@needs_onnx
def test_single_convolutions_are_within_an_integer() -> None:
    shares = [close(*random_convolution(seed), seed) for seed in range(60)]
    assert np.mean(shares) > 0.99  # and nearly all are the same


@needs_onnx
def test_single_operations_are_within_an_integer() -> None:
    kinds: set[str] = set()
    for seed in range(80):
        graph, images = random_network(seed, 1)
        try:
            close(graph, images, seed)
        except UserError as error:
            assert "windows of different sizes" in str(error), error
            continue
        kinds |= {type(op).__name__ for op in graph.operations}
    assert kinds >= {
        "Convolution",
        "Add",
        "Multiply",
        "Concatenate",
        "MaxPool",
        "AveragePool",
        "Table",
        "Slice",
        "Pad",
    }, kinds


@needs_onnx
@pytest.mark.parametrize("residual", [False, True])
def test_a_negative_scale_and_a_constant_channel(residual: bool) -> None:
    builder = Builder(np.random.default_rng(3), (6, 6, 4))
    source = builder.input(-128, 127)
    last = builder.convolution(source, 4, (3, 3), padding=(1, 1, 1, 1), to=(-128, 127))
    if residual:
        last = builder.add(last, source, -128, 127)
    graph = builder.done(last)
    place, op = next((i, op) for i, op in enumerate(graph.operations) if isinstance(op, g.Convolution))
    assert isinstance(op.finish, g.Requantize)
    op.finish.multiplier[:2] = -np.abs(op.finish.multiplier[:2])
    op.finish.multiplier[3] = 0
    close(graph, builder.images(4), place)


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
    assert regular([g.Window(0, 2, 1), g.Window(1, 4, 1), g.Window(3, 5, 1)], 5) is None
    assert regular([g.Window(0, 7, 7)], 7) == Regular(7, 1, 0, 0)
