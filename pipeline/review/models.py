"""A front's candidates as MLflow's LoggedModels: its Models tab sorts and filters them by figures on the data set.

MLflow has no view of a front; in the Models tab, ``tags.`pareto.front` = 'true'`` and a click on a column show this one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.review.tags import DECISION, FRONT, SOURCE, UNDECIDED, Tracked

if TYPE_CHECKING:
    from mlflow.entities import Dataset, LoggedModel

SHOWN = ("error", "latency_ms", "low", "high", "size_bytes", "peak_memory_bytes", "divergence")


def figures_of(point: Mapping[str, Any]) -> dict[str, float]:
    """A point of front.json as a model's metrics."""
    names = {"low": "latency_low_ms", "high": "latency_high_ms"}
    found = {names.get(key, key): float(point[key]) for key in SHOWN if point.get(key) is not None}
    return {"accuracy": 1 - found["error"], **found} if "error" in found else found


def show_front(
    tracker: Tracked, points: Sequence[Mapping[str, Any]], runs: Mapping[str, str], data: Dataset | None
) -> None:
    """Make a model of every point that has a run, or bring it up to date; models that left the front say so.

    A decision that a person made stays.

    Args:
        points: rows of front.json.
        runs: the trial's run by candidate hash.
        data: what the figures were found on.
    """
    client = tracker.client
    known = {
        model.tags["candidate"]: model
        for model in tracker.models(f"tags.study_id = '{tracker.identity}'")
        if "candidate" in model.tags
    }
    on = {str(point["hash"]): point for point in points}
    for name in known.keys() - on.keys():
        if known[name].tags.get(FRONT) != "false":
            client.set_logged_model_tags(known[name].model_id, {FRONT: "false"})
    for name, point in on.items():
        if name not in runs:
            continue
        tags = {
            FRONT: "true",
            SOURCE: str(point.get("source") or ""),
            "device": str(point.get("device") or ""),
        }
        model = known.get(name)
        if model is None:
            marks = {"study": tracker.study, "study_id": tracker.identity, "candidate": name}
            params = dict(client.get_run(runs[name]).data.params)
            model = client.create_logged_model(
                tracker.experiment,
                name=name,
                source_run_id=runs[name],
                tags={**marks, **tags, DECISION: UNDECIDED},
                params=params,
                model_type="compressed network",
            )
        elif any(model.tags.get(key) != value for key, value in tags.items()):
            client.set_logged_model_tags(model.model_id, tags)
        _tell(tracker, model, runs[name], figures_of(point), data)
        if str(model.status) != "READY":
            client.finalize_logged_model(model.model_id, "READY")


def _tell(
    tracker: Tracked, model: LoggedModel, run: str, values: Mapping[str, float], data: Dataset | None
) -> None:
    """The figures that the model does not have yet, with the data set they are of."""
    from mlflow.entities import Metric

    known = {metric.key: metric.value for metric in model.metrics or []}
    of = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
    now = int(1000 * time.time())
    rows = [
        Metric(key, value, now, 0, model_id=model.model_id, run_id=run, **of)
        for key, value in values.items()
        if known.get(key) != value
    ]
    if rows:
        tracker.client.log_batch(run, metrics=rows)
