"""Whether another core asks for other plans, and which sampler finds them: error against latency, on recorded trials.

    python -m benchmarks.search_cores --data npz:CIFAR10.npz --weights RESNET20.th [--cores a76 x1] [--trials 30]

Every sampler searches for each core with the surrogate's errors (``benchmarks.search_efficiency``) and the estimates of that
core's latency. What counts is the least height of its trials, by the measure that ``metropolis`` walks by: the error, and
``BETA`` times the logarithm of latency relative to 8 bits'. (The others look for fronts of error and latency, whatever a
millisecond is worth.) The plan that is lowest is then priced on the other cores: ``height_on_...``. The surrogate of a seed is
that of the other benchmark. A row is appended when its search is done; a row that the file has is passed over. At the end, for
each sampler, how often a core's own plan is lower there than those that were found for the others.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.record_trials import RESULT as TABLE
from benchmarks.record_trials import add_network
from benchmarks.rows import append, read
from benchmarks.search_efficiency import searched, setting
from foundation.command import Parser, main_guard
from search_spaces.samplers.metropolis import BETA

RESULT = Path(__file__).parent / "results" / "search_cores.csv"
OBJECTIVES = ("error", "latency")


def height(error: float, latency: float, eight: float) -> float:
    """What a plan is worth, small is good: in shares of wrong answers. ``eight`` is the latency of 8 bits."""
    return error + BETA * math.log(latency / eight)


def own_wins(rows: Sequence[Mapping[str, str]], cores: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """By sampler and core, for each seed: by how much the core's own plan is lower there than the lowest found for another."""
    found: dict[tuple[str, str], list[float]] = {}
    by = {(row["sampler"], row["core"], row["seed"]): row for row in rows}
    for (sampler, core, seed), row in by.items():
        others = [by.get((sampler, other, seed)) for other in cores if other != core]
        column = f"height_on_{core}"
        there = [float(other[column]) for other in others if other is not None]
        if there:
            found.setdefault((sampler, core), []).append(min(there) - float(row[column]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.search_cores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_network(parser)
    parser.add_argument("--cores", nargs="+", default=["a76", "x1"], help="instead of --target")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--judged", type=int, default=1500, help="images that the table's errors are of")
    parser.add_argument("--samplers", nargs="+", default=["metropolis", "tpe", "programme", "random"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    of_core = {}
    for core in args.cores:
        own = copy.copy(args)
        own.target = core
        of_core[core] = setting(own)
    eight = {
        core: known["prior"].cost(known["space"].warm_starts()[0])["latency"]
        for core, known in of_core.items()
    }
    have = {(row["core"], row["sampler"], row["seed"], row["trials"]) for row in read(args.out)}
    for seed in range(args.seeds):
        for core, known in of_core.items():
            truth = known["truth"](seed)
            for sampler in args.samplers:
                if (core, sampler, str(seed), str(args.trials)) in have:
                    continue
                trials = searched(
                    sampler, seed, args.trials, known["space"], known["prior"], truth.judge, OBJECTIVES
                )
                error, latency, best = min(
                    ((trial.figures.values[0], trial.figures.values[1], trial) for trial in trials),
                    key=lambda each: height(each[0], each[1], eight[core]),
                )
                row = {
                    "core": core, "sampler": sampler, "seed": str(seed), "trials": str(args.trials),
                    "error": f"{error:.5f}", "latency_ms": f"{latency:.5f}", "found_at": str(1 + best.number),
                }  # fmt: skip
                for other, there in of_core.items():
                    cost = there["prior"].cost(best.plan)["latency"]
                    row[f"height_on_{other}"] = f"{height(error, cost, eight[other]):.5f}"
                row["plan"] = best.plan.to_json()
                append(args.out, row)
                print(*[*row.values()][:-1], flush=True)
    rows = read(args.out)
    for (sampler, core), gains in own_wins(rows, args.cores).items():
        better = sum(gain > 0 for gain in gains)
        mean = 100 * sum(gains) / len(gains)
        print(
            f"{sampler} for {core}: its own plan is lower there in {better} of {len(gains)} seeds, by {mean:.2f} points (mean)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
