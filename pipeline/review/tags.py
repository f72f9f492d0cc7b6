"""What MLflow shows of a candidate as tags of its run and of its model alike.

``pareto.front`` is ``true`` or ``false``, ``source`` is ``measured`` or ``modelled``. ``decision`` is empty, ``keep``, ``reject``
or ``promoted``: written by ``studies decide`` and ``promote``, or by hand in MLflow's pages, and read back by ``promote``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.review.store import explained
from pipeline.study.decided import TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

FRONT, DECISION, SOURCE = "pareto.front", TAG, "source"
UNDECIDED, KEEP, REJECT, PROMOTED = "", "keep", "reject", "promoted"


class Tracked(Protocol):
    """What is asked here of a study's ``Tracker``."""

    uri: str
    study: str
    identity: str
    experiment: str

    @property
    def client(self) -> MlflowClient: ...

    @property
    def parent(self) -> str: ...

    def runs(self, filter_string: str) -> Iterator[Run]: ...

    def models(self, filter_string: str) -> list[LoggedModel]: ...


def decision_of(tracker: Tracked, candidate: str) -> str:
    """The decision about a candidate: ``reject`` where any of its tags says so, else what one says; empty where none does.

    Raises:
        TrackingError: MLflow failed.
    """
    with explained("reading decisions"):
        runs, models = _of(tracker, candidate)
        said = [run.data.tags.get(DECISION, "") for run in runs]
        said += [model.tags.get(DECISION, "") for model in models]
    words = [word.strip().lower() for word in said]
    return REJECT if REJECT in words else next(filter(None, words), UNDECIDED)


def source_run(tracker: Tracked, candidate: str) -> str | None:
    """The run of the trial that made a candidate, where MLflow has it.

    Raises:
        TrackingError: MLflow failed.
    """
    with explained("looking for the trial's run"):
        runs, _ = _of(tracker, candidate)
    return str(runs[0].info.run_id) if runs else None


def _of(tracker: Tracked, candidate: str) -> tuple[list[Any], list[Any]]:
    """The candidate's runs and models in this study."""
    if not tracker.identity:
        return [], []
    mine = f"tags.study_id = '{tracker.identity}' and tags.candidate = '{candidate}'"
    return list(tracker.runs(f"{mine} and tags.kind = 'trial'")), tracker.models(mine)
