"""What a middle tap of 8 bits is worth where branches were fused into it: RepVGG, weights only, nothing trained or rebuilt.

    python -m benchmarks.coarse_fine --data npz:CIFAR10.npz --weights benchmarks/results/repvgg_cifar.pth

Every cell has the first and the last layer in 8 bits, activations of 8 bits whose steps are taken from 256 training images (other
ones for each seed), and the weights between rounded as its way says:

    largest        even levels, the largest weight of each output channel decides the step (min-max)
    least error    even levels, the step of each output channel with the least squared error
    mixture        a Gaussian mixture for each layer, as it starts
    ..., split     the same, with 8 bits for the middle tap where that stands out from its neighbours (``coarse_fine``)
    ..., rebuilt   from the calibration images without labels, as ``pipeline.quantize`` does

Error is that of images by which nothing was chosen, paired with fp32's answers. ``neighbours_error`` is the squared error of all
weights but the middle taps, as a share of their squares, on average over the layers that a split way splits. ``weight_bytes`` are
those of packed weights between the ends; bytes of the blob (coded where that is smaller) and latency (modelled: instructions of
the emulated program) are there where a program can store such weights: not of 5 bits. A row is appended when its cell is done; a
cell that the file has is passed over. The weights are of one training in bfloat16, in 12 epochs as they were planned, whose rate
was brought to zero after 7.7. About ten seconds a cell of one processor. ``--layers`` compares single 3 x 3 layers of 4
bits in the dense kernel, without and with a middle tap of 8 bits, in modelled cycles.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import append, as_text, done_in
from benchmarks.structures import CORES, profiles
from foundation.command import Parser, main_guard
from foundation.files import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from foundation.codebook import Codebook
    from quantizers.network import Hardened

RESULT = Path(__file__).parent / "results" / "coarse_fine.csv"
LAYERS = Path(__file__).parent / "results" / "coarse_fine_layers.csv"
SHAPES = ((16, 32), (32, 16), (64, 8), (128, 14))  # channels, side
SPLIT = ", split"
WAYS = ("largest", "least error", "mixture")
REBUILT = {
    "mixture, rebuilt": "gaussian_mixture",
    "least error, split, rebuilt": "coarse_fine",
}  # with 4 bits
BITS = {"largest": (3, 4, 5, 8), "least error": (3, 4, 5), "mixture": (3, 4)}
CALIBRATION = 256  # images that steps of activations are taken from
STORABLE = (2, 3, 4, 8)


@dataclass(frozen=True)
class SplitCell:
    """One row's conditions; ``weights`` is the start of the SHA-256 of the file."""

    network: str
    weights: str
    way: str
    bits: int
    seed: int


def cells(network: str, weights: str, seeds: Sequence[int], widths: Sequence[int]) -> list[SplitCell]:
    """All rows of these bits. At 8 bits a middle tap of as many is no other way to store it: nothing is split there."""
    found = [
        SplitCell(network, weights, way + split, bits, seed)
        for seed in seeds
        for way in WAYS
        for bits in BITS[way]
        for split in ("", SPLIT)
        if bits in widths and not (split and bits == 8)
    ]
    again = [SplitCell(network, weights, way, 4, seed) for seed in seeds for way in REBUILT if 4 in widths]
    return found + again


def book_of(weight: Tensor, cell: SplitCell) -> Codebook:
    """A layer's weights rounded as a cell says."""
    from types import SimpleNamespace

    from foundation.plan import LayerPlan
    from quantizers.weights.coarse_fine import CoarseFine
    from quantizers.weights.gaussian_mixture import GaussianMixture

    way = cell.way.removesuffix(SPLIT)
    ratio = CoarseFine.Options.ratio if cell.way.endswith(SPLIT) else float("inf")
    if way == "mixture":
        layer = LayerPlan(cell.bits, 2**cell.bits)
        options = GaussianMixture.Options()
        return split_mixture(
            weight,
            ratio,
            lambda part: GaussianMixture.for_layer(part, layer, options, initialise=True).codebook(part),
        )
    chosen = CoarseFine.Options(ratio=ratio, clip=way == "least error")
    width: Any = SimpleNamespace(bits=cell.bits)  # also what no program stores
    return CoarseFine.for_layer(weight, width, chosen, initialise=True).codebook(weight)


