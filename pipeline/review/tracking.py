"""MLflow: one parent run per search, one nested run per trial, the front for review, the registry for promotion.

The study is the truth; this is a copy for people to look at, so every call may be repeated. A run belongs to a trial by its
tags, and carries ``complete`` only when everything else is written: what a kill left half-written is written again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.files import json_text
from pipeline.candidate.describe import (
    costs,
    environment,
    figures,
    flat,
    key_of,
    note,
    plan_parameters,
    text_of,
)
from pipeline.review import models
from pipeline.review.background import heard
from pipeline.review.experiment import experiment_of, tracking_identity
from pipeline.review.pages import BY_LATENCY, pages_of, view_of_front
from pipeline.review.runs import correct_run, write_run
from pipeline.review.store import BATCH, LONGEST, address, check_server, explained, unusable
from pipeline.review.tags import DECISION, FRONT
from pipeline.study.credentials import with_secrets
from pipeline.study.paths import absolute, sqlite_file
from pipeline.study.records import TrialRecord
from pipeline.training.settings import ACCURACY, word_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel, Metric, Run

PAGE = 1000
TABLE, PICTURE = "front_table.json", "front.svg"
COMMON = ("model", "data", "target", "sampler", "seed", "epochs_per_trial")  # repeated on every trial


@dataclass(frozen=True)
class Written:
    """A trial's run as MLflow holds it."""

    run: str
    front: bool
    metrics: Mapping[str, float]


