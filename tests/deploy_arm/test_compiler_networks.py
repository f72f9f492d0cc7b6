"""Whole networks: the integer graph against the fake-quantized network it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quantizers.network
from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import find_network, load_model
from quantizers.network import Hardened, layer_names, quantize
from tests.deploy_arm.compiler_networks import check_supported, compare, harden, normalized, scramble_norms

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


class Everything(nn.Module):
    """One of each: groups, depthwise with a multiplier, dilation, asymmetric and same padding, slices, tables, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, (3, 5), stride=(1, 2), padding=(1, 2))
        self.grouped = nn.Conv2d(12, 18, 3, padding="same", groups=3)
        self.norm = nn.BatchNorm2d(18)
        self.depthwise = nn.Conv2d(18, 36, 3, padding=1, groups=18, bias=False)
        self.dilated = nn.Conv2d(36, 20, (2, 3), padding="same", dilation=(2, 1))
        self.leaky, self.swish = nn.LeakyReLU(0.1), nn.Hardswish()
        self.mix = nn.Conv2d(40, 16, 1)
        self.head = nn.Linear(16 * 3 * 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = F.relu(self.norm(self.grouped(x)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = self.leaky(self.dilated(F.relu(self.depthwise(x))))
        x = torch.cat([x, self.swish(x)], 1)
        first, second = F.max_pool2d(x, 2).chunk(2, 1)
        first = F.relu(first)  # not behind anything that could absorb it
        x = F.avg_pool2d(torch.cat([second, first], 1), 3, 2, 1, ceil_mode=True)
        x = F.adaptive_avg_pool2d(self.mix(F.pad(x, (1, 0, 0, 2))), 3)
        shifted = F.pad(x[:, 2:, ::2, 1:], (1, 0, 1, 0, 1, 1))
        return self.head((x + shifted).flatten(1))


class PreActivation(nn.Module):
    """Batch-norm that follows no convolution, and a mean as the last value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(F.relu(self.norm(x)))
        return self.last(x).mean((2, 3))


class SmallVgg(nn.Module):
    """As torchvision's VGG on small images: the adaptive pooling repeats the only position 7 x 7 times."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(24))
        self.pool = nn.AdaptiveAvgPool2d((7, 7))
        hidden = [
            nn.Linear(16 * 7 * 7, 20),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(20, 20),
            nn.ReLU(inplace=True),
        ]
        self.classifier = nn.Sequential(*hidden, nn.Dropout(), nn.Linear(20, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class Excited(nn.Module):
    """Squeeze-and-excitation, a product of equal shapes, and weights per channel as factor and as summand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.side, self.last = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 5)
        self.scale = nn.Parameter(torch.linspace(-1, 1, 12).reshape(12, 1, 1))
        self.shift = nn.Parameter(torch.linspace(-0.2, 0.1, 12).reshape(1, 12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        weights = F.adaptive_avg_pool2d(x, 1)
        x = F.hardsigmoid(self.excite(F.relu(self.squeeze(weights)))) * x
        x = x * torch.sigmoid(self.side(x))
        x = self.scale * x + self.shift
        return self.last(F.relu(x * x).mean((2, 3)))


class Shuffled(nn.Module):
    """Channel shuffles in both spellings, halves of channels, dilated pooling, and a rectifier as the last operation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 24, 3), nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.shuffle, self.last = nn.ChannelShuffle(3), nn.Conv2d(24, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, padding=1, dilation=2)
        first, second = x.chunk(2, dim=1)
        x = torch.cat([first, F.relu(self.mix(second))], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = F.relu6(F.max_pool2d(self.shuffle(x.view(batch, -1, height, width)), 2))
        return F.relu(self.last(x).mean((2, 3)))


class ChannelsLast(nn.Module):
    """As ConvNeXt: layer norms, linear layers and their scale where channels are the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 10, 4, 4), nn.Conv2d(10, 10, 7, padding=3, groups=10)
        self.norm, self.last_norm = nn.LayerNorm(10, eps=1e-6), nn.LayerNorm(10, elementwise_affine=False)
        self.wide, self.narrow, self.head = nn.Linear(10, 30), nn.Linear(30, 10), nn.Linear(10 * 6 * 6, 4)
        self.scale = nn.Parameter(torch.linspace(0.2, 1, 10))
        self.outer = nn.Parameter(torch.linspace(-1, 0.5, 10).reshape(10, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        x = x + self.outer * y.permute(0, 3, 1, 2)
        y = F.relu(self.last_norm(x.permute(0, 2, 3, 1)))
        return self.head((y + x.permute(0, 2, 3, 1) * y).reshape(y.shape[0], -1))


class SignedEnd(nn.Module):
    """A network whose last operation keeps integers, and an input of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(torch.tanh(self.conv(x)), 1).flatten(1)


class Detecting(nn.Module):
    """Scales resized to one, every second channel, and at the end results of very different size side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.coarse = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 3, 2, 1)
        self.large, self.small = nn.Conv2d(10, 3, 1), nn.Conv2d(5, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        self.large.weight.data *= 1000

    def forward(self, x: Tensor) -> Tensor:
        fine = F.interpolate(F.relu(self.first(x)), size=(10, 7), mode="nearest-exact")
        coarse = F.interpolate(F.interpolate(self.coarse(x), scale_factor=2.0), size=(10, 7))
        x = torch.cat((fine, coarse), 1)
        return torch.cat((self.large(x), F.relu(self.norm(self.small(x[:, 1::2]))), coarse), 1)


class LimitedEnd(nn.Module):
    """A limit that is no multiple of the step, behind an operation that keeps the step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.conv.weight.data *= 30

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(F.max_pool2d(self.conv(x), 22)).flatten(1)


def photographs(size: int, count: int, channels: int = 3) -> np.ndarray:
    """Smooth random uint8 images, NHWC."""
    random = torch.Generator().manual_seed(size)
    coarse = torch.rand(count, channels, 5, 5, generator=random)
    fine = torch.rand(count, channels, size, size, generator=random)
    image = 0.8 * F.interpolate(coarse, size=size, mode="bilinear") + 0.2 * fine
    return (image.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def agree(hardened: Hardened, images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> g.Graph:
    """Compile, check operation by operation and as a whole, and that the blob holds the same graph."""
    size = (images.shape[3], *images.shape[1:3])
    graph = compile_graph(hardened, size, mean, std)
    x = normalized(images, mean, std)
    comparison = compare(hardened.network, graph, images, x)
    # float32 sums and half-way values may fall to the other side, once in some thousand values; products of two integers
    # by a ratio of steps that is a small fraction are half-way more often
    products = any(isinstance(op, g.Multiply) for op in graph.operations)
    assert comparison.worst_difference <= 1 and comparison.worst_share < (6e-3 if products else 2e-3)
    scale = np.abs(comparison.wanted).max()
    assert np.abs(comparison.outputs - comparison.wanted).max() <= 1e-4 * scale + 1e-6
    outputs = run(graph, images)
    assert outputs.dtype == np.float32 and np.isfinite(outputs).all()
    blob = write_blob(graph)
    assert np.array_equal(run(read_graph(blob), images), outputs)
    assert write_blob(read_graph(blob)) == blob
    return graph


@pytest.mark.parametrize(
    ("name", "size", "bits"),
    [
        ("vgg_small", 16, 2),
        ("tiny_darknet", 64, 4),
        ("mobilenet_v2_cifar", 32, 8),
        pytest.param("resnet18", 64, 4, marks=pytest.mark.slow),
        pytest.param("resnet50", 64, 3, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 64, 8, marks=pytest.mark.slow),
        ("squeezenet1_1", 64, 8),
    ],
)
def test_networks_agree_with_pytorch(name: str, size: int, bits: int) -> None:
    model = scramble_norms(load_model(name, classes=10, image_size=size))
    mean, std = find_network(name).normalization
    images = photographs(size, 2)
    check_supported(model, (3, size, size))
    graph = agree(harden(model, normalized(images, mean, std), bits), images, mean, std)
    layers = {op.layer for op in graph.operations if isinstance(op, g.Convolution)}
    assert layers == {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize("activation_bits", [8, 7])
@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (Everything, 3),
        (PreActivation, 3),
        (SmallVgg, 3),
        (Excited, 3),
        (Shuffled, 3),
        (ChannelsLast, 3),
        (LimitedEnd, 3),
        (SignedEnd, 1),
        (Detecting, 3),
    ],
)
def test_unusual_operators_agree_with_pytorch(
    network: type[nn.Module], channels: int, activation_bits: int
) -> None:
    torch.manual_seed(1)
    model = scramble_norms(network())
    mean, std = MEAN[:channels], STD[:channels]
    images = photographs(24, 4, channels)
    check_supported(model, (channels, 24, 24))
    agree(harden(model, normalized(images, mean, std), 4, activation_bits), images, mean, std)


def test_branches_keep_their_own_precision() -> None:
    """At the network's end a branch of large numbers does not coarsen one of small numbers."""
    torch.manual_seed(1)
    model = scramble_norms(Detecting())
    images = photographs(24, 4)
    hardened = harden(model, normalized(images, MEAN, STD))
    outputs = run(compile_graph(hardened, (3, 24, 24), MEAN, STD), images).reshape(4, 10, 7, 8)
    with torch.no_grad():
        wanted = hardened.network(normalized(images, MEAN, STD)).permute(0, 2, 3, 1).numpy()
    large, small = (np.abs(wanted[..., part]).max() for part in (slice(3), slice(3, 4)))
    assert large > 127 * small > 0  # in common steps of an eighth bit nothing of the small one would be left
    assert np.abs(outputs[..., 3] - wanted[..., 3]).max() < 0.1 * small


def test_pretrained_resnet20_answers_like_pytorch(shared: Path, cifar10: dict[str, np.ndarray]) -> None:
    weights = shared / "data" / "weights" / "resnet20-12fca82f.th"
    model = load_model("resnet20", classes=10, weights=weights)
    mean, std = find_network("resnet20").normalization
    images, labels = cifar10["x_val"][:200], cifar10["y_val"][:200]
    hardened = harden(model, normalized(cifar10["x_train"][:100], mean, std))
    graph = agree(hardened, images[:8], mean, std)
    answers = run(graph, images).argmax(1)
    with torch.no_grad():
        wanted = hardened.network(normalized(images, mean, std)).argmax(1).numpy()
    assert np.mean(answers == wanted) >= 0.99
    assert np.mean(answers == labels) > 0.88


def test_trained_digits_answer_like_pytorch() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat(np.rint(digits.images * 15.9)[..., None], 3, axis=3).astype(np.uint8)
    x, labels = normalized(images, MEAN, STD), torch.from_numpy(digits.target)
    torch.manual_seed(0)
    model = load_model("resnet8", classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(3):
        for batch in torch.randperm(1200).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    hardened = harden(model, x[:200], activation_bits=7)
    with torch.no_grad():
        wanted = hardened.network(x[1200:]).argmax(1).numpy()
    answers = run(compile_graph(hardened, (3, 8, 8), MEAN, STD), images[1200:]).argmax(1)
    assert np.mean(answers == wanted) >= 0.99
    assert np.mean(answers == digits.target[1200:]) > 0.8


def test_mixtures_of_every_width_in_one_network() -> None:
    torch.manual_seed(3)
    model = scramble_norms(load_model("resnet8", classes=10))
    widths = [
        LayerPlan(2, 3),
        LayerPlan(3, 8, zero_share=0.5),
        LayerPlan(4, 16),
        LayerPlan(8),
        LayerPlan(4, 7, zero_share=0.8),
    ]
    plan = Plan({name: widths[i % 5] for i, name in enumerate(layer_names(model))}, activation_bits=7)
    images = photographs(16, 4)
    hardened = quantizers.network.harden(quantize(model, plan, normalized(images, MEAN, STD)))
    graph = agree(hardened, images, MEAN, STD)
    found = {op.layer: op.weights.bits for op in graph.operations if isinstance(op, g.Convolution)}
    assert found == {name: layer.bits for name, layer in plan.layers.items()}
