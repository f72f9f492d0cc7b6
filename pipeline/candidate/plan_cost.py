"""What plans cost, estimated from the plans alone: fitted costs of their layers' kernels, and bytes of coded weights.

Nothing is compiled but the network once, with 8 bits everywhere, and nothing is emulated. What does not depend on the plan (all
but dense convolutions and linear layers) is left out of the latency, so estimates rank plans of one network and are no figures:
on the embedded networks a program takes 1.0 to 1.1 times as long; its size is met to within 15 %.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import cheapest, models_of
from deploy_arm.costs.model import KERNELS, Work
from deploy_arm.ir import graph as g
from deploy_arm.target.cores import CORES
from foundation.codebook import Codebook
from foundation.dimension import DIMENSIONS
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.images import normalize
from quantizers.network import harden, layer_names, quantize
from quantizers.tracing.trace import traced

CALIBRATION_IMAGES = 32


class PlanCost:
    """What plans of one network cost, as a sampler's ``Prior.cost``: ``latency`` in milliseconds, ``size`` in bytes.

    The network is compiled when a plan is asked for first; each choice of each layer is computed once.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._target = workspace.settings.target
        self._known: dict[tuple[str, LayerPlan, int], tuple[float, float]] = {}

    def __call__(self, plan: Plan) -> Mapping[str, float]:
        parts = [self._layer(name, layer, plan.activation_bits) for name, layer in plan.layers.items()]
        cycles, sizes = zip(*parts)
        milliseconds = sum(cycles) / (CORES[self._target].frequency_ghz * 1e6)
        return {"latency": milliseconds, "size": sum(sizes) + self._rest}

    @cached_property
    def _graph(self) -> g.Graph:
        """The network with 8 bits everywhere."""
        workspace, train = self._workspace, self._workspace.data.train
        images = train.batch(torch.arange(min(CALIBRATION_IMAGES, len(train))))
        plan = Plan.uniform(layer_names(traced(workspace.model)), LayerPlan(8))
        hardened = harden(quantize(workspace.model, plan, normalize(images, workspace.mean, workspace.std)))
        return compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)

    @cached_property
    def _convolutions(self) -> dict[str, g.Convolution]:
        """Of each layer, what computes it."""
        return {each.layer: each for each in self._graph.operations if isinstance(each, g.Convolution)}

    @cached_property
    def _rest(self) -> int:
        """Bytes of the program's blob beside weights."""
        weights = sum(each.weights.indices.size for each in self._convolutions.values())
        return max(0, len(write_blob(self._graph)) - weights)

    def _layer(self, name: str, layer: LayerPlan, activation_bits: int) -> tuple[float, float]:
        """Cycles and bytes of one layer."""
        key = name, layer, activation_bits
        if key not in self._known:
            book = self._book(name, layer)
            self._known[key] = self._cycles(name, book, activation_bits), coded_bytes(book)
        return self._known[key]

    def _book(self, name: str, layer: LayerPlan) -> Codebook:
        """Weights of just the kind that the layer's values ask for, drawn."""
        weight = self._workspace.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        values = weight.detach().float().cpu().numpy()
        generator = np.random.default_rng(0)
        count = 255 if layer.bits == 8 else layer.components or 2**layer.bits
        levels = (np.arange(count) - count // 2).astype(np.int8)
        indices = generator.integers(0, count, values.shape).astype(np.uint8)
        book = Codebook(indices, levels, np.ones(1, np.float32), layer.bits)
        for dimension, value in layer.values.items():
            book = DIMENSIONS[dimension].synthesize(book, values, value, generator)
        return book

    def _cycles(self, name: str, book: Codebook, activation_bits: int) -> float:
        """By the cheapest kernel; 0 for a layer whose kernel has no fitted cost, as those of several groups."""
        if name not in self._convolutions:
            return 0.0
        operation, tensors = self._convolutions[name], self._graph.tensors
        if operation.groups > 1:
            return 0.0
        # Rows are output channels in any layout, and nothing but how often a row has a level counts.
        indices = book.indices.reshape(operation.weights.indices.shape)
        drawn = dataclasses.replace(operation, weights=dataclasses.replace(book, indices=indices))
        work = Work.of(drawn, tensors[operation.inputs[0]], tensors[operation.output])
        work = dataclasses.replace(work, narrow=work.narrow or activation_bits == 7)
        models = models_of(self._target)
        kernel = "dense" if book.bits == 8 else cheapest(work, models)
        return models[kernel].cost(KERNELS[kernel](work))


def coded_bytes(book: Codebook) -> float:
    """Bytes of a layer's indices: packed, or entropy-coded where that is shorter."""
    counts = np.unique(book.indices, return_counts=True)[1]
    shares = counts / book.indices.size
    bits = min(float(book.bits), -float(np.sum(shares * np.log2(shares))))
    return book.indices.size * bits / 8
