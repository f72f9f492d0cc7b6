"""The table of whole trials in short: points lost and how far each method lies from ours, paired image by image.

    python -m benchmarks.trial_differences

A method's row is that of the rate, temperature and factor with the least divergence on the halves that guided; what is said of
it is of the other halves. Seeds are taken in pairs (0 and 1, 2 and 3, ...), which together report on all validation images; the
standard error is that of the mean over images.
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
    """Of each cell's methods, the best first by points; rows without answers and seeds without their other half are left out."""
    cells: dict[tuple[str, ...], dict[str, list[Mapping[str, str]]]] = defaultdict(dict)
    grouped: dict[tuple[tuple[str, ...], str, tuple[str, ...]], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["answers"]:
            cell = tuple(row.get(name, "") for name in CELL)  # earlier tables have fewer columns
            key = (cell, row["method"], tuple(row[name] for name in TUNED))
            grouped[key].append(row)
    for (cell, method, _), found in grouped.items():
        paired = _paired(found)
        before = cells[cell].get(method)
        if paired and (before is None or _guide(paired) < _guide(before)):
            cells[cell][method] = paired
    return [
        each
        for cell in sorted(
            cells, key=lambda cell: (cell[0], float(cell[1]), cell[2], float(cell[3]), cell[4])
        )
        for each in sorted(
            (_summary(cell, method, rows, cells[cell].get(OURS)) for method, rows in cells[cell].items()),
            key=lambda each: -each.points,
        )
    ]


def _paired(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The rows of seeds whose other half is there too, in order."""
    by_seed = {int(row["seed"]): row for row in rows}
    return [by_seed[seed] for seed in sorted(by_seed) if seed ^ 1 in by_seed]


def _guide(rows: Sequence[Mapping[str, str]]) -> float:
    return float(np.mean([float(row["search_divergence"]) for row in rows]))


def _right(rows: Sequence[Mapping[str, str]]) -> NDArray[np.float64]:
    """How often each image was answered rightly, 0 to 1, over pairs of seeds: first the even halves' images."""
    halves = []
    for parity in (0, 1):
        own = [row for row in rows if int(row["seed"]) % 2 == parity]
        halves.append(np.mean([right_of(row["answers"], int(row["images"])) for row in own], axis=0))
    return np.concatenate(halves)


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _summary(
    cell: tuple[str, ...],
    method: str,
    rows: Sequence[Mapping[str, str]],
    ours: Sequence[Mapping[str, str]] | None,
) -> Summary:
    right = _right(rows)
    seeds = {row["seed"] for row in rows}
    same = [row for row in ours or () if row["seed"] in seeds]
    behind, behind_error = (0.0, 0.0) if not same else _mean_and_error(100 * (right - _right(same)))
    lost = 100 * float(np.mean([float(row["difference"]) for row in rows]))
    # Of the mean over both halves: each row's error is of its own half.
    error = 100 * (sum(float(row["difference_standard_error"]) ** 2 for row in rows[:2]) / 4) ** 0.5

    def mean(name: str) -> float:
        return float(np.mean([float(row[name]) for row in rows]))

    return Summary(
        cell, method, len(rows), len(right), lost, error, behind, behind_error,
        mean("divergence"), mean("zeros"), mean("bytes") if all(row["bytes"] for row in rows) else 0.0,
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
