"""The front of a finished search as a table, every network judged on the images that never guided the search, too.

    python -m benchmarks.front runs/STUDY --out FILE.csv

Rows are fp32, int8, and the candidates from the largest to the smallest. ``search`` columns are what the search had to go by;
``report`` ones are of the other half of the validation images, in PyTorch, and ``lost`` is fp32's score there minus the
candidate's on the same images. ``uniform`` is the bits of a plan whose layers between the ends are all alike. Scores and
their standard errors are in per cent of the study's metric.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from pipeline.shelf.view import View
    from pipeline.training.judges import Judge, Judgement

BATCH = 16  # images judged at once


@dataclass(frozen=True)
class FrontRow:
    """One network; empty where a figure does not apply."""

    name: str
    uniform: int | str
    metric: str
    search_score: float
    search_standard_error: float | str
    report_score: float | str
    report_standard_error: float | str
    lost: float | str
    lost_standard_error: float | str
    latency_ms: float
    low_ms: float
    high_ms: float
    source: str
    size_bytes: int
    conditions: str


def front_rows(view: View) -> Iterator[FrontRow]:
    """The rows of a study's front.

    Raises:
        UserError: a candidate's folder is not whole, or the data or weights are not where they were.
    """
    import torch

    from pipeline.candidate.folder import load_candidate
    from pipeline.candidate.references import int8_network
    from pipeline.candidate.workspace import Workspace
    from pipeline.report.data import uniform_bits
    from pipeline.training.judges import Judge

    workspace = Workspace.open(view.settings)
    images = workspace.data.report
    every = torch.arange(len(images))
    judge = Judge(workspace.model, images, every, workspace.mean, workspace.std, BATCH, workspace.task)
    guided = len(workspace.data.search)
    halves = f"{guided} images guided, {len(images)} others report"
    said = f"{conditions(view)}; {halves}; torch {torch.__version__}"
    for point in [*view.front["references"], *view.front["points"]]:
        name, bits = point.get("hash") or point["name"], None
        if name == "fp32":
            found = judge.fp32
        elif name == "int8":
            found = judge(int8_network(workspace).network)
        else:
            candidate = load_candidate(view.folder / point["candidate"])
            found, bits = judge(candidate.hardened().network), uniform_bits(candidate.plan)
        yield row(name, bits, workspace.task.called, point, guided, judge, found, said)


def row(
    name: str,
    uniform: int | None,
    metric: str,
    point: Mapping[str, Any],
    guided: int,
    judge: Judge,
    found: Judgement,
    conditions: str,
) -> FrontRow:
    """A point of front.json, whose error is that of the images that guided, so many, and what was found on the others."""
    from pipeline.study.confidence import error_spread, loss_error

    count = len(judge)
    own = error_spread(found.error, count, found.error_standard_error)
    lost, spread = (
        found.error - judge.fp32.error,
        loss_error(found.error - judge.fp32.error, found.discordant, count),
    )
    fp32 = name == "fp32"
    return FrontRow(
        name=name,
        uniform="" if uniform is None else uniform,
        metric=metric,
        search_score=percent(1 - point["error"]),
        search_standard_error=percent(
            error_spread(point["error"], guided, point.get("error_standard_error"))
        ),
        report_score=percent(1 - found.error),
        report_standard_error=percent(own),
        lost="" if fp32 else percent(lost),
        lost_standard_error="" if fp32 else percent(spread),
        latency_ms=round(point["latency_ms"], 4),
        low_ms=round(point["low"], 4),
        high_ms=round(point["high"], 4),
        source=f"{point['source']}, {point['device']}",
        size_bytes=point["size_bytes"],
        conditions=conditions,
    )


def percent(share: float | None) -> Any:
    """Of a share, to hundredths; empty where it is not known."""
    return "" if share is None else round(100 * share, 2)


def conditions(view: View) -> str:
    """The search in words; no paths, which are of one machine."""
    s = view.settings
    flags = f"--model {s.model} --budget {s.budget} --batch-size {s.batch_size} --seed {s.seed}"
    return f"pipeline.search {flags}; {view.spent} of {s.budget} trials of {s.epochs_per_trial:g} epochs"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(prog="python -m benchmarks.front", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the CSV file; what is there is replaced"
    )
    args = parser.parse_args(argv)

    from pipeline.shelf.view import look

    view = look(args.study.absolute())
    if not view.front["points"]:
        raise UserError(f"{args.study}: its front is empty; let the search finish a trial first")
    rows = list(front_rows(view))
    for found in rows:
        print(f"{found.name}: {found.report_score} % {found.metric}, {found.size_bytes:,} bytes", flush=True)
    write(args.out, [asdict(row) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
