"""What each part of rebuilding is worth: a network rebuilt with it changed, all else equal.

    python -m benchmarks.rebuilding --data npz:CIFAR10.npz --weights RESNET20.th --bits 2 3

The first row of a cell is rebuilding as a trial does it (``pipeline.training.stages``), first and last layer in 8 bits, 8-bit
activations, nothing trained afterwards; each other row changes what its name says. Divergence from fp32, in nats, and points of
right answers, paired with fp32's image by image, are of all validation images: choose by the columns ``search_*`` of the half
that guides alone. Seconds are the processor's, of one thread. A row is appended when it is made; what the file has is passed
over.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.rows import append, as_text, done_in
from foundation.command import Parser, main_guard
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.evaluation import predictions
from pipeline.training.judges import Judge
from pipeline.training.settings import TrainSettings
from quantizers.calibration.reconstruction import Reconstruction
from quantizers.network import layer_names

RESULT = Path(__file__).parent / "results" / "rebuilding.csv"
IMAGES = TrainSettings.rebuild_images
ENDS = 8  # bits of the first and the last layer
CHOICES: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "256 images": {"images": 256},
    "512 images": {"images": 512},
    "2048 images": {"images": 2048},
    "4096 images": {"images": 4096},
    "levels to the nearest": {"solve": False},
    "1 round": {"rounds": 1},
    "3 rounds": {"rounds": 3},
    "12 rounds": {"rounds": 12},
    "1 pass": {"passes": 1},
    "4 passes": {"passes": 4},
    "damping 0.001": {"damping": 0.001},
    "damping 0.1": {"damping": 0.1},
    "norms as they are": {"match_norms": False},
    "biases as they are": {"match_biases": False},
    "activation steps anew": {"match_steps": True},
    "behind the ReLU, 2 turns": {"turns": 2},
    "200 steps of Adam behind it": {"steps": 200},
    "first and last layer as planned": {"ends": None},
}


@dataclass(frozen=True)
class RebuildingCell:
    """One row's conditions; ``seed`` is that of the clusters and of the images' order."""

    network: str
    bits: int
    zero_share: float | None
    choice: str
    seed: int


@dataclass(frozen=True)
class RebuildingRow:
    """What came out; points of 100, divergences in nats."""

    seconds: float
    points: float
    points_standard_error: float
    divergence: float
    divergence_standard_error: float
    search_points: float
    search_divergence: float
    zeros: float
    images: int


def measure(cell: RebuildingCell, model: nn.Module, data: Any, mean: Any, std: Any) -> RebuildingRow:
    """Rebuild the network of one cell and judge it."""
    changed = dict(CHOICES[cell.choice])
    images, ends = changed.pop("images", IMAGES), changed.pop("ends", ENDS)
    names = layer_names(model)
    layers = dict.fromkeys(names, LayerPlan(cell.bits, 2**cell.bits, zero_share=cell.zero_share))
    if ends is not None:
        layers |= {names[0]: LayerPlan(ends), names[-1]: LayerPlan(ends)}
    run = Cotuning(model, Plan(layers), data, TrainSettings(seed=cell.seed), mean, std)
    begun = time.process_time()
    run.rebuild(images, Reconstruction(**changed), None)
    seconds = time.process_time() - begun
    hardened = run.hardened()
    differences, divergences = [], []
    for half in (data.search, data.report):
        right, wanted = (
            (predictions(net, half, mean, std) == half.labels).double() for net in (hardened.network, model)
        )
        differences.append(100 * (right - wanted))
        judge = Judge(model, half, torch.arange(len(half)), mean, std, 256)
        divergences.append(judge(hardened.network))
    both = torch.cat(differences)
    # The halves are of one size, so the mean of both is that of all images.
    found = [judged.divergence for judged in divergences]
    errors = [judged.standard_error for judged in divergences]
    books = hardened.codebooks.values()
    return RebuildingRow(
        seconds,
        float(both.mean()),
        float(both.std() / len(both) ** 0.5),
        sum(found) / 2,
        sum(error**2 for error in errors) ** 0.5 / 2,
        float(differences[0].mean()),
        found[0],
        sum(int((book.integers == 0).sum()) for book in books) / sum(book.indices.size for book in books),
        len(both),
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.rebuilding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--zero-share", type=float)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data, network = load_data(args.data), find_network(args.network)
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    done = done_in(args.out, RebuildingCell)
    for seed, bits, choice in itertools.product(args.seeds, args.bits, args.choices):
        cell = RebuildingCell(args.network, bits, args.zero_share, choice, seed)
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        row = measure(cell, model, data, *network.normalization)
        append(args.out, {**said, **as_text(asdict(row)), "torch": torch.__version__})
        print(
            f"{bits} bits, {choice}: {row.points:+.2f} +- {row.points_standard_error:.2f} points, {row.divergence:.4f} +- "
            f"{row.divergence_standard_error:.4f} nats, {row.seconds:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
