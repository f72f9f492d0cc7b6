"""`python -m pipeline.quantize`: one compressed network in minutes, by one plan, without labels and without a search.

Every layer is rebuilt from a few images, so that it gives, from quantized inputs, what it gave in the fp32 network. The result
is a candidate folder like a search's. What was cut off goes on when the same is typed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import Parser, main_guard, shell
from foundation.errors import UserError
from foundation.factories import look_in
from foundation.files import check_place, json_text, write_atomically
from foundation.plan import LayerPlan, Plan
from foundation.show import show_seconds
from pipeline.devices import add_flags, named_devices
from pipeline.review.fronts import front_json, front_table
from pipeline.review.next_steps import how_to_evaluate
from pipeline.review.progress import Progress
from pipeline.study import paths
from pipeline.study.records import TrialRecord
from pipeline.study.references import REFERENCES
from pipeline.study.settings import Settings

if TYPE_CHECKING:
    from torch import fx

    from pipeline.candidate.bench import Bench
    from pipeline.candidate.devices import AtHand, Devices
    from pipeline.candidate.workspace import Workspace
    from pipeline.study.records import Reference

LAYERS = "rebuilding"  # in the folder while it is made: the layers that are done
CODE = "checksum of the quantizers"  # matters while layers are rebuilt; what is finished may be shown by later code
COMPONENTS = {2: 4, 3: 8, 4: 16}  # as many as an index of so many bits can tell apart
OWN = ("model", "data", "metric", "weights", "target", "image_size", "mean", "std", "seed")


def main(argv: list[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(prog="python -m pipeline.quantize", description=__doc__)
    for name, text in (
        ("model", "network, as in pipeline.search"),
        ("data", "data set, as in pipeline.search; its training images rebuild, without their labels"),
        ("metric", "instead of accuracy: package.module:function, as in pipeline.search"),
        ("weights", "trained weights; without, the network is trained first, as in pipeline.search"),
        ("target", "ARM CPU that the program is for"),
        ("image-size", "side of the input images in pixels"),
        ("mean", "normalization, as in pipeline.search"),
        ("std", "likewise"),
        ("seed", "draws the places in those images that a layer is looked at"),
    ):
        parser.add_argument(f"--{name}", help=f"{text}{_default(name)}", default=argparse.SUPPRESS)
    parser.add_argument(
        "--images-from",
        type=paths.absolute,
        metavar="DIR",
        help="instead of --data: a folder of images without labels, flat or nested. Half of them, at most 2,000, only "
        "show how alike the result answers; the others rebuild",
    )
    parser.add_argument(
        "--bits", type=int, default=4, help="of every layer but the first and the last (default 4)"
    )
    parser.add_argument(
        "--components", type=int, metavar="K", help="values that a layer's weights share (default 2**bits)"
    )
    parser.add_argument(
        "--zero-share", type=float, metavar="SHARE", help="share of zeros (default: what comes)"
    )
    parser.add_argument(
        "--coded-bits",
        type=float,
        metavar="BITS",
        help="that an index takes in the file on average, about, fewer than --bits: evenly spaced values, more of a layer's "
        "weights on some than on others (default: values where the weights are)",
    )
    parser.add_argument(
        "--ends", type=int, default=8, metavar="BITS", help="of the first and the last layer (default 8)"
    )
    parser.add_argument(
        "--plan", type=paths.absolute, metavar="FILE", help="a plan (JSON) instead of the five flags above"
    )
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="training images that rebuild (default 256)"
    )
    parser.add_argument(
        "--out",
        type=paths.absolute,
        default="quantized",
        metavar="DIR",
        help="where to (default %(default)s)",
    )
    add_flags(parser)
    parser.add_argument(
        "--allow-bad-fp32",
        action="store_true",
        help="go on even if the fp32 network is no better than guessing",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")
    args = parser.parse_args(argv)
    if args.images < 2:
        raise UserError(f"--images {args.images}: give 2 or more")
    if args.images_from is not None:
        if "data" in args:
            raise UserError(
                f"--data {args.data}: --images-from names the images already; leave one of them out"
            )
        args.data = f"unlabelled:{args.images_from}"
    given = {key: value for key, value in vars(args).items() if key in OWN}
    settings = Settings.from_dict(
        paths.settled({**given, "modules": args.modules, "devices": args.devices}), "flag"
    )
    out = paths.absolute(args.out)
    check_place(out, f"--out {args.out}")
    with Progress(1) as progress:
        result = quantized(settings, args, out, named_devices(args), progress)
    print(json_text(result) if args.format == "json" else result["text"])
    return 0


def _default(flag: str) -> str:
    value = getattr(Settings, flag.replace("-", "_"), None)
    return "" if value is None else f" (default {value})"


def plan_of(args: argparse.Namespace) -> Callable[[fx.GraphModule], Plan]:
    """The plan that the flags describe, for a traced network; what no network could have is refused here already.

    Raises:
        UserError: there is no such plan, or a flag would change nothing.
    """
    from pipeline.train import read_plan
    from quantizers.network import end_layers, layer_names

    given = {name: getattr(args, name) for name in ("components", "zero_share", "coded_bits")}
    typed = [f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None]
    if args.plan is not None:
        if typed:
            raise UserError(f"{typed[0]}: the plan of --plan says that itself; leave one of them out")
        plan = read_plan(args.plan)
        return lambda network: plan
    if typed and args.bits == args.ends == 8:
        raise UserError(f"{typed[0]}: layers of 8 bits have none; give fewer --bits, or leave it out")

    def layer(bits: int) -> LayerPlan:
        if bits == 8:
            return LayerPlan(8)
        components = COMPONENTS.get(bits) if args.components is None else args.components
        return LayerPlan(bits, **given | {"components": components})

    inner, end = layer(args.bits), layer(args.ends)

    def planned(network: fx.GraphModule) -> Plan:
        ends = end_layers(network)
        return Plan({name: end if name in ends else inner for name in layer_names(network)})

    return planned


def quantized(
    settings: Settings, args: argparse.Namespace, out: Path, at_hand: AtHand, progress: Progress
) -> dict[str, Any]:
    """Rebuild, compile, compare and profile; what was made before is shown again.

    Raises:
        UserError: the plan or the network cannot be done, or ``out`` holds something else.
    """
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.folder import candidate_path
    from pipeline.candidate.identity import code_checksum, identity
    from pipeline.candidate.references import references

    planned = plan_of(args)
    _refuse_occupied(out)
    progress.status("looking at the model and the data")
    workspace, plan = opened(dataclasses.replace(settings, out=out.parent, name=out.name), planned, progress)
    progress.line(workspace.normalization)
    progress.status("building the kernel library")
    bench = Bench(workspace.settings, workspace)
    made = {**identity(workspace.settings, workspace, bench.program), "plan": plan.hash}
    made |= {"images": args.images, "seed": settings.seed, CODE: code_checksum()}
    _begin(out, made, progress)
    look_at_fp32(workspace, out / REFERENCES, progress, allow_bad=args.allow_bad_fp32)
    progress.status("profiling fp32 and int8")
    beside = references(workspace, out / REFERENCES, at_hand)
    if not (candidate_path(out, plan) / "manifest.json").is_file():
        with at_hand(settings.target) as devices:
            make(bench, plan, args.images, devices, beside, progress)
    return told(workspace, plan, beside)


def opened(
    settings: Settings, planned: Callable[[fx.GraphModule], Plan], progress: Progress
) -> tuple[Workspace, Plan]:
    """Data, trained network and plan; what cannot be compiled is refused before anything is trained."""
    from pipeline.candidate.first_check import first_check
    from pipeline.candidate.workspace import Workspace
    from quantizers.tracing.trace import traced

    look_in(settings.modules)
    workspace = Workspace.open(settings, trained=False, labelled=False)
    workspace.check_metric()
    plan = planned(traced(workspace.model))
    first_check(
        workspace.model, workspace.data.search, workspace.mean, workspace.std, plan,
        trained=settings.weights is not None, say=progress.line,
    )  # fmt: skip
    return (workspace if settings.weights else Workspace.open(settings, progress.line)), plan


def look_at_fp32(workspace: Workspace, references: Path, progress: Progress, *, allow_bad: bool) -> None:
    """Say how good the fp32 network is, where there are labels, and that is not known from ``references``.

    Raises:
        UserError: it is no better than guessing, unless ``allow_bad``.
    """
    from pipeline.candidate.fp32 import refuse_chance
    from pipeline.candidate.references import fp32_error_in

    if workspace.data.labelled and fp32_error_in(references) is None:
        progress.status("evaluating fp32")
        # A detector may be shown small images, of which few boxes are found: its answers are compared all the same.
        allow = allow_bad or not workspace.task.classifies
        progress.line(f"fp32: {refuse_chance(workspace, allow=allow)}")


def make(
    bench: Bench,
    plan: Plan,
    images: int,
    devices: Devices,
    beside: Sequence[Reference],
    progress: Progress,
) -> None:
    """The candidate's folder, from so many images; layers that were done before are taken up."""
    from pipeline.candidate.answers import compare_answers
    from pipeline.candidate.deployment import deploy
    from pipeline.candidate.rebuilding import LayerFiles, rebuilt
    from quantizers.calibration.reconstruction import Reconstruction

    workspace = bench.workspace
    files = LayerFiles(workspace.settings.folder / LAYERS)
    if done := files.count():
        progress.line(f"going on with what was cut off: {done} layers and batch-norms are done")

    def layer_is_done(done: int, total: int, left: float | None) -> None:
        rest = "" if left is None else f", about {show_seconds(left)} left"
        progress.status(f"rebuilding layers: {done} of {total}{rest}")

    how = Reconstruction(seed=workspace.settings.seed)
    found = rebuilt(workspace, workspace.model, plan, images, how, files, layer_is_done)
    progress.line(f"rebuilt from {found.images:,} images in {show_seconds(found.seconds)}")
    progress.status("evaluating, compiling, comparing with the reference, profiling")
    answers = workspace.judged(found.hardened.network)
    seen, data = workspace.judges.search, workspace.data
    differing = json_text(compare_answers(seen, found.hardened.network, data.classes, labelled=data.labelled))
    deploy(bench, plan, found.network, found.hardened, devices, answers, beside, differing)
    shutil.rmtree(files.folder, ignore_errors=True)


