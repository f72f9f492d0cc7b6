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


def named(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Public classes, and aliases of types (``Name = Callable[...]``) with what they stand for, but for short words for kinds of
    arrays. A protocol is called as the thing is of which it says what is needed."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            if not any(ast.unparse(base) == "Protocol" for base in node.bases):
                yield node.name, ""
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            text = ast.unparse(node.value)
            if not text.startswith("NDArray"):
                yield from (
                    (t.id, text) for t in node.targets if isinstance(t, ast.Name) and not t.id.isupper()
                )


def called_alike(root: Path, packages: tuple[str, ...]) -> dict[str, list[str]]:
    """Names of several things, with the files that define them."""
    files, things = defaultdict(list), defaultdict(set)
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            for name, text in named(ast.parse(file.read_text())):
                if not name.startswith("_"):
                    place = str(file.relative_to(root))
                    files[name].append(place)
                    things[name].add(text or place)  # two aliases of one type are one thing
    return {name: files[name] for name, of in things.items() if len(of) > 1}


def test_one_name_means_one_thing() -> None:
    assert not called_alike(ROOT, PACKAGES)
    with_benchmarks = called_alike(ROOT, (*PACKAGES, "benchmarks"))
    within = {name: files for name, files in with_benchmarks.items() if name in OF_A_BENCHMARK}
    assert with_benchmarks == within
    assert all(file.startswith("benchmarks/") for files in within.values() for file in files)


def test_a_second_meaning_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shared = "_Own = list[int]\nBATCH = 8\nSame = dict[str, str]\nArray = NDArray[int]\n"
    (tmp_path / "a" / "one.py").write_text(f"class Thing: ...\nThat = dict[str, int]\n{shared}")
    (tmp_path / "a" / "two.py").write_text(f"class That: ...\nOther = list[str]\n{shared}")
    (tmp_path / "a" / "three.py").write_text("class Thing(Protocol): ...\nOther = list[bytes]\n")
    assert called_alike(tmp_path, ("a",)) == {
        "That": ["a/one.py", "a/two.py"],
        "Other": ["a/three.py", "a/two.py"],
    }
