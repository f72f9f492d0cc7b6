"""MLflow's store as a person names it: whether it can be used, and its errors in words."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from foundation.command import shell
from foundation.errors import UserError
from pipeline.study.paths import absolute, sqlite_file, sqlite_uri, tracking_uri

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
# Who writes here tries again later; MLflow's own client would keep a call to a dead server for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault(
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
)  # two lines per run; stdout may be JSON
OWN_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` answers unless it is told otherwise
LONGEST = 500  # characters of a parameter or tag that every server keeps whole; longer texts go to files
BATCH = 800  # metrics; a batch of MLflow's holds 1000 entities, parameters and tags included


class TrackingError(Exception):
    """MLflow could not be written. The study is not harmed; the next ``sync`` writes what is missing."""


@contextmanager
def allowed(code: str) -> Iterator[None]:
    """Let MLflow's error of this code pass: it says that the wish is fulfilled already."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """MLflow's errors, and those of the disk, as a TrackingError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow, {doing}: {error}") from error


def address(uri: str | None, out: Path) -> str:
    """The store that a person named, or the one that an output folder has of its own."""
    return sqlite_uri(absolute(out) / "mlflow.db") if uri is None else tracking_uri(uri)


def how_to_look(uri: str, page: str = "") -> str:
    """What a person opens or types to see the runs of a store, and there a page of MLflow's."""
    if sqlite_file(uri) is None and not uri.startswith("file:"):
        return f"{uri.rstrip('/')}/{page}" if page else uri
    started = shell("mlflow", "ui", "--backend-store-uri", uri)
    return f"{started}\n         then open {OWN_SERVER}/{page}" if page else started


def check_store(uri: str | None) -> None:
    """See that MLflow can use what a person named, before the work that is to be tracked there.

    Raises:
        UserError: nothing answers at ``uri``, or MLflow cannot use it.
    """
    if uri is None or sqlite_file(uri) is not None:
        package = importlib.util.find_spec("mlflow")
        check_installation(str(package and package.origin))
        return
    if uri.startswith(("http://", "https://")):
        check_server(uri)
        return
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, OSError) as error:
        raise unusable(uri, error) from error


def check_installation(place: str) -> None:
    """MLflow 3.17 gives alembic its own folder as it is, which takes ``%`` for the start of a placeholder.

    Raises:
        UserError: MLflow lies at such a ``place``.
    """
    if "%" in place:
        raise UserError(
            f"MLflow cannot open a database from where it is installed ({place}: a folder with % in its name); make the virtual "
            "environment in another folder, or name an MLflow server by --tracking-uri http://HOST:PORT"
        )


def unusable(uri: str, error: Exception) -> UserError:
    return UserError(f"--tracking-uri: MLflow cannot use {uri}: {' '.join(str(error).split())}")


def check_server(uri: str) -> None:
    """MLflow's own client would retry a dead server for minutes."""
    try:
        urlopen(uri.rstrip("/") + "/health", timeout=10).close()
    except HTTPError:
        return  # something answers; whether it lets us in is for the first real call to find out
    except (URLError, OSError, ValueError) as error:
        raise UserError(
            f"no MLflow server answers at {uri} ({error}); start one with `mlflow server --host 127.0.0.1 --port 5000`, or "
            "leave --tracking-uri out to use a file in the output folder"
        ) from error
