"""A study's database as Optuna opens it, where others may hold it locked and its disk may be full for a while.

Whatever passes is waited out, in words, since the trials meanwhile go on; what does not ends a search with its true reason.
"""

from __future__ import annotations

import functools
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna

from foundation.command import say, typed
from foundation.errors import UserError
from foundation.foreign_files import first_line
from pipeline.study import paths, tables
from pipeline.study.tables import FILE as FILE

NAME = "search"  # of the one study in the file
BUSY = 5.0  # seconds until sqlite says that somebody else has it locked
PATIENCE = 600.0  # seconds that are waited for what may pass
PAUSE = 1.0  # between two tries
PASSING = ("locked", "busy", "is full", "disk i/o error", "unable to open")
DAMAGED = ("malformed", "not a database", "no such table", "no such column")
CALLS = (
    "create_new_study", "get_study_id_from_name", "get_study_directions", "get_all_studies", "get_study_user_attrs",
    "get_study_system_attrs", "set_study_user_attr", "set_study_system_attr", "get_trial_id_from_study_id_trial_number",
    "get_trial", "set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr", "_create_new_trial",
    "_get_trials",
)  # fmt: skip


class PatientStorage(optuna.storages.RDBStorage):
    """Optuna's storage in one sqlite file, each call of which is one transaction: whole or not at all, so that it may be tried
    again.

    Raises:
        UserError: by any call; the file is damaged, or stays locked, or its disk full, for longer than ``PATIENCE``. From then on
            nothing more is waited for.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._tired = path, False
        options = {"connect_args": {"timeout": BUSY}}
        patiently(path, lambda: super(PatientStorage, self).__init__(paths.sqlite_uri(path), options))

    def _patiently(self, work: Callable[[], Any]) -> Any:
        try:
            return patiently(self._path, work, 0.0 if self._tired else PATIENCE)
        except UserError:
            self._tired = True
            raise


def _patient(name: str) -> Callable[..., Any]:
    plain = getattr(optuna.storages.RDBStorage, name)

    @functools.wraps(plain)
    def call(self: PatientStorage, *given: Any, **named: Any) -> Any:
        return self._patiently(lambda: plain(self, *given, **named))

    return call


for _name in CALLS:
    setattr(PatientStorage, _name, _patient(_name))


def patiently(path: Path, work: Callable[[], Any], patience: float | None = None) -> Any:
    """What ``work`` on the database gives, tried again while that which keeps it may pass.

    Raises:
        UserError: it did not pass in so many seconds, or the file is damaged.
    """
    end, told = time.monotonic() + (PATIENCE if patience is None else patience), False
    while True:
        try:
            return work()
        except Exception as error:
            said = of_sqlite(error)
            if said is None:
                raise
            if not any(word in said.lower() for word in PASSING):
                raise UserError(damaged(path, said)) from error
            if time.monotonic() >= end:
                raise UserError(
                    f"{path} cannot be used: {said}, for {PATIENCE:.0f} s by now. Nothing that ended is lost: see who holds it, "
                    "or make room on its disk, and the same command goes on"
                ) from error
            if not told:
                told = True
                say(f"{path}: {said}; waiting")
            time.sleep(PAUSE)


def of_sqlite(error: BaseException) -> str | None:
    """What sqlite says, where an error, or one that it came from, is sqlite's."""
    for cause in causes(error):
        if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.IntegrityError):
            return first_line(cause)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while error is not None:
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def damaged(path: Path, said: str) -> str:
    """What a person reads of a file that is no study's database."""
    return (
        f"{path} is no database of a study, or damaged ({said}); take it from a copy, or make it again from what --storage kept "
        f"({typed('pipeline.studies')} rebuild), or begin a study of another name"
    )


def open_database(folder: Path, objectives: int) -> tuple[PatientStorage, optuna.Study]:
    """The study in a folder, made where there is none, and its storage for what a study cannot do: note an attribute of a trial
    that another call had asked for.

    Raises:
        UserError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    path = folder / FILE
    try:
        patiently(path, lambda: tables.let_readers_in(path))
        patiently(path, lambda: tables.check(path))
        storage = PatientStorage(path)
        study = optuna.create_study(
            study_name=NAME,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),  # never asked: every trial's parameters are given
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )
        return storage, study
    except UserError:
        raise
    except Exception as error:  # any bytes may lie there
        raise UserError(damaged(path, first_line(error))) from error
