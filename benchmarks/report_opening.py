"""How soon the report of a study opens in a browser, by the number of its trials.

    python -m benchmarks.report_opening [--trials 100 500 2000] [--times 9] [--out FILE.csv]

The recorded study of ResNet-20 (``examples/recorded``) with more trials: plans drawn at random, errors by its sensitivity. Every
candidate on the front has the layers, times, answers and images of one of the recorded, so pages are as heavy as a search's own.
The page is opened from the disk in a headless Chromium, a fresh one for each number of trials, in turns. ``load`` is from the
navigation to the end of the load event, ``drawn`` to the frame after the one with the first chart. Needs Chromium and a
checkout; two minutes. What else the machine does counts: the least and the median are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from foundation.plan import Plan
    from pipeline.report.data import ReportData
    from pipeline.study.work import Piece
    from tests.system.browser import Browser

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "report_opening.csv"
SEED = 0
WATCH = """new MutationObserver((changes, watch) => {
  if (!document.querySelector("#chart-latency svg")) return;
  watch.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.firstChart = performance.now(); }));
}).observe(document, { childList: true, subtree: true });"""
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


@dataclass(frozen=True)
class Opening:
    """One page, opened so many ``times``: milliseconds since the navigation, bytes of the file and of JavaScript's heap."""

    trials: int
    front: int
    file_bytes: int
    heap_bytes: int
    load_ms_least: float
    load_ms_median: float
    drawn_ms_least: float
    drawn_ms_median: float
    times: int
    browser: str
    cores: int


def enlarged(recorded: ReportData, count: int) -> ReportData:
    """The recorded study with ``count`` trials of other plans, and the front that these have."""
    from pipeline.study.pareto import front

    assert recorded.sensitivity is not None
    chance, harms = random.Random(SEED), recorded.sensitivity.harms
    finished = [record for record in recorded.records if record.status == "finished"]
    records = []
    for number, first in zip(range(count), cycle(finished)):
        plan = drawn(recorded, first.plan, chance)
        error = 0.1 + sum(recorded.sensitivity.of(name, plan.layers[name]) for name in harms)
        kept = sum(
            recorded.layers[name] * (1 - (layer.zero_share or 0)) for name, layer in plan.layers.items()
        )
        ms = kept / sum(recorded.layers.values()) * chance.uniform(0.6, 0.7)
        size = sum(recorded.layers[name] * layer.bits for name, layer in plan.layers.items()) // 8
        figures = dataclasses.replace(
            first.figures, error=min(0.9, error + abs(chance.gauss(0, 0.01))), latency_ms=ms, latency_low_ms=0.9 * ms,
            latency_high_ms=1.1 * ms, size_bytes=size,
        )  # fmt: skip
        begun = 1.7e9 + 30.0 * number
        records.append(
            dataclasses.replace(
                first, number=number, plan=plan, figures=figures, started=begun, ended=begun + 55,
                work=worked(number, begun),
            )
        )  # fmt: skip
    chosen = [
        records[i].hash for i in front([r.figures.objectives(("error", "latency", "size")) for r in records])
    ]
    return dataclasses.replace(
        recorded,
        records=records,
        front=chosen,
        details=dict(zip(chosen, cycle(recorded.details.values()))),
        reviews=dict(zip(chosen, cycle(recorded.reviews.values()))),
        history=None,
        recommended=None,
    )


def worked(number: int, begun: float) -> tuple[Piece, ...]:
    """Where a trial of 55 seconds ran on two workers and two devices: profiled, and at its end compared and profiled again."""
    from pipeline.study.work import Piece

    device = f"emulated a76, {1 + number % 2}"
    return (
        Piece("trial", f"worker {1 + number % 2}", begun, begun + 55),
        Piece("profile", device, begun + 2, begun + 5),
        Piece("run", device, begun + 50, begun + 53),
        Piece("profile", device, begun + 53, begun + 55),
    )


def drawn(recorded: ReportData, like: Plan, chance: random.Random) -> Plan:
    """A plan of the choices whose harm is known, some of many bits, some of few, so that the front is a long one."""
    from foundation.plan import Plan

    assert recorded.sensitivity is not None
    tilt, layers = chance.uniform(-6, 6), {}
    for name, layer in like.layers.items():
        choices = list(recorded.sensitivity.harms.get(name, [layer]))
        (layers[name],) = chance.choices(choices, [choice.bits**tilt for choice in choices])
    return Plan(layers)


def opened(page: Path, browser: Browser) -> tuple[float, float]:
    """Milliseconds to the end of the load event, and to the first chart."""
    browser.open(page.as_uri())
    browser.wait(f"window.firstChart > 0 && {LOADED} > 0")
    load, first = browser.evaluate(f"[{LOADED}, window.firstChart]")
    return load, first


def measured(counts: Sequence[int], times: int, folder: Path) -> Iterator[Opening]:
    """A row for each number of trials."""
    from pipeline.report.page import render
    from pipeline.report.stored import read_study
    from tests.system.browser import CHROMIUM, Browser

    if CHROMIUM is None:
        raise UserError("there is no Chromium here; install one so that the page can be opened")
    recorded = read_study(ROOT / "examples" / "recorded")[1]
    studies = {count: enlarged(recorded, count) for count in counts}
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    heap = dict.fromkeys(counts, 0)
    for turn in range(times):
        for count, data in studies.items():
            page = folder / f"{count}.html"
            page.write_text(render(data))
            with Browser(folder / f"profile-{turn}-{count}", 1280, 900) as browser:
                browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
                found[count].append(opened(page, browser))
                browser.call("HeapProfiler.collectGarbage")
                heap[count] = int(browser.call("Runtime.getHeapUsage")["usedSize"])
                version = str(browser.evaluate("/Chrome.[0-9]+/.exec(navigator.userAgent)[0]"))
    for count, pairs in found.items():
        loads, charts = zip(*pairs)
        yield Opening(
            count, len(studies[count].front), (folder / f"{count}.html").stat().st_size, heap[count],
            round(min(loads)), round(statistics.median(loads)), round(min(charts)), round(statistics.median(charts)),
            times, version, os.cpu_count() or 0,
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(
        prog="python -m benchmarks.report_opening", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 500, 2000], help="of the studies")
    parser.add_argument("--times", type=int, default=9, help="that each page is opened (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULT, help="CSV file (default %(default)s)")
    args = parser.parse_args(argv)
    if min(args.trials) < 1 or args.times < 1:
        raise UserError(f"--trials {min(args.trials)}, --times {args.times}: give 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measured(args.trials, args.times, Path(folder)))
    write(args.out, [asdict(row) for row in rows])
    for row in rows:
        print(
            f"{row.trials:6,} trials, {row.front} on the front: {row.file_bytes / 2**20:.1f} MiB, loaded in "
            f"{row.load_ms_median:.0f} ms (least {row.load_ms_least:.0f}), first chart after {row.drawn_ms_median:.0f} ms "
            f"(least {row.drawn_ms_least:.0f}), heap {row.heap_bytes / 2**20:.1f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
