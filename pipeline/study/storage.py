"""Where a study keeps what another node may have to take up: a folder, a place of one of pyarrow's file systems, or a table of a
PostgreSQL database.

Every file is there whole or not at all (a rename in a folder; object stores show an object when its upload is closed; a row), and
begins with the SHA-256 of what follows, so that whoever reads it knows that it is what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.foreign_files import first_line

if TYPE_CHECKING:
    from psycopg import Connection
    from pyarrow.fs import FileSystem

POSTGRES = "postgresql://"
TABLE = "dgms_arm_search_files"
MARK = b"sha256:"
PROBE = ".reachable"  # holds a word that only this storage knows


class DamagedFile(Exception):
    """A file is not what was written; the text says which."""


class Storage(Protocol):
    """Files by name, ``/`` between folders."""

    def write(self, name: str, content: bytes) -> None:
        """Replace the file, or make it. Raises OSError."""

    def read(self, name: str) -> bytes:
        """What was written. Raises DamagedFile, FileNotFoundError or another OSError."""

    def names(self, folder: str) -> list[str]:
        """The files directly in a folder, as ``read`` takes them, sorted; none where there is no such folder."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; what is not there is removed already."""


def sealed(content: bytes) -> bytes:
    """``content`` after its checksum."""
    return MARK + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unsealed(content: bytes, where: str) -> bytes:
    """What was sealed.

    Raises:
        DamagedFile: not one byte less, more or other.
    """
    head = len(MARK) + 64
    found = content[head + 1 :]
    if content[: head + 1] != MARK + hashlib.sha256(found).hexdigest().encode() + b"\n":
        raise DamagedFile(f"{where} is damaged: its checksum is another")
    return found


class LocalStorage:
    """In a folder of this machine, or one that is mounted here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.folder / name, sealed(content))

    def read(self, name: str) -> bytes:
        return unsealed((self.folder / name).read_bytes(), str(self.folder / name))

    def names(self, folder: str) -> list[str]:
        place = self.folder / folder
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = (path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
            return sorted(f"{folder}/{path.name}" for path in found)
        return []

    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()


class RemoteStorage:
    """At a URL that pyarrow knows: s3, gs, abfs, hdfs, file."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opened: tuple[FileSystem, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}  # a connection does not travel

    def write(self, name: str, content: bytes) -> None:
        files, path = self._place(name)
        if files.type_name in ("local", "hdfs"):  # object stores have no folders to make
            files.create_dir(path.rpartition("/")[0], recursive=True)
            with files.open_output_stream(f"{path}.new") as stream:
                stream.write(sealed(content))
            files.move(f"{path}.new", path)
            return
        with files.open_output_stream(path) as stream:
            stream.write(sealed(content))

    def read(self, name: str) -> bytes:
        files, path = self._place(name)
        with files.open_input_stream(path) as stream:
            return unsealed(stream.read(), f"{self.url}/{name}")

    def names(self, folder: str) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        files, path = self._place(folder)
        found = files.get_file_info(FileSelector(path, allow_not_found=True))
        return sorted(
            f"{folder}/{info.base_name}"
            for info in found
            if info.type == FileType.File and not info.base_name.endswith(".new")
        )

    def remove(self, name: str) -> None:
        from pyarrow.fs import FileType

        files, path = self._place(name)
        kind = files.get_file_info(path).type
        if kind == FileType.Directory:
            files.delete_dir(path)
        elif kind == FileType.File:
            files.delete_file(path)

    def _place(self, name: str) -> tuple[FileSystem, str]:
        if self._opened is None:
            from pyarrow.fs import FileSystem

            self._opened = FileSystem.from_uri(self.url)
        files, base = self._opened
        return files, f"{base}/{name}"


