"""The table of whole trials in short: points lost and how far each method lies from ours, paired image by image.

    python -m benchmarks.trial_differences

A method's row is that of the rate, temperature and factor with the least divergence on the halves that guided; what is said of
it is of the other halves. Even seeds report on one half of the validation images, odd ones on the other; a method is said
something of where it has both, and is the mean of the halves', each that of its seeds. It is compared with ours by the seeds
that both have. The standard error is that of the mean over images.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import read
from benchmarks.trial_accuracy import right_of
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULT = Path(__file__).parent / "results" / "trial_accuracy.csv"
OURS = "ours"
CELL = ("network", "bits", "zero_share", "seconds", "coded_bits")
ALSO = (
    "asked_steps",
    "kept_blocks",
)  # where a row has one of these, its name and value are added to the cell
TUNED = ("rate", "temperature", "shrink")


@dataclass(frozen=True)
class Summary:
    """One method in one cell; points of right answers, of ``images``; ``behind`` is the method less ours (0 for ours)."""

    cell: tuple[str, ...]
    method: str
    seeds: int
    images: int
    points: float
    points_error: float
    behind: float
    behind_error: float
    divergence: float
    zeros: float
    bytes: float


def summaries(rows: Iterable[Mapping[str, str]]) -> list[Summary]:
    """Of each cell's methods, the best first by points; rows without answers and methods without both halves are left out."""
    cells: dict[tuple[str, ...], dict[str, list[Mapping[str, str]]]] = defaultdict(dict)
    grouped: dict[tuple[tuple[str, ...], str, tuple[str, ...]], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["answers"]:
            cell = tuple(row.get(name, "") for name in CELL)  # earlier tables have fewer columns
            cell += tuple(f"{name} {row[name]}" for name in ALSO if row.get(name))
            key = (cell, row["method"], tuple(row[name] for name in TUNED))
            grouped[key].append(row)
    for (cell, method, _), found in grouped.items():
        before = cells[cell].get(method)
        if _whole(found) and (
            before is None or _mean(found, "search_divergence") < _mean(before, "search_divergence")
        ):
            cells[cell][method] = found
    return [
        each
        for cell in sorted(
            cells, key=lambda cell: (cell[0], float(cell[1]), cell[2], float(cell[3]), *cell[4:])
        )
        for each in sorted(
            (_summary(cell, method, rows, cells[cell].get(OURS)) for method, rows in cells[cell].items()),
            key=lambda each: -each.points,
        )
    ]


def _halves(rows: Sequence[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    """The rows that report on the first half of the images, and those on the second."""
    return [[row for row in rows if int(row["seed"]) % 2 == parity] for parity in (0, 1)]


def _whole(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether they report on all images."""
    return all(_halves(rows))


def _mean(rows: Sequence[Mapping[str, str]], name: str) -> float:
    """Of a column, both halves alike however many seeds each has."""
    return float(np.mean([np.mean([float(row[name]) for row in half]) for half in _halves(rows)]))


def _right(rows: Sequence[Mapping[str, str]]) -> NDArray[np.float64]:
    """How often each image was answered rightly, 0 to 1: first the even seeds' images."""
    return np.concatenate(
        [
            np.mean([right_of(row["answers"], int(row["images"])) for row in half], axis=0)
            for half in _halves(rows)
        ]
    )


def _behind(rows: Sequence[Mapping[str, str]], ours: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """How many points more are right than with ours, by the seeds of both, and its standard error; else zeros."""
    shared = {row["seed"] for row in rows} & {row["seed"] for row in ours}
    own, others = ([row for row in each if row["seed"] in shared] for each in (rows, ours))
    return _mean_and_error(100 * (_right(own) - _right(others))) if _whole(own) else (0.0, 0.0)


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _summary(
    cell: tuple[str, ...],
    method: str,
    rows: Sequence[Mapping[str, str]],
    ours: Sequence[Mapping[str, str]] | None,
) -> Summary:
    first, second = (
        float(np.mean([float(row["difference_standard_error"]) for row in half])) for half in _halves(rows)
    )
    return Summary(
        cell, method, len(rows), sum(int(half[0]["images"]) for half in _halves(rows)), 100 * _mean(rows, "difference"),
        100 * (first**2 + second**2) ** 0.5 / 2, *_behind(rows, ours or ()),
        _mean(rows, "divergence"), _mean(rows, "zeros"), _mean(rows, "bytes") if all(row["bytes"] for row in rows) else 0.0,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.trial_differences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    if not (rows := read(args.table)):
        raise UserError(f"{args.table} has no rows; run python -m benchmarks.trial_accuracy first")
    for each in summaries(rows):
        cell = " ".join(part or "natural" for part in each.cell)
        print(
            f"{cell} {each.method}: {each.points:+.2f} +- {each.points_error:.2f} points, "
            f"{each.behind:+.2f} +- {each.behind_error:.2f} to ours, {each.divergence:.4f} nats, "
            f"{each.bytes:,.0f} bytes, {each.seeds} seeds, {each.images} images"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