def split_mixture(weight: Tensor, ratio: float, fitted: Any) -> Codebook:
    """The codebook ``fitted`` to weights; where their middle tap stands out, to its neighbours alone, with 8 bits for it on their
    grid, which is made as coarse as it needs."""
    import numpy as np
    import torch

    from foundation.codebook import Codebook
    from quantizers.weights.coarse_fine import HIGH, middle_of, stands_out, without_middle

    if not stands_out(weight, ratio):
        found: Codebook = fitted(weight)
        return found
    others = without_middle(weight)
    # Weights that are exactly zero are nobody's but the zero level's: the neighbours alone shape the others.
    book: Codebook = fitted(others)
    scale = max(float(book.scale[0]), float(middle_of(weight).abs().max()) / HIGH)
    levels = np.rint(book.levels.astype(np.float64) * float(book.scale[0]) / scale)
    unique, place = np.unique(levels.astype(np.int8), return_inverse=True)
    middle = (middle_of(weight) / scale).round().clamp(-HIGH, HIGH).to(torch.int8).numpy()
    indices = place[book.indices].astype(np.uint8)
    return Codebook(indices, unique, np.array([scale], np.float32), book.bits, middle)


def measure(cell: SplitCell, calibrated: Hardened, model: Any, data: Any, network: Any) -> dict[str, Any]:
    """Round, judge and profile one cell. Shares of images 0..1, milliseconds, bytes."""
    import torch

    from pipeline.training.evaluation import predictions
    from quantizers.network import Hardened, end_layers
    from quantizers.weights.coarse_fine import CoarseFine, stands_out, without_middle

    mean, std = network.normalization
    made, ends = copy.deepcopy(calibrated.network), end_layers(calibrated.network)  # type: ignore[arg-type]
    if cell.way in REBUILT:
        calibrated = rebuild(cell, model, data, network)
        made = calibrated.network
    books, errors, size, split = dict(calibrated.codebooks), [], 0.0, 0
    for name in books:
        if name in ends:
            continue
        weight = model.get_submodule(name).weight.detach()
        book = books[name] = books[name] if cell.way in REBUILT else book_of(weight, cell)
        rounded = torch.from_numpy(book.dequantize())
        made.get_submodule(name).weight = torch.nn.Parameter(rounded, requires_grad=False)
        size += book.indices.size * book.bits / 8 + (0 if book.middle is None else book.middle.size)
        split += book.middle is not None
        if stands_out(weight, CoarseFine.Options.ratio):
            off, whole = (without_middle(x).square().sum() for x in (rounded - weight, weight))
            errors.append(float(off / whole))
    half = data.report
    right, wanted = (
        (predictions(net, half, mean, std) == half.labels).double() for net in (made.eval(), model)
    )
    difference = right - wanted
    costs: dict[str, Any] = {f"{core}_{what}": None for core in CORES for what in ("ms", "bytes")}
    if cell.bits in STORABLE and cell.seed == 0:
        costs = profiles(Hardened(made, books), data, network)
    return {
        "fp32_error": 1 - float(wanted.mean()),
        "error": 1 - float(right.mean()),
        "difference": float(difference.mean()),
        "difference_standard_error": float(difference.std() / len(half) ** 0.5),
        "images": len(half),
        "split_layers": split,
        "neighbours_error": sum(errors) / len(errors) if errors else None,
        "weight_bytes": round(size),
        **costs,
        "torch": torch.__version__,
    }


def drawn(data: Any, network: Any, seed: int) -> Tensor:
    """The calibration images that a seed draws, normalized."""
    import torch

    from pipeline.datasets.images import normalize

    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return normalize(data.train.batch(order[:CALIBRATION]), *network.normalization)


def calibrate(model: Any, data: Any, network: Any, seed: int) -> Hardened:
    """The network with 8 bits everywhere, its steps taken from images that the seed draws."""
    from foundation.plan import LayerPlan, Plan
    from quantizers.network import harden, layer_names, quantize

    plan = Plan.uniform(layer_names(model), LayerPlan(8))
    return harden(quantize(model, plan, drawn(data, network, seed)))


