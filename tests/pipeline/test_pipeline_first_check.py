"""The first check: networks as other people write them go the whole way, or are refused by layer before anything is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.first_check import first_check
from pipeline.datasets.images import normalize
from pipeline.networks.registry import load_model
from quantizers.network import hard_state, harden, layer_names, load_hard, quantize, unquantized
from quantizers.tracing.trace import traced

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Patches:
    """A few images of coarse patches, uint8."""

    def __init__(self, size: int = 16) -> None:
        random = np.random.default_rng(0)
        self.pixels = torch.from_numpy(
            random.integers(0, 256, (4, size // 4, size // 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]


def check(model: nn.Module, plan: Plan | None = None) -> list[str]:
    return first_check(model.eval(), Patches(), MEAN, STD, plan)  # type: ignore[arg-type]


def headed(body: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


class Plain(nn.Conv2d):
    pass


class Dense(nn.Linear):
    def named(self) -> str:
        return "its own method, which nothing calls"


class Norm(nn.BatchNorm2d):
    pass


class Rectifier(nn.ReLU):
    pass


class ConvAct(nn.Conv2d):
    """mmcv's way: a wrapper that calls its parent."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class ConvPadded(nn.Conv2d):
    """timm's way of uneven padding, with constants: one more row and column at the end."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, [0, 1, 0, 1])
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class NormAct(nn.BatchNorm2d):
    """timm's BatchNormAct2d: batch-norm by the function, then an activation that is a module of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        factor = 0.0 if self.momentum is None else self.momentum
        statistics = self.training or (self.running_mean is None and self.running_var is None)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, statistics, factor, self.eps
        )
        return self.act(self.drop(x))


class SqueezeExcite(nn.Module):
    """timm's: a mean with kept dimensions, in-place activation, a gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.act1, self.gate = nn.SiLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x_se = x.mean((2, 3), keepdim=True)
        x_se = self.conv_expand(self.act1(self.conv_reduce(x_se)))
        return x * self.gate(x_se)


class InvertedResidual(nn.Module):
    """timm's EfficientNet block, its skip added in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_pw, self.bn1 = Plain(channels, 2 * channels, 1, bias=False), NormAct(2 * channels)
        self.conv_dw = ConvPadded(2 * channels, 2 * channels, 2, groups=2 * channels, bias=False)
        self.bn2, self.se = NormAct(2 * channels), SqueezeExcite(2 * channels)
        self.conv_pwl, self.bn3 = nn.Conv2d(2 * channels, channels, 1, bias=False), Norm(channels)
        nn.init.zeros_(self.bn3.weight)  # as timm starts residual branches

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.se(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x)))))
        x = self.bn3(self.conv_pwl(x))
        x += shortcut
        return x


class PreActivated(nn.Module):
    """The in-place activation also changes what the skip adds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.ReLU(inplace=True), ConvAct(channels, channels, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x) + x


class TwoBranches(nn.Module):
    """mmcv-style: halves of the channels, one written in place, joined and added to by a discarded result."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.relu = ConvAct(channels // 2, channels // 2, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        out = self.conv(second)
        out.add_(first)
        self.relu(out)
        F.hardswish(first, inplace=True)
        return torch.cat([first, out], 1) + x


def stem(channels: int = 8) -> list[nn.Module]:
    return [nn.Conv2d(3, channels, 3, 2, 1, bias=False), Norm(channels), Rectifier(inplace=True)]


