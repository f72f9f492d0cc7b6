"""One name means one thing: no two modules define classes, or types by another name, that are called alike."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from import_graph import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
# What a whole table of a benchmark consists of: each benchmark is a program of its own.
OF_A_BENCHMARK = {"Cell", "Row", "Setting"}


def named(tree: ast.Module) -> Iterator[str]:
    """Public classes, and aliases of types (``Name = Callable[...]``), but for short words for kinds of arrays.
    A protocol is called as the thing is of which it says what is needed."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            if not any(ast.unparse(base) == "Protocol" for base in node.bases):
                yield node.name
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Subscript | ast.BinOp)
            and not ast.unparse(node.value).startswith("NDArray")
        ):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name) and not t.id.isupper())


def places(root: Path, packages: tuple[str, ...]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            for name in named(ast.parse(file.read_text())):
                if not name.startswith("_"):
                    found[name].append(str(file.relative_to(root)))
    return found


def test_one_name_means_one_thing() -> None:
    found = places(ROOT, (*PACKAGES, "benchmarks"))
    twice = {name: files for name, files in found.items() if len(files) > 1}
    other = {name: files for name, files in twice.items() if not files[0].startswith("benchmarks/")}
    assert not other
    assert twice.keys() <= OF_A_BENCHMARK


def test_a_second_meaning_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text(
        "class Thing: ...\nThat = dict[str, int]\n_Own = list[int]\nBATCH = 8"
    )
    (tmp_path / "a" / "two.py").write_text("class That: ...\n_Own = list[int]\nBATCH = 8")
    found = places(tmp_path, ("a",))
    assert found == {"Thing": ["a/one.py"], "That": ["a/one.py", "a/two.py"]}
