"""What each part of a trial is worth: a network rebuilt and trained with it changed, all else equal, at equal steps.

    python -m benchmarks.trial_parts --data npz:CIFAR10.npz --weights RESNET20.th --bits 2 --steps 100

The first row of a cell is a trial as it stands (``benchmarks.trial_accuracy``, method ``ours``): rebuilt, held, free, and of
these the network that is closest to fp32 on the half that guides. Each other row changes what its name says (``mixed images``
are trained with frozen norms and a distillation at 1 besides; ``then held alone`` has one free step). Points and divergence are
of the other half; an odd seed changes the halves. A row is appended when it is made; what the file has is passed over.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.mixing import Frozen, Mixed
from benchmarks.rows import append, as_text, done_in
from benchmarks.trial_accuracy import Cell, TrialPart, measure
from foundation.command import Parser, main_guard
from foundation.plan import TemperatureSchedule
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.training.settings import TrainSettings
from quantizers.network import quantizers_of
from quantizers.weights.gaussian_mixture import GaussianMixture

RESULT = Path(__file__).parent / "results" / "trial_parts.csv"
RATE = 0.005


def fix(*names: str) -> Any:
    """Leave these parameters of the mixtures as they were found."""

    def change(network: nn.Module) -> None:
        for _, quantizer, _ in quantizers_of(network):
            if isinstance(quantizer, GaussianMixture):
                for name in names:
                    getattr(quantizer, name).requires_grad_(False)

    return change


def heated(temperature: float) -> dict[str, Any]:
    return {"temperature": TemperatureSchedule(temperature, temperature, "constant")}


# by name: the method of ``benchmarks.trial_accuracy``, and what is changed
PARTS: dict[str, tuple[str, TrialPart]] = {
    "as it stands": ("ours", TrialPart()),
    "rebuilt alone": ("rebuilt", TrialPart()),
    "then held alone": ("ours", TrialPart({"held_steps": 1_000_000}, most_held=0.99)),
    "then free at once": ("ours", TrialPart({"held_steps": 0})),
    "trained at once": ("ours-directly", TrialPart()),
    "zero pinned": ("ours", TrialPart({"options": {"pinned": True}})),
    "scales and priors fixed": ("ours", TrialPart(change=fix("raw_scale", "prior"))),
    "mixtures fixed": ("ours", TrialPart({"options": {"rate": 0.0}})),
    "mixtures at the weights' rate": ("ours", TrialPart({"options": {"rate": 1.0}})),
    "soft weights": ("ours", TrialPart({"form": "posterior"})),
    "temperature 0.25": ("ours", TrialPart(plan=heated(0.25))),
    "temperature 1": ("ours", TrialPart(plan=heated(1.0))),
    "half the rate": ("ours", TrialPart({"learning_rate": RATE / 2})),
    "twice the rate": ("ours", TrialPart({"learning_rate": RATE * 2})),
    "distillation at 1": ("ours", TrialPart({"distillation_temperature": 1.0})),
    "norms frozen": ("ours", TrialPart(cotuning=Frozen)),
    "norms frozen, distillation at 1": (
        "ours",
        TrialPart({"distillation_temperature": 1.0}, cotuning=Frozen),
    ),
    "mixed images": ("ours", TrialPart({"distillation_temperature": 1.0}, cotuning=Mixed)),
    "half of the loss from labels": ("ours", TrialPart({"distillation": 0.5})),
    "batches of 64, twice the steps": ("ours", TrialPart({"batch_size": 64})),
    "even channels": ("ours", TrialPart({"even_channels": True})),
    "256 images rebuild": ("ours", TrialPart({"rebuild_images": 256})),
    "4,096 images rebuild": ("ours", TrialPart({"rebuild_images": 4096})),
    "ends as the others": ("ours", TrialPart(ends_alike=True)),
}


@dataclass(frozen=True)
class PartCell:
    """One row's conditions."""

    network: str
    bits: int
    zero_share: float | None
    part: str
    asked_steps: int
    seed: int


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    import torch

    parser = Parser(
        prog="python -m benchmarks.trial_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--bits", nargs="+", type=int, default=[2])
    parser.add_argument("--zero-share", type=float)
    parser.add_argument("--steps", type=int, default=100, help="of training, held ones among them")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data, network = load_data(args.data), find_network(args.network)
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    done = done_in(args.out, PartCell)
    for seed, bits, name in itertools.product(args.seeds, args.bits, args.parts):
        said = as_text(asdict(PartCell(args.network, bits, args.zero_share, name, args.steps, seed)))
        if tuple(said.values()) in done:
            continue
        done.add(tuple(said.values()))
        method, part = PARTS[name]
        batch = TrainSettings.batch_size
        steps = args.steps * batch // part.settings.get("batch_size", batch)  # as many images
        cell = Cell(
            args.network, method, bits, args.zero_share, 0.0, RATE, seed,
            asked_steps=None if method == "rebuilt" else steps,
        )  # fmt: skip
        row = measure(cell, model, data, *network.normalization, part)
        kept = {key: value for key, value in asdict(row).items() if key != "answers"}
        append(args.out, {**said, **as_text(kept), "torch": torch.__version__})
        print(
            f"{bits} bits, {name}, seed {seed}: {100 * row.difference:+.2f} +- "
            f"{100 * row.difference_standard_error:.2f} points, {row.divergence:.4f} nats, {row.kept}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
