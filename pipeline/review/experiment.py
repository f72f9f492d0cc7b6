"""Where in MLflow a study's runs are."""

from __future__ import annotations

import re
import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundation.command import shell
from foundation.errors import UserError
from foundation.files import write_atomically
from pipeline.review.store import allowed
from pipeline.study.paths import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "dgms-arm-search"  # of all studies in a store, so that MLflow compares them
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def tracking_identity(path: Path, *, make: bool) -> str:
    """The study's own id: on a shared server two people may well choose one name. Empty where none was made yet, nor is to be."""
    if not path.exists() and not make:
        return ""
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex + "\n")
    identity = path.read_text().strip()
    if not re.fullmatch(r"[0-9a-f]{32}", identity):
        raise UserError(
            f"{path} does not hold the study's id (32 hexadecimal digits); delete it to get a new one"
        )
    return identity


def experiment_of(client: MlflowClient, uri: str, out: Path, study: str, identity: str, *, make: bool) -> str:
    """Where a study's runs are, or will be; empty where there is none and none is to be made.

    Args:
        uri: of the store.
        out: the folder that holds one folder per study.
        identity: the study's own id.

    Raises:
        UserError: the experiment was deleted.
    """
    own = client.get_experiment_by_name(study)
    if own is not None and (
        own.lifecycle_stage == "deleted" or _begun_in(client, own.experiment_id, identity)
    ):
        return _there(own, uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None and make:
        kind = {"mlflow.experimentKind": "custom_model_development"}  # which of its two faces MLflow shows
        location = None  # a server's, or a folder's, own
        if urlsplit(uri).scheme.split("+")[0] in DATABASES:
            # MLflow itself would put a database's artifacts into whatever folder is the current one.
            folder = out if (file := sqlite_file(uri)) is None else file.parent
            location = (folder / "mlartifacts" / EXPERIMENT).as_uri()
        with allowed("RESOURCE_ALREADY_EXISTS"):  # another search made it just now
            return client.create_experiment(EXPERIMENT, artifact_location=location, tags=kind)
        found = client.get_experiment_by_name(EXPERIMENT)
    return _there(found, uri) if found is not None else ""


def _begun_in(client: MlflowClient, experiment: str, identity: str) -> bool:
    mine = f"tags.study_id = '{identity}'"
    return bool(identity and client.search_runs([experiment], mine, max_results=1))


def _there(found: Experiment, uri: str) -> str:
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"MLflow's experiment {found.name!r} was deleted: restore it with `MLFLOW_TRACKING_URI={shlex.quote(uri)} "
            f"{shell('mlflow', 'experiments', 'restore', '--experiment-id', found.experiment_id)}` "
            "or name another store by --tracking-uri"
        )
    return str(found.experiment_id)
