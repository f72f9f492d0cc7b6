"""`python -m pipeline.promote STUDY`: check a candidate's program once more, then make it the champion.

Without --candidate, one is chosen by the figures of the search: of the front's candidates within the accuracy drop of fp32,
by a standard error where there are such (and within --max-latency-ms, if given), those count as equally fast whose latency
lies within the interval of the fastest one; of these the smallest is taken, of equally small ones the most accurate. The
search's last lines and its report recommend by the same rule. Its program then has to pass every gate on the images that
neither trained nor guided it: a candidate that fails is refused, and no other is tried in its place, for that would be
choosing on the very images that judge.

The accuracy is compared with fp32's on the same images. It fails where even the lower end of the loss's 95 % interval lies
above the bound; where the images do not settle it, the version is tagged evidence: weak, and --strict refuses it. Exit
status: 0 promoted (with --check: it would be), 1 refused, 2 mistake.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_arm.devices.kinds import DEVICES
from foundation.command import Parser, main_guard, say, shell
from foundation.errors import UserError
from foundation.files import json_text
from pipeline.candidate.named import candidate_name
from pipeline.review.fronts import read_front
from pipeline.review.gates import DROP, Bounds, Evidence, Gate, Refused, choose, figures, judge, tags_of
from pipeline.review.recommendation import bound_of
from pipeline.study import paths
from pipeline.study.decided import read_decisions, without_rejected
from pipeline.study.settings import Settings, read_config

if TYPE_CHECKING:
    from pipeline.candidate.folder import CandidateFolder
    from pipeline.candidate.workspace import Workspace
    from pipeline.review.champions import Champions, Version


def gather(candidate: CandidateFolder, workspace: Workspace, limit: int | None) -> Evidence:
    """Run the program and fp32 on the report half, or its first ``limit`` images, and profile the program anew."""
    import torch

    from pipeline.cluster.pool import devices_at_hand
    from pipeline.evaluate import checked, predictions
    from pipeline.study.confidence import Paired
    from pipeline.training import evaluation

    report = checked(candidate, workspace.data).report
    say(f"running the program on {min(len(report), limit or len(report))} images")
    at_hand = partial(devices_at_hand, kind=workspace.settings.devices, modules=workspace.settings.modules)
    program, labels = predictions(candidate, workspace.data, "arm", "report", limit, at_hand)
    say("running fp32 on the same images")
    same = torch.arange(len(labels))
    fp32 = evaluation.predictions(workspace.model, report, workspace.mean, workspace.std, indices=same)
    say("profiling")
    image = report.batch(torch.tensor([0])).numpy()[0]
    layers = [layer["layer"] for layer in candidate.manifest["profile"]["layers"]]
    with at_hand(candidate.manifest["target"]) as devices:
        files = candidate.program.read_bytes(), candidate.blob.read_bytes()
        profile = devices.profile(*files, image, layers, anew=True)
    return Evidence(Paired.of(program, fp32.numpy(), labels), len(report), profile)


def sound(folder: Path) -> tuple[CandidateFolder, Gate]:
    """The candidate and its passed checksum gate; a damaged one must not be run.

    Raises:
        Refused: a file is missing or is not the one its manifest names.
    """
    from pipeline.candidate.folder import load_candidate

    try:
        candidate = load_candidate(folder)
    except UserError as error:
        raise Refused([Gate("checksums", False, str(error))]) from error
    return candidate, Gate(
        "checksums", True, f"{len(candidate.manifest['files'])} files are those of the manifest"
    )


def same_images(candidate: CandidateFolder, workspace: Workspace) -> Gate:
    """Whether the report half is the one that was kept from the search."""
    from pipeline.datasets.base import split_manifest

    kept = candidate.manifest["data"]["splits"]["report"]
    found = split_manifest(workspace.data)["report"]
    text = f"the report half is the one of the manifest: {kept['count']} images, {kept['sha256'][:12]}"
    if kept["sha256"] == found["sha256"]:
        return Gate("images", True, text)
    return Gate("images", False, f"the report half of {workspace.data.name} has changed since the search ({kept['count']} images "
                f"then, {found['count']} now, other checksum): these images may have guided it")  # fmt: skip


def promote(folder: Path, settings: Settings, name: str | None, bounds: Bounds, limit: int | None,
            bundle: Path | None, champions: Champions, *, check: bool = False) -> dict[str, Any]:  # fmt: skip
    """Choose, check, write the bundle, and only then move the alias. Returns what is printed.

    Args:
        check: end before anything is written.

    Raises:
        Refused: a gate failed; nothing has changed.
    """
    from deploy_arm.runtime.program import build_library
    from pipeline.candidate.workspace import Workspace
    from pipeline.review.bundle import write_bundle

    decisions = read_decisions(folder)
    if name:
        chosen, why = name, "named by --candidate"
    else:
        chosen, why = choose(without_rejected(read_front(folder), decisions), bounds)
    if (decided := decisions.get(chosen)) is not None and decided.decision == "reject":
        take_back = shell("pipeline.studies", "decide", folder, chosen, "keep")
        raise Refused([Gate("decision", False, f"{chosen} was {decided}; {take_back} takes that back")])
    candidate, checksums = sound(folder / "candidates" / chosen)
    library = build_library(candidate.manifest["target"])  # before the long work, since it can fail
    workspace = Workspace.open(settings, say)
    images = same_images(candidate, workspace)
    evidence = gather(candidate, workspace, limit)
    gates = [checksums, images, *judge(evidence, bounds)]
    if not all(gate.passed for gate in gates):
        raise Refused(gates)
    told = figures(candidate, evidence, bounds)
    if check:
        gone_through = [asdict(gate) for gate in gates]
        return {"promoted": False, "candidate": chosen, "chosen": why, "gates": gone_through, "figures": told}
    place = bundle or folder / "promoted" / chosen
    preprocessing = workspace.data.report.preprocessing
    gone_through = [asdict(gate) for gate in gates]
    write_bundle(place, candidate, library, told, gone_through, settings.study_name, preprocessing)
    before = champions.version()
    files = candidate.manifest["files"]
    digest = hashlib.sha256((files["program"] + files["weights.blob"]).encode()).hexdigest()[:16]
    note = f"{chosen} of study {settings.study_name}: " + "; ".join(gate.text for gate in gates)
    version = champions.promote(chosen, digest, place, tags_of(candidate, told), note)
    return {
        "promoted": True,
        "candidate": chosen,
        "chosen": why,
        "gates": [asdict(gate) for gate in gates],
        "figures": told,
        "registry": version.name,
        "version": version.number,
        "previous": before.number if before and before.number != version.number else version.replaces,
        "bundle": str(place),
    }


def registered_name(settings: Settings) -> str:
    """One line of champions per model, data set and target, whatever studies they come from."""
    kind, _, place = settings.data.partition(":")
    data = f"{kind}-{Path(place).stem}" if kind == "npz" else kind
    return f"{settings.model}-{data}-{settings.target}".replace(":", "-").replace("/", "-")


def _settings(out: Path, study: str, tracking_uri: str | None) -> tuple[Path, Settings]:
    folder = out / study
    if not (folder / paths.SETTINGS).is_file():
        known = sorted(path.parent.name for path in out.glob(f"*/{paths.SETTINGS}"))
        raise UserError(
            f"there is no study {study!r} in {out}; there are: {', '.join(known) or 'none'} (--out names the folder)"
        )
    record = {**read_config(folder / paths.SETTINGS), "name": study, "out": str(out)}
    settings = Settings.from_dict(record, str(folder / paths.SETTINGS))
    return folder, dataclasses.replace(settings, tracking_uri=tracking_uri or settings.tracking_uri)


def _lines(gates: Sequence[dict[str, Any]]) -> list[str]:
    return [f"  {'pass' if gate['passed'] else 'FAIL'}  {gate['name']:<9}  {gate['text']}" for gate in gates]


def _promoted_text(result: dict[str, Any]) -> str:
    if not result["promoted"]:
        told = [f"candidate {result['candidate']} ({result['chosen']})", *_lines(result["gates"])]
        return "\n".join([*told, "it would be promoted; nothing has changed"])
    evidence = result["figures"]["accuracy"]["evidence"]
    before = f"; before: version {result['previous']}, now `previous`" if result["previous"] else ""
    return "\n".join([
        f"candidate {result['candidate']} ({result['chosen']})",
        *_lines(result["gates"]),
        f"promoted: {result['registry']} version {result['version']} is `champion`, on {evidence} evidence{before}",
        f"bundle   {result['bundle']}",
    ])  # fmt: skip


def _parser() -> Parser:
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="python -m pipeline.promote", description=description, epilog=rules)
    parser.add_argument("study", help="name of the study")
    parser.add_argument(
        "--candidate",
        metavar="HASH",
        help="which one (its beginning is enough); default: the best, see below",
    )
    parser.add_argument(
        "--out",
        type=paths.absolute,
        default="runs",
        metavar="DIR",
        help="folder of the studies (default %(default)s)",
    )
    parser.add_argument("--max-accuracy-drop", type=float, metavar="POINTS",
                        help=f"points it may lose against fp32 (default: the study's setting, or {DROP:g})")  # fmt: skip
    parser.add_argument(
        "--max-latency-ms", type=float, metavar="MS", help="bound for the upper end of the latency's interval"
    )
    parser.add_argument(
        "--allow-modelled", action="store_true", help="accept a latency that no ARM CPU has measured"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse where the images do not settle that the accuracy is within its bound",
    )
    parser.add_argument("--check", action="store_true", help="go through the gates and change nothing")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="judge on the first N images of the report half only"
    )
    parser.add_argument(
        "--rollback", action="store_true", help="make the version before champion again; checks nothing"
    )
    parser.add_argument(
        "--registered-name", metavar="NAME", help="name in MLflow's registry (default: MODEL-DATA-TARGET)"
    )
    parser.add_argument(
        "--tracking-uri", type=paths.tracking_uri, metavar="URI", help="MLflow server (default: the study's)"
    )
    parser.add_argument(
        "--bundle",
        type=paths.absolute,
        metavar="DIR",
        help="where to write the bundle (default: OUT/STUDY/promoted/HASH)",
    )
    parser.add_argument(
        "--devices",
        metavar="KIND",
        help=f"kind of device to check on: {', '.join(DEVICES)} or package.module:Name (default: the study's)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    for flag in ("max_accuracy_drop", "max_latency_ms", "limit"):
        value = getattr(args, flag)
        if value is not None and not (
            0 <= value < float("inf") and (value > 0 or flag == "max_accuracy_drop")
        ):
            least = "of at least 0" if flag == "max_accuracy_drop" else "above 0"
            raise UserError(f"--{flag.replace('_', '-')} {value:g}: give a number {least}")
    folder, settings = _settings(args.out, args.study, args.tracking_uri)
    if args.devices:
        named = {"devices": args.devices, "modules": settings.modules}
        settings = dataclasses.replace(settings, **paths.settled(named))
    name = None if args.candidate is None else candidate_name(folder, args.candidate)
    drop = bound_of(args.max_accuracy_drop, settings.max_accuracy_drop)
    bounds = Bounds(drop, args.max_latency_ms, args.allow_modelled, args.strict)
    from pipeline.review.champions import Champions
    from pipeline.review.store import TrackingError
    from pipeline.review.tracking import Tracker

    try:
        tracker = Tracker(settings.tracking_uri, settings.out, settings.study_name)
        champions = Champions(tracker, args.registered_name or registered_name(settings))
        if args.rollback:
            return _rolled_back(champions, args.bundle, args.format)
        result = promote(folder, settings, name, bounds, args.limit, args.bundle, champions, check=args.check)
    except TrackingError as error:
        raise UserError(f"{error}; nothing is lost, run the same command again") from error
    except Refused as refusal:
        gates = [asdict(gate) for gate in refusal.gates]
        refused = {
            "promoted": False,
            "gates": gates,
            "reasons": [g["text"] for g in gates if not g["passed"]],
        }
        print(json_text(refused) if args.format == "json" else "\n".join(["refused:", *_lines(gates)]))
        return 1
    print(json_text(result) if args.format == "json" else _promoted_text(result))
    return 0


def _rolled_back(champions: Champions, bundle: Path | None, form: str) -> int:
    now, before = champions.rollback()
    place = champions.fetch(now, bundle) if bundle else None
    if form == "json":
        print(
            json_text(
                {"champion": asdict(now), "before": asdict(before), "bundle": str(place) if place else None}
            )
        )
    else:
        print(_rollback_text(now, before, place))
    return 0


def _rollback_text(now: Version, before: Version, place: Path | None) -> str:
    text = f"{now.name}: version {now.number} ({now.candidate}) is `champion` again, in place of version {before.number}"
    text += f" ({before.candidate})"
    return f"{text}\nbundle   {place}" if place else text


if __name__ == "__main__":
    sys.exit(main_guard(main))
