"""Channels that nobody reads are left out of the program, which computes the same without them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.compiler.passes import simplify
from deploy_arm.compiler.unread import drop_unread_channels
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from foundation.dimension import Layer
from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import load_model
from quantizers.core.producers import producers_of
from quantizers.network import harden, layer_names, quantize, synthetic
from search_spaces.dimensions import asked
from search_spaces.layers import layers_of
from search_spaces.space import Space
from tests.deploy_arm.runtime_cases import RANGES, Builder


def emptied(graph: g.Graph, layer: int, gone: list[int]) -> None:
    """Zeros for some input channels of the ``layer``-th convolution."""
    op = [op for op in graph.operations if isinstance(op, g.Convolution)][layer]
    indices = op.weights.indices.copy()
    indices[..., gone] = int(np.flatnonzero(op.weights.levels == 0)[0])
    object.__setattr__(op, "weights", dataclasses.replace(op.weights, indices=indices))


def channels(graph: g.Graph) -> list[tuple[int, int]]:
    """Input and output channels of each convolution."""
    return [
        (graph.tensors[op.inputs[0]].shape[2], graph.tensors[op.output].shape[2])
        for op in graph.operations
        if isinstance(op, g.Convolution)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_what_lies_between_two_convolutions_shrinks_and_nothing_else_changes(seed: int) -> None:
    random = np.random.default_rng(seed)
    builder = Builder(random, (7, 6, 3))
    last = builder.convolution(builder.input(*RANGES[seed % 4]), 32, (3, 3), bits=8, to=(0, 127))
    if seed % 2:
        last = builder.convolution(last, 32, (3, 3), padding=(1,) * 4, groups=32, bits=8, to=(-64, 63))
        last = builder.look_up(builder.max_pool(last, 2, 1, 0), 0, 255)
    last = builder.convolution(last, 12, (1, 1), bits=8, to=(0, 255) if seed % 3 else None)
    graph, images = builder.done(last), builder.images(3)
    gone = random.permutation(32)[: (9, 16, 31)[seed % 3]].tolist()
    emptied(graph, 2 if seed % 2 else 1, gone)
    before, smaller = run(graph, images), drop_unread_channels(graph)
    left = (24, 16, 8)[seed % 3]  # whole eights
    middle = [(left, left)] if seed % 2 else []
    assert channels(smaller) == [(3, left), *middle, (left, 12)]
    assert np.array_equal(run(smaller, images).view(np.uint32), before.view(np.uint32))


def test_channels_go_with_their_weights_of_the_middle_tap() -> None:
    builder = Builder(np.random.default_rng(1), (7, 6, 16))
    last = builder.convolution(builder.input(0, 255), 32, (3, 3), padding=(1,) * 4, bits=4, to=(0, 127))
    graph = builder.done(builder.convolution(last, 12, (3, 3), padding=(1,) * 4, bits=4, zeros=1.0))
    first, second = graph.operations[1:3]
    assert isinstance(first, g.Convolution) and isinstance(second, g.Convolution)
    middles = [
        np.random.default_rng(2).integers(1, 100, (n, 1, 1, m), np.int8) for n, m in ((32, 16), (12, 32))
    ]
    middles[1][..., 8:] = 0
    for place, middle in enumerate(middles, start=1):
        op = graph.operations[place]
        assert isinstance(op, g.Convolution)
        weights = dataclasses.replace(op.weights, middle=middle)
        graph.operations[place] = dataclasses.replace(op, weights=weights)
    smaller, images = drop_unread_channels(graph), builder.images(2)
    assert channels(smaller) == [(16, 8), (8, 12)]
    assert np.array_equal(run(smaller, images), run(graph, images))


def test_a_sum_keeps_all_of_its_channels() -> None:
    builder = Builder(np.random.default_rng(0), (6, 5, 16))
    source = builder.input(0, 255)
    first = builder.convolution(source, 16, (3, 3), padding=(1,) * 4, bits=8, to=(0, 127))
    second = builder.convolution(first, 16, (1, 1), bits=8, to=(0, 127))
    total = builder.add(second, first, 0, 255)
    graph = builder.done(builder.convolution(total, 8, (1, 1), bits=8))
    for layer in (1, 2):
        emptied(graph, layer, list(range(8)))
    assert channels(simplify(graph)) == [(16, 16), (16, 16), (16, 8)]


def test_only_layers_between_which_nobody_reads_can_choose() -> None:
    resnet = producers_of(load_model("resnet8", classes=10, image_size=(32, 32)))
    assert resnet and all(reader.endswith("conv2") for reader in resnet)
    assert all(made == (reader.replace("conv2", "conv1"),) for reader, made in resnet.items())
    mobile = producers_of(load_model("mobilenet_v2_cifar", classes=10, image_size=(32, 32)))
    assert sum(len(made) == 2 for made in mobile.values()) >= 16  # through a depthwise layer
    twice = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Flatten())
    assert producers_of(twice) == {"2": ("0",)}
    found = layers_of(twice, (3, 4, 4), producers_of(twice))
    assert [layer.producers for layer in found] == [(), ("0",)]
    own = asked(["kept_channels=1,0.5"])
    plans = Space(found, bits=(8,), dimensions=own).layer_plans()
    assert [len(plans[name]) for name in ("0", "2")] == [1, 2]
    assert "kept_channels" not in Space(found).dimensions and Layer("a").producers == ()


@pytest.mark.parametrize(("name", "inner"), [("resnet18", 8), ("resnet50", 32)])
def test_an_activation_without_weights_may_be_called_everywhere(name: str, inner: int) -> None:
    """As torchvision's blocks do."""
    model = load_model(name, classes=10, image_size=(32, 32))
    made = producers_of(model)
    assert len(made) == inner
    for reader, (maker,) in made.items():
        block, layer = reader.rsplit(".conv", 1)
        assert maker == f"{block}.conv{int(layer) - 1}"
    if inner > 8:
        return
    small = nn.Sequential(model.layer1[0], nn.Conv2d(64, 8, 6), nn.Flatten())  # type: ignore[index, operator]
    plan = Plan({"0.conv1": LayerPlan(8), "0.conv2": LayerPlan(4, 16, kept_channels=0.5), "1": LayerPlan(8)})
    images = torch.randn(4, 64, 6, 6)
    hardened = harden(quantize(small, plan, images))
    graph = compile_graph(hardened, (64, 6, 6), [0.5] * 64, [0.25] * 64)
    assert channels(graph)[:2] == [(64, 32), (32, 64)]


