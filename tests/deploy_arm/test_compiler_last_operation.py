"""A network's last operation stays a float, in the program as in PyTorch: no rounding to 8 bits, no ties beyond the input's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from deploy_arm.operators.arithmetic import elementwise
from deploy_arm.operators.base import OPERATORS
from tests.deploy_arm.compiler_networks import check_supported, compare, harden, normalized

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "sqrt": lambda x: F.relu(x).sqrt(),
    "exp": torch.exp,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -3.0),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "clamp": lambda x: torch.clamp(x, max=0.21),
    "number added": lambda x: x + 0.123,
    "number subtracted": lambda x: x - 100.0,
    "multiplied": lambda x: x * 0.37,
    "divided": lambda x: x / 7,
    "sum": lambda x: x + torch.tanh(x),
    "sum with itself": lambda x: x + x,
    "limited sum": lambda x: F.relu(x + torch.tanh(x)),
    "product": lambda x: x * torch.sigmoid(x),
    "square by product": lambda x: x * x,
    "two functions": lambda x: torch.sigmoid(torch.tanh(x)),
    "limited function": lambda x: F.relu(torch.tanh(x)),
    "side by side": lambda x: torch.cat([torch.sigmoid(x[..., None, None]), x[..., None, None]], 1).flatten(
        1
    ),
    "reshaped": lambda x: torch.sigmoid(x).reshape(x.shape[0], -1),
}


class Ending(nn.Module):
    """Logits of very different size, as a trained head has them, and an operation behind."""

    def __init__(self, ending: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.ending = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 6), ending
        self.head.weight.data *= 20

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.head(F.relu(self.conv(x)).mean((2, 3))))


def pictures(count: int = 32) -> np.ndarray:
    return (
        np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3)).repeat(3, 1).repeat(3, 2).astype(np.uint8)
    )


def test_every_function_of_one_value_is_tried() -> None:
    assert {name for name in OPERATORS if OPERATORS[name] is elementwise} == set(FUNCTIONS)


@pytest.mark.parametrize("name", [*FUNCTIONS, *OTHERS])
def test_the_last_operation_agrees_with_pytorch(name: str) -> None:
    torch.manual_seed(0)
    model = Ending({**FUNCTIONS, **OTHERS}[name]).eval()
    check_supported(model, (3, 12, 12))
    images = pictures()
    x = normalized(images, MEAN, STD)
    hardened = harden(model, x)
    graph = compile_graph(hardened, (3, 12, 12), MEAN, STD)
    found = compare(hardened.network, graph, images, x)
    assert found.worst_difference <= 1
    # on the network's own integers nothing but the last operation is left to differ: by rounding, not by a step of 8 bits
    np.testing.assert_allclose(found.outputs, found.wanted, rtol=2e-6, atol=2e-6 * np.abs(found.wanted).max())
    answers = run(graph, images)
    assert np.array_equal(run(read_graph(write_blob(graph)), images), answers, equal_nan=True)
    if name in FUNCTIONS and name not in ("sqrt", "hardshrink", "softshrink", "threshold"):
        last = graph.operations[-1]
        assert isinstance(last, g.FloatTable)
        assert len(np.unique(last.table)) > 100  # what the input tells apart, the function does


def test_saturated_answers_have_no_more_ties_than_the_logits() -> None:
    """Sigmoids near one differ by less than a 255th; the class is still the logits'."""
    torch.manual_seed(0)
    model = Ending(torch.sigmoid).eval()
    images = pictures(64)
    with torch.no_grad():
        model.head.bias += 4 + 1.5 * torch.arange(6) / 6
    x = normalized(images, MEAN, STD)
    hardened = harden(model, x)
    answers = run(compile_graph(hardened, (3, 12, 12), MEAN, STD), images)
    with torch.no_grad():
        wanted = hardened.network(x).numpy()

    def ties(values: np.ndarray) -> float:
        return float(((values == values.max(1, keepdims=True)).sum(1) > 1).mean())

    assert ties(answers) <= ties(wanted) + 0.02
    assert (answers.argmax(1) == wanted.argmax(1)).mean() > 0.95
