"""What plans cost, estimated from the plans alone: fitted costs of their layers' kernels, and bytes of coded weights.

Nothing is compiled but the network once, with 8 bits everywhere, and nothing is emulated. What does not depend on the plan (all
but dense convolutions and linear layers) is left out of the latency, so estimates rank plans of one network and are no figures:
on the embedded networks a program takes 1.0 to 1.1 times as long; its size is met to within 15 %.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy_arm.blob.packing import OCTET, QUAD, has_blocks, kept_blocks
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.compiler.unread import channels_read, makers_of
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
# Bytes of a program's file for each output channel, whatever its weights: what its sums are multiplied by, and what is added.
PER_CHANNEL = 8
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
        self._known: dict[tuple[str, LayerPlan, int, int | None], tuple[float, float]] = {}
        self._read: dict[tuple[str, LayerPlan], int] = {}
        self._drawn: tuple[str, LayerPlan, Codebook, float] | None = None

    def __call__(self, plan: Plan) -> Mapping[str, float]:
        outs = self._outputs(plan)
        parts = [
            self.layer(name, layer, plan.activation_bits, outs.get(name))
            for name, layer in plan.layers.items()
        ]
        times, sizes = zip(*parts)
        return {"latency": sum(times), "size": sum(sizes) + self._rest}

    def layer(
        self, name: str, layer: LayerPlan, activation_bits: int = 8, outs: int | None = None
    ) -> tuple[float, float]:
        """Milliseconds and bytes of one layer, of whose output channels only ``outs`` are computed (None: all)."""
        key = name, layer, activation_bits, outs
        if key not in self._known:
            book, share = self._draw(name, layer)
            channels = round(len(book.indices) / share)
            gone = 0 if outs is None else channels - outs
            part = 1 - gone / channels
            cycles, blocks = self._cycles(name, book, share, part, activation_bits)
            milliseconds = cycles / (CORES[self._target].frequency_ghz * 1e6)
            harm = self._harms.get(name, {}).get(layer)
            bits, weights = float(book.bits), book.indices.size / share * part
            if blocks is not None:  # those that are there, and a bit for each that could be
                bits, weights = bits + 1 / (QUAD * OCTET * blocks), weights * blocks
            elif book.bits < 8:  # as they are stored: packed, or entropy-coded where that is shorter
                bits = min(bits, index_entropy(book) if harm is None else harm.entropy)
            self._known[key] = milliseconds, weights * bits / 8 - gone * PER_CHANNEL
        return self._known[key]

    def _outputs(self, plan: Plan) -> dict[str, int]:
        """How many channels are read of each layer that makes what one other alone reads, where not all of them are."""
        found: dict[str, int] = {}
        for reader, makers in self._makers.items():
            if reader in plan.layers:
                key = reader, plan.layers[reader]
                if key not in self._read:
                    self._draw(*key)
                if self._read[key] < self._convolutions[reader].weights.indices.shape[-1]:
                    found |= dict.fromkeys(makers, self._read[key])
        return found

    @cached_property
    def _makers(self) -> Mapping[str, tuple[str, ...]]:
        return makers_of(self._graph)

    def _draw(self, name: str, layer: LayerPlan) -> tuple[Codebook, float]:
        """``_book`` in the graph's layout, without the input channels that are not read and so not made. The last one is kept:
        other activation bits have the same weights."""
        if self._drawn is None or self._drawn[:2] != (name, layer):
            book, share = self._book(name, layer)
            if name in self._convolutions and self._convolutions[name].groups == 1:
                indices = self._laid_out(name, book.indices)
                if name in self._makers:
                    # Of some rows alone, zeros anywhere would leave more channels unread than of all.
                    seen = (
                        book.levels[indices]
                        if share == 1
                        else self._laid_out(name, self._shaped(name, layer))
                    )
                    indices = indices[..., channels_read(seen)]
                book = dataclasses.replace(book, indices=indices)
            self._drawn = (name, layer, book, share)
            self._read[name, layer] = book.indices.shape[-1]
        return self._drawn[2:]

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
        weight = self._shaped(name, layer)
        rows = some_rows(weight.shape, DRAWN)
        values = weight[rows]
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

    def _laid_out(self, name: str, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights of a layer in the graph's layout."""
        _, height, width, _ = self._convolutions[name].weights.indices.shape
        return weights.reshape(len(weights), -1, height, width).transpose(0, 2, 3, 1)

    def _shaped(self, name: str, layer: LayerPlan) -> NDArray[np.float32]:
        """The layer's float weights as the plan's dimensions want them."""
        weight = self._workspace.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        shaped: NDArray[np.float32] = layer.apply(weight.detach().float()).cpu().numpy()
        return shaped

    def _cycles(
        self, name: str, book: Codebook, share: float, part: float, activation_bits: int
    ) -> tuple[float, float | None]:
        """By the cheapest kernel, and the share of blocks that it stores, where it leaves some out. No cycles where there is no
        fitted cost, as of several groups. ``share`` of all output channels are drawn, ``part`` of all are computed."""
        if name not in self._convolutions or self._convolutions[name].groups > 1:
            return 0.0, None
        operation, tensors = self._convolutions[name], self._graph.tensors
        source, result = tensors[operation.inputs[0]], tensors[operation.output]
        count, height, width, ins = book.indices.shape
        work = Work.of(dataclasses.replace(operation, weights=book), source, result)
        outs, kept, blocks = round(count / share * part), 1.0, None
        if has_blocks((outs, height, width, ins), 1):
            rows = np.pad(book.integers, ((0, -count % QUAD), (0, 0), (0, 0), (0, 0)))
            kept = float(kept_blocks(rows).mean())
            blocks = round(kept * outs * height * width * ins / (QUAD * OCTET))
        work = dataclasses.replace(
            work,
            source=(*work.source[:2], ins),
            result=(*work.result[:2], outs),
            nonzeros=round(work.nonzeros / share * part),
            pairs=round(work.pairs / share * part),
            blocks=blocks,
            narrow=work.narrow or activation_bits == 7,
        )
        models = models_of(self._target)
        kernel = cheapest(work, models)
        return models[kernel].cost(KERNELS[kernel](work)), kept if kernel == "blocks" else None
