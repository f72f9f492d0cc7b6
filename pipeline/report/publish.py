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
from pipeline.candidate.reviewed import read_review
from pipeline.report.data import ReportData, hypervolume_history
from pipeline.report.page import render
from pipeline.review.fronts import front_json
from pipeline.review.recommendation import bound_of, recommend
from pipeline.shelf.picture import picture
from pipeline.study.decided import read_decisions, without_rejected
from pipeline.study.importance import importance
from pipeline.study.limits import chosen_front
from pipeline.study.pruned import read_pruned
from pipeline.study.records import OBJECTIVES, Reference, TrialRecord
from pipeline.study.sensitivity import FILE, read_sensitivity
from pipeline.study.settings import Settings
from pipeline.study.study import Study

if TYPE_CHECKING:
    from pipeline.review.tracking import Tracker

NOTES = ("fp32's latency and size are those of a float program of the network as it was trained.",)


class Review(NamedTuple):
    """What a person reviews: the content of front.json and of report.html, and the hypervolume after each trial."""

    front: dict[str, Any]
    page: str
    history: list[tuple[int, float]]


def send(
    folder: Path, records: Sequence[TrialRecord], review: Review, tracker: Tracker, *, complete: bool
) -> None:
    """Write a study to MLflow with all that a person reviews; what was there is replaced.

    Args:
        folder: the study's.
        records: all trials that ended.
        complete: whether the search ran to its end; MLflow shows an interrupted one as killed.

    Raises:
        TrackingError: MLflow could not be written; it may be called again.
    """
    front, page, history = review
    hashes = [point["hash"] for point in front["points"]]
    track(folder, records, hashes, tracker)
    counts = {f"trials_{status}": 0.0 for status in ("finished", "stopped", "dominated", "failed")}
    for record in records:
        counts[f"trials_{record.status}"] += 1
    tracker.finish(
        front,
        page,
        {name: folder / "candidates" / name for name in hashes},
        files=[folder / FILE],
        metrics={**counts, "front_points": float(len(hashes))},
        hypervolume=[(ended, volume) for ended, (_, volume) in enumerate(history, 1)],
        status="FINISHED" if complete else "KILLED",
        picture=picture(front, folder.name),
    )


def write_front(
    settings: Settings,
    study: Study,
    references: Sequence[Reference],
    layer_weights: Mapping[str, int],
    images: int | None = None,
) -> Review:
    """Write front.json and report.html; what was there is replaced.

    Args:
        images: how many images an error is a share of; with them, errors have a standard error.

    Raises:
        UserError: a candidate of the front has no complete folder; nothing is written.
    """
    records = study.records()
    chosen = chosen_front(records, references, settings, read_pruned(settings.folder))
    check_folders(settings.folder, chosen)
    front, data = gather(
        settings.folder, settings.as_dict(), records, chosen, references, layer_weights, images
    )
    page = render(data)
    write_atomically(settings.folder / "front.json", json_text(front, indent=1) + "\n")
    write_atomically(settings.folder / "report.html", page)
    return Review(front, page, list(data.history or ()))


def gather(
    folder: Path,
    settings: Mapping[str, Any],
    records: Sequence[TrialRecord],
    chosen: Sequence[TrialRecord],
    references: Sequence[Reference],
    layer_weights: Mapping[str, int],
    images: int | None = None,
) -> tuple[dict[str, Any], ReportData]:
    """The content of front.json, and what the report shows beside it.

    Args:
        folder: the study's.
        settings: as ``settings.yaml`` holds them; what it lacks has its default.
        records: the trials; some of them may still run.
        chosen: those on the front.
    """
    objectives = tuple(settings.get("objectives") or OBJECTIVES)
    drop, metric = settings.get("max_accuracy_drop"), settings.get("metric")
    front = front_json(chosen, references, objectives, images, metric)
    recommended = recommend(without_rejected(front, read_decisions(folder)), drop)
    front["recommended"] = recommended.as_dict()
    hashes = [point["hash"] for point in front["points"]]
    candidates = {name: folder / "candidates" / name for name in hashes}
    data = ReportData(
        study=str(settings.get("name") or folder.name),
        model=str(settings.get("model", "")),
        data=str(settings.get("data", "")),
        records=records,
        references=references,
        front=hashes,
        objectives=objectives,
        settings=settings,
        layers=layer_weights,
        details={name: read_details(candidate) for name, candidate in candidates.items()},
        reviews={name: read_review(candidate) for name, candidate in candidates.items()},
        history=hypervolume_history(records, references, objectives),
        notes=NOTES,
        images=images,
        metric=metric,
        recommended=recommended,
        accuracy_drop=bound_of(drop),
        sensitivity=read_sensitivity(folder),
        importance=importance([record for record in records if record.status != "running"], objectives),
        created=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    return front, data


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


def track(folder: Path, records: Sequence[TrialRecord], front: Sequence[str], tracker: Tracker) -> None:
    """Copy the trials that ended of the study in ``folder`` to MLflow, with what only the candidates' folders know.

    Raises:
        TrackingError: MLflow could not be written; the next call makes up for it.
    """
    shares = {r.hash: mean_zeros(folder / "candidates" / r.hash) for r in records if r.status == "finished"}
    known = {name: {"zeros_mean": share} for name, share in shares.items() if share is not None}
    tracker.sync(records, front, known)