class Tracker:
    """One study's runs.

    Args:
        uri: an MLflow server (``http://host:5000``) or another MLflow store; None is an sqlite file ``mlflow.db`` in ``out``.
            The artifacts of an sqlite file lie in ``mlartifacts`` beside it.
        out: the folder that holds one folder per study.
        study: the study's name; it names the search's run. All studies share the experiment ``EXPERIMENT``; one that was begun
            in an experiment of its own, as older versions did, stays there.
        layer_weights: weights per layer, so that mean bits are over weights; without, they are over layers.
        looking: only look: nothing is made that is not there.
        told: is called after each answer of the store.

    Raises:
        UserError: nothing answers at ``uri``, MLflow cannot use it, or the experiment was deleted there.
    """

    def __init__(
        self,
        uri: str | None,
        out: Path,
        study: str,
        layer_weights: Mapping[str, int] | None = None,
        *,
        looking: bool = False,
        told: Callable[[], None] | None = None,
    ) -> None:
        out = absolute(out)
        if not looking:
            (out / study).mkdir(parents=True, exist_ok=True)
        self.uri = address(uri, out)
        self._told_of_answers = told
        self.study = study
        self.layer_weights = dict(layer_weights or {})
        if self.uri.startswith(("http://", "https://")):
            check_server(self.uri)
        from mlflow.exceptions import MlflowException

        # Alembic tells every table it makes; that is no news to a person who runs a search.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.identity = tracking_identity(out / study / "tracking_id", make=not looking)
        self.absent = looking and self.file is not None and not self.file.is_file()
        try:
            if self.file is not None and not looking:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            self.experiment = ""
            if not self.absent:
                self.experiment = experiment_of(
                    self.client, self.uri, out, study, self.identity, make=not looking
                )
        except (MlflowException, OSError) as error:
            raise unusable(self.uri, error) from error
        self.common: dict[str, str] = {}
        self._metric = ACCURACY
        self._parent: str | None = None
        self._children: dict[tuple[int, str], Written] | None = None

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own; a database file is made where there is none."""
        from mlflow import MlflowClient

        whole = with_secrets(self.uri)
        return heard(MlflowClient(tracking_uri=whole, registry_uri=whole), self._told_of_answers)

    @property
    def file(self) -> Path | None:
        """The database file, where the store is one."""
        return sqlite_file(self.uri)

    @property
    def front_page(self) -> str:
        """The address, behind that of the store, at which MLflow lists the runs of this study's front."""
        return pages_of(self.experiment, self.identity)[BY_LATENCY]

    @property
    def parent(self) -> str:
        """Id of the search's run; it is made at first use and found again ever after."""
        if self._parent is None:
            found = self.runs(f"tags.study_id = '{self.identity}' and tags.kind = 'search'")
            self._parent = next((run.info.run_id for run in found), None)
        if self._parent is None:
            tags = {"kind": "search", "study": self.study, "study_id": self.identity}
            tags |= {"mlflow.source.name": "python -m pipeline.search", "mlflow.source.type": "LOCAL"}
            run = self.client.create_run(self.experiment, tags=tags, run_name=self.study)
            self._parent = run.info.run_id
        return self._parent

    def start(self, settings: Mapping[str, Any], data: Mapping[str, Any]) -> str:
        """Open, or reopen, the search's run and record what it depends on; returns its id.

        Args:
            settings: the resolved settings, plain values. A setting that differs from the one of the first start
                (a larger budget on resume) is kept in the tag ``resumed.NAME``: parameters cannot change.
            data: what identifies the data set: at least ``spec``; ``name``, counts, a digest.
        """
        from mlflow.entities import Param, RunTag

        self._metric = word_of(settings.get("metric"))
        with explained("opening the search's run"):
            run = self.client.get_run(self.parent)
            named = {key_of(key): text_of(value) for key, value in flat(settings)}
            named |= {key_of(f"data.{key}"): text_of(value) for key, value in flat(data)}
            long = {key for key, value in named.items() if len(value) > LONGEST}
            known = run.data.params
            tags = {key: text_of(value) for key, value in environment().items()}
            tags |= {
                f"resumed.{k}": v for k, v in named.items() if k in known and known[k] != v and k not in long
            }
            fresh = [
                Param(key, value) for key, value in named.items() if key not in known and key not in long
            ]
            for start in range(0, len(fresh), 100):
                self.client.log_batch(self.parent, params=fresh[start : start + 100])
            self.client.log_batch(self.parent, tags=[RunTag(key, value) for key, value in tags.items()])
            if run.inputs is None or not run.inputs.dataset_inputs:
                self.client.log_inputs(self.parent, [_dataset(data)])
            self.client.log_dict(self.parent, dict(settings), "settings.json")
            self.client.log_dict(self.parent, dict(data), "data.json")
            self.client.log_dict(self.parent, environment(), "environment.json")
            self.client.update_run(self.parent, status="RUNNING")
        self.common = {key: named[key] for key in COMMON if key in named and key not in long}
        return self.parent

    def sync(
        self,
        records: Iterable[TrialRecord],
        front: Iterable[str] = (),
        extra: Mapping[str, Mapping[str, float]] | None = None,
    ) -> int:
        """Write every ended trial that is not written yet, correct the costs of those that have others by now (another kernel
        library), and say anew which are on the front.

        Args:
            records: all trials, or those that ended since the last call.
            front: hashes on the front now.
            extra: further metrics by candidate hash, such as ``zeros_mean`` of the packed network.

        Returns:
            How many runs were written or corrected.

        Raises:
            TrackingError: MLflow failed; call again later with the same records.
        """
        chosen, written = set(front), 0
        try:
            with explained("writing trials"):
                children = self._known_children()
                for record in records:
                    key, there = (record.number, record.hash), children.get((record.number, record.hash))
                    if record.status == "running":
                        continue
                    values = figures(
                        record, self.layer_weights, (extra or {}).get(record.hash, {}), self._metric
                    )
                    on = record.hash in chosen
                    if there is None:
                        children[key] = Written(self._written(record, values, front=on), on, values)
                        written += 1
                    elif any(there.metrics.get(name) != value for name, value in costs(values).items()):
                        correct_run(self.client, there.run, record, costs(values))
                        children[key] = dataclasses.replace(there, metrics={**there.metrics, **values})
                        written += 1
                for key, there in children.items():
                    if there.front != (key[1] in chosen):
                        self.client.set_tag(there.run, FRONT, text_of(key[1] in chosen))
                        children[key] = dataclasses.replace(there, front=key[1] in chosen)
        except BaseException:
            self._children = None  # what the store holds now is for the store to say
            raise
        return written

    def finish(
        self,
        front: Mapping[str, Any],
        report: str,
        candidates: Mapping[str, Path],
        metrics: Mapping[str, float] | None = None,
        hypervolume: Sequence[tuple[int, float]] = (),
        status: str = "FINISHED",
        files: Sequence[Path] = (),
        picture: str = "",
    ) -> None:
        """Write what a person reviews to the search's run and close it; an earlier version is replaced.

        Args:
            front: the content of front.json.
            report: the report's HTML.
            candidates: folders of the front's candidates by hash.
            metrics: figures of the whole search, such as ``trials_failed``.
            hypervolume: (trials that ended, hypervolume after them).
            status: FINISHED, or KILLED or FAILED for a search that ended otherwise.
            files: further ones of the study, those that exist.
            picture: of the front, an SVG file's content.
        """
        from mlflow.entities import Metric

        with explained("writing the front"):
            names = [("front", "hash", point) for point in front["points"]]
            names += [("reference", "name", reference) for reference in front["references"]]
            self._table(
                [
                    {"name": row[key], "on": on, **{k: v for k, v in row.items() if k != key}}
                    for on, key, row in names
                ]
            )
            self.client.log_text(self.parent, json_text(front, indent=1), "front.json")
            self.client.log_text(self.parent, report, "report.html")
            if picture:
                self.client.log_text(self.parent, picture, PICTURE)
            for name, folder in candidates.items():
                self.client.log_artifacts(self.parent, str(folder), f"candidates/{name}")
            for file in files:
                if file.is_file():
                    self.client.log_artifact(self.parent, str(file))
            self._show_models(front["points"])
            rows = self._changed("hypervolume", hypervolume)
            rows += [
                Metric(key_of(key), float(value), len(hypervolume), 0)
                for key, value in (metrics or {}).items()
            ]
            for start in range(0, len(rows), BATCH):
                self.client.log_batch(self.parent, metrics=rows[start : start + BATCH])
            shown = f"get-artifact?path={PICTURE}&run_uuid={self.parent}" if picture else None
            self.client.set_experiment_tag(self.experiment, *view_of_front(self.identity))
            told = note(front, shown, pages_of(self.experiment, self.identity))
            self.client.set_tag(self.parent, "mlflow.note.content", told)
            self.client.set_terminated(self.parent, status=status)

    def decide(self, candidate: str, decision: str) -> int:
        """Show on every run and model of a candidate what a person decided; ``""`` takes it back. How many runs there are.

        Raises:
            TrackingError: MLflow could not be written.
        """
        with explained("noting a decision"):
            mine = f"tags.study_id = '{self.identity}' and tags.candidate = '{candidate}'"
            found = list(self.runs(mine))
            for run in found:
                self.client.set_tag(run.info.run_id, DECISION, decision)
            for model in self.models(mine):
                self.client.set_logged_model_tags(model.model_id, {DECISION: decision})
        return len(found)

    def _show_models(self, points: Sequence[Mapping[str, Any]]) -> None:
        inputs = self.client.get_run(self.parent).inputs
        data = inputs.dataset_inputs[0].dataset if inputs and inputs.dataset_inputs else None
        runs = {name: there.run for (_, name), there in self._known_children().items()}
        models.show_front(self, points, runs, data)

    def _changed(self, name: str, values: Sequence[tuple[int, float]]) -> list[Metric]:
        """A metric's (step, value) where MLflow has another value or none, later than what it has: writing it twice is the same
        as once."""
        from mlflow.entities import Metric

        known: dict[int, tuple[int, float]] = {}
        for row in self.client.get_metric_history(self.parent, name):
            known[row.step] = max(known.get(row.step, (-1, 0.0)), (row.timestamp, row.value))
        return [
            Metric(name, value, known[step][0] + 1 if step in known else step, step)
            for step, value in values
            if step not in known or known[step][1] != value
        ]

    def models(self, filter_string: str) -> list[LoggedModel]:
        """The models of the studies' candidates that a filter of MLflow's lets through."""
        if not self.experiment:
            return []
        found: list[LoggedModel] = []
        token = None
        while True:
            page = self.client.search_logged_models(
                [self.experiment], filter_string, max_results=100, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def runs(self, filter_string: str) -> Iterator[Run]:
        token = None
        while self.experiment:
            page = self.client.search_runs(
                [self.experiment], filter_string, max_results=PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _known_children(self) -> dict[tuple[int, str], Written]:
        """Complete runs by trial; half-written ones are removed so that they are written again."""
        if self._children is None:
            children = {}
            for run in self.runs(f"tags.`mlflow.parentRunId` = '{self.parent}' and tags.kind = 'trial'"):
                tags, key = run.data.tags, (int(run.data.tags["trial_number"]), run.data.tags["candidate"])
                if tags.get("complete") != "true" or key in children:
                    self.client.delete_run(run.info.run_id)
                else:
                    children[key] = Written(run.info.run_id, tags.get(FRONT) == "true", run.data.metrics)
            self._children = children
        return self._children

    def _written(self, record: TrialRecord, values: Mapping[str, float], *, front: bool) -> str:
        params = self.common | plan_parameters(record.plan, self.layer_weights)
        return write_run(self, record, values, params, front=front)

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows as MLflow's table artifact; ``log_table`` itself would append to an earlier one."""
        import pandas

        frame = pandas.DataFrame(list(rows))
        present = any(item.path == TABLE for item in self.client.list_artifacts(self.parent))
        if not present and len(frame):
            self.client.log_table(self.parent, frame, TABLE)
        elif present:
            self.client.log_text(self.parent, frame.to_json(orient="split", index=False), TABLE)
            shown = json_text([{"path": TABLE, "type": "table"}])
            self.client.set_tag(self.parent, "mlflow.loggedArtifacts", shown)


def _dataset(data: Mapping[str, Any]) -> DatasetInput:
    """The data set as MLflow lists it."""
    from mlflow.entities import Dataset, DatasetInput

    spec, name = text_of(data.get("spec")), text_of(data.get("name") or data.get("spec"))
    digest = hashlib.sha256(json_text(data, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return DatasetInput(Dataset(name[:200], digest, "local", json_text({"spec": spec})))