def rebuild(cell: SplitCell, model: Any, data: Any, network: Any) -> Hardened:
    """The network of a way that rebuilds layers from the calibration images."""
    from foundation.plan import LayerPlan, Plan
    from quantizers.calibration.reconstruction import Reconstruction, reconstruct
    from quantizers.network import end_layers, harden, layer_names, quantize
    from quantizers.tracing.trace import traced

    images, ends, sort = drawn(data, network, cell.seed), end_layers(traced(model)), REBUILT[cell.way]
    inner = LayerPlan(cell.bits, 2**cell.bits if sort == "gaussian_mixture" else None)
    plan = Plan({name: LayerPlan(8) if name in ends else inner for name in layer_names(model)}, sort)
    made = quantize(model, plan, images)
    reconstruct(made, model, [images], Reconstruction(seed=cell.seed))
    return harden(made)


@dataclass(frozen=True)
class LayerCell:
    """One row's conditions: a 3 x 3 convolution with as many output channels as input channels, weights of 4 bits."""

    core: str
    channels: int
    size: int


def layer_cycles(cell: LayerCell) -> dict[str, Any]:
    """Modelled cycles of the dense kernel for a convolution, without and with a middle tap of 8 bits, and their ratio."""
    import numpy as np

    from deploy_arm.costs.fit import operation_cycles
    from deploy_arm.costs.model import ProfiledWeights
    from deploy_arm.costs.samples import ConvolutionSample, weights
    from deploy_arm.ir import graph as g

    shape = (cell.size, cell.size, cell.channels)
    sample = ConvolutionSample(cell.size, cell.channels, cell.channels, 3, 1)
    book = weights(np.random.default_rng(0), sample, ProfiledWeights(4, 0.1, narrow=True))
    middle = np.random.default_rng(1).integers(-127, 128, (cell.channels, 1, 1, cell.channels), np.int8)
    found = []
    for split in (None, middle):
        tensors = [g.Tensor("image", shape), g.Tensor("x", shape, high=127), g.Tensor("y", shape, high=127)]
        half = np.tile(np.arange(256, dtype=np.int16) // 2, (cell.channels, 1))
        ones, none = np.full(cell.channels, 2**30, np.int32), np.zeros(cell.channels, np.int32)
        finish = g.Requantize(ones, none, 8, 18, 0, 127)
        own = replace(book, middle=split)
        operations: list[g.Operation] = [
            g.InputTable(("image",), "x", "", half),
            g.Convolution(("x",), "y", "", own, (1, 1), (1, 1, 1, 1), (1, 1), 1, finish, kernel="dense"),
            g.Output(("y",), "floats", ""),
        ]
        named = {tensor.name: tensor for tensor in (*tensors, g.Tensor("floats", shape, floating=True))}
        found.append(operation_cycles(g.Graph(tensors[0], "floats", named, operations), cell.core)[1])
    return {"unsplit_cycles": round(found[0]), "split_cycles": round(found[1]), "ratio": found[1] / found[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.coarse_fine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--layers", action="store_true", help="single layers' cycles alone, into another file"
    )
    parser.add_argument("--data")
    parser.add_argument("--network", default="repvgg_cifar")
    parser.add_argument("--weights")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the images that steps are taken from"
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4, 5, 8], choices=(3, 4, 5, 8))
    parser.add_argument(
        "--out", type=Path, help=f"(default {RESULT.name}, of layers {LAYERS.name}, in results)"
    )
    args = parser.parse_args(argv)
    if args.layers:
        for layer in (LayerCell(core, *shape) for core in CORES for shape in SHAPES):
            said = as_text(asdict(layer))
            if tuple(said.values()) not in done_in(args.out or LAYERS, LayerCell):
                append(args.out or LAYERS, {**said, **as_text(layer_cycles(layer))})
        return 0
    if not (args.data and args.weights):
        parser.error("give --data and --weights, or --layers")

    import torch

    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model

    torch.set_num_threads(1)
    network, data = find_network(args.network), load_data(args.data)
    model = load_model(network, classes=len(data.classes), image_size=data.image_size, weights=args.weights)
    out = args.out or RESULT
    done, calibrated = done_in(out, SplitCell), {}
    digest = sha256(Path(args.weights))[:12]
    for cell in cells(args.network, digest, args.seeds, args.bits):
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        if cell.seed not in calibrated:
            calibrated = {cell.seed: calibrate(model, data, network, cell.seed)}
        row = measure(cell, calibrated[cell.seed], model, data, network)
        append(out, {**said, **as_text(row)})
        print(" ".join(f"{name} {value}" for name, value in {**said, **as_text(row)}.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
