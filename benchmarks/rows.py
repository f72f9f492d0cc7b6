"""Tables of measurements as CSV files: rows are added as they are made, and what a file has need not be made again."""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import write_atomically


def text_of(value: object) -> str:
    """A value as a file has it."""
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def as_text(record: Mapping[str, Any]) -> dict[str, str]:
    """A row as a file has it."""
    return {name: text_of(value) for name, value in record.items()}


def read(path: Path, wanted: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a file; none where there is no file.

    Raises:
        UserError: it lacks some of the columns ``wanted``, so it is another table; or it is damaged.
    """
    return _read(path, wanted)[1]


def _read(path: Path, wanted: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows."""
    if not path.exists():
        return [], []
    try:
        with path.open(
            newline="", encoding="utf-8-sig"
        ) as file:  # spreadsheets begin with a mark of the order of bytes
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}); give another --out") from error
    if columns and (missing := set(wanted) - set(columns)):
        raise UserError(
            f"{path} is not a table of this benchmark, it lacks {', '.join(sorted(missing))}; give another --out"
        )
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values() or len(row) != len(columns):
            raise UserError(
                f"{path}: row {number} has not the {len(columns)} columns of the head; mend or remove it"
            )
    return columns, rows


def done_in(path: Path, cell: type) -> set[tuple[str, ...]]:
    """The cells that a file has, by the fields of their class; raises as ``read``."""
    names = list(cell.__annotations__)
    return {tuple(row[name] for name in names) for row in read(path, names)}


def append(path: Path, record: Mapping[str, object], instead: Sequence[str] = ()) -> None:
    """One row more; in the place of those with the same values in the columns ``instead``, where such are named. Several
    processes may add to one file.

    Raises:
        UserError: the file's columns are others.
    """
    said, path = as_text(record), path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        columns, rows = _read(path, record)
        if unknown := set(columns) - set(record):
            raise UserError(
                f"{path} has columns that this benchmark does not know, {', '.join(sorted(unknown))}; give another --out"
            )
        if instead:
            rows = [row for row in rows if any(row[name] != said[name] for name in instead)]
        write(path, [*rows, {name: said[name] for name in columns or said}])


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A table, whole, atomically; its columns are the first row's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table_text(rows))


def table_text(rows: Sequence[Mapping[str, object]]) -> str:
    """A table as text; nothing where there are no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nobody else adds to a file of this folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
