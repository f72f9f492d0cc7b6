"""Paths as people type them, made absolute once, where they are typed.

A trial runs in another folder, perhaps on another machine, and a study is resumed from anywhere. So a relative path is joined
to the folder it was typed in (the current one for a flag, the file's own for a settings file) before anything else sees it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from foundation.errors import UserError
from foundation.factories import is_factory
from pipeline.datasets.registry import DATA
from pipeline.study.credentials import without_secrets

MADE = "quantize.json"  # in the folder that ``pipeline.quantize`` makes: what the network there was made of
SETTINGS = "settings.yaml"  # in a study's folder: what it was started with
LIKE = "like.json"  # and what it took up of an earlier one, so that it goes on when that is gone
BY_NAME = (
    "model",
    "data",
    "metric",
    "quantizer",
    "sampler",
    "devices",
)  # settings that may say package.module:Name
SQLITE_FORM = (
    "sqlite:///relative/file.db or sqlite:////absolute/file.db, with % and ? in names as %25 and %3F"
)
OF_DETECTORS = "coco"  # data that has boxes instead of labels
SERVICES = (
    "databricks",
    "databricks-uc",
)  # what MLflow takes for a server though it looks like a file's name


def absolute(text: str | Path, folder: Path | None = None) -> Path:
    """The path that ``text`` means in ``folder`` (by default the current one), with ``~`` and ``..`` replaced.

    Symbolic links stay as they are: where one leads may differ between machines.
    """
    typed = (folder or Path.cwd()) / os.path.expanduser(text)
    tidy = Path(os.path.normpath(typed))
    # The parent of what a link leads to is not the folder that holds the link.
    return tidy if tidy.resolve() == typed.resolve() else typed


def data(text: str, folder: Path | None = None) -> str:
    """A data set's specification; only those that are registered by a name have a place on the disk."""
    kind, _, place = text.partition(":")
    if not place:
        return text
    return f"{kind}:{absolute(place, folder)}" if kind in DATA or kind == OF_DETECTORS else text


def weights(text: str, folder: Path | None = None) -> str:
    """A file's path; a bare word that names no file stays as it is, since it may name torchvision's weights."""
    path = absolute(text, folder)
    return text if text.isidentifier() and not path.is_file() else str(path)


def tracking_uri(text: str, folder: Path | None = None) -> str:
    """An MLflow store: a database file or a folder by its full path, a server as it is. Passwords are left out, see
    ``pipeline.study.credentials``.

    Raises:
        UserError: an address that cannot be read.
    """
    if re.match(r"sqlite(\+\w+)?:", text):
        return _sqlite_typed(text, folder)
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return absolute(url2pathname(parts.path), folder).as_uri()
    if "://" in text or text in SERVICES:
        return without_secrets(text)
    if parts.scheme:
        raise UserError(f"tracking-uri {text!r}: give a server as http://HOST:PORT, or {SQLITE_FORM}")
    return absolute(text, folder).as_uri()


def _sqlite_typed(text: str, folder: Path | None) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"tracking-uri {text!r}: not an address of SQLAlchemy's; give {SQLITE_FORM}"
        ) from error
    if url.host or not url.database or url.database == ":memory:" or ("?" in text and not url.query):
        raise UserError(f"tracking-uri {text!r}: names no database file; give {SQLITE_FORM}")
    return _rendered(absolute(url.database, folder), url.query)


def sqlite_uri(file: Path) -> str:
    """SQLAlchemy's address of a database file, whatever characters its path has."""
    return _rendered(absolute(file), {})


def _rendered(file: Path, query: Mapping[str, Any]) -> str:
    from sqlalchemy.engine import URL

    plain = URL.create("sqlite", database=str(file), query=query).render_as_string()
    if plain.startswith(f"sqlite:///{file}"):
        return plain
    # MLflow takes what follows ``sqlite:///`` for a path as it is, and would make a folder of the quoted name.
    return URL.create("sqlite+pysqlite", database=str(file), query=query).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """The database file of an address that ``sqlite_uri`` or ``tracking_uri`` gave; None where it is no sqlite address."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    return Path(database) if database else None


def storage(text: str | Path, folder: Path | None = None) -> str:
    """A storage's place: a URL as it is, else a folder."""
    return str(text) if "://" in str(text) else str(absolute(text, folder))


RESOLVERS: dict[str, Callable[[Any, Path | None], Any]] = {
    "data": data,
    "weights": weights,
    "out": absolute,
    "modules": absolute,
    "like": absolute,
    "storage": storage,
    "tracking_uri": tracking_uri,
}


def resolved(record: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The settings in ``record`` with every path in them absolute, as typed in ``folder`` (by default the current one).

    Values that are no text are left for the settings' own parsers to refuse.
    """
    return {
        key: RESOLVERS[key](value, folder) if key in RESOLVERS and isinstance(value, (str, Path)) else value
        for key, value in record.items()
    }


OURS = "timm:"  # of a network's name, in the form of a module's and none


def settled(record: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """``resolved``, and beside a ``package.module:factory`` the folder that its module is looked up in."""
    found = resolved(record, folder)
    further = found.get("dimensions") or ()
    words = further.split() if isinstance(further, str) else further
    named = [str(word).partition("=")[0] for word in words]
    given = [*(str(found.get(key)) for key in BY_NAME), *named]
    names_one = any(is_factory(name) and not name.startswith(OURS) for name in given)
    if names_one and found.get("modules") is None:
        found["modules"] = folder or Path.cwd()
    return found


def typed_in(study: Path) -> Path:
    """The folder in which the relative paths of a study were typed, as far as it can be told.

    Before paths were made absolute, a study's settings kept them as they were typed. Where the output folder is relative there,
    the study's own place tells from where it led to it; else the current folder is as good a guess as any.
    """
    import yaml

    try:
        out = yaml.safe_load((study / SETTINGS).read_text())["out"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return Path.cwd()
    return _start_of(absolute(study).parent, Path(str(out))) or Path.cwd()


def _start_of(place: Path, relative: Path) -> Path | None:
    """The folder from which ``relative`` leads to ``place``; None where it does not lead there."""
    tail, parts = Path(os.path.normpath(relative)).parts, place.parts
    start = len(parts) - len(tail)
    if relative.is_absolute() or ".." in tail or parts[max(start, 0) :] != tail:
        return None
    return Path(*parts[:start])