def told(workspace: Workspace, plan: Plan, beside: Sequence[Reference]) -> dict[str, Any]:
    """The candidate beside fp32 and int8, how alike they answer, and what to type next."""
    from pipeline.candidate.folder import candidate_path, load_candidate
    from pipeline.candidate.likeness import compared, likeness_table
    from pipeline.candidate.references import int8_network

    settings = workspace.settings
    place = candidate_path(settings.folder, plan)
    candidate = load_candidate(place)
    networks = {"int8": int8_network(workspace).network, plan.hash: candidate.hardened().network}
    alike = compared(workspace, networks)
    images = len(workspace.data.search) if workspace.data.labelled else None
    record = TrialRecord(0, plan, "finished", candidate.figures)
    front = front_json([record], beside, settings.objectives, images, settings.metric)
    lines = [front_table(front), "", likeness_table(alike), "", f"candidate {place}"]
    if workspace.data.labelled:
        lines.append(f"evaluate  {how_to_evaluate(place, settings.devices, settings.modules)}")
    modules = ("--modules", settings.modules) if settings.modules else ()
    lines.append(f"look      {shell('pipeline.report', settings.folder, *modules)}")
    own = alike[plan.hash]
    return {
        **front,
        "plan": plan.hash,
        "candidate": str(place),
        "agreement": own.agreement,
        "divergence": own.divergence,
        "divergence_standard_error": own.divergence_error,
        "compared": {name: one.as_dict() for name, one in alike.items()},
        "text": "\n".join(lines),
    }


