"""Accuracy of ways to few weight values at equal training and equal honest bytes.

    python -m benchmarks.cotuning_accuracy --data npz:CIFAR10.npz --weights RESNET20.th --bits 2 3 4 --epochs 1
    python -m benchmarks.cotuning_accuracy --data npz:CIFAR10.npz --weights RESNET20.th --epochs 100 --device cuda \\
        --bits 2 3 4 --activations 8 7 none --zero-shares none 0.7 0.8 --seeds 0 1 2 --seconds 3600

Every cell starts from the same trained network (``--weights``, or trained here first) and takes the same steps: same
epochs, order and augmentation of images, distillation, peak learning rate. The first and the last layer have 8 bits.

    ours                   Gaussian mixtures, posterior form, annealed
    paper                  Gaussian mixtures, the published form (temperature 0.01)
    dkm                    differentiable k-means, temperature 0.05 standard deviations of a layer's weights
    lsq                    uniform, learned step
    ewgs                   uniform in a learned interval, gradients scaled element by element (fixed factor 0.001)
    kmeans                 exact k-means, activations and batch-norm calibrated, nothing trained
    int8                   8 bits everywhere, nothing trained

Accuracy is judged once, after the last step, with hard weights, on the report half of the validation images; nothing is
chosen on those. Choose between ``--learning-rates`` by the column ``search_top1``. ``bytes`` is the length of the blob that
the ARM program loads (with 8-bit activations where the cell has float ones). A row is appended when its cell is done; a
cell that the file has already is passed over. With ``--seconds`` no cell is begun after that time, so a long table is made
in slices. One process at a time writes to a file: give processes that run together an ``--out`` each. ``seconds`` are not
comparable between cells unless the machine did nothing else.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from pipeline.config import Parser, main_guard
from quantizers.errors import UserError
from search_spaces.plan import LayerPlan, Plan, TemperatureSchedule

UNTRAINED = ("kmeans", "int8")
METHODS = ("ours", "paper", "lsq", "ewgs", "dkm", *UNTRAINED)
QUANTIZER = {"lsq": "learned_step", "ewgs": "element_wise_scaling"}
DKM = TemperatureSchedule(0.05, 0.05, "constant")


@dataclass(frozen=True)
class Cell:
    """One row's conditions."""

    network: str
    method: str
    bits: int
    activation_bits: int | None  # None: float activations
    zero_share: float | None  # None: natural
    epochs: float
    learning_rate: float
    distillation: float  # share of the loss
    distillation_temperature: float
    seed: int
    bfloat16: bool
    device: str
    data: str


@dataclass(frozen=True)
class Row:
    """A cell and what came out; accuracies are shares of images, 0..1."""

    cell: Cell
    report_top1: float
    search_top1: float
    fp32_report_top1: float
    zeros: float
    bytes: int
    steps: int
    seconds: float
    torch: str

    def record(self) -> dict[str, str]:
        """As the file has it."""
        values = {**asdict(self.cell), **{f.name: getattr(self, f.name) for f in fields(self)[1:]}}
        return {key: _text(value) for key, value in values.items()}


def _name(spec: str) -> str:
    """A data set without the place where it lies on this machine."""
    kind, colon, place = spec.partition(":")
    return kind + colon + (Path(place).name if place else "")


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def key(record: dict[str, str]) -> tuple[str, ...]:
    """What tells rows apart: the conditions as text."""
    return tuple(record[f.name] for f in fields(Cell))


def cells(args: argparse.Namespace) -> list[Cell]:
    """The cells asked for, without those that make no sense or are equal to others."""
    found: dict[Cell, None] = {}
    asked = itertools.product(
        args.seeds, args.networks, args.activations, args.bits, args.zero_shares, args.methods, args.learning_rates
    )  # fmt: skip
    for seed, network, activations, bits, zeros, method, rate in asked:
        if zeros is not None and method not in ("ours", "paper"):
            continue  # the others have no control of zeros
        trained = method not in UNTRAINED
        found[
            Cell(
                network, method, 8 if method == "int8" else bits, activations, zeros,
                args.epochs if trained else 0.0, rate if trained else 0.0, args.distillation if trained else 0.0,
                args.distillation_temperature if trained else 0.0, seed if trained else 0,
                args.bfloat16 and trained, args.device, _name(args.data),
            )
        ] = None  # fmt: skip
    return list(found)