GOOD: dict[str, Callable[[], nn.Module]] = {
    "subclasses": lambda: nn.Sequential(
        Plain(3, 8, 3), Norm(8), Rectifier(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Dense(8, 5)
    ),
    "parent's function": lambda: headed(nn.Sequential(*stem(), ConvAct(8, 8, 3), ConvPadded(8, 8, 2)), 8),
    "efficientnet": lambda: headed(nn.Sequential(*stem(), InvertedResidual(8), InvertedResidual(8)), 8),
    "pre-activation": lambda: headed(nn.Sequential(*stem(), PreActivated(8), PreActivated(8)), 8),
    "two branches": lambda: headed(nn.Sequential(*stem(), TwoBranches(8)), 8),
}


@pytest.mark.parametrize("name", GOOD)
def test_networks_as_others_write_them_go_the_whole_way(name: str) -> None:
    torch.manual_seed(0)
    model = GOOD[name]().eval()
    expected = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert check(model) == expected
    # ... and are the given network in training too, where batch-norms follow the images; with weights of their own
    x = normalize(Patches().pixels, MEAN, STD)
    graph = traced(model)
    for training in (True, False):
        with torch.no_grad():
            assert torch.equal(model.train(training)(x.clone()), graph.train(training)(x.clone()))
    plan = Plan.uniform(expected, LayerPlan(4, 15))
    hardened = harden(quantize(model, plan, x))
    loaded = load_hard(model, plan, hard_state(hardened))
    with torch.no_grad():
        assert torch.equal(hardened.network(x), loaded.network(x))


class Made(nn.Module):
    """A forward of its own over some modules."""

    def __init__(self, make: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.make = make
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self, x)


class DropPath(nn.Module):
    """timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept.div_(1 - self.drop_prob)


def convolution() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


def _c2f(module: Any, x: Tensor) -> Tensor:
    """YOLOv8's block."""
    parts = list(module.first(x).chunk(2, 1))
    parts.extend(layer(parts[-1]) for layer in module.layers)
    return module.last(torch.cat(parts, 1))


def _squeezed(module: Any, x: Tensor) -> Tensor:
    """Squeeze and excite as its authors' followers wrote it."""
    batch, channels, _, _ = x.size()
    gate = module.gate(x.mean((2, 3)).view(batch, channels)).view(batch, channels, 1, 1)
    return x * gate.expand_as(x)


def _hooked(where: str) -> nn.Module:
    layers = nn.Sequential(convolution(), nn.ReLU(), nn.Hardswish())
    if where == "before a layer":
        layers[0].register_forward_pre_hook(lambda module, given: (2 * given[0] + 1,))
    elif where == "behind an activation":
        layers[1].register_forward_hook(lambda module, given, output: 3 * output)
    else:
        layers[1].forward = torch.tanh  # type: ignore[method-assign,assignment]
    return layers


def _normalized(module: Any, x: Tensor) -> Tensor:
    return module.body((x - module.mean) / module.std)


def _with_statistics() -> nn.Module:
    net = Made(_normalized, body=headed(nn.Sequential(*stem()), 8))
    net.register_buffer("mean", torch.rand(1, 3, 1, 1))
    net.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
    return net


def _block(make: Callable[[Any, Tensor], Tensor], **parts: Any) -> nn.Module:
    return headed(nn.Sequential(*stem(), Made(make, **parts)), 8)


EXACT: dict[str, Callable[[], nn.Module]] = {
    "hook before a layer": lambda: headed(nn.Sequential(*stem(), _hooked("before a layer")), 8),
    "hook behind an activation": lambda: headed(nn.Sequential(*stem(), _hooked("behind an activation")), 8),
    "an activation's forward replaced": lambda: headed(nn.Sequential(*stem(), _hooked("")), 8),
    "parts in a list": lambda: _block(
        _c2f,
        first=nn.Conv2d(8, 16, 1),
        layers=nn.ModuleList([convolution(), convolution()]),
        last=nn.Conv2d(32, 8, 1),
    ),
    "expanded gate": lambda: _block(_squeezed, gate=nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())),
    "statistics in the network": _with_statistics,
    "drop path": lambda: _block(
        lambda m, x: m.drop(m.conv(x)) + m.drop(x), conv=convolution(), drop=DropPath()
    ),
    "stochastic depth": lambda: _block(
        lambda m, x: m.drop(m.conv(x)) + x,
        conv=convolution(),
        drop=torchvision.ops.StochasticDepth(0.5, "row"),
    ),
    "dropout by a function": lambda: _block(
        lambda m, x: F.dropout(m.conv(x), 0.3, m.training) + F.dropout(x, 0.5, False), conv=convolution()
    ),
    "dropout by a function, in place": lambda: _block(
        lambda m, x: F.dropout(m.conv(x), 0.3, m.training, True), conv=convolution()
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_surrounds_the_layers_is_kept_in_evaluation_and_in_training(name: str) -> None:
    torch.manual_seed(0)
    said: list[str] = []
    model = EXACT[name]().eval()
    first_check(model, Patches(), MEAN, STD, say=said.append)  # type: ignore[arg-type]
    assert not said
    x = normalize(Patches().pixels, MEAN, STD).contiguous()
    graph = traced(model)
    for training in (True, False):
        answers = []
        for network in (model, graph):
            torch.manual_seed(1)
            with torch.no_grad():
                answers.append(network.train(training)(x.clone()))
        assert torch.equal(*answers)
    quantized = quantize(model, Plan.uniform(layer_names(graph), LayerPlan(8)), x)
    with torch.no_grad():
        wanted, found = model(x), harden(quantized).network(x)
        assert float((found - wanted).std() / wanted.std()) < 0.1
        assert torch.allclose(unquantized(quantized)(x), wanted, 0, 1e-5)


TRAINED_OTHERWISE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "branch": lambda m, x: 2 * m.conv(x) if m.training else m.conv(x),
    "noise": lambda m, x: m.conv(x + torch.randn_like(x)) if m.training else m.conv(x),
}


@pytest.mark.parametrize("name", TRAINED_OTHERWISE)
def test_it_is_said_where_training_does_what_cotuning_does_not(name: str) -> None:
    torch.manual_seed(0)
    said: list[str] = []
    model = _block(TRAINED_OTHERWISE[name], conv=convolution()).eval()
    first_check(model, Patches(), MEAN, STD, say=said.append)  # type: ignore[arg-type]
    assert len(said) == 1 and "in training mode the network computes otherwise" in said[0]


class Functional(nn.Module):
    def __init__(self, make: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.block = _Function(make)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.first(x)).mean((2, 3))


class _Function(nn.Module):
    def __init__(self, make: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.make = nn.Parameter(torch.randn(4, 4, 3, 3)), make
        self.register_buffer("blur", torch.full((4, 1, 2, 2), 0.25))
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self, x)


class Standardized(nn.Conv2d):
    """Weight standardization: the weight that convolves is computed."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class SamePadding(nn.Conv2d):
    """A padding that is computed from the image's size."""

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        missing = max((math.ceil(height / 2) - 1) * 2 + 3 - height, 0)
        return super().forward(F.pad(x, [0, missing, 0, missing]) if missing > 0 else x)


def _counted(module: Any, x: Tensor) -> Tensor:
    module.count += 1
    return x * module.count


def _reshaped(module: Any, x: Tensor) -> Tensor:
    x.flatten(2).relu_()
    return x


def _noisy(module: Any, x: Tensor) -> Tensor:
    return x + torch.rand(1).item()


BAD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "own weights": (
        lambda: Functional(lambda m, x: F.conv2d(x, m.weight)),
        r"layer block calls conv2d with block\.weight, a parameter",
    ),
    "own matrix": (
        lambda: Functional(lambda m, x: F.linear(x.permute(0, 2, 3, 1), m.weight[:, :, 0, 0])),
        r"layer block .*linear with weights that are computed",
    ),
    "blur": (
        lambda: Functional(lambda m, x: F.conv2d(x, m.blur, stride=2, groups=4)),
        r"layer block .*block\.blur, a buffer of fixed weights",
    ),
    "weight standardization": (
        lambda: headed(nn.Sequential(*stem(), Standardized(8, 8, 3)), 8),
        r"layer 0\.3 .*computed while it runs",
    ),
    "size": (
        lambda: headed(nn.Sequential(*stem(), SamePadding(8, 8, 3, 2)), 8),
        r"layer 0\.3 \(SamePadding\).*image's size",
    ),
    "value": (
        lambda: Functional(lambda m, x: x if x.mean() > 0 else -x),
        r"layer block .*decision on values",
    ),
    "counter": (lambda: Functional(_counted), "another one when torch.fx traces it"),
    "random": (lambda: Functional(_noisy), "another one when torch.fx traces it"),
    "write through a reshape": (
        lambda: Functional(_reshaped),
        r"reads a tensor that layer block overwrites through flatten",
    ),
    "write into a parameter": (
        lambda: Functional(lambda m, x: x + m.weight.add_(x.mean()).mean()),
        r"layer block .*(overwrites block\.weight|fails)",
    ),
    "weight norm": (
        lambda: headed(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), 8),
        r"layer 0: its weight is computed",
    ),
    "attention": (
        lambda: headed(nn.Sequential(*stem(), nn.Flatten(2), nn.MultiheadAttention(64, 2)), 8),
        r"attention|fails while",
    ),
    "no layer": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "nothing to compress"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_go_the_whole_way_is_refused_by_layer(name: str) -> None:
    make, message = BAD[name]
    torch.manual_seed(0)
    with pytest.raises(UserError, match=message) as refused:
        check(make())
    assert "\n" not in str(refused.value)


