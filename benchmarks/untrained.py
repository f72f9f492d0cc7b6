"""Blobs of networks without training: what an inference costs depends on shapes, bits and zeros, not on what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.ir.graph import Graph
from foundation.codebook import Codebook
from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import find_network, load_model
from quantizers.network import Hardened, harden, layer_names, quantize


@dataclass(frozen=True)
class Setting:
    """How all layers of a network are quantized. ``zero_share`` is the least share of zero weights."""

    name: str
    bits: int
    zero_share: float
    activation_bits: int


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("8bit", 8, 0.0, 8),
        Setting("4bit", 4, 0.0, 8),
        Setting("2bit-80", 2, 0.8, 7),
    )
}


@dataclass(frozen=True)
class Untrained:
    """A compiled network and an image for it (uint8 [H, W, 3])."""

    graph: Graph
    image: np.ndarray

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer of each operation."""
        return tuple(operation.layer for operation in self.graph.operations)

    def blob(self, core: str) -> bytes:
        """What the program of a core loads.

        Raises:
            UserError: unknown core.
        """
        return write_blob(choose_kernels(self.graph, core))


def quantile_codebook(weight: Tensor, bits: int, zero_share: float) -> Codebook:
    """Levels at the weights' quantiles, zero among them; the smallest ``zero_share`` of the weights are zero."""
    w = weight.detach().numpy()
    scale = float(np.abs(w).max()) / 127
    centres = np.quantile(w.reshape(-1)[:100_000], (np.arange(2**bits) + 0.5) / 2**bits)
    centres[np.abs(centres).argmin()] = 0
    levels = np.unique(np.rint(centres / scale).astype(np.int8))
    indices = np.searchsorted((levels[1:] + levels[:-1].astype(np.float64)) / 2, w / scale)
    if zero_share:
        indices[np.abs(w) < np.quantile(np.abs(w), zero_share)] = np.flatnonzero(levels == 0)[0]
    return Codebook(indices.astype(np.uint8), levels, np.array([scale], np.float32), bits)


def hardened_network(name: str, size: int, setting: Setting, seed: int) -> Hardened:
    """The model with random weights in the setting's bits. Activation steps come from one random image."""
    torch.manual_seed(seed)
    classes = 80 if find_network(name).detects else 10 if size <= 64 else 1000
    model = load_model(name, classes=classes, image_size=(size, size)).eval()
    plan = Plan.uniform(layer_names(model), LayerPlan(8), activation_bits=setting.activation_bits)
    network, codebooks = harden(quantize(model, plan, torch.randn(1, 3, size, size)))
    if setting.bits == 8:
        return Hardened(network, codebooks)
    books = dict(codebooks)
    for layer in codebooks:
        module = network.get_submodule(layer)
        books[layer] = quantile_codebook(cast(Tensor, module.weight), setting.bits, setting.zero_share)
        module.weight = nn.Parameter(torch.from_numpy(books[layer].dequantize()))
    return Hardened(network, books)


def untrained(name: str, setting: Setting, *, size: int | None = None, seed: int = 0) -> Untrained:
    """Compiles ``name`` (see ``pipeline.networks.registry``) with random weights for one image of ``size`` pixels.

    Raises:
        UserError: unknown model, or one with an operator that cannot be compiled.
    """
    size = size or find_network(name).image_size
    mean, std = find_network(name).normalization
    graph = compile_graph(hardened_network(name, size, setting, seed), (3, size, size), mean, std)
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Untrained(graph, image)
