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
        UserError: it lacks some of the columns ``wanted``, so it is another table.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and (missing := set(wanted) - set(rows[0])):
        raise UserError(
            f"{path} is not a table of this benchmark, it lacks {', '.join(sorted(missing))}; give another --out"
        )
    return rows


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        rows = read(path, record)
        if rows and (unknown := set(rows[0]) - set(record)):
            raise UserError(
                f"{path} has columns that this benchmark does not know, {', '.join(sorted(unknown))}; give another --out"
            )
        if instead:
            own = as_text({name: record[name] for name in instead})
            rows = [row for row in rows if any(row[name] != value for name, value in own.items())]
        write(path, [*rows, record])


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
