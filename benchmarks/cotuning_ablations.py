"""What each choice of the co-tuning is worth: one run with it changed, all else equal.

    python -m benchmarks.cotuning_ablations --data npz:CIFAR10.npz --weights RESNET20.th --epochs 0.25 --seeds 0 1

The first row is the co-tuning as it stands, at 2 bits with 8-bit activations, first and last layer 8 bits; each other row
changes what its name says. ``divergence`` is the mean Kullback-Leibler divergence of the hardened network's answers from the
fp32 network's, in nats, on the search half of the validation images: it tells runs apart that agree in accuracy, whose
standard error is 0.6 points on 2500 images. Choose by the columns of the search half; ``report_top1`` is for reporting.
Finished rows are passed over; a row is appended when it is done.

The kept table's second row is the first row's run by earlier code, in which activation steps kept their inputs; the rows from
there down to the nearest mean are by that code and compare with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cotuning_accuracy import DKM, plan_of
from benchmarks.cotuning_table import Cell
from benchmarks.rows import append, read
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from pipeline.datasets.base import ImageData
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.evaluation import batches, error_of, reestimate_batch_norm
from pipeline.training.settings import TrainSettings
from quantizers.mixture.regions import Regions
from quantizers.network import layer_names, without_steps
from quantizers.weights.gaussian_mixture import GaussianMixture

RESULTS = Path("benchmarks/results/cotuning_ablations.csv")


class NearestMean(GaussianMixture):
    """Each weight to the nearest mean, whatever the components' shares and scales; the gradients are the mixture's."""

    def regions(self) -> Regions:
        means = self.means().detach()
        order = means.argsort()
        return Regions((means[order][1:] + means[order][:-1]).double() / 2, order)

    def forward(self, weight: Tensor) -> Tensor:
        value: Tensor = super().forward(weight)
        if not self.training:  # found by ``regions``
            return value
        nearest: Tensor = self.means()[self.regions().assign(weight)]
        return value + (nearest - value).detach()


class DecayOnEverything(Cotuning):
    """Weight decay on biases, batch-norms, mixtures and steps too."""

    def groups(self, network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
        return [
            {**group, "weight_decay": settings.weight_decay} for group in super().groups(network, settings)
        ]


class NormsAsTheyAre(Cotuning):
    """Batch-norms keep the statistics of training."""

    def refit_norms(self, network: nn.Module) -> None:
        pass


class NormsTakenAnew(Cotuning):
    """Batch-norms get the statistics of training images that are varied as in training."""

    varied = True

    def refit_norms(self, network: nn.Module) -> None:
        s, how = self.settings, self.settings.augment or self.data.augment
        reestimate_batch_norm(
            network, self.data.train, s.batch_norm_images, self.mean, self.std, s.evaluation_batch,
            how if self.varied else "none",
        )  # fmt: skip


class NormsOnPlainImages(NormsTakenAnew):
    """... of images that are not."""

    varied = False


@dataclass(frozen=True)
class Ablation:
    """One changed choice: training settings, options of the quantizer, plan, layers' zero share, or the training itself."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    zero_share: float | None = None
    ends: LayerPlan | None = None  # instead of 8 bits
    floating: bool = False
    training: type[Cotuning] = Cotuning


def _schedule(start: float, end: float, shape: str) -> dict[str, Any]:
    return {"temperature": TemperatureSchedule(start, end, shape)}


ABLATIONS: dict[str, Ablation] = {
    "as it stands": Ablation(),
    "published form, temperature 0.01": Ablation({"form": "paper"}),
    "soft weights, temperature from 1 to 0.02": Ablation(
        {"form": "posterior"}, plan=_schedule(1.0, 0.02, "exponential")
    ),
    "soft weights, temperature on a cosine": Ablation(
        {"form": "posterior"}, plan=_schedule(1.0, 0.02, "cosine")
    ),
    "soft weights, temperature 0.5": Ablation({"form": "posterior"}),
    "soft weights, hard in the last fifth": Ablation({"form": "hard_finish"}),
    "temperature 0.25": Ablation(plan=_schedule(0.25, 0.25, "constant")),
    "temperature 1": Ablation(plan=_schedule(1.0, 1.0, "constant")),
    "temperature from 1 to 0.02": Ablation(plan=_schedule(1.0, 0.02, "exponential")),
    "temperature from 1 to 0.2 on a cosine": Ablation(plan=_schedule(1.0, 0.2, "cosine")),
    "output channels of one size": Ablation({"even_channels": True}),
    "learned uniform steps": Ablation(plan={"quantizer": "learned_step"}),
    "uniform steps, gradients scaled element by element": Ablation(
        plan={"quantizer": "element_wise_scaling"}
    ),
    "differentiable k-means": Ablation(
        plan={"quantizer": "differentiable_kmeans", "temperature": DKM},
    ),
    "mixtures as fast as weights": Ablation(options={"rate": 1.0}),
    "mixtures fixed after k-means": Ablation(options={"rate": 0.0}),
    "weight decay on everything": Ablation(training=DecayOnEverything),
    "dead components stay dead": Ablation(options={"revive_every": None}),
    "nearest mean instead of most probable": Ablation(
        plan={"quantizer": "benchmarks.cotuning_ablations:NearestMean"}
    ),
    "batch-norm not re-estimated": Ablation(training=NormsAsTheyAre),
    "batch-norm re-estimated": Ablation(training=NormsTakenAnew),
    "batch-norm re-estimated on plain images": Ablation(training=NormsOnPlainImages),
    "labels only": Ablation({"distillation": 0.0}),
    "half labels, half answers at 2": Ablation({"distillation": 0.5, "distillation_temperature": 2.0}),
    "gradients not clipped": Ablation({"gradient_clip": None}),
    "activations of 7 bits": Ablation(plan={"activation_bits": 7}),
    "float activations": Ablation(floating=True),
    "first and last layer 4 bits": Ablation(ends=LayerPlan(4, 16)),
    "first and last layer 2 bits": Ablation(ends=LayerPlan(2, 4)),
    "zeros 70 %": Ablation(zero_share=0.7),
    "zeros 70 %, from the first step": Ablation(options={"ramp_end": 0.0}, zero_share=0.7),
    "zeros 80 %": Ablation(zero_share=0.8),
    "zeros 80 %, from the first step": Ablation(options={"ramp_end": 0.0}, zero_share=0.8),
}


