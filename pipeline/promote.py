"""`python -m pipeline.promote STUDY`: check a candidate's program once more, then make it the champion.

STUDY is a study's name, the path of its folder, or the path of one of its candidates. Without a candidate, one is chosen by
the figures of the search: of the front's candidates within the accuracy drop of fp32,
by a standard error where there are such (and within --max-latency-ms, if given), those count as equally fast whose latency
lies within the interval of the fastest one; of these the smallest is taken, of equally small ones the most accurate. The
search's last lines and its report recommend by the same rule. Its program then has to pass every gate on the images that
neither trained nor guided it: a candidate that fails is refused, and no other is tried in its place, for that would be
choosing on the very images that judge.

The accuracy is compared with fp32's on the same images. It fails where even the lower end of the loss's 95 % interval lies
above the bound; where the images do not settle it, the version is tagged evidence: weak, and --strict refuses it. What a person
decided in MLflow (tag `decision`) holds: `reject` is refused. Exit status: 0 promoted (with --dry-run: it would be), 1 refused,
2 mistake.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy_arm.devices.kinds import DEVICES
from foundation.command import DISTRIBUTION, Parser, main_guard, say, shell
from foundation.command import version as release
from foundation.errors import UserError
from foundation.files import json_text, sha256
from pipeline.review import audit
from pipeline.review.card import card
from pipeline.review.fronts import read_front
from pipeline.review.gates import (
    DROP,
    Bounds,
    Evidence,
    Gate,
    Refused,
    choose,
    elsewhere,
    figures,
    judge,
    tags_of,
)
from pipeline.review.named import named
from pipeline.review.recommendation import bound_of
from pipeline.study import paths
from pipeline.study.decided import read_decisions, without_rejected
from pipeline.study.settings import Settings

if TYPE_CHECKING:
    from pipeline.candidate.folder import CandidateFolder
    from pipeline.candidate.workspace import Workspace
    from pipeline.review.champions import Champions, Version


BATCH = 256  # images of fp32 at once


def gather(candidate: CandidateFolder, workspace: Workspace, limit: int | None) -> Evidence:
    """Run the program and fp32 on the report half, or ``limit`` images drawn from it, and profile the program anew."""
    import torch

    from pipeline.cluster.pool import DevicePool, devices_at_hand
    from pipeline.evaluate import checked, outputs_on
    from pipeline.study.confidence import paired
    from pipeline.training.evaluation import limited
    from pipeline.training.judges import Judge

    whole = (checked(candidate, workspace.data) if workspace.task.classifies else workspace.data).report
    report = limited(whole, limit)
    say(f"running the program on {len(report)} images")
    at_hand = partial(devices_at_hand, kind=workspace.settings.devices, modules=workspace.settings.modules)
    program = outputs_on(candidate, report, "arm", at_hand)
    say("running fp32 on the same images")
    same, task = torch.arange(len(program)), workspace.task
    fp32 = Judge(workspace.model, report, same, workspace.mean, workspace.std, BATCH, task)
    scores = paired(task.scores(program, fp32.labels), fp32.fp32_scores)
    say("profiling")
    image = report.batch(torch.tensor([0])).numpy()[0]
    layers = [layer["layer"] for layer in candidate.manifest["profile"]["layers"]]
    chooser = candidate.manifest["profile"]["device"]
    with at_hand(candidate.manifest["target"]) as devices:
        files = candidate.program.read_bytes(), candidate.blob.read_bytes()
        others = len(devices.devices()) - 1 if isinstance(devices, DevicePool) else 0
        profile = elsewhere(lambda: devices.profile(*files, image, layers, anew=True), chooser, others)
    return Evidence(scores, len(whole), profile, chooser, task.called)


def sound(folder: Path) -> tuple[CandidateFolder, Gate]:
    """The candidate and its passed checksum gate; a damaged one must not be run.

    Raises:
        Refused: a file is missing or is not the one its manifest names.
    """
    from pipeline.candidate.folder import load_candidate

    try:
        candidate = load_candidate(folder)
    except UserError as error:
        raise Refused([Gate("checksums", passed=False, text=str(error))], folder.name) from error
    return candidate, Gate(
        "checksums", passed=True, text=f"{len(candidate.manifest['files'])} files are those of the manifest"
    )


def undecided(champions: Champions, candidate: str) -> Gate:
    """Whether nobody rejected the candidate in MLflow."""
    from pipeline.review.tags import REJECT, decision_of

    said = decision_of(champions.tracker, candidate)
    if said == REJECT:
        text = (
            f"{candidate} was rejected in MLflow: its tag `decision` is reject; empty the tag, "
            "or choose another by --candidate"
        )
        return Gate("decision", passed=False, text=text)
    return Gate(
        "decision",
        passed=True,
        text=f"its tag `decision` in MLflow is {said}" if said else "nobody has rejected it in MLflow",
    )


def same_images(candidate: CandidateFolder, workspace: Workspace) -> Gate:
    """Whether the report half is the one that was kept from the search."""
    from pipeline.datasets.base import split_manifest

    kept = candidate.manifest["data"]["splits"]["report"]
    found = split_manifest(workspace.data)["report"]
    text = f"the report half is the one of the manifest: {kept['count']} images, {kept['sha256'][:12]}"
    if kept["sha256"] == found["sha256"]:
        return Gate("images", passed=True, text=text)
    text = (
        f"the report half of {workspace.data.name} has changed since the search ({kept['count']} images then, "
        f"{found['count']} now, other checksum): these images may have guided it"
    )
    return Gate("images", passed=False, text=text)


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
    from pipeline.review.bundle.archive import archive_of, write_archive
    from pipeline.review.served import shapes
    from pipeline.review.tags import source_run

    decisions = read_decisions(folder)
    if name:
        chosen, why = name, "named by --candidate"
    else:
        chosen, why = choose(without_rejected(read_front(folder), decisions), bounds)
    early: list[Gate] = []
    if (decided := decisions.get(chosen)) is not None and decided.decision == "reject":
        take_back = shell("pipeline.studies", "decide", folder, chosen, "keep")
        early.append(
            Gate("decision", passed=False, text=f"{chosen} was {decided}; {take_back} takes that back")
        )
        if not check:
            raise Refused(early, chosen)
    early.append(undecided(champions, chosen))
    try:
        candidate, checksums = sound(folder / "candidates" / chosen)
    except Refused as refusal:  # a damaged program is not run, so this is all that can be known
        raise Refused([*early, *refusal.gates], chosen) from refusal
    early.append(checksums)
    if not check and not all(gate.passed for gate in early):
        raise Refused(early, chosen)
    library = build_library(candidate.manifest["target"])  # before the long work, since it can fail
    workspace = Workspace.open(settings, say)
    images = same_images(candidate, workspace)
    evidence = gather(candidate, workspace, limit)
    gates = [*early, images, *judge(evidence, bounds)]
    if not all(gate.passed for gate in gates):
        raise Refused(gates, chosen)
    told = figures(candidate, evidence, bounds)
    gone_through = [asdict(gate) for gate in gates]
    place = bundle or folder / "promoted" / chosen
    files = candidate.manifest["files"]
    digest = hashlib.sha256((files["program"] + files["weights.blob"]).encode()).hexdigest()[:16]
    result = {
        "candidate": chosen,
        "chosen": why,
        "gates": gone_through,
        "figures": told,
        "registry": champions.name,
    }
    if check:
        now = champions.version()
        stays = now is not None and (now.candidate, now.digest) == (chosen, digest)
        would = {"champion": now and now.number, "champion_candidate": now and now.candidate, "stays": stays}
        return {
            "promoted": False,
            **result,
            "would": {**would, "bundle": str(place), "archive": str(archive_of(place))},
        }
    with champions.alone(say):
        preprocessing = workspace.data.report.preprocessing
        write_bundle(place, candidate, library, told, gone_through, settings.study_name, preprocessing)
        archive = write_archive(place, archive_of(place))
        before = champions.version()
        event = audit.Event("promoted", chosen, {})
        tags = {**tags_of(candidate, told), **event.tags(gone_through), "bundle.sha256": sha256(archive)}
        image, outputs = shapes(candidate.blob.read_bytes())
        note = card(
            candidate.manifest, candidate.plan, told, gone_through,
            name=champions.name, study=settings.study_name, source_run=source_run(champions.tracker, chosen),
            code=f"{DISTRIBUTION} {release()}, kernel library {files['program'][:12]}", image=image, outputs=outputs,
        )  # fmt: skip
        version = champions.promote(chosen, digest, place, tags, note)
        previous = before.number if before and before.number != version.number else version.replaces
        done = {**result, "version": version.number, "previous": previous}
        done |= {"bundle": str(place), "archive": str(archive), "sha256": sha256(archive)}
        kept = {key: value for key, value in done.items() if key not in ("candidate", "chosen")}
        audit.keep(folder, dataclasses.replace(event, details={"study": settings.study_name, **kept}))
    return {"promoted": True, **done}


def registered_name(settings: Settings) -> str:
    """One line of champions per model, data set and target, whatever studies they come from."""
    kind, _, place = settings.data.partition(":")
    data = f"{kind}-{Path(place).stem}" if kind == "npz" else kind
    return f"{settings.model}-{data}-{settings.target}".replace(":", "-").replace("/", "-")


def _lines(gates: Sequence[dict[str, Any]]) -> list[str]:
    return [f"  {'pass' if gate['passed'] else 'FAIL'}  {gate['name']:<9}  {gate['text']}" for gate in gates]


def _promoted_text(result: dict[str, Any]) -> str:
    if not result["promoted"]:
        told = [f"candidate {result['candidate']} ({result['chosen']})", *_lines(result["gates"])]
        return "\n".join([*told, _would(result), "nothing has changed"])
    evidence = result["figures"]["accuracy"]["evidence"]
    before = f"; before: version {result['previous']}, now `previous`" if result["previous"] else ""
    return "\n".join([
        f"candidate {result['candidate']} ({result['chosen']})",
        *_lines(result["gates"]),
        f"promoted: {result['registry']} version {result['version']} is `champion`, on {evidence} evidence{before}",
        f"bundle   {result['bundle']}",
        f"archive  {result['archive']} (sha256 {result['sha256'][:12]})",
    ])  # fmt: skip


def _would(result: dict[str, Any]) -> str:
    """What a promotion would do now."""
    would, name = result["would"], result["registry"]
    if would["stays"]:
        return f"it is `champion` of {name} already (version {would['champion']}); bundle {would['bundle']}"
    before = (
        f"in place of version {would['champion']} ({would['champion_candidate']}), which would become `previous`"
        if would["champion"]
        else "its first"
    )
    return f"it would be promoted: `champion` of {name}, {before}; bundle {would['bundle']}"


def _parser() -> Parser:
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="python -m pipeline.promote", description=description, epilog=rules)
    parser.add_argument("study", help="name of the study, path of its folder, or path of a candidate of it")
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
    parser.add_argument(
        "--dry-run",
        "--check",
        dest="check",
        action="store_true",
        help="go through the gates, say what would be done, and change nothing",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="judge on N images only, drawn from the report half"
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
    if args.check and args.rollback:
        raise UserError("--rollback checks nothing and has no --dry-run; leave one of them out")
    asked = named(args.study, args.out, args.candidate, args.tracking_uri)
    folder, settings = asked.folder, asked.settings
    if args.devices:
        chosen = {"devices": args.devices, "modules": settings.modules}
        settings = dataclasses.replace(settings, **paths.settled(chosen))
    drop = bound_of(args.max_accuracy_drop, settings.max_accuracy_drop)
    bounds = Bounds(drop, args.max_latency_ms, args.allow_modelled, args.strict)
    from pipeline.review.champions import Champions
    from pipeline.review.store import TrackingError
    from pipeline.review.tracking import Tracker

    try:
        tracker = Tracker(settings.tracking_uri, settings.out, settings.study_name, looking=args.check)
        champions = Champions(tracker, args.registered_name or registered_name(settings))
        if args.rollback:
            return _rolled_back(champions, folder, args.bundle, args.format)
        result = promote(
            folder, settings, asked.candidate, bounds, args.limit, args.bundle, champions, check=args.check
        )
    except TrackingError as error:
        raise UserError(f"{error}; nothing is lost, run the same command again") from error
    except Refused as refusal:
        gates = [asdict(gate) for gate in refusal.gates]
        if not args.check:
            details = {"study": settings.study_name, "registry": champions.name, "gates": gates}
            with contextlib.suppress(OSError):  # a refusal stands, whether or not it can be written down
                audit.keep(folder, audit.Event("refused", refusal.candidate or "", details))
        refused = {
            "promoted": False,
            "gates": gates,
            "reasons": [g["text"] for g in gates if not g["passed"]],
        }
        print(json_text(refused) if args.format == "json" else "\n".join(["refused:", *_lines(gates)]))
        return 1
    print(json_text(result) if args.format == "json" else _promoted_text(result))
    return 0


def _rolled_back(champions: Champions, folder: Path, bundle: Path | None, form: str) -> int:
    with champions.alone(say):
        now, before = champions.rollback()
        details = {
            "registry": now.name,
            "version": now.number,
            "from": before.number,
            "from_candidate": before.candidate,
        }
        event = audit.Event("rolled back", now.candidate, details)
        champions.tag(before, {"rolled_back.by": event.by, "rolled_back.at": event.at})
        audit.keep(folder, event)
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
