"""An exported ONNX model beside the integer reference, on real images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy_arm.interchange.qdq import INSTALL
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from foundation.errors import UserError


@dataclass(frozen=True)
class Agreement:
    """How the answers compare.

    Attributes:
        images: seen.
        clear: of those the ones whose two largest outputs are more than an output step apart.
        differing: of the clear ones, how many have another class; 0 is what is asked.
        unclear_differing: of the others.
        largest: the largest difference of an output, in output steps.
        step: the output step.
    """

    images: int
    clear: int
    differing: int
    unclear_differing: int
    largest: float
    step: float

    def __str__(self) -> str:
        told = f"{self.clear - self.differing} of {self.clear} images whose answer is clear by more than an output step have the "
        rest = f"same class as by the integer reference; of the other {self.images - self.clear}, "
        return told + rest + f"{self.unclear_differing} have another"


def output_step(graph: g.Graph) -> float:
    """How far an output moves at most when one integer that its layer reads moves by one."""
    last = next(op for op in reversed(graph.operations) if op.output == graph.output)
    while isinstance(last, g.Limit | g.Reshape | g.Slice | g.Gather):
        name = last.inputs[0]
        last = next(op for op in graph.operations if op.output == name)
    if isinstance(last, g.Convolution) and isinstance(last.finish, g.Dequantize):
        weights = (
            np.abs(last.weights.integers.astype(np.int64)).reshape(last.weights.integers.shape[0], -1).max(1)
        )
        return float((np.broadcast_to(last.finish.scale, weights.shape) * weights).max())
    if isinstance(last, g.AveragePool | g.LayerNorm) and isinstance(last.finish, g.Dequantize):
        return float(np.abs(last.finish.scale).max() * (2**16 if isinstance(last, g.LayerNorm) else 1))
    if isinstance(last, g.FloatTable):
        return float(np.abs(np.diff(last.table)).max())
    return graph.tensors[last.inputs[0]].step


def compare(model: bytes, graph: g.Graph, batches: Iterable[NDArray[np.uint8]]) -> Agreement:
    """Of a classifier's images, uint8 [N, H, W, C]; as :func:`answers` gives both.

    Raises:
        UserError: onnxruntime is not installed.
    """
    step, seen, clear, differing, unclear, largest = output_step(graph), 0, 0, 0, 0, 0.0
    for wanted, found in answers(model, graph, batches):
        two = np.sort(wanted, axis=1)[:, -2:]
        apart = two[:, -1] - two[:, 0] > step if wanted.shape[1] > 1 else np.ones(len(wanted), bool)
        other = wanted.argmax(1) != found.argmax(1)
        seen, clear = seen + len(wanted), clear + int(apart.sum())
        differing, unclear = differing + int((other & apart).sum()), unclear + int((other & ~apart).sum())
        largest = max(largest, float(np.abs(wanted - found).max(initial=0.0)) / step)
    return Agreement(seen, clear, differing, unclear, largest, step)


def answers(
    model: bytes, graph: g.Graph, batches: Iterable[NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What the integer reference and onnxruntime, on one thread and without its graph optimizations, answer to each batch of
    uint8 images [N, H, W, C]: float32 [N, K].

    Raises:
        UserError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"--format onnx is checked with onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for images in batches:
        yield run(graph, images), session.run(None, {"images": images})[0]