def test_a_layer_whose_result_is_thrown_away_is_named() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dead = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.dead(x)
            return x.mean((2, 3))

    with pytest.raises(UserError, match=r"layer dead .*does not reach the output"):
        check(Dead())


@pytest.mark.parametrize("factor", [1, 0.03])
def test_small_weights_that_a_batch_norm_makes_up_for_are_no_fault(factor: float) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
    )
    model = headed(body, 64)
    body[3].weight.data.mul_(factor)
    for module in (body[1], body[4]):
        module.momentum = 1.0  # type: ignore[assignment]
    with torch.no_grad():
        model.train()(normalize(Patches().pixels, MEAN, STD))
    assert len(check(model)) == 3


@pytest.mark.slow
def test_random_weights_that_fade_from_layer_to_layer_are_no_fault() -> None:
    """An untrained EfficientNet's values are 1e-9 of its input's at the end: batch-norms that saw nothing do not keep them up."""
    model = load_model("efficientnet_b0", classes=10, image_size=32)
    images = Patches(32)
    assert len(first_check(model, images, MEAN, STD, trained=False)) == 82  # type: ignore[arg-type]


def test_the_plan_that_will_be_trained_is_checked() -> None:
    model = GOOD["subclasses"]()
    names = layer_names(traced(model))
    assert check(model, Plan.uniform(names, LayerPlan(2, 3), activation_bits=7)) == names
    with pytest.raises(UserError, match="the plan does not fit the model: it lacks 5"):
        check(model, Plan.uniform(names[:1], LayerPlan(4, 15)))


