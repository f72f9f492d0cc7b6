"""The one registry pattern for everything pluggable: quantizers, samplers, dimensions, device kinds, models, data sets."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from foundation.errors import UserError
from foundation.factories import article, find_named, is_factory, story

T = TypeVar("T")
# What Python raises of a file that is none, or of which it can make nothing.
UNREADABLE = (SyntaxError, ValueError, TypeError, OSError, RecursionError, MemoryError)


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
        self._mistakes: dict[str, str] = {}  # what is said to who asks for such a name; all others are there

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
            UserError: no such entry; the message lists the names and the closest one. Or a file of the folder cannot be read or
            imported, lacks what it lists, has something else under the name, or offers what another one does.
        """
        if name in self._entries:
            return self._entries[name]
        home = self._homes.get(name)
        if name in self._mistakes:
            raise UserError(self._mistakes[name])
        if home is not None:
            self._entries[name] = self._found(":".join(home))
            return self._entries[name]
        if self.folder is None or not is_factory(name):
            raise UserError(self._unknown(name))
        if name not in self._outside:
            self._outside[name] = self._found(name)
        return self._outside[name]

    def __contains__(self, name: object) -> bool:
        """Whether it is one of the names that are listed."""
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        """The names, sorted; those from outside are not among them."""
        return iter(sorted({*self._homes, *self._entries, *self._mistakes}))

    def sound(self) -> Iterator[tuple[str, T]]:
        """Each name with its entry, but for those that cannot be had (``unsound``)."""
        for name, entry in self._each():
            if not isinstance(entry, UserError):
                yield name, entry

    def unsound(self) -> Iterator[str]:
        """Why each entry that cannot be had cannot: a line for who uses all of them and has asked for none by name."""
        return (str(error) for _, error in self._each() if isinstance(error, UserError))

    def _each(self) -> Iterator[tuple[str, T | UserError]]:
        for name in self:
            try:
                entry: T | UserError = self[name]
            except UserError as error:
                entry = error
            yield name, entry

    def _unknown(self, name: str) -> str:
        names = list(self)
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        outside = " and package.module:Name" if self.folder is not None else ""
        return f"unknown {self.kind} {name!r}; allowed: {', '.join(names)}{outside}.{hint}"

    def _found(self, name: str) -> T:
        """What ``package.module:Name`` names."""
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
                try:
                    entries = _entries_of(file)
                except UserError as error:
                    self._mistakes[file.stem] = str(error)
                    continue
                for name, attribute in entries:
                    module = f"{self.folder}.{file.stem}"
                    if name in homes:
                        both = f"{homes[name][0]} and {module}"
                        self._mistakes[name] = (
                            f"{self.kind} {name!r} is offered by both {both}: rename one of them"
                        )
                    homes[name] = (module, attribute)
        return homes


def _entries_of(file: Path) -> list[tuple[str, str]]:
    """(name, attribute) of each entry that a file offers; none for a file that is no entry."""
    defined: set[str] = set()
    classes: list[str] = []
    try:
        nodes = ast.parse(file.read_bytes(), str(file)).body
    except UNREADABLE as error:
        raise UserError(f"{file} is no Python that can be read: {story(error)}; mend or remove it") from error
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            classes.append(node.name)
        elif isinstance(node, ast.FunctionDef):
            defined.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if "ENTRIES" in names:
            return [(name, name.replace("-", "_")) for name in _literal(getattr(node, "value", None), file)]
        defined |= names
    named = [
        name for name in classes if name.lower() == file.stem.replace("_", "")
    ]  # ``KMeans`` in ``k_means.py`` too
    named += [file.stem] if file.stem in {*defined, *classes} else []
    return [(file.stem, attribute) for attribute in named][:1]


def _literal(value: ast.expr | None, file: Path) -> tuple[str, ...]:
    """The names that ``ENTRIES = ...`` lists; none for an annotation alone."""
    if value is None:
        return ()
    try:
        names = ast.literal_eval(value)
    except UNREADABLE:
        names = None
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{file}: ENTRIES must be a literal tuple of names, like ENTRIES = ("name", "other")')
    return tuple(dict.fromkeys(names))