@dataclass(frozen=True)
class Row:
    """One run; accuracies are shares of images, 0..1."""

    choice: str
    network: str
    bits: int
    epochs: float
    seed: int
    data: str
    search_top1: float
    divergence: float
    report_top1: float
    fp32_search_top1: float
    zeros: float
    steps: int
    seconds: float
    torch: str


def key(record: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(record[name] for name in ("choice", "network", "bits", "epochs", "seed", "data"))


def plan_for(ablation: Ablation, cell: Cell, names: list[str]) -> Plan:
    """The plan of a run for layers ``names``."""
    plan = plan_of(dataclasses.replace(cell, zero_share=ablation.zero_share), names)
    layers = dict(plan.layers)
    if ablation.ends:
        layers |= {names[0]: ablation.ends, names[-1]: ablation.ends}
    return dataclasses.replace(plan, layers=layers, **ablation.plan)


@torch.no_grad()
def divergence(student: nn.Module, teacher: nn.Module, data: ImageData, mean: Any, std: Any) -> float:
    """Mean of KL(teacher || student) over the search half, in nats."""
    total = 0.0
    teacher.eval()
    for x in batches(data.search, mean, std, 250, torch.device("cpu")):
        given, wanted = (net(x).float().log_softmax(1) for net in (student, teacher))
        total += float(nn.functional.kl_div(given, wanted, reduction="sum", log_target=True))
    return total / len(data.search)


def run(name: str, cell: Cell, model: nn.Module, data: ImageData) -> Row:
    """Co-tune with one choice changed, and judge the hardened network."""
    ablation = ABLATIONS[name]
    mean, std = find_network(cell.network).normalization
    settings = TrainSettings(
        epochs=cell.epochs, learning_rate=cell.learning_rate, seed=cell.seed, kept_images=0
    )
    settings = dataclasses.replace(settings, **ablation.settings, options=ablation.options)
    started = time.perf_counter()
    plan = plan_for(ablation, cell, layer_names(model))
    training = ablation.training(model, plan, data, settings, mean, std)
    if ablation.floating:
        without_steps(training.network)
    training.run_until(cell.epochs)
    hardened = training.hardened()
    books = hardened.codebooks.values()
    zeros = sum(int((book.integers == 0).sum()) for book in books) / sum(book.indices.size for book in books)
    return Row(
        name, cell.network, cell.bits, cell.epochs, cell.seed, cell.data,
        1 - error_of(hardened.network, data.search, mean, std),
        divergence(hardened.network, model, data, mean, std),
        1 - error_of(hardened.network, data.report, mean, std),
        1 - error_of(model, data.search, mean, std),
        zeros, training.step, time.perf_counter() - started, torch.__version__,
    )  # fmt: skip


def _text(row: Row) -> dict[str, str]:
    values = dataclasses.asdict(row).items()
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in values}


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.cotuning_ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="data set, as in pipeline.search")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True, help="the network's trained weights")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), default=2)
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--choices", nargs="+", metavar="NAME", default=list(ABLATIONS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    for name in args.choices:
        if name not in ABLATIONS:
            raise UserError(f"choice {name!r}: there are {'; '.join(ABLATIONS)}")
    data = load_data(args.data)
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    done = {key(record) for record in read(args.out, [f.name for f in dataclasses.fields(Row)])}
    for seed in args.seeds:
        for name in args.choices:
            cell = Cell(
                args.network, "ours", args.bits, 8, None, args.epochs, 0.01, 1.0, 4.0, seed, False, "cpu",
                f"{args.data.partition(':')[0]}:{Path(args.data.partition(':')[2]).name}",
            )  # fmt: skip
            wanted = (name, cell.network, str(cell.bits), f"{cell.epochs:.6g}", str(seed), cell.data)
            if wanted in done:
                continue
            row = run(name, cell, model, data)
            append(args.out, _text(row))
            print(
                f"{name}, seed {seed}: {100 * row.search_top1:.2f} % of the search half, divergence {row.divergence:.4f}, "
                f"{100 * row.report_top1:.2f} % of the report half, {row.seconds:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
