"""Accuracy of ways to few weight values at equal training and equal honest bytes.

    python -m benchmarks.cotuning_accuracy --data npz:CIFAR10.npz --weights RESNET20.th --bits 2 3 4 --epochs 1

The long table on a GPU, in slices of nine minutes; the same command goes on until no cell is left (exit status 3 says that
some are):

    python -m benchmarks.cotuning_accuracy --data npz:CIFAR10.npz --weights RESNET20.th --device cuda --bfloat16 \\
        --epochs 200 --bits 2 3 4 --activations 8 7 none --zero-shares none 0.7 0.8 --seeds 0 1 2 \\
        --parallel 4 --seconds 540 --candidates candidates

Every cell starts from the same trained network (``--weights``, or trained here first) and takes the same steps: same
epochs, order and augmentation of images, distillation, peak learning rate. The first and the last layer have 8 bits.

    ours                   Gaussian mixtures, hard weights with the soft ones' gradients
    posterior              Gaussian mixtures, soft weights, the temperature annealed
    paper                  Gaussian mixtures, the published form (temperature 0.01)
    dkm                    differentiable k-means, temperature 0.05 standard deviations of a layer's weights
    lsq                    uniform, learned step
    ewgs                   uniform in a learned interval, gradients scaled element by element (fixed factor 0.001)
    kmeans                 exact k-means, activations and batch-norm calibrated, nothing trained
    int8                   8 bits everywhere, nothing trained

Accuracy is judged once, after the last step, with hard weights, on the report half of the validation images; nothing is
chosen on those. Choose between ``--learning-rates`` by the column ``search_top1``. ``bytes`` is the length of the blob that
the ARM program loads (with 8-bit activations where the cell has float ones). A row is appended when its cell is done; a
cell that the file has already is passed over, or with ``--again`` measured anew. Which images were answered rightly goes to a
file beside it, ending in ``_answers.csv``, from which ``benchmarks.cotuning_differences`` compares methods image by image.

A cell keeps its state once a minute and goes on from there, step for step, when it was cut off. With ``--seconds`` no cell is
begun after that time and the running ones stop at a checkpoint; give a machine that takes itself away half a minute more.
``--parallel`` runs so many cells at once, also on one GPU; one process writes the file. ``--candidates`` keeps networks that
``python -m pipeline.evaluate DIR/NAME --data npz:CIFAR10.npz`` judges again: of cells that differ only in seed, learning
rate, data type and device, the one that is best on the search half. ``seconds`` (of all slices) are not comparable between
cells unless the machine did nothing else.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.cotuning_slices import TimeIsUp, is_over, side_by_side, train_in_slices
from benchmarks.cotuning_table import CONDITIONS, Answers, Cell, Row, key
from benchmarks.rows import append, read
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from pipeline.study.lock import lock
from quantizers.mixture.forms import FORMS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNTRAINED = ("kmeans", "int8")
METHODS = ("ours", "posterior", "paper", "lsq", "ewgs", "dkm", *UNTRAINED)
QUANTIZER = {"lsq": "learned_step", "ewgs": "element_wise_scaling"}
OPEN = 3  # exit status: some cells are not done yet
DIVERGED = "diverged"
DKM = TemperatureSchedule(0.05, 0.05, "constant")
ANNEALED = TemperatureSchedule(1.0, 0.02, "exponential")


@dataclass(frozen=True)
class Job:
    """What a process needs besides a cell. ``deadline`` is on ``time.monotonic``'s clock."""

    data: str
    weights: str | None
    checkpoints: Path
    candidates: Path | None
    deadline: float | None
    pretraining_epochs: float | None = None

    def checkpoint(self, cell: Cell) -> Path:
        """Where the cell's state is kept while it trains."""
        digest = hashlib.sha256(repr(key(cell.record())).encode()).hexdigest()
        return self.checkpoints / f"{cell.network}-{cell.method}-{digest[:16]}.pt"


def _name(spec: str) -> str:
    """A data set without the place where it lies on this machine."""
    kind, colon, place = spec.partition(":")
    return kind + colon + (Path(place).name if place else "")


