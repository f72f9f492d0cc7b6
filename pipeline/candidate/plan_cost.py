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

from deploy_arm.blob.packing import OCTET, QUAD, has_blocks, kept_blocks
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
from quantizers.calibration.choice_errors import index_entropy, some_rows
from quantizers.network import harden, layer_names, quantize
from quantizers.tracing.trace import traced
from search_spaces.sensitivity import Harm

CALIBRATION_IMAGES = 32
DRAWN = 1 << 15  # weights of a layer


class PlanCost:
    """What plans of one network cost, as a sampler's ``Prior.cost``: ``latency`` in milliseconds, ``size`` in bytes.

    The network is compiled when a plan is asked for first; each choice of each layer is computed once.

    Args:
        harms: what each choice makes of the layers' weights, where that is known: shares of zeros and lengths of codes are from
            there, else levels are taken to be equally frequent.
    """

    def __init__(
        self, workspace: Workspace, harms: Mapping[str, Mapping[LayerPlan, Harm]] | None = None
    ) -> None:
        self._workspace, self._harms = workspace, harms or {}
        self._target = workspace.settings.target
        self._known: dict[tuple[str, LayerPlan, int], tuple[float, float]] = {}
        self._drawn: tuple[str, LayerPlan, Codebook, float] | None = None

    def __call__(self, plan: Plan) -> Mapping[str, float]:
        parts = [self.layer(name, layer, plan.activation_bits) for name, layer in plan.layers.items()]
        times, sizes = zip(*parts)
        return {"latency": sum(times), "size": sum(sizes) + self._rest}

    def layer(self, name: str, layer: LayerPlan, activation_bits: int = 8) -> tuple[float, float]:
        """Milliseconds and bytes of one layer."""
        key = name, layer, activation_bits
        if key not in self._known:
            if self._drawn is None or self._drawn[:2] != (
                name,
                layer,
            ):  # other activation bits have the same weights
                self._drawn = (name, layer, *self._book(name, layer))
            book, share = self._drawn[2:]
            cycles, blocks = self._cycles(name, book, share, activation_bits)
            milliseconds = cycles / (CORES[self._target].frequency_ghz * 1e6)
            harm = self._harms.get(name, {}).get(layer)
            bits = float(book.bits)
            if (
                book.bits < 8 and blocks is None
            ):  # as they are stored: packed, or entropy-coded where that is shorter
                bits = min(bits, index_entropy(book) if harm is None else harm.entropy)
            weights = book.indices.size / share
            if blocks is not None:  # those that are there, and a bit for each that could be
                bits, weights = bits + 1 / (QUAD * OCTET * blocks), weights * blocks
            self._known[key] = milliseconds, weights * bits / 8
        return self._known[key]

    def prepare(self) -> None:
        """Compile the network.

        Raises:
            UserError: it cannot be; the message says why.
        """
        self._graph  # noqa: B018  it is kept

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
        return max(0, len(write_blob(self._graph, coded=False)) - weights)

    def _book(self, name: str, layer: LayerPlan) -> tuple[Codebook, float]:
        """Weights of just the kind that the layer's values ask for, drawn: of some output channels, which have this share of all
        weights."""
        weight = self._workspace.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        rows = some_rows(weight.shape, DRAWN)
        values = weight.detach()[rows].float().cpu().numpy()
        generator = np.random.default_rng(0)
        count = 255 if layer.bits == 8 else layer.components or 2**layer.bits
        levels = (np.arange(count) - count // 2).astype(np.int8)
        indices = generator.integers(0, count, values.shape).astype(np.uint8)
        harm = self._harms.get(name, {}).get(layer)
        if harm is not None and count > 1:
            others = np.delete(np.arange(count), count // 2).astype(np.uint8)
            indices = generator.choice(others, values.shape)
            indices[generator.random(values.shape) < harm.zeros] = count // 2
        book = Codebook(indices, levels, np.ones(1, np.float32), layer.bits)
        for dimension, value in layer.values.items():
            book = DIMENSIONS[dimension].synthesize(book, values, value, generator)
        return book, len(rows) / len(weight)

    def _cycles(
        self, name: str, book: Codebook, share: float, activation_bits: int
    ) -> tuple[float, float | None]:
        """By the cheapest kernel, and the share of blocks that it stores, where it leaves some out. No cycles where there is no
        fitted cost, as of several groups."""
        if name not in self._convolutions:
            return 0.0, None
        operation, tensors = self._convolutions[name], self._graph.tensors
        if operation.groups > 1:
            return 0.0, None
        shape = operation.weights.indices.shape
        indices = book.indices
        if (
            indices.ndim == 4
        ):  # in the graph's layout; of a flattened image's layer only how often a row has a level counts
            indices = indices.transpose(0, 2, 3, 1)
        drawn = dataclasses.replace(book, indices=indices.reshape(-1, *shape[1:]))
        work = Work.of(
            dataclasses.replace(operation, weights=drawn),
            tensors[operation.inputs[0]],
            tensors[operation.output],
        )
        kept = 1.0
        if has_blocks(shape, 1):
            quads = -len(drawn.indices) % QUAD
            kept = float(kept_blocks(np.pad(drawn.integers, ((0, quads), (0, 0), (0, 0), (0, 0)))).mean())
        work = dataclasses.replace(
            work,
            nonzeros=round(work.nonzeros / share),
            pairs=round(work.pairs / share),
            blocks=round(kept * np.prod(shape) / (QUAD * OCTET)) if has_blocks(shape, 1) else None,
            narrow=work.narrow or activation_bits == 7,
        )
        models = models_of(self._target)
        kernel = cheapest(work, models)
        return models[kernel].cost(KERNELS[kernel](work)), kept if kernel == "blocks" else None
