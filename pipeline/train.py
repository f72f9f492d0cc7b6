"""`python -m pipeline.train`: co-tune one plan, alone, without a search. Also the way in to the training code.

Only torch is needed, none of Ray, Optuna and MLflow. Names are imported when they are asked for, so that ``--help`` does
not wait for torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config import Parser, Settings, main_guard
from pipeline.files import json_text
from pipeline.foreign_files import first_line
from pipeline.training.settings import OutOfRange, TrainSettings, pretraining_settings
from quantizers.errors import UserError
from quantizers.forms import FORMS
from search_spaces.plan import Plan

if TYPE_CHECKING:
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import error_of, fixed_sample, predictions
    from pipeline.training.loop import Diverged
    from pipeline.training.pretraining import Pretrained, default_cache, pretrain

__all__ = [
    "Cotuning",
    "Diverged",
    "Pretrained",
    "TrainSettings",
    "default_cache",
    "error_of",
    "fixed_sample",
    "predictions",
    "pretrain",
    "pretraining_settings",
]

_HOMES = {
    "cotuning": ("Cotuning",),
    "evaluation": ("error_of", "fixed_sample", "predictions"),
    "loop": ("Diverged",),
    "pretraining": ("Pretrained", "default_cache", "pretrain"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"pipeline.training.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
        help="folder that package.module:factory is looked up in (default the current one)",
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the input images")
    parser.add_argument("--mean", metavar="R,G,B", help="normalization, as in pipeline.search")
    parser.add_argument("--std", metavar="R,G,B", help="likewise")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    kinds = {"epochs": float, "batch_size": int, "learning_rate": float, "distillation": float, "seed": int}
    for field in dataclasses.fields(TrainSettings):
        if field.name in kinds:
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kinds[field.name],
                default=field.default,
                help="(default %(default)s)",
            )
    parser.add_argument(
        "--images-per-epoch", type=int, metavar="N", help="training images in an epoch (default all)"
    )
    parser.add_argument(
        "--form", choices=FORMS, default=TrainSettings.form, help="what training sees of the mixtures"
    )
    parser.add_argument(
        "--even-channels",
        action="store_true",
        help="a weight scale for each output channel, in the batch-norm",
    )
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")
    args = parser.parse_args(argv)
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    try:
        settings = TrainSettings(**{key: value for key, value in vars(args).items() if key in names})
    except OutOfRange as error:
        raise UserError(error.as_flag) from error
    plan = read_plan(args.plan)
    from pipeline.training.loop import Diverged

    try:
        metrics = _run(args, plan, settings)
    except Diverged as error:
        raise UserError(f"diverged: {error}; a lower --learning-rate may help") from error
    if args.format == "json":
        print(json_text(metrics))
    else:
        print(
            f"{args.out}: error {metrics['error']:.4f} on the search half (fp32 {metrics['fp32_error']:.4f})"
        )
    return 0


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

    from pipeline.data import load_data, split_manifest
    from pipeline.factories import look_in
    from pipeline.files import check_place, write_atomically
    from pipeline.first_check import first_check
    from pipeline.models import check_classifier, default_image_size, load_model, normalized_by
    from pipeline.normalization import described
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import error_of
    from pipeline.training.outputs import check_outputs
    from pipeline.training.pretraining import pretrain
    from quantizers.network import hard_state

    if args.device != "cpu" and not (args.device.startswith("cuda") and torch.cuda.is_available()):
        raise UserError(f"device {args.device!r}: allowed are cpu and, where torch finds one, cuda")
    check_place(args.out, f"--out {args.out}")
    look_in(args.modules)
    check_classifier(args.model)
    asked = Settings.from_dict({"mean": args.mean, "std": args.std}, "flag")
    mean, std, source = normalized_by(args.model, asked.mean, asked.std)
    data = load_data(args.data, args.image_size, fallback=default_image_size(args.model))
    model = load_model(
        args.model, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    check_outputs(model, (3, *data.image_size), len(data.classes))
    first_check(
        model,
        data.search,
        mean,
        std,
        plan,
        trained=args.weights is not None,
        say=partial(print, file=sys.stderr),
    )
    print(described(mean, std, source), file=sys.stderr)
    show = _Status()
    if args.weights is None:
        print(f"no weights given: training {args.model} on {args.data} first", file=sys.stderr)
        pretrained = pretrain(model, data, mean, std, name=args.model, device=args.device, progress=show)
        model, fp32_error = pretrained.network, pretrained.error
        print(f"{'found' if pretrained.cached else 'kept'} {pretrained.path}", file=sys.stderr)
    else:
        fp32_error = error_of(model, data.search, mean, std, settings.evaluation_batch)
    spread = (fp32_error * (1 - fp32_error) / len(data.search)) ** 0.5
    print(
        f"fp32: {100 * (1 - fp32_error):.2f} % +- {100 * spread:.2f} right on {len(data.search):,} images that guide",
        file=sys.stderr,
    )
    run = Cotuning(model, plan, data, settings, mean, std, device=args.device, progress=show)
    curve = []
    for epochs in (*range(1, int(settings.epochs - 1e-9) + 1), settings.epochs):
        rung = run.train_until(epochs)
        curve.append(rung)
        print(
            f"epoch {epochs:g}: loss {rung.loss:.4f}, error {rung.error:.4f}, {rung.seconds:.1f} s",
            file=sys.stderr,
        )
    hardened = run.hardened()
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
        "fp32_error": fp32_error,
        "error": curve[-1].error,
        "curve": [dataclasses.asdict(rung) for rung in curve],
        "zero_share": {name: codebook.zero_share for name, codebook in hardened.codebooks.items()},
    }
    write_atomically(args.out / "network.pt", content.getvalue())
    write_atomically(args.out / "metrics.json", json_text(metrics, indent=1) + "\n")
    return metrics


class _Status:
    """A live line of steps and loss on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now - self.last > 0.2 or done == total):
            self.last = now
            print(
                f"\rstep {done}/{total}, loss {loss:.4f} ",
                end="\n" if done == total else "",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main_guard(main))