def cells(args: argparse.Namespace) -> list[Cell]:
    """The cells asked for, without those that make no sense or are equal to others."""
    found: dict[Cell, None] = {}
    asked = itertools.product(
        args.seeds, args.networks, args.activations, args.bits, args.zero_shares, args.methods, args.learning_rates
    )  # fmt: skip
    for seed, network, activations, bits, zeros, method, rate in asked:
        if zeros is not None and method not in ("ours", *FORMS):
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
    layer = LayerPlan(8) if cell.bits == 8 else LayerPlan(cell.bits, 2**cell.bits, zero_share=cell.zero_share)
    layers = dict.fromkeys(names, layer) | {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    rest: dict[str, Any] = {"activation_bits": cell.activation_bits or 8}
    if cell.method in ("dkm", "kmeans"):
        rest |= {"quantizer": "differentiable_kmeans", "temperature": DKM}
    elif cell.method == "posterior":
        rest["temperature"] = ANNEALED
    elif cell.method in QUANTIZER:
        rest["quantizer"] = QUANTIZER[cell.method]
    return Plan(layers, **rest)


def measure(job: Job, cell: Cell, model: Any, data: Any, fp32_top1: float, show: Any) -> Row:
    """Train and judge one cell.

    Raises:
        TimeIsUp: it stopped at a checkpoint.
    """
    import numpy as np
    import torch

    from benchmarks.cotuning_candidates import keep
    from pipeline.networks.registry import find_network
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.settings import TrainSettings
    from quantizers.network import layer_names, without_steps

    mean, std = find_network(cell.network).normalization
    settings = TrainSettings(
        epochs=cell.epochs or 1.0, learning_rate=cell.learning_rate or 0.01, seed=cell.seed,
        distillation=cell.distillation, distillation_temperature=cell.distillation_temperature or 1.0,
        bfloat16=cell.bfloat16, form=cell.method if cell.method in FORMS else TrainSettings.form,
        kept_images=0,  # every image teaches, and the last network counts
    )  # fmt: skip
    plan = plan_of(cell, layer_names(model))
    run = Cotuning(model, plan, data, settings, mean, std, device=cell.device, progress=show)
    if cell.activation_bits is None:
        without_steps(run.network)
    earlier = 0.0
    if cell.epochs:
        train_in_slices(run, cell.epochs, job.checkpoint(cell), job.deadline)
        earlier = run.seconds
    judging = time.perf_counter()
    hardened = run.hardened()
    answers = Answers(*right(hardened.network, data, mean, std), *_fp32_right(job, cell.network, cell.device))
    zeros = sum(int((book.integers == 0).sum()) for book in hardened.codebooks.values())
    total = sum(book.indices.size for book in hardened.codebooks.values())
    blob = _blob(cell, model, data, hardened, plan, np.array(mean), np.array(std))
    row = Row(
        cell, float(answers.report.mean()), float(answers.search.mean()), fp32_top1, zeros / total, len(blob), run.step,
        time.perf_counter() - judging + earlier, torch.__version__, answers,
    )  # fmt: skip
    if job.candidates is not None and cell.epochs and cell.activation_bits is not None:
        keep(job.candidates, row, run, hardened, blob)
    return row


def right(network: Any, data: Any, mean: Any, std: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images of the search and of the report half a network answers rightly.

    On the CPU in the batches of ``pipeline.evaluate``, so that it can find the same accuracy again.
    """
    from pipeline.evaluate import BATCH
    from pipeline.training.evaluation import predictions

    search, report = (
        (predictions(network, half, mean, std, BATCH) == half.labels).numpy()
        for half in (data.search, data.report)
    )
    return search, report


def _blob(cell: Cell, model: Any, data: Any, hardened: Any, plan: Plan, mean: Any, std: Any) -> bytes:
    """What the ARM program loads. With float activations: of the same weights behind untrained 8-bit activations."""
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from pipeline.datasets.images import normalize
    from quantizers.network import Hardened, harden, quantize

    if cell.activation_bits is None:
        stand_in = quantize(model, plan, normalize(data.train.batch(_first(64)), mean.tolist(), std.tolist()))
        network = harden(stand_in).network
        for name in hardened.codebooks:
            weight = cast(Any, network.get_submodule(name)).weight
            weight.copy_(cast(Any, hardened.network.get_submodule(name)).weight)
        hardened = Hardened(network, hardened.codebooks)
    return write_blob(compile_graph(hardened, (3, *data.image_size), mean.tolist(), std.tolist()))


def _first(count: int) -> Any:
    import torch

    return torch.arange(count)


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
    parser.add_argument(
        "--pretraining-epochs",
        type=float,
        help="of networks without weights; default: as pipeline.search trains them",
    )
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
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="cells at once, also on one GPU")
    parser.add_argument(
        "--again", action="store_true", help="measure cells that the file has too; the new rows stay"
    )
    parser.add_argument("--seconds", type=float, help="stop at checkpoints after this time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cotuning_accuracy.csv"))
    parser.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="states of running cells (default: beside --out, ending in .cells)",
    )
    parser.add_argument("--candidates", type=Path, metavar="DIR", help="keep the best co-tuned networks here")
    args = parser.parse_args(argv)
    if args.weights and len(args.networks) > 1:
        raise UserError("--weights belong to one network; give one of --networks")
    if args.weights and args.pretraining_epochs is not None:
        raise UserError("--pretraining-epochs train a network without --weights; give one of the two")
    if args.parallel < 1:
        raise UserError(f"--parallel {args.parallel}: give 1 or more")
    deadline = None if args.seconds is None else time.monotonic() + args.seconds
    checkpoints = args.checkpoints or args.out.with_suffix(".cells")
    checkpoints.mkdir(parents=True, exist_ok=True)
    with lock(checkpoints, "table"):
        job = Job(
            args.data, args.weights, checkpoints, args.candidates, deadline, args.pretraining_epochs
        )  # fmt: skip
        left = _run(job, args)
        if not any(checkpoints.glob("*.pt")):
            shutil.rmtree(checkpoints)
    return left


def _run(job: Job, args: argparse.Namespace) -> int:
    """Run the cells that are left; the exit status."""
    done = set() if args.again else {key(record) for record in read(args.out, CONDITIONS)}
    wanted = cells(args)
    # The file keeps text, so cells are compared as text.
    left = [cell for cell in wanted if key(cell.record()) not in done]
    print(f"{len(wanted)} cells, {len(wanted) - len(left)} of them done", file=sys.stderr)
    if job.weights is None and args.parallel > 1:  # trained once, here; the processes find it in the cache
        for network in dict.fromkeys(cell.network for cell in left):
            _start(job, network, args.device)
    stopped = diverged = 0
    for cell, outcome in side_by_side(functools.partial(work, job), left, args.parallel):
        if isinstance(outcome, str):
            diverged += outcome.startswith(DIVERGED)
            stopped += not outcome.startswith(DIVERGED)
            print(f"{_said(cell)}: {outcome}", file=sys.stderr, flush=True)
            continue
        append(answers_of(args.out), cell.record() | outcome.answers.record(), CONDITIONS)
        append(args.out, outcome.record(), CONDITIONS)
        job.checkpoint(cell).unlink(missing_ok=True)
        print(
            f"{_said(cell)}: {100 * outcome.report_top1:.2f} % of the report half (fp32 "
            f"{100 * outcome.fp32_report_top1:.2f}), {outcome.bytes:,} bytes, {outcome.seconds:.0f} s",
            flush=True,
        )
    if stopped:
        print(f"time is up, {stopped} cells are left; the same command goes on", file=sys.stderr)
    return OPEN if stopped else int(diverged > 0)


def answers_of(table: Path) -> Path:
    """The file beside a table that says which images were answered rightly."""
    return table.with_name(f"{table.stem}_answers.csv")


def work(job: Job, cell: Cell) -> Row | str:
    """The cell's row, or in words why there is none yet."""
    from pipeline.review.progress import StepLine
    from pipeline.training.loop import Diverged

    if is_over(job.deadline):
        return "not begun"
    model, data, fp32 = _start(job, cell.network, cell.device)
    try:
        return measure(job, cell, model, data, fp32, StepLine())
    except TimeIsUp as stop:
        return str(stop)
    except Diverged as error:
        return f"{DIVERGED}: {error}"


@functools.lru_cache(maxsize=1)
def _data(spec: str) -> Any:
    from pipeline.datasets.registry import load_data

    return load_data(spec)


@functools.lru_cache(maxsize=1)
def _start(job: Job, network: str, device: str) -> tuple[Any, Any, float]:
    """The trained fp32 network, the data, and the network's accuracy on the report half."""
    from pipeline.networks.registry import find_network, load_model
    from pipeline.review.progress import StepLine
    from pipeline.training.evaluation import error_of
    from pipeline.training.pretraining import pretrain
    from pipeline.training.settings import pretraining_settings

    data = _data(job.data)
    mean, std = find_network(network).normalization
    model = load_model(network, classes=len(data.classes), image_size=data.image_size, weights=job.weights)
    if job.weights is None:
        settings = pretraining_settings(len(data.train))
        if job.pretraining_epochs is not None:
            settings = replace(settings, epochs=job.pretraining_epochs)
        model = pretrain(
            model, data, mean, std, name=network, settings=settings, device=device, progress=StepLine()
        ).network.cpu()
    return model, data, 1 - error_of(model, data.report, mean, std)


@functools.lru_cache(maxsize=1)
def _fp32_right(job: Job, network: str, device: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    from pipeline.networks.registry import find_network

    model, data, _ = _start(job, network, device)
    return right(model, data, *find_network(network).normalization)


def _said(cell: Cell) -> str:
    return f"{cell.network} {cell.method} {cell.bits} bits"


if __name__ == "__main__":
    sys.exit(main_guard(main))