class PostgresStorage:
    """Rows of one table of a database, by name; ``prefix`` ends in / or is empty. Who may connect says libpq's environment
    (PGPASSWORD, ~/.pgpass, PGSSLMODE)."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.url, self._prefix = url, prefix
        self._connection: Connection[Any] | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_prefix": self._prefix, "_connection": None}

    def below(self, folder: str) -> PostgresStorage:
        return PostgresStorage(self.url, f"{self._prefix}{folder}/")

    def write(self, name: str, content: bytes) -> None:
        self._do(
            f"insert into {TABLE} values (%s, %s) on conflict (name) do update set content = excluded.content",
            self._prefix + name,
            sealed(content),
        )

    def read(self, name: str) -> bytes:
        found = self._do(f"select content from {TABLE} where name = %s", self._prefix + name)
        if not found:
            raise FileNotFoundError(f"{self.url} has no {self._prefix}{name}")
        return unsealed(bytes(found[0][0]), f"{self.url}: {self._prefix}{name}")

    def names(self, folder: str) -> list[str]:
        start = f"{self._prefix}{folder}/"
        found = self._do(f"select name from {TABLE} where starts_with(name, %s)", start)
        inside = (str(name).removeprefix(start) for (name,) in found)
        return sorted(f"{folder}/{name}" for name in inside if "/" not in name)

    def remove(self, name: str) -> None:
        name = self._prefix + name
        self._do(f"delete from {TABLE} where name = %s or starts_with(name, %s)", name, f"{name}/")

    def _do(self, statement: str, *given: str | bytes) -> list[Any]:
        """One statement, which is its own transaction; a connection that was lost is opened again, once.

        Raises:
            UserError: there is no client for PostgreSQL here.
            OSError: the database does not do it.
        """
        try:
            import psycopg
        except ImportError as error:
            raise UserError(
                f'--storage {self.url}: no client for PostgreSQL here; pip install "psycopg[binary]", on every node'
            ) from error
        for attempt in range(2):
            try:
                if self._connection is None:
                    limits: dict[str, Any] = {
                        "connect_timeout": 10,
                        "tcp_user_timeout": 30_000,
                    }  # seconds, milliseconds
                    self._connection = psycopg.connect(self.url, autocommit=True, **limits)
                    self._connection.execute(
                        f"create table if not exists {TABLE} (name text primary key, content bytea not null)"
                    )
                cursor = self._connection.execute(statement, given)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                lost, self._connection = self._connection, None
                if attempt or lost is None or not lost.broken:
                    raise OSError(f"{self.url}: {first_line(error)}") from error
        raise AssertionError("unreachable")


AnyStorage = LocalStorage | RemoteStorage | PostgresStorage


def storage_at(place: str) -> AnyStorage:
    """What ``--storage`` names: a folder, or a URL.

    Raises:
        UserError: a URL that holds a secret, which would be kept in files and shown.
    """
    if "://" not in place:
        return LocalStorage(Path(place).absolute())
    parts = urlsplit(place)
    if parts.password or re.search("secret|password", parts.query, re.IGNORECASE):
        shown = place.replace(parts.netloc, parts.netloc.rpartition("@")[2]).partition("?")[0]
        raise UserError(
            f"--storage {shown}: the URL holds a secret, which would be kept with the study; give it in the environment of every "
            "node instead (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or PGPASSWORD, say)"
        )
    return PostgresStorage(place) if place.startswith(POSTGRES) else RemoteStorage(place)


def below(storage: AnyStorage, folder: str) -> AnyStorage:
    """The storage that is a folder of another."""
    if isinstance(storage, PostgresStorage):
        return storage.below(folder)
    if isinstance(storage, LocalStorage):
        return LocalStorage(storage.folder / folder)
    base, question, options = storage.url.partition("?")
    return RemoteStorage(f"{base}/{folder}{question}{options}")


def check_storage(storage: Storage, word: str) -> None:
    """See, before any work, that files can be kept; leaves ``word`` there, by which other nodes see that it is the same place.

    Raises:
        UserError: they cannot.
    """
    try:
        storage.write(PROBE, word.encode())
        storage.read(PROBE)
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise UserError(
            f"--storage {storage}: nothing can be kept there ({first_line(error)}); name a folder that can be written, or a URL "
            "like s3://BUCKET/FOLDER or postgresql://HOST/DATABASE with its credentials in the environment"
        ) from error


def reaches(storage: Storage, word: str) -> bool:
    """Whether this process sees the storage in which ``word`` was left."""
    try:
        return storage.read(PROBE) == word.encode()
    except Exception:
        return False
