"""Float programs of whole networks answer like PyTorch, which sums in another order: within 1e-5 of the largest output."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_compiler_networks import (
    MEAN,
    STD,
    ChannelsLast,
    Everything,
    Excited,
    LimitedEnd,
    PreActivation,
    Shuffled,
    photographs,
)
from torch import Tensor, nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_float
from deploy_arm.emulate import emulator
from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatConvolution
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from pipeline.networks.registry import find_network, load_model
from tests.deploy_arm.compiler_networks import normalized, scramble_norms

TOLERANCE = 1e-5  # of the largest output of an image


class Numbers(nn.Module):
    """Arithmetic with numbers, functions of one activation, and results that several layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Linear(9 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x * 2 - 0.25)
        y = self.norm(torch.tanh(x)) + torch.sigmoid(x) / 3
        y = torch.clamp(y + x, -0.5, 0.75)
        y = torch.nn.functional.silu(y - 0.5) * torch.nn.functional.hardsigmoid(y)
        y = torch.nn.functional.adaptive_max_pool2d(torch.nn.functional.leaky_relu(y, 0.2), 2)
        return torch.nn.functional.hardtanh(self.head(y.flatten(1)), -1.0, 1.0)


def answers(graph: g.Graph, images: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder, "network.blob")
        blob.write_bytes(write_blob(graph))
        return emulator.run(build_program("a76"), blob, images, target="a76")


def agree(
    network: nn.Module, images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The program's and PyTorch's outputs, compared."""
    network.eval()
    graph = compile_float(network, (images.shape[3], *images.shape[1:3]), mean, std)
    with torch.no_grad():
        expected = network(normalized(images, mean, std)).flatten(1).numpy()
    found = answers(graph, images)
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= TOLERANCE * largest).all()
    return found, expected


@pytest.mark.parametrize("kind", [Everything, Numbers, PreActivation, Excited, Shuffled, LimitedEnd])
def test_unusual_operators_agree_with_pytorch(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    agree(scramble_norms(kind()), photographs(24, 2), MEAN, STD)


def test_pretrained_resnet20_gives_pytorchs_classes(shared: Path, cifar10: dict[str, np.ndarray]) -> None:
    """On real images, with trained weights and option-A shortcuts."""
    weights = shared / "data" / "weights" / "resnet20-12fca82f.th"
    network = load_model("resnet20", classes=10, weights=weights).eval()
    images = cifar10["x_val"][:12]
    found, expected = agree(network, images, *find_network("resnet20").normalization)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert (found.argmax(axis=1) == cifar10["y_val"][:12]).mean() > 0.8


def test_batch_norms_and_rectifiers_cost_no_operation() -> None:
    network = load_model("resnet20", classes=10).eval()
    graph = compile_float(network, (3, 32, 32), *find_network("resnet20").normalization)
    kinds = [type(operation).__name__ for operation in graph.operations]
    assert kinds.count("FloatConvolution") == 20 and kinds.count("FloatAdd") == 9
    assert "Limit" not in kinds and "FloatFunction" not in kinds
    limits = [operation.low for operation in graph.operations if isinstance(operation, FloatConvolution)]
    assert limits.count(0.0) == 10  # the rest come before an addition, or last


def test_what_has_no_float_form_is_named() -> None:
    with pytest.raises(UserError, match=r"gelu in layer 1 .* leaky_relu, hardsigmoid"):
        compile_float(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), (3, 4, 4), MEAN, STD)

    with pytest.raises(UserError, match=r"layer_norm in layer norm .* statistics"):
        compile_float(ChannelsLast(), (3, 24, 24), MEAN, STD)

    class Quantized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)

    with pytest.raises(UserError, match="without quantizers"):
        compile_float(Quantized(), (3, 4, 4), MEAN, STD)
    diverged = nn.Conv2d(3, 4, 1)
    nn.init.constant_(diverged.weight, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        compile_float(diverged, (3, 4, 4), MEAN, STD)
