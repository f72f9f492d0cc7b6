"""Optuna's tables in sqlite: what its own interface has no word for. Nothing else of this project knows them.

A reader looks at a study while a search writes it, which Optuna cannot do without preparing the database for writing; and trials
that have ended get other values, all at once or none, which Optuna does not allow.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.files import json_text

FILE = "study.db"
PATIENCE = 60.0  # seconds to wait for whoever has the database locked
DUPLICATE = "duplicate_of"  # attribute of a trial that was answered by an earlier one's outcome
PLAN = "plan"  # attribute of a trial: the plan to be tried, as JSON text
INHERITS = "inherits"  # attribute of a trial: the hash of the plan whose weights it may start from
RECORD = "record"  # attribute of every trial: its ``TrialRecord`` as JSON text
_RECORDS = """
    select t.number, a.value_json from trials t join trial_user_attributes a on a.trial_id = t.trial_id
    where a.key = 'record' and not exists
        (select 1 from trial_user_attributes d where d.trial_id = t.trial_id and d.key = 'duplicate_of')
    order by t.number
"""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, outside of any transaction."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        yield connection


def let_readers_in(path: Path) -> None:
    """From now on readers never block the driver; the file remembers it. Makes the file where there is none."""
    with opened(path) as connection:
        connection.execute("pragma journal_mode=wal")


def check(path: Path) -> None:
    """See that every page is what sqlite wrote.

    Raises:
        sqlite3.DatabaseError: one is not.
    """
    with opened(path) as connection:
        found = [row[0] for row in connection.execute("pragma quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(f"malformed: {found[0]}")


def _has(connection: sqlite3.Connection, *tables: str) -> bool:
    """Whether these are there: in a database that is being made they are not yet."""
    named = connection.execute("select name from sqlite_master where type = 'table'")
    return set(tables) <= {name for (name,) in named}


def record_texts(path: Path) -> list[str]:
    """The records of all trials but duplicates by number, as JSON texts; empty where the study is being created."""
    with opened(path) as connection:
        if not _has(connection, "trials", "trial_user_attributes"):
            return []
        return [json.loads(text) for _, text in connection.execute(_RECORDS)]


def attribute(path: Path, name: str) -> Any:
    """An attribute of the study; None where it has none, or is being created."""
    with opened(path) as connection:
        if not _has(connection, "study_user_attributes"):
            return None
        asked = "select value_json from study_user_attributes where key = ?"
        found = connection.execute(asked, (name,)).fetchone()
    return None if found is None else json.loads(found[0])


def copy(path: Path, to: Path) -> None:
    """A copy of the database as it is now, also while others use it; ``to`` is replaced."""
    to.unlink(missing_ok=True)
    with opened(path) as source, opened(to) as target:
        source.backup(target)


def replace(
    path: Path,
    records: Mapping[int, str],
    values: Mapping[int, Sequence[float]],
    attributes: Mapping[str, Any],
) -> None:
    """Give trials other records and objectives' values, by number, and the study other attributes: all in one transaction."""
    with opened(path) as connection:
        connection.execute("begin immediate")
        try:
            numbered = dict(connection.execute("select number, trial_id from trials"))
            for number, text in records.items():
                connection.execute(
                    "update trial_user_attributes set value_json = ? where trial_id = ? and key = ?",
                    (json_text(text), numbered[number], RECORD),
                )
            for number, point in values.items():
                for objective, value in enumerate(point):
                    connection.execute(
                        "update trial_values set value = ?, value_type = 'FINITE' where trial_id = ? and objective = ?",
                        (value, numbered[number], objective),
                    )
            for key, value in attributes.items():
                connection.execute(
                    "update study_user_attributes set value_json = ? where key = ?", (json_text(value), key)
                )
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