def test_a_norm_that_two_places_share_keeps_its_channels() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(16, 16, 1) for _ in range(3))
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.third(self.norm(self.second(self.norm(self.first(x)))))
            return out

    assert producers_of(Shared()) == {}


def test_a_plan_with_fewer_channels_is_trained_without_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.Flatten()
    )
    images = torch.randn(8, 3, 8, 8)
    plan = Plan({"0": LayerPlan(8), "3": LayerPlan(4, 16, kept_channels=0.5)})
    books = harden(quantize(model, plan, images)).codebooks
    there = (books["3"].integers != 0).any(axis=(0, 2, 3))
    weight = model[3].weight.detach().square().sum((0, 2, 3))  # type: ignore[operator, union-attr]
    assert set(np.flatnonzero(there)) <= set(weight.topk(16).indices.tolist())


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_zeros_anywhere_are_beside_channels_that_are_not_kept(share: float) -> None:
    """Whatever the order of a plan's values: what is known of its cost before training has both."""
    model = load_model("resnet8", classes=10, image_size=(32, 32))
    plan = Plan.uniform(layer_names(model), LayerPlan(2, 4, zero_share=share))
    reader = "layer2.0.conv2"
    both = LayerPlan(2, 4, zero_share=share, kept_channels=0.5)
    plan = plan.replace(layers={**plan.layers, reader: both})
    integers = synthetic(quantize(model, plan, torch.randn(4, 3, 32, 32)), plan).codebooks[reader].integers
    assert (integers != 0).any(axis=(0, 2, 3)).sum() == 16
    assert (integers == 0).mean() == pytest.approx(max(0.5, share), abs=0.01)
