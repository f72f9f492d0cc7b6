"""Batch-norms that other libraries freeze: taken for what they compute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from foundation.plan import LayerPlan, Plan
from quantizers.calibration.reconstruction import Reconstruction, reconstruct
from quantizers.core.placement import placements
from quantizers.network import harden, layer_names, quantize
from quantizers.tracing.frozen_norm import FrozenNorm
from quantizers.tracing.trace import traced


class Own(nn.Module):
    """As detection libraries write it: parameters of which none learns, the norm in the fused form."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        return nn.functional.batch_norm(
            x, parts.running_mean, parts.running_var, parts.weight, parts.bias, training=False, eps=self.eps
        )


class Scaled(Own):
    """Has parts of these names, and computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Rectified(Own):
    """The same, where its outputs are not all positive."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(super().forward(x))


class Clipped(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-60, 60)


class Pooled(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3), keepdim=True)


class Precise(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double().float()


class Learning(Own):
    """By the statistics of its batch in training."""

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        return nn.functional.batch_norm(
            x,
            parts.running_mean,
            parts.running_var,
            parts.weight,
            parts.bias,
            training=self.training,
            eps=self.eps,
        )


class Late(Own):
    """Without an eps until it runs."""

    def forward(self, x: Tensor) -> Tensor:
        self.eps = 1e-3
        return super().forward(x)


class Residual(Own):
    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return super().forward(x) if other is None else super().forward(x) + other


class Silent(Own):
    """Its ``train`` gives nothing back, as in hand-written norms."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        nn.Module.train(self, mode=False)


def network(sort: type[nn.Module], *, frozen: bool = True) -> nn.Module:
    """The same function of each class, with channels that differ a hundredfold."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 16)):
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        size = torch.logspace(-1, 1, after)[torch.randperm(after)]
        with torch.no_grad():
            conv.weight *= size[:, None, None, None]
        values = torch.rand(after) + 0.5, torch.randn(after) / 3, torch.randn(after), size.square()
        norm: Any = sort(after) if frozen else nn.BatchNorm2d(after)
        norm.eps = 1e-3
        for name, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
            getattr(norm, name).data.copy_(value)
        layers += [conv, norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def plan(model: nn.Module, bits: int) -> Plan:
    return Plan.uniform(layer_names(model), LayerPlan(bits, 2**bits if bits < 8 else None))


@pytest.mark.parametrize("sort", [FrozenBatchNorm2d, Own, Silent])
@pytest.mark.parametrize("bits", [3, 8])
def test_they_are_quantized_as_batch_norms_are(sort: type[nn.Module], bits: int) -> None:
    images = torch.randn(64, 3, 8, 8)
    hard = []
    for model in (network(nn.BatchNorm2d, frozen=False), network(sort)):
        keys = list(model.state_dict())
        made = quantize(model, plan(model, bits), images)
        assert list(model.state_dict()) == keys  # a copy is changed
        reconstruct(made, model, list(images.split(32)), Reconstruction())
        hard.append(harden(made))
        with torch.no_grad():
            wanted = model(images)
            off = (hard[-1].network(images) - wanted).square().mean() / wanted.var()
        assert off < (0.3 if bits == 3 else 0.01)
    with torch.no_grad():
        torch.testing.assert_close(hard[1].network(images), hard[0].network(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sort", [FrozenBatchNorm2d, Own])
def test_training_leaves_them_as_they_are(sort: type[nn.Module]) -> None:
    images = torch.randn(16, 3, 8, 8)
    model = network(sort)
    made = quantize(model.train(), plan(model, 3), images)
    norms = [module for module in made.modules() if isinstance(module, FrozenNorm)]
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    made.train()
    assert [place.node.name for place in placements(traced(model))] == ["input_1", "_2", "_5", "_6"]
    for _ in range(3):
        optimizer.zero_grad()
        made(images).square().mean().backward()
        optimizer.step()
    assert len(norms) == 2
    for norm, state in zip(norms, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("sort", [Scaled, Rectified, Clipped, Pooled, Precise, Learning, Late, Residual])
def test_what_computes_something_else_stays(sort: type[nn.Module]) -> None:
    model = network(sort)
    if sort is Late:
        model[1].eps = model[4].eps = None
    graph = traced(model)
    assert not [module for module in graph.modules() if isinstance(module, FrozenNorm)]
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), model(images))


def test_parameters_go_on_learning_and_each_name_is_of_the_same_norm() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.again, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1)
            self.norm = Own(8)
            self.norm.running_var.fill_(4.0)
            for name in ("weight", "bias"):
                value = getattr(self.norm, name)
                delattr(self.norm, name)
                setattr(self.norm, name, nn.Parameter(value))
            self.other = self.norm

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.other(self.again(self.norm(self.conv(x)))))

    graph = traced(Shared().eval())
    norms = [module for module in graph.modules() if isinstance(module, FrozenNorm)]
    assert len(norms) == 1 and all(p.requires_grad for p in norms[0].parameters())
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["conv", "norm", "again", "norm", "last"]


def test_a_forward_that_asks_more_of_them_is_traced_as_it_stands() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), Own(8), nn.Conv2d(8, 2, 1)
            self.norm.factor = 3.0  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.conv(x)) * self.norm.factor)

    model, images = Asking().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(traced(model)(images), model(images))


def test_hooks_see_no_values_that_were_made_up() -> None:
    model, seen = network(Own), []
    model[1].register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(traced(model)(images), model(images))
    assert not [shape for shape in seen if isinstance(shape, torch.Size) and shape[2:] != (8, 8)]
