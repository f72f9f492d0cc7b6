"""How far methods lie apart in the accuracy table, with standard errors.

    python -m benchmarks.cotuning_differences           benchmarks/results/cotuning_accuracy.csv to cotuning_differences.csv

Judged on both halves of the validation images together: a cell's network is fixed before any of them is seen, and the
settings of the methods are the same everywhere. (The settings of our own method were tried out on the search half with
ResNet-20; on the other networks nothing was chosen on either half.) ``report_points`` is the report half alone.

Differences are between cells that share everything but the method, seed by seed. For seeds of which the table's
``_answers.csv`` says which images were answered rightly, ``standard_error`` is paired image by image: that of the mean over
images of the difference between the methods' mean right answers over these seeds. Where there is none it is the one of two
unrelated samples of images, which is too large for networks that fail on the same images. Seeds are shown one by one: their
spread is not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cotuning_accuracy import UNTRAINED, answers_of
from benchmarks.cotuning_table import CONDITIONS, Answers, key
from benchmarks.rows import read, write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULTS = Path(__file__).parent / "results"
TABLE, OUT = RESULTS / "cotuning_accuracy.csv", RESULTS / "cotuning_differences.csv"
METHOD = "ours"
SHARED = tuple(name for name in CONDITIONS if name not in ("method", "seed"))
HALF = 2500  # images of a half; the table's shares are of so many


@dataclass(frozen=True)
class Difference:
    """One method less another, in points of right answers; negative: it is behind.

    ``images`` are those of both halves, ``paired_seeds`` says from how many seeds ``standard_error`` is image by image, 0 that
    it is not; ``by_seed`` has each seed's difference. ``fp32_top1`` tells networks of one name apart.
    """

    network: str
    bits: int
    activation_bits: str
    zero_share: str
    epochs: float
    arithmetic: str
    fp32_top1: float
    method: str
    against: str
    seeds: int
    images: int
    points: float
    standard_error: float
    paired_seeds: int
    by_seed: str
    report_points: float


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error, of one value an image."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired_error(ours: Sequence[Answers], theirs: Sequence[Answers]) -> float:
    """Standard error over images of the mean difference in points between equally many runs on the same images."""
    means = [
        np.mean([np.concatenate([each.search, each.report]) for each in runs], axis=0)
        for runs in (ours, theirs)
    ]
    return mean_and_error(100 * (means[0] - means[1]))[1]


def unpaired_error(first: float, second: float, images: int) -> float:
    """The same from shares alone, as if the two had met different images."""
    return 100 * float(((first * (1 - first) + second * (1 - second)) / images) ** 0.5)


def both(row: Mapping[str, str]) -> float:
    """Share of right answers over both halves."""
    return (float(row["search_top1"]) + float(row["report_top1"])) / 2


def differences(
    rows: Iterable[Mapping[str, str]], answers: Mapping[tuple[str, ...], Answers]
) -> list[Difference]:
    """``METHOD`` against every other trained one and against fp32, cells of the same conditions and seed; full teaching only.

    ``answers`` are by ``cotuning_table.key``; those of fp32 stand in every one of them.
    """
    groups: dict[tuple[str, ...], dict[str, dict[str, Mapping[str, str]]]] = {}
    for row in rows:
        if row["method"] in UNTRAINED or float(row["distillation"]) != 1:
            continue
        place = (*(row[name] for name in SHARED), row["fp32_report_top1"])
        groups.setdefault(place, {}).setdefault(row["method"], {})[row["seed"]] = row
    found = []
    for methods in groups.values():
        for against in (name for name in methods if name != METHOD and METHOD in methods):
            seeds = sorted((seed for seed in methods[METHOD] if seed in methods[against]), key=int)
            pairs = [(methods[METHOD][seed], methods[against][seed]) for seed in seeds]
            if pairs:
                found.append(difference(against, pairs, answers))
    return found


def difference(
    against: str,
    pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]],
    answers: Mapping[tuple[str, ...], Answers],
) -> Difference:
    """What ``pairs`` of rows, one for each seed, say."""
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    means = [float(np.mean([both(row) for row in rows])) for rows in (ours, theirs)]
    known = [(answers.get(key(dict(a))), answers.get(key(dict(b)))) for a, b in pairs]
    sides = [(a, b) for a, b in known if a is not None and b is not None]
    error = (
        paired_error([a for a, _ in sides], [b for _, b in sides])
        if sides
        else unpaired_error(means[0], means[1], 2 * HALF)
    )
    first = ours[0]
    report = [100 * (float(a["report_top1"]) - float(b["report_top1"])) for a, b in pairs]
    return Difference(
        network=first["network"],
        bits=int(first["bits"]),
        activation_bits=first["activation_bits"] or "float",
        zero_share=first["zero_share"] or "natural",
        epochs=float(first["epochs"]),
        arithmetic="bfloat16" if first["bfloat16"] == "True" else "float32",
        fp32_top1=float(first["fp32_report_top1"]),
        method=METHOD,
        against=against,
        seeds=len(pairs),
        images=2 * HALF,
        points=round(100 * (means[0] - means[1]), 2),
        standard_error=round(error, 2),
        paired_seeds=len(sides),
        by_seed=" ".join(f"{100 * (both(a) - both(b)):+.2f}" for a, b in pairs),
        report_points=round(float(np.mean(report)), 2),
    )


def computed(table: Path) -> list[Difference]:
    """The differences of a table and of the answers beside it.

    Raises:
        UserError: the table has no rows.
    """
    rows = read(table, CONDITIONS)
    if not rows:
        raise UserError(f"{table} has no rows; run python -m benchmarks.cotuning_accuracy first")
    kept = {key(record): Answers.of(record) for record in read(answers_of(table))}
    return differences(rows, kept)


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.cotuning_differences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    found = computed(args.table)
    write(args.out, [dataclasses.asdict(each) for each in found])
    for each in found:
        how = "paired" if each.paired_seeds else "unpaired"
        print(
            f"{each.network:<18} {each.bits} bits, {each.epochs:g} epochs, {each.arithmetic}: {each.method} less "
            f"{each.against:<9} {each.points:+.2f} +- {each.standard_error:.2f} points ({how}; seeds {each.by_seed})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
