"""`python -m pipeline.train`: co-tune one plan, alone, without a search.

Of a detector too: it learns from the fp32 network's answers and needs boxes only to be judged. Only torch is needed, none of Ray,
Optuna and MLflow.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

from foundation.command import Parser, main_guard, say
from foundation.errors import UserError
from foundation.factories import look_in
from foundation.files import json_text
from foundation.foreign_files import first_line
from foundation.plan import Plan
from foundation.show import show_percent, show_seconds
from pipeline.review.progress import StepLine
from pipeline.study import paths
from pipeline.study.settings import Settings
from pipeline.training.settings import ACCURACY, OutOfRange, TrainSettings, of_detectors
from quantizers.mixture.forms import FORMS

OWN = ("model", "data", "weights", "image_size", "mean", "std", "modules")  # as in ``Settings``


def main(argv: list[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(
        prog="python -m pipeline.train", description="Co-tune one plan and write the compressed network."
    )
    parser.add_argument(
        "--model", default="vgg_tiny", help="network, as in pipeline.search (default %(default)s)"
    )
    parser.add_argument(
        "--data",
        type=paths.data,
        default="digits",
        help="data set, as in pipeline.search (default %(default)s)",
    )
    parser.add_argument(
        "--weights",
        type=paths.weights,
        metavar="FILE",
        help="trained weights; without, the network is trained first",
    )
    parser.add_argument("--plan", type=paths.absolute, required=True, metavar="FILE", help="the plan, JSON")
    parser.add_argument(
        "--out",
        type=paths.absolute,
        default="trained",
        metavar="DIR",
        help="where network.pt and metrics.json go",
    )
    parser.add_argument(
        "--modules",
        type=paths.absolute,
        metavar="DIR",
        help="folder that package.module:name is looked up in (default the current one)",
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input images")
    parser.add_argument("--mean", metavar="R,G,B", help="normalization, as in pipeline.search")
    parser.add_argument("--std", metavar="R,G,B", help="likewise")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    kinds = {
        "epochs": float,
        "batch_size": int,
        "learning_rate": float,
        "distillation": float,
        "seed": int,
        "rebuild_images": int,
        "held_steps": int,
        "held_rate": float,
    }
    for field in dataclasses.fields(TrainSettings):
        if field.name in kinds:
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kinds[field.name],
                default=argparse.SUPPRESS,
                help=f"(default {_default(field.name)})",
            )
    parser.add_argument(
        "--directly",
        action="store_true",
        help="co-tune at once, as published, without rebuilding layers first",
    )
    parser.add_argument(
        "--images-per-epoch", type=int, metavar="N", help="training images in an epoch (default all)"
    )
    parser.add_argument(
        "--form", choices=FORMS, default=TrainSettings.form, help="what training sees of the mixtures"
    )
    parser.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        dest="options",
        metavar="NAME=VALUE",
        help="an option of the plan's quantizer, such as ramp_end=0.2; may be given several times",
    )
    parser.add_argument(
        "--even-channels",
        action="store_true",
        help="a weight scale for each output channel, in the batch-norm",
    )
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")
    args = parser.parse_args(argv)
    args.options = dict(args.options)
    look_in(args.modules)
    from pipeline.networks.registry import find_network

    settings = _settings(args, detects=find_network(args.model).detects)
    plan = read_plan(args.plan)  # may name a dimension from there
    from pipeline.training.loop import Diverged

    try:
        metrics = _run(args, plan, settings)
    except Diverged as error:
        raise UserError(f"diverged: {error}; a lower --learning-rate may help") from error
    if args.format == "json":
        print(json_text(metrics))
    else:
        word = "error" if metrics["metric"] == ACCURACY else f"1 - {metrics['metric']}"
        print(
            f"{args.out}: {word} {metrics['error']:.4f} on the search half (fp32 {metrics['fp32_error']:.4f})"
        )
    return 0


def _default(name: str) -> str:
    """A setting's value without its flag, and of detectors where that is another."""
    usual, detectors = (
        getattr(settings, name) for settings in (TrainSettings(), of_detectors(TrainSettings()))
    )
    return f"{usual}" if usual == detectors else f"{usual}, of detectors {detectors}"


def _settings(args: argparse.Namespace, *, detects: bool) -> TrainSettings:
    """What the flags say, and for the rest what is good for such networks.

    Raises:
        UserError: a value that none can have, or that detectors cannot.
    """
    usual = of_detectors(TrainSettings()) if detects else TrainSettings()
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    try:
        settings = dataclasses.replace(usual, **{k: v for k, v in vars(args).items() if k in names})
    except OutOfRange as error:
        raise UserError(error.as_flag) from error
    if detects and settings.distillation != 1:
        raise UserError(
            f"--distillation {settings.distillation:g}: a detector learns from the fp32 network alone; give 1, or leave it out"
        )
    return settings


