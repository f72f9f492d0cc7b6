"""User and password of an MLflow store: taken out of what is typed, so that they reach no file, page or parameter.

They go where MLflow's own client looks for them, ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD`` of this process
and of those that it starts; a database's address gets them back only in the moment it is opened.
"""

from __future__ import annotations

import os
from urllib.parse import SplitResult, quote, unquote, urlsplit

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def without_secrets(uri: str) -> str:
    """The address without its password, and of a server without the user, which the environment has from then on."""
    parts, (user, password) = urlsplit(uri), _said(uri)
    if user is None:
        return uri
    if password is not None:
        os.environ[PASSWORD] = unquote(password)
    if parts.scheme in ("http", "https"):
        os.environ[USER] = unquote(user)
        return _with(parts, "")
    return _with(parts, f"{user}@")


def with_secrets(uri: str) -> str:
    """A database's address with the password that the environment knows; every other one as it is."""
    parts, (user, password) = urlsplit(uri), _said(uri)
    known = os.environ.get(PASSWORD)
    if parts.scheme in ("http", "https") or user is None or password is not None or not known:
        return uri
    return _with(parts, f"{user}:{quote(known, safe='')}@")


def _said(uri: str) -> tuple[str | None, str | None]:
    """User and password as they stand, quoted."""
    said, at, _ = urlsplit(uri).netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = said.partition(":")
    return user, password if colon else None


def _with(parts: SplitResult, said: str) -> str:
    return parts._replace(netloc=said + parts.netloc.rpartition("@")[2]).geturl()
