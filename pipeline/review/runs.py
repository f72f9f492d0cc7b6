"""One trial's run in MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.candidate.describe import text_of
from pipeline.review.store import BATCH, LONGEST
from pipeline.review.tags import DECISION, FRONT, SOURCE, UNDECIDED, Tracked
from pipeline.study.records import TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient


def write_run(
    tracker: Tracked,
    record: TrialRecord,
    values: Mapping[str, float],
    params: Mapping[str, str],
    *,
    front: bool,
) -> str:
    """A trial's run with its rungs; complete only when all of it is written. Its id.

    Args:
        values: the metrics.
        params: the parameters.
    """
    from mlflow.entities import Metric, Param, RunTag

    client = tracker.client
    ended = int(1000 * (record.ended or time.time()))
    started = int(1000 * record.started) if record.started else ended
    tags = {
        "mlflow.parentRunId": tracker.parent,
        "kind": "trial",
        "study": tracker.study,
        "study_id": tracker.identity,
        "candidate": record.hash,
        "trial_number": str(record.number),
        FRONT: text_of(front),
        DECISION: UNDECIDED,
    }
    name = f"{record.number:03d} {record.hash}"
    run: str = client.create_run(tracker.experiment, start_time=started, tags=tags, run_name=name).info.run_id
    client.log_text(run, record.plan.to_json() + "\n", "plan.json")
    reason = record.reason or ""
    if len(reason) > LONGEST:
        client.log_text(run, reason, "reason.txt")
        reason = reason[: LONGEST - 20] + " ... (reason.txt)"
    later = {"status": record.status, "reason": reason, "inherits": record.inherits or ""}
    later |= {SOURCE: record.figures.source or "", "device": record.figures.device or ""}
    metrics = [Metric(key, value, ended, 0) for key, value in values.items()]
    for step, rung in enumerate(record.curve):
        at = {
            "rung_error": rung.error,
            "rung_loss": rung.loss,
            "rung_epochs": rung.epochs,
            "rung_divergence": rung.divergence,
            "rung_kept_divergence": rung.kept_divergence,
            "rung_moved": rung.moved,
            "rung_flipped": rung.flipped,
        }
        metrics += [
            Metric(key, value, ended, step)
            for key, value in at.items()
            if value is not None and math.isfinite(value)
        ]
    client.log_batch(
        run,
        metrics=metrics[:BATCH],
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in later.items() if value],
    )
    for start in range(BATCH, len(metrics), BATCH):  # only an absurd number of rungs comes here
        client.log_batch(run, metrics=metrics[start : start + BATCH])
    client.set_terminated(run, "FAILED" if record.status == "failed" else "FINISHED", end_time=ended)
    client.set_tag(run, "complete", "true")
    return run


def correct_run(client: MlflowClient, run: str, record: TrialRecord, values: Mapping[str, float]) -> None:
    """Write other costs beside the former ones, which stay in the metrics' history."""
    from mlflow.entities import Metric, RunTag

    now = int(1000 * time.time())
    tags = {"recompiled": f"{datetime.now():%Y-%m-%d %H:%M}"}
    tags |= {SOURCE: record.figures.source or "", "device": record.figures.device or ""}
    client.log_batch(
        run,
        metrics=[Metric(key, value, now, 0) for key, value in values.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