def plan_of(cell: Cell, names: list[str]) -> Plan:
    """The plan of a cell for layers ``names``; the first and the last have 8 bits."""
    layer = LayerPlan(8) if cell.bits == 8 else LayerPlan(cell.bits, 2**cell.bits, cell.zero_share)
    layers = dict.fromkeys(names, layer) | {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    rest: dict[str, Any] = {"activation_bits": cell.activation_bits or 8}
    if cell.method in ("dkm", "kmeans"):
        rest |= {"quantizer": "differentiable_kmeans", "temperature": DKM}
    elif cell.method in QUANTIZER:
        rest["quantizer"] = QUANTIZER[cell.method]
    return Plan(layers, **rest)


def _without_activations(network: Any) -> None:
    """Leave activations in float, for cells that are compared with weight-only results."""
    from torch import nn

    from quantizers.activation import FrozenStep, LearnedStep

    for name, module in list(network.named_modules()):
        if isinstance(module, (LearnedStep, FrozenStep)) and "parametrizations" not in name:
            network.set_submodule(name, nn.Identity())


def measure(cell: Cell, model: Any, data: Any, fp32_top1: float, show: Any) -> Row:
    """Train and judge one cell."""
    import numpy as np
    import torch

    from pipeline.models import normalization
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import error_of
    from pipeline.training.settings import TrainSettings
    from quantizers.network import layer_names

    mean, std = normalization(cell.network)
    started = time.perf_counter()
    settings = TrainSettings(
        epochs=cell.epochs or 1.0, learning_rate=cell.learning_rate or 0.01, seed=cell.seed,
        distillation=cell.distillation, distillation_temperature=cell.distillation_temperature or 1.0,
        bfloat16=cell.bfloat16, form="paper" if cell.method == "paper" else "posterior",
    )  # fmt: skip
    plan = plan_of(cell, layer_names(model))
    run = Cotuning(model, plan, data, settings, mean, std, device=cell.device, progress=show)
    if cell.activation_bits is None:
        _without_activations(run.network)
    if cell.epochs:
        run.run_until(cell.epochs)
    hardened = run.hardened()
    judged = copy.deepcopy(hardened.network).to(cell.device)
    report, search = (error_of(judged, half, mean, std) for half in (data.report, data.search))
    zeros = sum(int((book.integers == 0).sum()) for book in hardened.codebooks.values())
    total = sum(book.indices.size for book in hardened.codebooks.values())
    size = _bytes(cell, model, data, hardened, plan, np.array(mean), np.array(std))
    return Row(
        cell, 1 - report, 1 - search, fp32_top1, zeros / total, size, run.step,
        time.perf_counter() - started, torch.__version__,
    )  # fmt: skip


def _bytes(cell: Cell, model: Any, data: Any, hardened: Any, plan: Plan, mean: Any, std: Any) -> int:
    """Length of the blob. With float activations: of the same weights behind untrained 8-bit activations."""
    from deploy_arm.blob import write_blob
    from deploy_arm.frontend import compile_graph
    from pipeline.images import normalize
    from quantizers.network import Hardened, harden, quantize

    if cell.activation_bits is None:
        stand_in = quantize(model, plan, normalize(data.train.batch(_first(64)), mean.tolist(), std.tolist()))
        network = harden(stand_in).network
        for name in hardened.codebooks:
            weight = cast(Any, network.get_submodule(name)).weight
            weight.copy_(cast(Any, hardened.network.get_submodule(name)).weight)
        hardened = Hardened(network, hardened.codebooks)
    return len(write_blob(compile_graph(hardened, (3, *data.image_size), mean.tolist(), std.tolist())))


def _first(count: int) -> Any:
    import torch

    return torch.arange(count)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier run; none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [f.name for f in fields(Cell)]
    if rows and not set(wanted) <= set(rows[0]):
        raise UserError(f"{path} is not a table of this benchmark; give another --out")
    return rows


def append(path: Path, record: dict[str, str]) -> None:
    """One row more, written atomically."""
    import io

    from pipeline.files import write_atomically

    text = io.StringIO()
    writer = csv.DictWriter(text, list(record), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*read(path), record])
    write_atomically(path, text.getvalue())


def _optional(kind: type) -> Any:
    def convert(text: str) -> Any:
        return None if text == "none" else kind(text)

    convert.__name__ = kind.__name__
    return convert


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.cotuning_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="data set, as in pipeline.search")
    parser.add_argument("--networks", nargs="+", default=["resnet20"])
    parser.add_argument("--weights", help="trained weights of the one network")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, choices=(2, 3, 4), default=[2])
    parser.add_argument("--activations", nargs="+", type=_optional(int), default=[8])
    parser.add_argument("--zero-shares", nargs="+", type=_optional(float), default=[None])
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[0.01])
    parser.add_argument("--distillation", type=float, default=1.0, help="share of the loss, 0..1")
    parser.add_argument("--distillation-temperature", type=float, default=4.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--seconds", type=float, help="begin no cell after this time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cotuning_accuracy.csv"))
    args = parser.parse_args(argv)
    if args.weights and len(args.networks) > 1:
        raise UserError("--weights belong to one network; give one of --networks")
    from pipeline.data import load_data
    from pipeline.models import load_model, normalization
    from pipeline.train import _Status
    from pipeline.training.evaluation import error_of
    from pipeline.training.pretraining import pretrain

    started = time.monotonic()
    done = {key(record) for record in read(args.out)}
    wanted = cells(args)
    # The file keeps text, so cells are compared as text.
    left = [c for c in wanted if key({k: _text(v) for k, v in asdict(c).items()}) not in done]
    print(f"{len(wanted)} cells, {len(wanted) - len(left)} of them done", file=sys.stderr)
    data = load_data(args.data)
    show = _Status()
    for network, group in itertools.groupby(left, lambda cell: cell.network):
        mean, std = normalization(network)
        model = load_model(
            network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
        )
        if args.weights is None:
            model = pretrain(
                model, data, mean, std, name=network, device=args.device, progress=show
            ).network.cpu()
        fp32 = 1 - error_of(model, data.report, mean, std)
        for cell in group:
            if args.seconds is not None and time.monotonic() - started > args.seconds:
                print("time is up; the same command goes on", file=sys.stderr)
                return 0
            row = measure(cell, model, data, fp32, show)
            append(args.out, row.record())
            print(
                f"{network} {cell.method} {cell.bits} bits: {100 * row.report_top1:.2f} % of the report half "
                f"(fp32 {100 * fp32:.2f}), {row.bytes:,} bytes, {row.seconds:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
