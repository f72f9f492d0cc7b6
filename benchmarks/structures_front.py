"""What a search that may choose structures finds beside one that may not, at equal error.

    python -m benchmarks.search_live --dimensions kept_blocks kept_channels --runs programme programme+dimensions --kept FOLDER
    python -m benchmarks.structures_front FOLDER [--out benchmarks/results/structures_front.csv]

``FOLDER`` is what ``benchmarks.search_live`` kept. For each point of the front with structures, by error on the half that nothing
guided and by latency: how many times as fast it is as the fastest plan of the search without that loses at most ``WITHIN`` more.
The file has every trial of both.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.plan import Plan

RESULT = Path(__file__).parent / "results" / "structures_front.csv"
WITHIN = 0.005  # of all images
SUFFIX = "+dimensions"
FIELDS = ("run", "seed", "plan", "search_error", "error", "latency_ms", "size_bytes")


@dataclass(frozen=True)
class Faster:
    """A plan of the front with structures, and the fastest without that loses as little; shares of images, milliseconds."""

    error: float
    latency_ms: float
    other_error: float
    other_ms: float

    @property
    def times(self) -> float:
        return self.other_ms / self.latency_ms


def collected(kept: Path) -> list[dict[str, str]]:
    """The trials of every run in a folder.

    Raises:
        UserError: it is no such folder.
    """
    try:
        with (kept / "trials.csv").open(newline="") as file:
            trials = {Plan.from_json(row["plan"]).hash: row for row in csv.DictReader(file)}
    except OSError as error:
        raise UserError(
            f"{kept}: {error}; name the folder that benchmarks.search_live was given by --kept"
        ) from error
    rows = []
    for file_ in sorted((kept / "runs").glob("*.json")):
        run, seed, _ = file_.name.split(".", 2)
        for trial in json.loads(file_.read_text()):
            if (found := trials.get(trial["plan"])) is not None and trial["status"] == "finished":
                values = (found[name] for name in ("error", "report_error", "latency_ms", "size_bytes"))
                rows.append(dict(zip(FIELDS, (run, seed, trial["plan"], *values), strict=True)))
    return rows


def compared(rows: Sequence[Mapping[str, str]]) -> list[Faster]:
    """The points of the front with structures, the fastest first; those that no plan without comes near in error are left out."""
    with_, without = (
        sorted(
            {
                (float(row["latency_ms"]), float(row["error"]))
                for row in rows
                if row["run"].endswith(SUFFIX) == asked
            }
        )
        for asked in (True, False)
    )
    found, least = [], float("inf")
    for latency, error in with_:
        if error >= least:
            continue
        least = error
        near = [other for other in without if other[1] <= error + WITHIN]
        if near:
            found.append(Faster(error, latency, near[0][1], near[0][0]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.structures_front",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kept", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    rows = collected(args.kept)
    lines = [",".join(FIELDS), *(",".join(row[name] for name in FIELDS) for row in rows)]
    write_atomically(args.out, "\n".join(lines) + "\n")
    for each in compared(rows):
        print(
            f"{100 * each.error:.1f} % in {each.latency_ms:.3f} ms; without structures {100 * each.other_error:.1f} % in "
            f"{each.other_ms:.3f} ms: {each.times:.2f} times as fast"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
