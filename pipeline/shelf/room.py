"""The room that studies take on the disk: candidates that no front needs are removed, or whole studies are; and copies."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from foundation.errors import UserError
from foundation.files import folder_atomically, write_atomically
from pipeline.shelf.find import DATABASE, is_study
from pipeline.shelf.view import View, bytes_of
from pipeline.study import lock as locks
from pipeline.study.decided import read_decisions
from pipeline.study.lock import lock
from pipeline.study.paths import SETTINGS
from pipeline.study.pruned import note_pruned
from pipeline.study.study import front_of
from pipeline.study.tables import copy

Keep = Literal["front", "all"]
OF_ONE = (
    locks.FILE,
    "tracking_id",
    DATABASE,
    f"{DATABASE}-wal",
    f"{DATABASE}-shm",
    SETTINGS,
)  # no clone has these as they are


@dataclass(frozen=True)
class Pruning:
    """What is removed: whole candidates by hash, other folders, and the bytes that they take."""

    candidates: Sequence[str]
    folders: Sequence[Path]
    bytes: int


def unneeded(view: View, keep: Keep) -> Pruning:
    """What of a study is needed neither by its front nor to go on with it.

    Left over are checkpoints of trials that have ended, and what a killed process left half-written. With ``keep`` ``front``
    also the candidates that are on no front (that without limits counts too), were not promoted, and that nobody means to keep.
    """
    ended = {record.hash: record for record in view.records}
    folders = [
        place
        for place in _folders(view.folder / "trials")
        if place.name in ended
        and not (place / "record.json").is_file()  # what the study has not heard of is no waste
    ]
    folders += [place for place in _folders(view.folder / "candidates") if place.name.startswith(".")]
    candidates: list[str] = []
    if keep == "front":
        wanted = {point["hash"] for point in view.front["points"]}
        wanted |= {record.hash for record in front_of(view.records, view.settings.objectives)}
        wanted |= {place.name for place in _folders(view.folder / "promoted")}
        wanted |= {name for name, one in read_decisions(view.folder).items() if one.decision == "keep"}
        candidates = [
            place.name
            for place in _folders(view.folder / "candidates")
            if place.name in ended and place.name not in wanted
        ]
    places = [*folders, *(view.folder / "candidates" / name for name in candidates)]
    return Pruning(candidates, folders, sum(map(bytes_of, places)))


def prune(folder: Path, pruning: Pruning) -> None:
    """Remove it. The study notes first what it will not have any more, so a kill in between costs no resume.

    Raises:
        UserError: a search runs on the study.
    """
    with _held(folder):
        if pruning.candidates:
            note_pruned(folder, pruning.candidates)
        for place in (*pruning.folders, *(folder / "candidates" / name for name in pruning.candidates)):
            shutil.rmtree(place, ignore_errors=True)


def delete(folder: Path) -> None:
    """Remove a whole study. Links in it are removed, what they lead to is not touched.

    Raises:
        UserError: a search runs on it, or ``folder`` is itself a link.
    """
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {os.readlink(folder)}: name the study there, or remove the link yourself"
        )
    with _held(folder):
        shutil.rmtree(folder)


def clone(old: Path, new: Path) -> None:
    """A copy of a study under another name, with all its trials and an identity of its own; also of one that runs.

    The database is copied first: the files of a candidate are there before the study knows of it, so nothing is missing.

    Raises:
        UserError: there is something of the new name.
    """
    if os.path.lexists(new):
        raise UserError(f"{new} is there already; give the copy another name")
    with folder_atomically(new) as place:
        if (old / DATABASE).is_file():
            copy(old / DATABASE, place / DATABASE)
        for source in sorted(old.iterdir()):
            if source.name in OF_ONE or source.name.startswith("."):
                continue
            if source.is_dir():
                with contextlib.suppress(FileNotFoundError):  # a temporary one of a running search
                    shutil.copytree(source, place / source.name, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(source, place / source.name)
        if (old / SETTINGS).is_file():
            record: dict[str, Any] = yaml.safe_load((old / SETTINGS).read_text())
            record |= {"name": new.name, "out": str(new.parent)}
            write_atomically(place / SETTINGS, yaml.safe_dump(record, sort_keys=False))


def refuse_running(folder: Path) -> None:
    """Raises:
    UserError: a search runs on the study.
    """
    with _held(folder):
        pass


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """No search can begin on the study meanwhile.

    Raises:
        UserError: one runs.
    """
    if not is_study(folder):
        raise UserError(f"{folder} holds no study")
    try:
        stream = lock(folder)
    except UserError as error:
        raise UserError(
            f"{str(error).partition(';')[0]}; stop it first (studies stop {folder.name})"
        ) from error
    with stream:
        yield


def _folders(place: Path) -> list[Path]:
    """The folders in ``place`` that are no links, by name."""
    if not place.is_dir() or place.is_symlink():
        return []
    return sorted(one for one in place.iterdir() if one.is_dir() and not one.is_symlink())