def _refuse_occupied(out: Path) -> None:
    """Refuse a folder that holds what this command did not make."""
    if not (out / paths.MADE).is_file() and out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} holds other things; name a new folder")


def _begin(out: Path, made: dict[str, Any], progress: Progress) -> None:
    """Say in the folder what it is made of. What was begun with something else is begun anew.

    Raises:
        UserError: the folder holds what was made otherwise and is finished.
    """
    file, now = out / paths.MADE, json.loads(json_text(made))
    finished = any(out.glob("candidates/*/manifest.json"))
    try:
        before = json.loads(file.read_text()) if file.is_file() else now
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); name a new folder by --out") from error
    keys = sorted({*before, *now} - ({CODE} if finished else set()))
    if changed := [key for key in keys if before.get(key) != now.get(key)]:
        key = changed[0]
        told = f"{key} {before.get(key)!r}, now it is {now.get(key)!r}"
        if finished:
            raise UserError(f"--out {out} holds what was made with {told}; name a new folder")
        progress.line(f"{out} was begun with {told}: everything anew")
        (out / REFERENCES).unlink(missing_ok=True)
        shutil.rmtree(out / LAYERS, ignore_errors=True)
    if not finished:
        write_atomically(file, json_text(made, indent=1))


if __name__ == "__main__":
    sys.exit(main_guard(main))
