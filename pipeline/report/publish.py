"""What a search leaves for people and programs: front.json, report.html and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foundation.errors import UserError
from foundation.files import json_text, write_atomically
from pipeline.candidate.details import mean_zeros, read_details
from pipeline.candidate.folder import load_candidate
from pipeline.candidate.sensitivity import FILE, read_sensitivity
from pipeline.report import ReportData, hypervolume_history, render
from pipeline.review.decisions import read_decisions, without_rejected
from pipeline.review.fronts import front_json
from pipeline.review.recommendation import bound_of, recommend
from pipeline.study.importance import importance
from pipeline.study.limits import chosen_front
from pipeline.study.pruned import read_pruned
from pipeline.study.records import Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import Study

if TYPE_CHECKING:
    from pipeline.review.tracking import Tracker

NOTES = (
    "fp32's latency and size are those of a float program of the network as it was trained; its error is PyTorch's.",
)


class Review(NamedTuple):
    """What a person reviews: the content of front.json and of report.html, and the hypervolume after each trial."""

    front: dict[str, Any]
    page: str
    history: list[tuple[int, float]]


def publish(
    settings: Settings,
    study: Study,
    references: Sequence[Reference],
    tracker: Tracker,
    layer_weights: Mapping[str, int],
    *,
    complete: bool,
    images: int | None = None,
) -> dict[str, Any]:
    """Write front.json and report.html, and all of it to MLflow; what was there is replaced.

    Args:
        complete: whether the search ran to its end; MLflow shows an interrupted one as killed.
        images: how many images an error is a share of; with them, errors have a standard error.

    Returns:
        The content of front.json.

    Raises:
        UserError: a candidate of the front has no complete folder; nothing is written.
    """
    front, page, history = write_front(settings, study, references, layer_weights, images)
    records, hashes = study.records(), [point["hash"] for point in front["points"]]
    track(settings, records, hashes, tracker)
    counts = {f"trials_{status}": 0.0 for status in ("finished", "stopped", "dominated", "failed")}
    for record in records:
        counts[f"trials_{record.status}"] += 1
    tracker.finish(
        front,
        page,
        {name: settings.folder / "candidates" / name for name in hashes},
        files=[settings.folder / FILE],
        metrics={**counts, "front_points": float(len(hashes))},
        hypervolume=history,
        status="FINISHED" if complete else "KILLED",
    )
    return front


def write_front(
    settings: Settings,
    study: Study,
    references: Sequence[Reference],
    layer_weights: Mapping[str, int],
    images: int | None = None,
) -> Review:
    """Write front.json and report.html; arguments and errors are those of ``publish``."""
    records = study.records()
    chosen = chosen_front(records, references, settings, read_pruned(settings.folder))
    check_folders(settings.folder, chosen)
    front = front_json(chosen, references, study.objectives, images)
    left = without_rejected(front, read_decisions(settings.folder))
    recommended = recommend(left, settings.max_accuracy_drop)
    front["recommended"] = recommended.as_dict()
    write_atomically(settings.folder / "front.json", json_text(front, indent=1) + "\n")
    hashes = [point["hash"] for point in front["points"]]
    history = hypervolume_history(records, references, study.objectives)
    page = render(
        ReportData(
            study=settings.study_name,
            model=settings.model,
            data=settings.data,
            records=records,
            references=references,
            front=hashes,
            objectives=study.objectives,
            settings=settings.as_dict(),
            layers=layer_weights,
            details={name: read_details(settings.folder / "candidates" / name) for name in hashes},
            history=history,
            notes=NOTES,
            images=images,
            recommended=recommended,
            accuracy_drop=bound_of(settings.max_accuracy_drop),
            sensitivity=read_sensitivity(settings.folder),
            importance=importance(records, study.objectives),
            created=f"{datetime.now():%Y-%m-%d %H:%M}",
        )
    )
    write_atomically(settings.folder / "report.html", page)
    return Review(front, page, history)


def check_folders(folder: Path, front: Sequence[TrialRecord]) -> None:
    """See that every candidate of the front has all its files, as its manifest's checksums say.

    Raises:
        UserError: some have not; the text names what is missing of each.
    """
    faults = []
    for record in front:
        try:
            load_candidate(folder / "candidates" / record.hash)
        except UserError as error:
            faults.append(f"{record.hash} (trial {record.number}): {error}")
    if faults:
        raise UserError(
            f"{len(faults)} of the {len(front)} candidates on the front of {folder} have no complete folder, so there is nothing "
            f"to evaluate or promote: {'; '.join(faults)}. Restore the folders from a copy, or search anew under another --name"
        )


def track(settings: Settings, records: Sequence[TrialRecord], front: Sequence[str], tracker: Tracker) -> None:
    """Copy the trials that ended to MLflow, with what only the candidates' folders know.

    Raises:
        TrackingError: MLflow could not be written; the next call makes up for it.
    """
    shares = {
        r.hash: mean_zeros(settings.folder / "candidates" / r.hash) for r in records if r.status == "finished"
    }
    known = {name: {"zeros_mean": share} for name, share in shares.items() if share is not None}
    tracker.sync(records, front, known)
