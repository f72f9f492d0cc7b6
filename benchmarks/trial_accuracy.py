"""Accuracy of whole trials at equal processor seconds: rebuilt first or trained at once, by each quantizer.

    python -m benchmarks.trial_accuracy --data npz:CIFAR10.npz --weights RESNET20.th --bits 2 3 --seconds 60

A cell is a method, bits, zeros, seconds and a seed. Seconds are those of the processor, of one thread: what
rebuilding takes is taken off, and as many steps are taken as a step's cost (timed before, on the same machine)
leaves. ``--steps`` asks for so many instead, whatever they take, which other machines can repeat. Every method has
the first and the last layer in 8 bits, 8-bit activations, the same images, augmentation, distillation and schedule,
and keeps, as a trial does, the network of its stages that is closest to fp32 on the search
half. Learning rates are those of ``--rates``, each a cell.

    ours                Gaussian mixtures: rebuilt, held, free
    ours-directly       the same without rebuilding
    paper               Gaussian mixtures in the published form, trained at once
    dkm, lsq, ewgs      differentiable k-means, learned steps, element-wise scaling, trained at once
    dkm-rebuilt, ...    each rebuilt first, from the same images by the same solver, then trained
    ecq, ecqx           entropy- and relevance-constrained levels, rebuilt first
    shrunk              Gaussian mixtures, the zeros' weights, or those of blocks that are left out, shrunk by ``--shrink`` in
                        each step; shrunk-directly the same without rebuilding
    rebuilt             Gaussian mixtures, rebuilt alone, whatever it takes
    adaround            learned rounding of a uniform grid, layer by layer, a thousand steps each, whatever it takes;
                        adaround-published with as many steps as its publication takes, twenty thousand
    kmeans, int8        nothing trained; int8-norms rebuilt alone (norms and biases matched)

What is judged: error on the report half, paired with fp32's answers image by image, and the divergence from fp32. An odd
seed guides by the half that an even one reports on, so that two seeds together report on all validation images without one
that guided the network judged on it. ``answers`` says image by image which were right (``right_of``); the columns
``search_*`` are of the half that guided, from which rates and temperatures may be chosen (``benchmarks.trial_differences``). A
row is appended when its cell is done; a cell that the file has is passed over, so the same command goes on.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import append, as_text, done_in
from foundation.command import Parser, main_guard
from foundation.plan import LayerPlan, Plan, TemperatureSchedule

METHODS = {
    "ours": ("gaussian_mixture", "staged"),
    "ours-directly": ("gaussian_mixture", "directly"),
    "paper": ("gaussian_mixture", "directly"),
    "dkm": ("differentiable_kmeans", "directly"),
    "lsq": ("learned_step", "directly"),
    "ewgs": ("element_wise_scaling", "directly"),
    "dkm-rebuilt": ("differentiable_kmeans", "staged"),
    "lsq-rebuilt": ("learned_step", "staged"),
    "ewgs-rebuilt": ("element_wise_scaling", "staged"),
    "ecq": ("ecq", "staged"),
    "ecqx": ("ecqx", "staged"),
    "shrunk": ("benchmarks.shrinking:Shrinking", "staged"),
    "shrunk-directly": ("benchmarks.shrinking:Shrinking", "directly"),
    "rebuilt": ("gaussian_mixture", "rebuilt"),
    "adaround": ("adaptive_rounding", "rounded"),
    "adaround-published": ("adaptive_rounding", "rounded"),
    "int8-norms": ("gaussian_mixture", "rebuilt"),
    "kmeans": ("gaussian_mixture", "untrained"),
    "int8": ("gaussian_mixture", "untrained"),
}
DKM = 0.05  # temperature, in standard deviations of a layer's weights
ROUNDED = {"adaround": 1000, "adaround-published": 20_000}  # steps a layer
PROBED = 4  # steps that are timed, after two


@dataclass(frozen=True)
class Cell:
    """One row's conditions."""

    network: str
    method: str
    bits: int
    zero_share: float | None
    seconds: float
    rate: float
    seed: int
    temperature: float | None = None
    shrink: float | None = None
    asked_steps: int | None = None
    kept_blocks: float | None = None
    coded_bits: float | None = None


