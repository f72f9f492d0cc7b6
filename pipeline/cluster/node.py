"""What the nodes of a cluster get of a search, and where they put what they make: nothing has to be shared between them.

Data, the network's values and the program are put into Ray's object store once; a node copies them once, whatever runs there.
Where a node sees the study's folder its trials write there. Elsewhere they write to a folder of their own, and everything
that outlives them goes to the search's storage: the one that ``--storage`` names, or the study's folder through an actor on
the driver's node.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.files import cache_directory, write_atomically
from foundation.show import show_bytes
from pipeline.candidate.folder import packed, stored_name
from pipeline.study.settings import Settings
from pipeline.study.storage import (
    PROBE,
    AnyStorage,
    LocalStorage,
    Storage,
    below,
    check_storage,
    reaches,
    storage_at,
)

if TYPE_CHECKING:
    from pipeline.candidate.workspace import Workspace

CODE_AT_MOST = 16 * 2**20  # bytes of a person's own modules that travel
SHARE_OF_STORE = 0.5  # of the object store that image files may take
NO_CODE = {"site-packages", "node_modules", "__pycache__"}


class Keeper:
    """The study's folder, for nodes that do not see it: an actor on the driver's node."""

    def __init__(self, folder: Path) -> None:
        self._storage = LocalStorage(folder)

    def write(self, name: str, content: bytes) -> None:
        self._storage.write(name, content)

    def read(self, name: str) -> bytes:
        """What was written; a candidate also where it lies unpacked by now."""
        candidate = self._storage.folder / name.removesuffix(".tar")
        if name == stored_name(candidate.name) and (candidate / "manifest.json").is_file():
            return packed(candidate)
        return self._storage.read(name)

    def names(self, folder: str) -> list[str]:
        return self._storage.names(folder)

    def remove(self, name: str) -> None:
        self._storage.remove(name)


class DriversStorage:
    """The study's folder by its keeper."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def write(self, name: str, content: bytes) -> None:
        ray.get(self._keeper.write.remote(name, content))

    def read(self, name: str) -> bytes:
        found: bytes = ray.get(self._keeper.read.remote(name))
        return found

    def names(self, folder: str) -> list[str]:
        found: list[str] = ray.get(self._keeper.names.remote(folder))
        return found

    def remove(self, name: str) -> None:
        ray.get(self._keeper.remove.remote(name))


@dataclass(frozen=True)
class Needs:
    """What a trial needs on its node beside its plan.

    Attributes:
        word: was left in the study's folder and in its storage; who reads it there sees that very place.
        storage: that ``--storage`` names, of this study; None: the study's folder.
        keeper: of the study's folder; None where the cluster is this machine's own.
        workspace, program: references to the opened workspace and to the executable's bytes; None: each process opens its own.
        modules: a person's own modules, by relative path; only where a node may not see their folder.
    """

    settings: Settings
    word: str
    storage: AnyStorage | None = None
    keeper: Any = None
    workspace: Any = None
    program: Any = None
    modules: dict[str, bytes] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a trial works: settings whose folder it may write in, the storage for what outlives it, and the program; ``own``
    where the folder is this node's alone, so that nothing needs to stay there."""

    settings: Settings
    storage: Storage
    program: Path | None
    own: bool = False


@contextmanager
def needs_of(
    settings: Settings, workspace: Workspace | None = None, program: Path | None = None
) -> Iterator[Needs]:
    """What goes to the nodes of the connected cluster, for as long as the context lasts.

    Raises:
        UserError: the storage cannot be used, or what would have to travel is too large.
    """
    word = secrets.token_hex(16)
    storage = study_storage(settings)
    LocalStorage(settings.folder).write(PROBE, word.encode())
    if storage is not None:
        check_storage(storage, word)
    apart = bool(os.environ.get("RAY_ADDRESS"))
    keeper: Any = None
    if apart:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 5}
        keeper = ray.remote(Keeper).options(**options, scheduling_strategy=here).remote(settings.folder)
        if workspace is not None:
            room = SHARE_OF_STORE * ray.cluster_resources().get("object_store_memory", 0)
            workspace = workspace.packed(round(room))
    try:
        yield Needs(
            settings,
            word,
            storage,
            keeper,
            None if workspace is None else ray.put(workspace),
            None if program is None else ray.put(program.read_bytes()),
            _modules(settings) if apart else {},
        )
    finally:
        if keeper is not None:
            ray.kill(keeper)


def study_storage(settings: Settings) -> AnyStorage | None:
    """Where ``--storage`` keeps this study; None without."""
    return None if settings.storage is None else below(storage_at(settings.storage), settings.study_name)


def settle(needs: Needs) -> Place:
    """The place for a trial on this node.

    Raises:
        OSError: this node does not see the search's storage.
    """
    settings, study = needs.settings, LocalStorage(needs.settings.folder)
    shared = needs.keeper is None or reaches(study, needs.word)
    if not shared:
        scratch = Path(tempfile.gettempdir(), f"dgms-arm-search-{os.getuid()}", needs.word)
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content in needs.modules.items():
            if not (scratch / "modules" / name).is_file():
                write_atomically(scratch / "modules" / name, content)
        modules = scratch / "modules" if needs.modules else settings.modules
        settings = dataclasses.replace(settings, out=scratch, modules=modules)
        settings.folder.mkdir(exist_ok=True)
    look_in(settings.modules)
    if needs.storage is not None:
        if not reaches(needs.storage, needs.word):
            node = ray.get_runtime_context().get_node_id()[:8]
            raise OSError(f"the node {node} does not see --storage {needs.storage} as the driver does")
        storage: Storage = needs.storage
    else:
        storage = study if shared else DriversStorage(needs.keeper)
    program = None if needs.program is None else _program(needs.program)
    return Place(settings, storage, program, own=not shared)


def workspace_here(needs: Needs, settings: Settings) -> Workspace:
    """Data and network on this node, with the settings as they are here."""
    from pipeline.candidate.workspace import Workspace

    if needs.workspace is None:
        return Workspace.open(settings)
    opened: Workspace = ray.get(needs.workspace)
    return dataclasses.replace(opened, settings=settings)


@cache
def _program(reference: Any) -> Path:
    content = ray.get(reference)
    path = cache_directory("programs") / f"program-{hashlib.sha256(content).hexdigest()[:16]}"
    if not path.is_file():
        write_atomically(path, content, mode=0o755)
    return path


def _modules(settings: Settings) -> dict[str, bytes]:
    """A person's own modules: all Python files below the folder that ``package.module:Name`` is looked up in.

    Raises:
        UserError: there are too many.
    """
    if settings.modules is None:
        return {}
    found: dict[str, bytes] = {}
    for folder, folders, files in os.walk(settings.modules):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NO_CODE)
        for name in sorted(file for file in files if file.endswith(".py")):
            path = Path(folder, name)
            found[str(path.relative_to(settings.modules))] = path.read_bytes()
        if sum(map(len, found.values())) > CODE_AT_MOST:
            raise UserError(
                f"--modules {settings.modules}: more than {show_bytes(CODE_AT_MOST)} of Python files, which would have to travel "
                "to the nodes; name a folder that holds your own modules alone"
            )
    return found
