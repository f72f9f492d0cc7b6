"""The one registry pattern for everything pluggable: quantizers, samplers, dimensions, device kinds, models, data sets."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from foundation.errors import UserError
from foundation.factories import article, find_named, is_factory

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries.

    With a ``folder`` (a package) a new entry is a new file there and nothing else: the entry is what the file defines under
    its own name (``TrainableStep`` or ``learned_step`` in ``learned_step.py``), or, where a file offers several, what its
    literal ``ENTRIES = ("name", ...)`` lists (``a-name`` names ``a_name``). Files are imported when an entry is asked for; names
    are known without. Whoever extends the project from outside names an entry by ``package.module:Name``; such a name is never
    among those that a registry lists. So no answer depends on what was imported or asked for before.

    >>> shapes: Registry[type] = Registry("shape")
    >>> @shapes.register("square")
    ... class Square: ...
    >>> shapes["square"] is Square
    True

    Args:
        kind: what an entry is, for messages.
        folder: the dotted name of the package whose files are entries.
        accepts: whether an object named from outside is an entry; its docstring says what it should be.
    """

    def __init__(
        self, kind: str, folder: str | None = None, accepts: Callable[[Any], bool] | None = None
    ) -> None:
        self.kind = kind
        self.folder = folder
        self._accepts = accepts
        self._entries: dict[str, T] = {}
        self._outside: dict[str, T] = {}  # by ``package.module:Name``

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under ``name``, for registries without a folder.

        Raises:
            ValueError: the name is taken.
        """

        def add(entry: T) -> T:
            if name in self:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UserError: no such entry; the message lists the names and the closest one. Or two files of the folder offer one name.
        """
        if name in self._entries:
            return self._entries[name]
        if name in self._homes:
            module, attribute = self._homes[name]
            entry: T = getattr(importlib.import_module(module), attribute)
            self._entries[name] = entry
            return entry
        if self.folder is None or not is_factory(name):
            raise UserError(self._unknown(name))
        if name not in self._outside:
            self._outside[name] = self._foreign(name)
        return self._outside[name]

    def __contains__(self, name: object) -> bool:
        """Whether it is one of the names that are listed."""
        return name in self._homes or name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, sorted; those from outside are not among them."""
        return iter(sorted({*self._homes, *self._entries}))

    def _unknown(self, name: str) -> str:
        names = list(self)
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        outside = " and package.module:Name" if self.folder is not None else ""
        return f"unknown {self.kind} {name!r}; allowed: {', '.join(names)}{outside}.{hint}"

    def _foreign(self, name: str) -> T:
        entry: T = find_named(name)
        if self._accepts is not None and not self._accepts(entry):
            wanted = " ".join((self._accepts.__doc__ or "").split()).rstrip(".")
            raise UserError(f"{name!r} is {article(entry)}, not a {self.kind}; it should be {wanted}")
        return entry

    @cached_property
    def _homes(self) -> dict[str, tuple[str, str]]:
        """Names to module and attribute, read from the folder's files without importing them."""
        homes: dict[str, tuple[str, str]] = {}
        if self.folder is None:
            return homes
        spec = importlib.util.find_spec(self.folder)
        for place in (spec and spec.submodule_search_locations) or ():
            # Editors and file systems leave files that begin with a point.
            for file in sorted(Path(place).glob("[!_.]*.py")):
                for name, attribute in _entries_of(file):
                    module = f"{self.folder}.{file.stem}"
                    if name in homes:
                        other = homes[name][0]
                        raise UserError(
                            f"{self.kind} {name!r} is offered by both {other} and {module}: rename one of them"
                        )
                    homes[name] = (module, attribute)
        return homes


def _entries_of(file: Path) -> list[tuple[str, str]]:
    """(name, attribute) of each entry that a file offers; none for a file that is no entry."""
    defined: set[str] = set()
    classes: list[str] = []
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef):
            classes.append(node.name)
        elif isinstance(node, ast.FunctionDef):
            defined.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if "ENTRIES" in names:
            value = getattr(node, "value", None)
            return [(name, name.replace("-", "_")) for name in ast.literal_eval(value)] if value else []
        defined |= names
    named = [
        name for name in classes if name.lower() == file.stem.replace("_", "")
    ]  # ``KMeans`` in ``k_means.py`` too
    named += [file.stem] if file.stem in {*defined, *classes} else []
    return [(file.stem, attribute) for attribute in named][:1]
