"""A copy of a study in its storage, from which it can be made again where the driver's disk is lost."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.foreign_files import first_line
from pipeline.candidate.folder import fetch_candidate, send_candidate
from pipeline.study.decided import FILE as DECISIONS
from pipeline.study.paths import SETTINGS
from pipeline.study.pruned import FILE as PRUNED
from pipeline.study.references import REFERENCES
from pipeline.study.sensitivity import FILE as SENSITIVITY
from pipeline.study.storage import DamagedFile, Storage
from pipeline.study.study import FILE

EVERY = 30.0  # seconds between two copies while a search runs
KEPT = 2  # copies of the database: where the last is damaged, the one before it is taken
SMALL = (SETTINGS, "split.json", SENSITIVITY, REFERENCES, "front.json", DECISIONS, PRUNED)
DATABASES = "database"


class Backup:
    """Copies what has changed of the study in ``folder``. A storage that is down does not stop a search: ``say`` is told, and
    the next call makes up for it. ``anew``: the candidates that lie there already are of a former kernel library."""

    def __init__(
        self,
        folder: Path,
        storage: Storage,
        say: Callable[[str], None],
        *,
        anew: bool = False,
    ) -> None:
        self._anew = anew
        self._folder, self._storage, self._say = folder, storage, say
        self._written: dict[str, str] = {}
        self._last = 0.0

    def now_and_then(self) -> None:
        """Copy where the last copy is old."""
        if time.monotonic() - self._last > EVERY:
            self.now()

    def now(self) -> None:
        """Copy what has changed since the last copy."""
        try:
            for name in SMALL:
                with contextlib.suppress(FileNotFoundError):
                    self._copy(name, (self._folder / name).read_bytes())
            self._copy_candidates()
            self._copy_database()
            self._last = time.monotonic()
        except Exception as error:  # each file system has errors of its own
            self._say(
                f"warning: no copy of the study in {self._storage}: {first_line(error)}; nothing is lost, it is tried again"
            )

    def _copy(self, name: str, content: bytes) -> bool:
        digest = hashlib.sha256(content).hexdigest()
        if self._written.get(name) == digest:
            return False
        self._storage.write(name, content)
        self._written[name] = digest
        return True

    def _copy_candidates(self) -> None:
        there = set() if self._anew else set(self._storage.names("candidates"))
        for manifest in sorted((self._folder / "candidates").glob("*/manifest.json")):
            folder, name = manifest.parent, f"candidates/{manifest.parent.name}.tar"
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
            # What lies there when this process starts was sent by the trial that made it, or by a former driver.
            if name not in there or self._written.setdefault(name, digest) != digest:
                send_candidate(folder, self._storage)
                self._written[name] = digest
        self._anew = False

    def _copy_database(self) -> None:
        content = database(self._folder / FILE)
        digest = hashlib.sha256(content).hexdigest()
        if self._written.get(DATABASES) == digest:
            return
        names = self._storage.names(DATABASES)
        number = int(names[-1].rpartition("-")[2].partition(".")[0]) + 1 if names else 0
        self._storage.write(f"{DATABASES}/study-{number:08d}.db", content)
        self._written[DATABASES] = digest
        for name in names[: 1 - KEPT]:
            self._storage.remove(name)


def database(path: Path) -> bytes:
    """A whole sqlite file, also of one that is being written to."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy.db")
        with (
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy.read_bytes()


def rebuild(storage: Storage, folder: Path, say: Callable[[str], None] = lambda text: None) -> int:
    """Make the study's ``folder`` again from the copy in its storage; how many candidates it has.

    What its settings say of where it lies is true there again, so that the same commands go on with it.

    Raises:
        UserError: there is a study already, or no whole copy of one.
    """
    if (folder / FILE).exists():
        raise UserError(f"{folder} holds a study; move it away, or name another --out")
    content = _last_database(storage, say)
    settings: bytes | None = None
    for name in SMALL:
        try:
            found = storage.read(name)
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            say(f"{error}; left out")
            continue
        if name == SETTINGS:
            record = {**yaml.safe_load(found), "out": str(folder.parent), "name": folder.name}
            found = settings = yaml.safe_dump(record, sort_keys=False).encode()
        write_atomically(folder / name, found)
    if settings is None:
        raise UserError(f"{storage} holds no whole {SETTINGS}; the study cannot be made again from it")
    count = 0
    for name in storage.names("candidates"):
        place = folder / "candidates" / name.rpartition("/")[2].removesuffix(".tar")
        try:
            count += fetch_candidate(storage, place)
        except (DamagedFile, UserError) as error:
            say(f"candidate {place.name}: {error}; left out")
    # Last, since who finds it takes the study for whole.
    write_atomically(folder / FILE, content)
    return count


def _last_database(storage: Storage, say: Callable[[str], None]) -> bytes:
    try:
        names = storage.names(DATABASES)
    except Exception as error:
        raise UserError(f"--storage {storage} cannot be read: {first_line(error)}") from error
    for name in reversed(names):
        try:
            return storage.read(name)
        except DamagedFile as error:
            say(f"{error}; the copy before it is taken")
    raise UserError(
        f"{storage} holds no {'whole ' if names else ''}copy of a study; a study's copy lies below its name"
    )
