"""What Python knows of the kernels' sources: where they lie, the sizes they work in, a digest of what takes their time."""

from __future__ import annotations

import ast
import functools
import hashlib
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "kernels"
# They load, check, share out, or are other operations: they compute no convolution, so its cost does not depend on them. What is
# not named here counts, a new file too.
UNTIMED = {
    "main", "blob_checks", "blob_convolution", "entropy", "network", "runtime", "processor", "threads", "operations", "input",
    "tables", "pooling", "movement", "shuffle", "multiply", "layer_norm", "results", "float_elementwise",
}  # fmt: skip
OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.LShift: operator.lshift,
}


def without_comments(source: str) -> str:
    """C code with single spaces between what a compiler reads."""
    return " ".join(re.sub(r"/\*.*?\*/", " ", source, flags=re.DOTALL).split())


@functools.cache
def constants(header: str = "tiling.h", folder: Path = KERNELS) -> Mapping[str, int]:
    """The numbers that the enumerations of a header define, by name.

    Raises:
        ValueError: a value that is not made of numbers, earlier names and + - * / << ( ).
    """
    found: dict[str, int] = {}

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and node.id in found:
            return found[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(
            f"{header}: {ast.unparse(node)!r} is not made of numbers, earlier names and + - * / <<"
        )

    for body in re.findall(r"\benum\b[^{;]*\{([^}]*)\}", without_comments((folder / header).read_text())):
        following = 0
        for entry in filter(None, map(str.strip, body.split(","))):
            name, _, text = (part.strip() for part in entry.partition("="))
            found[name] = value(ast.parse(text, mode="eval").body) if text else following
            following = found[name] + 1
    return found


def library_digest(folder: Path = KERNELS) -> str:
    """Of every source of program and library, words and all: who reports a fault says by it which kernels these are."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(f"{path.name}\n{path.read_text()}\n".encode())
    return digest.hexdigest()[:12]


def timed_digest(folder: Path = KERNELS) -> str:
    """Of all code that takes the time of a convolution: changes when that may, not when words about it change."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        if path.stem not in UNTIMED:
            digest.update(f"{path.name}\n{without_comments(path.read_text())}\n".encode())
    return digest.hexdigest()[:16]
