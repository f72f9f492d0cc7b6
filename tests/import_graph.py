"""The house as its imports draw it: rooms, floors and arrows. ``python tests/import_graph.py`` prints them.

A room of a package is a module or a folder directly in it; an arrow leads from the room that imports to the room that is
imported, also where the import stands in a function. A room stands one floor above the highest that it imports.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("foundation", "search_spaces", "quantizers", "deploy_arm", "pipeline")

Arrows = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Import:
    """One import of a module of the project: in a function or under TYPE_CHECKING, or when its module is loaded."""

    source: str
    target: str
    line: int
    lazy: bool
    for_types: bool


@cache
def modules(root: Path = ROOT) -> Mapping[str, Path]:
    """Dotted names to files."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imports(root: Path = ROOT) -> tuple[Import, ...]:
    """Every import of the project's own modules."""
    known = modules(root)
    return tuple(
        one
        for name, file in known.items()
        for one in _walk(ast.parse(file.read_text()), name, known, False, False)
    )


def _walk(node: ast.AST, source: str, known: Mapping[str, Path], lazy: bool, types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for target in _targets(node, known):
            yield Import(source, target, node.lineno, lazy, types)
        return
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, source, known, lazy, types or checking)


def _targets(node: ast.Import | ast.ImportFrom, known: Mapping[str, Path]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in known}
    inner = {f"{node.module}.{alias.name}" for alias in node.names}
    found = inner & known.keys()
    return found | ({str(node.module)} if len(found) < len(inner) and node.module in known else set())


def room(module: str, package: str = "") -> str:
    """The room of a module: what lies directly in its package; within ``package`` alone, else the whole package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if not package or parts[0] == package else parts[0]


def arrows(package: str, root: Path = ROOT) -> Arrows:
    """Who imports whom among the rooms of a package; among the packages themselves for ``""``. Imports for types alone count."""
    out: dict[str, set[str]] = defaultdict(set)
    for name in modules(root):
        if name.split(".")[0] == package and name != package:
            out[room(name)] = set()
    for one in imports(root):
        ends = (
            (one.source.split(".")[0], one.target.split(".")[0])
            if not package
            else (room(one.source), room(one.target))
        )
        inside = not package or (
            one.source.startswith(package + ".") and one.target.startswith(package + ".")
        )
        if inside and ends[0] != ends[1]:
            out[ends[0]].add(ends[1])
            out[ends[1]]  # also those that import nothing
    return {name: frozenset(targets) for name, targets in out.items()}


def module_arrows(root: Path = ROOT) -> Arrows:
    """Who imports whom among all modules."""
    out: dict[str, set[str]] = {name: set() for name in modules(root)}
    for one in imports(root):
        out[one.source].add(one.target)
    return {name: frozenset(targets - {name}) for name, targets in out.items()}


@cache
def eager_arrows(root: Path = ROOT) -> Arrows:
    """What is loaded when a module is: its imports outside of functions, and the packages it lies in."""
    out: dict[str, set[str]] = {name: set() for name in modules(root)}
    for name in out:
        parts = name.split(".")
        out[name] |= {".".join(parts[:count]) for count in range(1, len(parts))} & out.keys()
    for one in imports(root):
        if not (one.lazy or one.for_types):
            out[one.source].add(one.target)
    return {name: frozenset(targets) for name, targets in out.items()}


def reached(name: str, graph: Arrows) -> set[str]:
    """A room, and every other that its arrows lead to, directly or not."""
    seen, left = {name}, [name]
    while left:
        new = graph[left.pop()] - seen
        seen |= new
        left += new
    return seen


def circles(graph: Arrows) -> list[list[str]]:
    """Groups of rooms that reach each other (Tarjan's strongly connected components of two or more), sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph.get(name, ())):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return sorted(found)


def floors(graph: Arrows) -> dict[str, int]:
    """The floor of every room, 0 at the bottom.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    if circles(graph):
        raise ValueError(f"circles: {circles(graph)}")

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(target) for target in graph[name]), default=-1)

    return {name: floor(name) for name in graph}


def _lines(title: str, graph: Arrows) -> Iterable[str]:
    count = sum(map(len, graph.values()))
    yield f"{title}: {len(graph)} rooms, {count} arrows, circles: {circles(graph) or 'none'}"
    if circles(graph):
        return
    levels = floors(graph)
    for level in sorted(set(levels.values()), reverse=True):
        yield f"  floor {level}: {', '.join(sorted(name for name in graph if levels[name] == level))}"


def main() -> int:
    """Print the packages, then the rooms of each."""
    for package in ("", *PACKAGES):
        print(*_lines(package or "packages", arrows(package)), sep="\n")
    circle = circles(module_arrows())
    print(f"modules: {len(modules())}, circles: {circle or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