@dataclass(frozen=True)
class TrialPart:
    """What is changed of a trial: settings, fields of the plan, the network that is trained, the share of steps that may be held
    at most, the class of the co-tuning (None: ``Cotuning``), whether the first and the last layer are as the others."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Any], None] | None = None
    most_held: float = 0.25
    cotuning: type[Any] | None = None
    ends_alike: bool = False


@dataclass(frozen=True)
class Row:
    """What came out; shares of images 0..1, divergences in nats."""

    rebuilding_seconds: float
    steps: int
    processor_seconds: float
    kept: str
    fp32_error: float
    error: float
    difference: float
    difference_standard_error: float
    divergence: float
    divergence_standard_error: float
    zeros: float
    moved: float | None
    flipped: float | None
    images: int
    bytes: int
    packed_bytes: int
    search_difference: float
    search_divergence: float
    answers: str


def plan_of(cell: Cell, names: list[str], *, ends_alike: bool = False) -> Plan:
    """The plan of a cell for layers ``names``."""
    bits = 8 if cell.method.startswith("int8") else cell.bits
    quantizer = METHODS[cell.method][0]
    structure = {"kept_blocks": cell.kept_blocks, "coded_bits": cell.coded_bits}
    inner = (
        LayerPlan(8) if bits == 8 else LayerPlan(bits, 2**bits, zero_share=cell.zero_share, values=structure)
    )
    ends = {} if ends_alike else {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    layers = dict.fromkeys(names, inner) | ends
    rest: dict[str, Any] = {}
    if quantizer == "differentiable_kmeans":
        heat = DKM if cell.temperature is None else cell.temperature
        rest["temperature"] = TemperatureSchedule(heat, heat, "constant")
    return Plan(layers, quantizer=quantizer, **rest)


def measure(cell: Cell, model: Any, data: Any, mean: Any, std: Any, part: TrialPart | None = None) -> Row:
    """Train and judge one cell, with a part of the trial changed."""
    import torch

    from benchmarks.shrinking import shrink_what_is_left_out
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import predictions
    from pipeline.training.judges import Judge
    from pipeline.training.rung import best_of
    from pipeline.training.settings import TrainSettings
    from pipeline.training.stages import FREE, HELD, REBUILT, Stage
    from quantizers.calibration.reconstruction import Reconstruction
    from quantizers.network import layer_names

    part = part or TrialPart()
    way = METHODS[cell.method][1]
    if cell.seed % 2:
        data = replace(data, search=data.report, report=data.search)
    settings = TrainSettings(
        epochs=1.0, learning_rate=cell.rate, seed=cell.seed, form="paper" if cell.method == "paper" else "straight",
        options={} if cell.shrink is None else {"shrink": cell.shrink},
    )  # fmt: skip
    settings = replace(settings, **part.settings)
    plan = replace(plan_of(cell, layer_names(model), ends_alike=part.ends_alike), **part.plan)

    def make() -> Any:
        run = (part.cotuning or Cotuning)(model, plan, data, settings, mean, std)
        if cell.shrink is not None:
            shrink_what_is_left_out(run.network, cell.shrink)
        if part.change:
            part.change(run.network)
        return run

    trained = way in ("staged", "directly")
    timed = trained and cell.asked_steps is None
    step = seconds_of_a_step(make()) if timed else 0.0
    run, begun, curve = make(), time.process_time(), []
    if way in ("staged", "rebuilt"):
        curve.append(run.reach(Stage(REBUILT)))
    elif way == "rounded":
        run.rebuild(settings.rebuild_images, Reconstruction(steps=ROUNDED[cell.method], solve=False), None)
    rebuilding = run.seconds and time.process_time() - begun
    steps = (cell.asked_steps or 0) if trained else 0
    if timed:
        steps = max(0, int((cell.seconds - rebuilding) / step))
    if steps:
        held = min(settings.held_steps, int(part.most_held * steps)) if way == "staged" else 0
        run.settings = replace(settings, held_steps=held)
        if held:
            curve.append(run.reach(Stage(HELD)))
        run.total_steps = steps - run.before
        curve.append(run.reach(Stage(FREE, run.total_steps / run.steps_per_epoch)))
    spent = rebuilding + step * steps if timed else time.process_time() - begun
    run.settle()
    hardened = run.hardened()
    half, images = data.report, len(data.report)
    judged = Judge(model, half, torch.arange(images), mean, std, 256)(hardened.network)
    guided = Judge(model, data.search, torch.arange(len(data.search)), mean, std, 256)
    guide = guided(hardened.network)
    right, wanted = (
        (predictions(net, half, mean, std) == half.labels).double() for net in (hardened.network, model)
    )
    difference, before = right - wanted, 1 - float(wanted.mean())
    zeros = sum(int((book.integers == 0).sum()) for book in hardened.codebooks.values())
    total = sum(book.indices.size for book in hardened.codebooks.values())
    return Row(
        rebuilding,
        steps,
        spent,
        curve[best_of(tuple(curve))].where if curve else "rebuilt" if way == "rounded" else "untrained",
        before,
        before - float(difference.mean()),
        float(difference.mean()),
        float(difference.std() / images**0.5),
        judged.divergence,
        judged.standard_error,
        zeros / total,
        curve[-1].moved if curve else None,
        curve[-1].flipped if curve else None,
        images,
        *sizes(hardened, data.image_size, mean, std),
        guided.fp32_error - guide.error,
        guide.divergence,
        packed(right.bool()),
    )


def sizes(hardened: Any, image_size: Any, mean: Any, std: Any) -> tuple[int, int]:
    """Bytes of what the ARM program loads: indices coded where that is shorter, and all packed."""
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph

    graph = compile_graph(hardened, (3, *image_size), list(mean), list(std))
    return len(write_blob(graph)), len(write_blob(graph, coded=False))


def packed(right: Any) -> str:
    """Which images were answered rightly, as text."""
    return base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()


def right_of(text: str, images: int) -> NDArray[np.bool_]:
    """The images of ``packed``, in the order of their half."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=images).astype(bool)


