"""`python -m pipeline.search`: search how to compress a network for ARM CPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from foundation.command import DONE, INCOMPLETE, Parser, main_guard
from foundation.dimension import DIMENSIONS
from foundation.errors import UserError
from foundation.factories import look_in
from foundation.files import check_place, json_text
from foundation.show import counted
from pipeline.review.fronts import front_table
from pipeline.review.next_steps import next_steps
from pipeline.review.progress import Progress, reference_line
from pipeline.shelf.find import others_like
from pipeline.study.command_line import parse
from pipeline.study.decided import read_decisions, without_rejected
from pipeline.study.paths import SETTINGS
from pipeline.study.references import REFERENCES
from pipeline.study.settings import Settings
from pipeline.study.unsent import note_unsent

DRY_SECONDS = 10.0  # that a dry run evaluates for

if TYPE_CHECKING:
    from pipeline.candidate.devices import AtHand
    from pipeline.candidate.workspace import Workspace
    from pipeline.review.background import Background
    from pipeline.review.tracking import Tracker
    from pipeline.study.records import Reference
    from pipeline.study.study import Study
    from search_spaces.space import Space


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m pipeline.search", description=__doc__)
    command = parser.add_argument_group("command")
    command.add_argument(
        "--dry-run", action="store_true", help="print what would be searched and train nothing"
    )
    command.add_argument(
        "--allow-bad-fp32",
        action="store_true",
        help="search even if the fp32 network is no better than guessing",
    )
    command.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")
    command.add_argument(
        "--address",
        metavar="HEAD:PORT",
        help="Ray cluster to run on (default RAY_ADDRESS; without, one of this machine is started)",
    )
    settings, flags = parse(argv, parser)
    if flags.address:
        os.environ["RAY_ADDRESS"] = flags.address  # devices and tracking ask there too
    settings = settings.named()
    check_place(settings.folder, f"--out {settings.out}")
    with Progress(settings.budget) as progress:
        if flags.dry_run:
            result = dry_run(settings, progress, allow_bad_fp32=flags.allow_bad_fp32)
        else:
            result = search(settings, progress, allow_bad_fp32=flags.allow_bad_fp32)
    print(json_text(result) if flags.format == "json" else result["text"])
    return DONE if result.get("complete", True) else INCOMPLETE


def dry_run(settings: Settings, progress: Progress, *, allow_bad_fp32: bool = False) -> dict[str, Any]:
    """What would be searched and what it would cost, without training anything."""
    from pipeline.candidate.fp32 import judged
    from pipeline.datasets.image_check import look
    from pipeline.review.estimate import estimate

    progress.status("looking at the model and the data")
    workspace, space = opened(settings, progress, trained=False)
    progress.status("looking at the images")
    seen = look(workspace.data)
    lines, fp32 = [workspace.normalization, str(seen)], None
    if settings.weights is not None:
        progress.status("evaluating fp32")
        found, why = judged(workspace, DRY_SECONDS)
        lines.append(f"fp32: {found}")
        fp32 = found.as_dict()
        if why:
            what = "let through by --allow-bad-fp32" if allow_bad_fp32 else "a search would be refused"
            lines.append(f"{what}: {why}")
    result = estimate(workspace, space)
    text = "\n".join((*lines, "", result["text"]))
    return {**result, "images_seen": seen.as_dict(), "fp32": fp32, "text": text}


def opened(settings: Settings, progress: Progress, *, trained: bool = True) -> tuple[Workspace, Space]:
    """Data, trained network and space; what cannot be compiled or searched is refused before anything is trained."""
    from deploy_arm.devices.kinds import DEVICES, kind_here
    from deploy_arm.target.targets import TARGETS
    from pipeline.candidate.first_check import first_check
    from pipeline.candidate.workspace import Workspace
    from pipeline.study.searched import check_sampler, searched_space
    from pipeline.training.loop import check_rungs
    from pipeline.training.stages import FREE
    from quantizers import QUANTIZERS
    from quantizers.core.producers import producers_of
    from search_spaces.dimensions import asked
    from search_spaces.layers import layers_of

    look_in(settings.modules)
    for registry, name in (
        (TARGETS, settings.target),
        (QUANTIZERS, settings.quantizer),
        (DEVICES, settings.devices or kind_here()),
    ):
        registry[name]  # an unknown name is refused here, not after minutes
    check_sampler(settings)
    asked(settings.dimensions)
    settings.like_folder  # noqa: B018  likewise a study that is not there
    workspace = Workspace.open(settings, trained=False)
    workspace.check_metric()
    budgets = [stage.epochs for stage in settings.stages if stage.name == FREE]
    check_rungs(budgets, settings.training(), len(workspace.judges.taught))
    first_check(
        workspace.model,
        workspace.data.search,
        workspace.mean,
        workspace.std,
        trained=settings.weights is not None,
        say=progress.line,
    )
    layers = layers_of(workspace.model, workspace.input_shape, producers_of(workspace.model))
    space = searched_space(settings, layers)
    for reason in DIMENSIONS.unsound():
        progress.line(f"a dimension is left out: {reason}")
    return (Workspace.open(settings, progress.line) if trained else workspace), space


def search(settings: Settings, progress: Progress, *, allow_bad_fp32: bool = False) -> dict[str, Any]:
    """The main job: open or resume the study, run trials until the budget is spent, publish the front."""
    progress.status("loading")
    import yaml

    from deploy_arm.runtime.program import build_program
    from foundation.files import write_atomically
    from pipeline.candidate.beforehand import first_plans, known_beforehand, profiled
    from pipeline.candidate.fp32 import refuse_chance
    from pipeline.candidate.identity import identity
    from pipeline.candidate.learned import write_learned
    from pipeline.candidate.references import fp32_error_in, references
    from pipeline.cluster import engine
    from pipeline.cluster.node import study_storage
    from pipeline.cluster.pool import devices_at_hand
    from pipeline.report import publish
    from pipeline.review.store import address, check_store, how_to_look
    from pipeline.shelf.backup import Backup
    from pipeline.study.conductor import Outlook
    from pipeline.study.lease import leased
    from pipeline.study.sensitivity import FILE
    from pipeline.study.storage import check_storage
    from pipeline.study.study import FILE as DATABASE
    from pipeline.study.study import Study

    store = address(settings.tracking_uri, settings.out)
    file, new = settings.folder / REFERENCES, not (settings.folder / DATABASE).exists()
    try:
        check_store(settings.tracking_uri)
    except UserError as error:
        if new:  # else it was there when the study began, and may come back
            raise
        progress.line(f"warning: {error}")
    if (kept := study_storage(settings)) is not None:
        check_storage(kept, settings.study_name)  # before anything is written: an address may hold a secret
    progress.status("looking at the model and the data")
    workspace, space = opened(settings, progress)
    settings = workspace.settings  # which name the metric
    progress.line(workspace.normalization)
    if new:
        file.unlink(missing_ok=True)  # of one that was broken off before it was a study
    fp32_error = fp32_error_in(file)
    if fp32_error is None:  # else it was seen when the study began
        progress.status("evaluating fp32")
        progress.line(f"fp32: {refuse_chance(workspace, allow=allow_bad_fp32)}")
        fp32_error = workspace.judges.search.fp32_error
    progress.status("building the kernel library")
    program = build_program(settings.target)
    at_hand = partial(devices_at_hand, kind=settings.devices, modules=settings.modules)
    if new:  # what everything is compared with is the first thing to be seen
        progress.status("profiling the references")
        show_references(references(workspace, file, at_hand), workspace, progress)
    known = known_beforehand(workspace, space, fp32_error, progress)
    with (
        nullcontext() if kept is None else leased(kept, progress.status) as lease,
        Study(
            settings.folder,
            space,
            objectives=settings.objectives,
            identity=identity(settings, workspace, program),
            sampler=settings.sampler,
            seed=settings.seed,
            warm_starts=first_plans(space, known.prior, settings.sampler),
            prior=known.prior,
            inherits=settings.inherits,
        ) as study,
    ):
        if known.sensitivity is not None:
            write_atomically(settings.folder / FILE, known.sensitivity.to_json())
        write_atomically(settings.folder / SETTINGS, yaml.safe_dump(settings.as_dict(), sort_keys=False))
        write_atomically(settings.folder / "split.json", json_text(workspace.data_record()))
        progress.line(opening_line(settings, study))
        weights = {layer.name: layer.parameters for layer in known.layers}
        images = len(workspace.data.search)
        outdated = study.outdated is not None
        if not outdated:
            progress.status("profiling the references")
            compared = references(workspace, file, at_hand)
        else:
            compared = renewed(workspace, study, at_hand, progress)
            publish.write_front(settings, study, compared, weights, images)
        if not new:
            show_references(compared, workspace, progress)
        known.cost.learn_from(profiled(study, compared, space))
        backup = None if kept is None else Backup(settings.folder, kept, progress.line, anew=outdated)
        if kept is not None and outdated:
            kept.remove("trials")  # outcomes there have figures of the former kernel library
        progress.status("loading MLflow")
        with in_background(settings, weights, workspace.data.name, progress) as mlflow:

            def after_trial() -> None:
                if lease is not None:
                    lease.check()
                publish.check_folders(
                    settings.folder, study.front()
                )  # files that do not arrive end the search at once
                if backup is not None:
                    backup.now_and_then()
                records, front = study.records(), [record.hash for record in study.front()]
                mlflow.put(partial(publish.track, settings.folder, records, front))

            after_trial()
            complete = engine.run(
                settings,
                study,
                progress,
                after_trial,
                references=compared,
                outlook=Outlook(foresee=known.cost.foresee, guessed=workspace.judges.rung.guessed),
                workspace=workspace,
                program=program,
            )
            progress.status("writing the front")
            write_learned(study, known.prior, known.cost, known.layers)
            review = publish.write_front(settings, study, compared, weights, images)
            if backup is not None:
                backup.now()
            records, page = study.records(), ""

            def last(tracker: Tracker) -> None:
                nonlocal page
                publish.send(settings.folder, records, review, tracker, complete=complete)
                page = tracker.front_page

            missing = mlflow.close(last, progress.status)
            note_unsent(settings.folder, missing)
    front = review.front
    look = next_steps(
        settings,
        without_rejected(front, read_decisions(settings.folder)),
        how_to_look(store, page),
        complete=complete,
        others=others_like(settings.folder),
        unsent=missing,
    )
    return {
        "study": str(settings.folder),
        "complete": complete,
        **front,
        "mlflow": {"store": store, "missing": missing},
        "text": f"{front_table(front)}\n\n{look}",
    }


def show_references(compared: Sequence[Reference], workspace: Workspace, progress: Progress) -> None:
    """A line for each."""
    for reference in compared:
        progress.line(reference_line(reference, len(workspace.data.search), workspace.task.called))


def renewed(workspace: Workspace, study: Study, at_hand: AtHand, progress: Progress) -> list[Reference]:
    """The references with the kernel library of today, when a study's candidates have been compiled and profiled with it.

    Raises:
        UserError: there is no device, or a candidate cannot be compiled anew; what is done stays done.
    """
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.references import references
    from pipeline.candidate.renewal import announcement, renew
    from pipeline.cluster.work import DeviceError

    settings = workspace.settings
    progress.line(announcement(study))
    progress.status("profiling the references")
    with at_hand(settings.target) as devices:
        try:
            file = settings.folder / REFERENCES
            compared = references(workspace, file, lambda target: nullcontext(devices), anew=True)
            kept = renew(study, Bench(settings, workspace), devices, compared, progress.status)
        except DeviceError as error:
            raise UserError(
                f"the candidates could not be profiled anew: {error}. What is done stays done; the same command goes on"
            ) from error
    progress.line(f"the study as it was: {kept}")
    return compared


def in_background(
    settings: Settings, weights: Mapping[str, int], images: str, progress: Progress
) -> Background[Tracker]:
    """What writes the study to MLflow while trials run. ``weights`` is by layer, ``images`` the name of the data set."""
    import mlflow  # noqa: F401  (here, since two threads that load the same libraries at once may each find them half loaded)

    from pipeline.review.background import FILE, SERVER, Background
    from pipeline.review.tracking import Tracker
    from pipeline.study.paths import sqlite_file

    def opened(told: Callable[[], None]) -> Tracker:
        tracker = Tracker(settings.tracking_uri, settings.out, settings.study_name, weights, told=told)
        tracker.start(settings.as_dict(), {"spec": settings.data, "name": images})
        return tracker

    own = settings.tracking_uri is None or sqlite_file(settings.tracking_uri) is not None
    return Background(opened, progress.line, FILE if own else SERVER)


def opening_line(settings: Settings, study: Study) -> str:
    """Which study this is, and what was recovered of it."""
    if study.created:
        return f"study {settings.folder}"
    found = study.recovered
    return (
        f"study {settings.folder} resumed: {counted(found.finished, 'trial')} kept, {found.requeued} that were running queued "
        f"again, {found.failed} failed; {study.spent} of {settings.budget} spent"
    )


if __name__ == "__main__":
    sys.exit(main_guard(main))
