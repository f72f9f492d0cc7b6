"""What cannot be compiled is named, with its layer, before any training; what is checked is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy_arm.compiler.frontend import compile_float, compile_graph
from deploy_arm.ir.float_graph import FUNCTIONS
from deploy_arm.ir.reference import run
from deploy_arm.operators.base import OPERATORS
from foundation.errors import UserError
from pipeline.networks.registry import load_model
from quantizers.network import Hardened
from quantizers.tracing.trace import traced
from tests.deploy_arm.compiler_networks import check_supported, harden, scramble_norms

DOCUMENT = Path(__file__).parents[2] / "docs" / "operators.md"


class Block(nn.Module):
    """A convolution with something after it."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))  # type: ignore[operator]


class Network(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.stage = nn.Sequential(Block(function))

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(self.first(x)).flatten(1)


@pytest.mark.parametrize(
    ("function", "operator", "layer"),
    [
        (nn.Softmax2d(), "softmax", r"stage\.0\.function"),
        (nn.ConvTranspose2d(4, 4, 2), "conv_transpose2d", r"stage\.0\.function"),
        (nn.InstanceNorm2d(4), "instance_norm", r"stage\.0\.function"),
        (nn.BatchNorm2d(4, track_running_stats=False), "batch_norm", r"stage\.0\.function"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "upsample_bilinear2d", r"stage\.0\.function"),
        (nn.GroupNorm(2, 4), "group_norm", r"stage\.0\.function"),
        (nn.LayerNorm((4, 8, 8)), "layer_norm", r"stage\.0\.function"),
        (nn.PixelShuffle(2), "pixel_shuffle", r"stage\.0\.function"),
        (nn.PReLU(4), "prelu", r"stage\.0\.function"),
        (nn.ReflectionPad2d(1), "pad", r"stage\.0\.function"),
        (lambda x: x * x[:, :1], "mul", r"stage\.0"),
        (lambda x: F.max_pool2d(x.permute(0, 2, 1, 3), 2), "max_pool2d", r"stage\.0"),
        (lambda x: torch.cat([x, x], 2), "cat", r"stage\.0"),
        (lambda x: x.mean(1, keepdim=True), "mean", r"stage\.0"),
        (lambda x: x.reshape(x.shape[0], 8, 8, 4), "reshape", r"stage\.0"),
        (lambda x: x.reshape(2 * x.shape[0], 2, 8, 8), "reshape", r"stage\.0"),
        (lambda x: F.conv1d(x.flatten(2), torch.ones(4, 4, 3)), "conv1d", r"stage\.0"),
    ],
)
def test_an_unsupported_operator_is_named_with_its_layer(function: object, operator: str, layer: str) -> None:
    model = Network(function).train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(UserError, match=rf"operator \w*{operator}\w* in layer {layer} "):
        check_supported(model, (3, 8, 8))
    assert [module.training for module in model.modules()] == modes


def test_a_model_that_does_not_run_on_the_image_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"fails while .*shapes cannot be multiplied|fails while .*mat1"):
        check_supported(load_model("vgg_small", classes=10, image_size=32), (3, 16, 16))


@pytest.mark.parametrize(
    ("make", "operator"),
    [
        (lambda x, weight: x + weight.sigmoid(), "sigmoid"),
        (lambda x, weight: x * (weight * weight), "mul"),
        (lambda x, weight: weight - x, "sub"),
        (lambda x, weight: x + weight.reshape(4, 8, 8).contiguous().reshape(1, 4, 8, 8), "reshape"),
        (lambda x, weight: torch.cat([x, weight.expand(x.size(0), 4, 8, 8)], 1), "expand"),
        (lambda x, weight: x * weight, "mul"),
    ],
)
def test_arithmetic_on_weights_is_named(make: Callable[[Tensor, Tensor], Tensor], operator: str) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.weight = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return make(self.conv(x), self.weight).flatten(1)

    with pytest.raises(UserError, match=rf"operator {operator} in layer \S+ is not supported"):
        check_supported(Weighted(), (3, 8, 8))


