"""A finished or broken-off study, written to MLflow from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.report import publish
from pipeline.report.page import render
from pipeline.report.stored import SPLIT, read_study
from pipeline.review.tracking import Tracker
from pipeline.shelf.view import look
from pipeline.study.lock import lock
from pipeline.study.unsent import note_unsent


def send(folder: Path, tracking_uri: str | None = None) -> tuple[Tracker, int]:
    """Write what MLflow lacks of the study in ``folder`` and its front anew; where, and how many trials there are.

    Args:
        tracking_uri: in place of the store that the study was searched with.

    Raises:
        UserError: there is no whole study, a search runs on it, or the store cannot be used.
        TrackingError: MLflow failed; it may be called again.
    """
    with lock(folder):
        view = look(folder)
        settings = view.settings
        front, data = read_study(folder)
        tracker = Tracker(
            tracking_uri or settings.tracking_uri, settings.out, settings.study_name, dict(data.layers)
        )
        tracker.start(
            settings.as_dict(), {"spec": settings.data, "name": _images_name(folder) or settings.data}
        )
        review = publish.Review(front, render(data), list(data.history or ()))
        publish.send(folder, view.records, review, tracker, complete=view.state == "complete")
        if tracking_uri is None:
            note_unsent(folder, None)
    return tracker, len(view.records)


def _images_name(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / SPLIT).read_text())["name"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