def _option(text: str) -> tuple[str, Any]:
    """Name and value of ``NAME=VALUE``: a number or a word of JSON's, else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--option {text}: give NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        UserError: it cannot be read, or holds no plan.
    """
    try:
        return Plan.from_json(path.read_text())
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # any bytes may lie there
        raise UserError(f"cannot read the plan in {path}: {first_line(error)}") from error


def _run(args: argparse.Namespace, plan: Plan, settings: TrainSettings) -> dict[str, Any]:
    """Train, write ``network.pt`` and ``metrics.json``, return the metrics."""
    import torch

    from foundation.files import check_place, write_atomically
    from pipeline.candidate.first_check import first_check
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.base import split_manifest
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.judges import Judges
    from pipeline.training.pretraining import pretrain
    from pipeline.training.rung import best_of
    from pipeline.training.stages import FREE, HELD, REBUILT, Stage
    from quantizers import QUANTIZERS
    from quantizers.network import hard_state

    if args.device != "cpu" and not (args.device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(f"device {args.device!r}: allowed are cpu and, where torch finds one, cuda")
    check_place(args.out, f"--out {args.out}")
    # Before anything that takes long.
    QUANTIZERS[plan.quantizer].options_for(plan, settings.of_quantizer())
    named = {name: getattr(args, name) for name in OWN if getattr(args, name) is not None}
    workspace = Workspace.open(Settings.from_dict(named, "flag"), trained=False)
    data, model, mean, std = workspace.data, workspace.model, workspace.mean, workspace.std
    first_check(
        model,
        data.search,
        mean,
        std,
        plan,
        trained=args.weights is not None,
        say=say,
    )
    say(workspace.normalization)
    show = StepLine()
    if args.weights is None:
        say(f"no weights given: training {args.model} on {args.data} first")
        pretrained = pretrain(model, data, mean, std, name=args.model, device=args.device, progress=show)
        model = pretrained.network
        say(f"{'found' if pretrained.cached else 'kept'} {pretrained.path}")
    where, task = torch.device(args.device), workspace.task
    judges = Judges.of(model, data, settings, mean, std, where, task=task)
    fp32 = judges.search.fp32
    spread = fp32.error_standard_error
    if spread is None:
        spread = (fp32.error * (1 - fp32.error) / len(data.search)) ** 0.5
    good, guiding = show_percent(1 - fp32.error, spread), f"on {len(data.search):,} images that guide"
    say(f"fp32: {good} right {guiding}" if task.classifies else f"fp32: {task.called} {good} {guiding}")
    run = Cotuning(model, plan, data, settings, mean, std, device=where, progress=show, judges=judges)
    curve = []
    whole = [Stage(FREE, epochs) for epochs in range(1, int(settings.epochs - 1e-9) + 1)]
    before = [] if args.directly else [Stage(REBUILT), Stage(HELD)]
    for stage in (*before, *whole, Stage(FREE, settings.epochs)):
        rung = run.reach(stage)
        curve.append(rung)
        say(
            f"{rung.where}: loss {rung.loss:.4f}, error {rung.error:.4f}, divergence from fp32 {rung.divergence:.4f} nats, "
            f"{show_seconds(rung.seconds)}"
        )
    if run.diverged is not None:
        say(f"diverged: {run.diverged}; a lower --learning-rate may help")
    run.settle()
    best, judged, hardened = curve[best_of(tuple(curve))], run.judgement(), run.hardened()
    say(f"kept the network {best.where}: the closest to fp32")
    content = io.BytesIO()
    torch.save(hard_state(hardened), content)
    metrics = {
        "model": args.model,
        "weights": args.weights,
        "plan": json.loads(plan.to_json()),
        "hash": plan.hash,
        "settings": settings.as_dict(),
        "classes": list(data.classes),
        "image_size": list(data.image_size),
        "normalization": {"mean": list(mean), "std": list(std)},
        "split": split_manifest(data),
        "metric": task.metric,
        "fp32_error": fp32.error,
        "error": judged.error,
        "divergence": judged.divergence,
        "divergence_standard_error": judged.standard_error,
        "kept": best.where,
        "curve": [dataclasses.asdict(rung) for rung in curve],
        "zeros": {name: codebook.zeros for name, codebook in hardened.codebooks.items()},
    }
    write_atomically(args.out / "network.pt", content.getvalue())
    write_atomically(args.out / "metrics.json", json_text(metrics, indent=1) + "\n")
    return metrics


if __name__ == "__main__":
    sys.exit(main_guard(main))