def test_a_float_program_does_not_lose_a_write_through_a_view() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            first, _ = x.chunk(2, 1)
            first.relu_()
            return x.mean((2, 3))

    with pytest.raises(UserError, match=r"operator relu in layer \S+ .*overwrites a part"):
        compile_float(Writes(), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    found = run(compile_float(traced(Writes().eval()), (3, 8, 8), (0.5,) * 3, (0.5,) * 3), pixels)
    assert found.shape == (2, 4)


def test_the_documentation_names_every_operator() -> None:
    """Whose name a message gives finds it in the first column of the table."""
    rows = [line.split("|")[1:-1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert len(named) == len(set(named))
    assert set(named) == set(OPERATORS) - {"fake_quantize_per_tensor_affine"}
    functions = {
        name for row in rows for name in re.findall(r"`(\w+)`", row[0]) if row[2].strip() == "by a function"
    }
    assert functions == set(FUNCTIONS)
    with pytest.raises(UserError, match=r"docs/operators\.md") as refused:
        check_supported(Network(nn.Softmax2d()), (3, 8, 8))
    assert len(str(refused.value)) < 250


def test_several_outputs_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), x

    with pytest.raises(UserError, match="one tensor"):
        check_supported(Two(), (3, 8, 8))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("densenet121", marks=pytest.mark.slow),
        "googlenet",
        pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
        "mnasnet0_5",
    ],
)
def test_torchvision_networks_are_accepted_unchanged(name: str) -> None:
    model = load_model(name, classes=10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_supported(model, (3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_flattened_image_is_no_output() -> None:
    """Its elements would come in another order than PyTorch's."""
    with pytest.raises(UserError, match="flatten it outside"):
        check_supported(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(1)), (3, 8, 8))
    check_supported(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(1)), (3, 8, 8))


def test_refusals_name_the_layer_when_numbers_are_at_fault() -> None:
    model = scramble_norms(Network(nn.ReLU()))
    hardened = harden(model, torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        hardened.network.get_submodule("first").bias.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"layer first: .*not finite"):
        compile_graph(hardened, (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    del hardened.codebooks["stage.0.conv"]
    with pytest.raises(UserError, match=r"first|stage\.0\.conv"):
        compile_graph(hardened, (3, 8, 8), (0.5,) * 3, (0.5,) * 3)


def test_a_layer_without_its_codebook_or_with_another_s_is_refused() -> None:
    hardened = harden(Network(nn.ReLU()), torch.rand(2, 3, 8, 8))
    books = hardened.codebooks
    with pytest.raises(UserError, match=r"layer stage\.0\.conv has no codebook; the plan must name every"):
        compile_graph(
            Hardened(hardened.network, {"first": books["first"]}), (3, 8, 8), (0.5,) * 3, (0.5,) * 3
        )
    changed = Hardened(hardened.network, {**books, "first": books["stage.0.conv"]})
    with pytest.raises(
        ValueError, match=r"codebook of layer first has shape \(4, 3, 3, 3\), its weight \(3, 3, 1, 1\)"
    ):
        compile_graph(changed, (3, 8, 8), (0.5,) * 3, (0.5,) * 3)


def test_a_pooling_of_no_image_is_named() -> None:
    """PyTorch takes three dimensions for one image of as many channels as the batch has images."""
    pooled = Network(lambda x: F.max_pool2d(x.flatten(2), 2))
    with pytest.raises(
        UserError, match=r"layer stage\.0 .*its input has shape \('N', 4, 64\), not \(N, C, H, W\)"
    ):
        check_supported(pooled, (3, 8, 8))


def test_a_network_without_quantizers_is_not_compiled_silently() -> None:
    model = Network(nn.ReLU())
    codebooks = harden(model, torch.rand(2, 3, 8, 8)).codebooks
    with pytest.raises(ValueError, match="before it is quantized"):
        compile_graph(Hardened(model, codebooks), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)


def test_in_place_and_functional_forms_mean_the_same() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            F.relu_(x)  # the result is dropped, the change is not
            return x.mean((2, 3))

    check_supported(InPlace(), (3, 4, 4))
    graph = compile_graph(harden(InPlace(), torch.randn(2, 3, 4, 4)), (3, 4, 4), (0.5,) * 3, (0.5,) * 3)
    assert graph.tensors[graph.operations[1].output].low == 0
    real = compile_float(InPlace(), (3, 4, 4), (0.5,) * 3, (0.5,) * 3)
    assert getattr(real.operations[1], "low", None) == 0
    assert "relu" in OPERATORS and "relu_" not in OPERATORS


class Strange(nn.Module):
    """Something that no handler knows."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_every_unknown_operator_is_named_with_its_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), Strange(lambda x: x.cumsum(1)), nn.Conv2d(8, 8, 3), Strange(lambda x: x.cumsum(1)),
        Strange(lambda x: x.sort(1).values),
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"operator cumsum in layers 1, 3; operator sort in layer 4 are not supported"
    ):
        compile_float(network.eval(), (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