def seconds_of_a_step(run: Any) -> float:
    """Processor seconds of one step of training."""
    run.run_to(2)
    begun = time.process_time()
    run.run_to(2 + PROBED)
    return (time.process_time() - begun) / PROBED


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    import torch

    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model
    from quantizers import QUANTIZERS

    def share(text: str) -> float | None:
        return None if text == "none" else float(text)

    parser = Parser(
        prog="python -m benchmarks.trial_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, default=[2])
    parser.add_argument("--zero-shares", nargs="+", type=share, default=[None])
    parser.add_argument(
        "--kept-blocks", nargs="+", type=share, default=[None], help="share of the blocks that is kept"
    )
    parser.add_argument(
        "--coded-bits", nargs="+", type=share, default=[None], help="that an index takes in the file"
    )
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0])
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[None], help="of training, instead of --seconds"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=[0.005])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[DKM], help="of dkm")
    parser.add_argument("--shrink", nargs="+", type=float, default=[0.99], help="of shrunk")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trial_accuracy.csv"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    network = find_network(args.network)
    data = load_data(args.data)
    mean, std = network.normalization
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    asked = itertools.product(
        args.seeds,
        args.bits,
        args.zero_shares,
        args.kept_blocks,
        args.coded_bits,
        args.seconds if args.steps == [None] else [0.0],
        args.steps,
        args.methods,
        args.rates,
        args.temperatures,
        args.shrink,
    )
    done = done_in(args.out, Cell)
    for seed, bits, zeros, blocks, coded, seconds, steps, method, rate, temperature, shrink in asked:
        quantizer, way = METHODS[method]
        wanted = {"zero_share": zeros, "coded_bits": coded}
        if any(wanted[name] is not None for name in wanted.keys() - QUANTIZERS[quantizer].dimensions):
            continue  # it has no control of them
        if way not in ("staged", "directly"):
            rate = args.rates[0]
        heat = temperature if quantizer == "differentiable_kmeans" else None
        factor = shrink if method.startswith("shrunk") else None
        cell = Cell(
            args.network, method, bits, zeros, seconds, rate, seed, heat, factor, steps, blocks, coded
        )
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        done.add(tuple(said.values()))
        row = measure(cell, model, data, mean, std)
        append(args.out, {**said, **as_text(asdict(row)), "torch": torch.__version__})
        print(
            f"{method} {bits} bits {zeros or ''} {seconds:g} s: {100 * row.difference:+.2f} +- "
            f"{100 * row.difference_standard_error:.2f} points, {row.divergence:.4f} nats, {row.steps} steps, {row.kept}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