FACTORY = """
import torch
from torch import nn
import torch.nn.functional as F

class Own(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, num_classes)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
    def forward(self, x):
        return self.head(F.conv2d(self.conv(x), self.weight).mean((2, 3)))

class Conv(nn.Conv2d):
    pass

def refused(num_classes=10):
    return Own(num_classes)

class Viewed(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = Conv(3, 4, 3, 2), nn.Linear(4 * 7 * 7, num_classes)
    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.head(x.view(x.size(0), -1))

def works(num_classes=10):
    body = [Conv(3, 4, 3, 2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, num_classes))
"""


@pytest.mark.parametrize("command", ["search --dry-run", "search", "train"])
def test_every_command_refuses_before_it_trains(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import search, train

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    (tmp_path / "first_check_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("pipeline.candidate.workspace", "pipeline.training.pretraining"):
        monkeypatch.setattr(f"{module}.pretrain", trains)
    plan = Plan.uniform(["conv", "head"], LayerPlan(4, 15))
    Path("plan.json").write_text(plan.to_json())
    arguments = ["--model", "first_check_networks:refused", "--data", "digits"]
    with pytest.raises(UserError, match=r"with weight, a parameter; only the weights of nn\.Conv2d"):
        if command == "train":
            train.main([*arguments, "--plan", "plan.json", "--out", "trained"])
        else:
            search.main([*arguments, "--out", "runs", "--budget", "2", *command.split()[1:]])
    assert not Path("trained").exists() and not Path("runs").exists()


def test_a_dry_run_accepts_subclasses_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline import search

    (tmp_path / "first_check_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert search.main(["--model", "first_check_networks:works", "--dry-run", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in found["layers"]] == ["0", "4"]


def test_a_forward_with_a_view_is_trained_and_co_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``x.view(x.size(0), -1)`` fails on images whose channels lie last in memory."""
    from pipeline import train

    (tmp_path / "viewed_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--model", "viewed_networks:Viewed", "--data", "digits", "--image-size", "32"]
    Path("plan.json").write_text(Plan.uniform(["conv", "head"], LayerPlan(4, 15)).to_json())
    torch.save(load_model("viewed_networks:Viewed", classes=10).state_dict(), "weights.pt")
    arguments += ["--plan", "plan.json", "--weights", "weights.pt", "--out", "trained", "--epochs", "0.1"]
    assert train.main(arguments) == 0


def test_a_program_a_little_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.candidate import first_check as module

    run = module.run_reference  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "run_reference", lambda graph, pixels: 1.2 * run(graph, pixels))
    torch.manual_seed(0)
    with pytest.raises(UserError, match="answers otherwise than PyTorch's"):
        check(GOOD["subclasses"]())


def test_a_program_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.candidate import first_check as module

    run = module.run_reference  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "run_reference", lambda graph, pixels: run(graph, pixels)[:, ::-1])
    torch.manual_seed(0)
    with pytest.raises(UserError, match="answers otherwise than PyTorch's"):
        check(GOOD["subclasses"]())
