"""What the tables of the documents are made of: rows of the files of results, and how they are written."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from foundation.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
NAMES = {
    "resnet18": "ResNet-18", "resnet20": "ResNet-20", "resnet32": "ResNet-32", "resnet50": "ResNet-50", "resnet56": "ResNet-56",
    "mobilenet": "MobileNet", "mobilenet_v2": "MobileNetV2", "mobilenet_v2_cifar": "MobileNetV2, half width",
}  # fmt: skip
TableRow = dict[str, str]
TABLES: Registry[Callable[[], str]] = Registry("table of the documents")


def rows(name: str) -> list[TableRow]:
    """The rows of a file of results."""
    with (RESULTS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
