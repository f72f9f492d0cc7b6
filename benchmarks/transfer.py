"""What an earlier study of a similar network is worth: two searches of one network, one begun with ``--like`` and one without.

    python -m pipeline.search --model resnet32 ... --budget 8 --name alone
    python -m pipeline.search --model resnet32 ... --budget 8 --name like --like runs/RESNET20-STUDY
    python -m benchmarks.transfer runs/alone runs/like

Hypervolume of error, latency and size after each trial, below the reference (fp32's error and ``WORST`` more, int8's costs and
5 % more), as a share of that of all trials of all studies that are given; one row a study and trial. Errors are those of the
images that guide.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically

if TYPE_CHECKING:
    from pipeline.study.records import TrialRecord

RESULT = Path(__file__).parent / "results" / "transfer.csv"
WORST = 0.1  # errors more than fp32's at the reference point
OBJECTIVES = ("error", "latency", "size")


def shares(studies: Sequence[Sequence[tuple[float, ...]]], reference: tuple[float, ...]) -> list[list[float]]:
    """For each study the share of the hypervolume of all of them together that it has after each of its trials."""
    from pipeline.study.pareto import hypervolume

    whole = hypervolume([point for points in studies for point in points], reference)
    return [
        [hypervolume(points[: count + 1], reference) / whole for count in range(len(points))]
        for points in studies
    ]


def finished(folder: Path) -> list[TrialRecord]:
    """A study's trials that ran to their end, in order."""
    from pipeline.study.study import read_records

    return [record for record in read_records(folder) if record.status == "finished"]


def corner(folder: Path) -> tuple[float, ...]:
    """The reference point of a study, from what its network is without a plan."""
    found = {row["name"]: row for row in json.loads((folder / "front.json").read_text())["references"]}
    eight = found["int8"]
    return (found["fp32"]["error"] + WORST, 1.05 * eight["latency_ms"], 1.05 * eight["size_bytes"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies of one network")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    if absent := [folder for folder in args.studies if not (folder / "front.json").is_file()]:
        raise UserError(f"{absent[0]}: no study with a front.json is there; give folders such as runs/NAME")
    trials = [finished(folder) for folder in args.studies]
    points = [
        [point for record in records if (point := record.figures.objectives(OBJECTIVES)) is not None]
        for records in trials
    ]
    lines = ["study,like,trial,plan,error,latency_ms,size_bytes,share"]
    for folder, records, each in zip(
        args.studies, trials, shares(points, corner(args.studies[0])), strict=True
    ):
        like = (folder / "like.json").is_file()
        for place, (record, share) in enumerate(zip(records, each, strict=True)):
            figures = record.figures
            lines.append(
                f"{folder.name},{like},{place + 1},{record.hash},{figures.error:.5f},{figures.latency_ms:.5f},"
                f"{figures.size_bytes},{share:.4f}"
            )
            print(lines[-1])
    write_atomically(args.out, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
