"""What a search costs beside its trials' training: processor seconds of the driver for each trial, and its share at scale.

    python -m benchmarks.orchestration [--parts decisions opening files mlflow engine share] [--out FILE.csv]

``decisions``: the next plan, every judgement and what the study writes of them, of a search of ResNet-20 (22 layers) that holds
100 or 500 trials, with so many in flight; trials are simulated, the study is real. ``opening``: a study of 10,000 trials.
``files``: what a look at a front's candidates takes. ``mlflow``: a trial and its rungs into MLflow.
``engine``: Ray Tune in the driver and Ray's own services, with trials that return at once, and the driver beside two trials of
60 seconds. ``share``: the sum of all at 500 trials; of one processor with trials of 60 seconds. Rows of the parts that are named
are replaced; all take ten minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import read, write
from benchmarks.simulated_studies import CLASSES, FP32_ERROR, SEED, SimulatedSearch, filled
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import folder_atomically, json_text, sha256

if TYPE_CHECKING:
    from pipeline.study.records import TrialRecord
    from pipeline.study.study import Candidate

RESULT = Path(__file__).parent / "results" / "orchestration.csv"
NETWORK, SIZE = "resnet20", 32
TRIAL_SECONDS = 60.0
HELD = (100, 500)  # trials that a study holds
FLYING = (2, 50, 200)  # trials at a time
SAMPLERS = ("programme", "tpe")
TIMED = 10  # trials of which the mean is taken
RUNGS = 3


@dataclass(frozen=True)
class OrchestrationRow:
    """``seconds`` of a processor, for each of ``count``; ``wall`` as the clock has it."""

    part: str
    what: str
    sampler: str
    held: int
    workers: int
    count: int
    seconds: float
    wall: float
    mib: float = 0.0


class Unheard:
    """Nobody listens."""

    def line(self, text: str) -> None: ...

    def status(self, text: str | Callable[[], str]) -> None: ...

    def trial(self, record: TrialRecord, done: int) -> None: ...


class Stopwatch:
    """Processor and wall seconds of what runs within it, in all; of this thread alone, so that others do not count."""

    def __init__(self) -> None:
        self.seconds = self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall


def row(part: str, what: str, watch: Stopwatch, count: int, **where: Any) -> OrchestrationRow:
    """The mean of ``count``."""
    known = {"sampler": "", "held": 0, "workers": 0, **where}
    return OrchestrationRow(
        part, what, count=count, seconds=round(watch.seconds / count, 5), wall=round(watch.wall / count, 5), **known
    )  # fmt: skip


def memory() -> float:
    """MiB that this process holds."""
    import psutil

    held: int = psutil.Process().memory_info().rss
    return round(held / 2**20)


def study_of(case: SimulatedSearch, folder: Path, held: int, waiting: int = 0) -> Path:
    """A closed study of so many trials that ended, and so many that wait."""
    from pipeline.study.study import Study

    chance = random.Random(SEED)
    with Study(folder, case.space, identity={}, warm_starts=[]) as study:
        pass
    plans = list(case.random_plans(held + waiting))
    ended = [case.ended(number, plan, RUNGS, chance) for number, plan in enumerate(plans[:held])]
    filled(study, ended, plans[held:])
    return folder


def decisions(case: SimulatedSearch, folder: Path) -> Iterator[OrchestrationRow]:
    """By the number of trials that a study holds, those in flight, and the sampler."""
    for held in HELD:
        for sampler in SAMPLERS:
            for workers in FLYING if sampler == SAMPLERS[0] else FLYING[:1]:
                place = folder / f"{held}-{sampler}-{workers}"
                study_of(case, place, held - TIMED, workers - 1)
                yield from decided(case, place, sampler, held, workers)
                shutil.rmtree(place)


def decided(
    case: SimulatedSearch, folder: Path, sampler: str, held: int, workers: int
) -> Iterator[OrchestrationRow]:
    """The last ``TIMED`` trials of a search, ``workers`` of them at a time, by the conductor itself."""
    from pipeline.candidate.beforehand import profiled
    from pipeline.study.conductor import PROFILED, RUNG, Conductor, Outlook
    from pipeline.study.halving import Rungs
    from pipeline.study.study import Study
    from pipeline.training.rung import Rung

    places = tuple(("free", float(place)) for place in range(RUNGS))
    proposing, judging, ending = Stopwatch(), Stopwatch(), Stopwatch()
    chance = random.Random(SEED)
    with Study(folder, case.space, identity={}, sampler=sampler, warm_starts=[], prior=case.prior) as study:
        case.cost.learn_from(profiled(study, (), case.space))
        rungs = Rungs(places, RUNGS, at_least=1)
        conductor = Conductor(
            study, rungs, held + workers, workers, Unheard(),
            outlook=Outlook(FP32_ERROR, case.cost.foresee, 1 / CLASSES),
        )  # fmt: skip
        flying: list[Candidate] = []
        while len(flying) < workers - 1:  # those that fly meanwhile; nobody times them
            flying.append(_next(conductor.propose()))
        for _ in range(TIMED):
            with proposing.running():
                candidate = _next(conductor.propose())
            flying.append(candidate)
            first = flying.pop(0)
            figures = case.figures(first.plan, None, chance)
            with judging.running():
                on = conductor.judge(first.number, PROFILED, figures)
            for place in range(RUNGS - 1):
                if not on:
                    break
                figures = case.figures(first.plan, place, chance)
                rung = Rung(float(place), figures.error or 0.0, 1.0, 1.0)
                with judging.running():
                    on = conductor.judge(first.number, RUNG, figures, rung)
            record = case.ended(first.number, first.plan, RUNGS, chance) if on else None
            with ending.running():
                conductor.end(first.number, record)
    where = {"sampler": sampler, "held": held, "workers": workers}
    for what, watch in (("propose", proposing), ("judge", judging), ("end", ending)):
        yield row("decisions", what, watch, TIMED, **where)


def _next(candidate: Candidate | None) -> Candidate:
    assert candidate is not None, "the space holds nothing more"
    return candidate


def opening(case: SimulatedSearch, folder: Path, held: int = 10_000) -> Iterator[OrchestrationRow]:
    """A large study is opened, and gives its next plan."""
    from pipeline.candidate.beforehand import profiled
    from pipeline.study.study import Study

    made = study_of(case, folder / "large", held)
    opened, asked, before = Stopwatch(), Stopwatch(), memory()
    with opened.running():
        study = Study(made, case.space, identity={}, sampler="programme", warm_starts=[], prior=case.prior)
    more = memory() - before
    where = {"sampler": "programme", "held": held}
    yield OrchestrationRow(**{**asdict(row("opening", "open", opened, 1, **where)), "mib": more})
    case.cost.learn_from(profiled(study, (), case.space))
    with study, asked.running():
        study.ask()
    yield row("opening", "the first plan", asked, 1, **where)


def files(case: SimulatedSearch, folder: Path) -> Iterator[OrchestrationRow]:
    """What the driver reads of candidates."""
    from pipeline.report.publish import check_folders
    from pipeline.study.study import front_of

    chance = random.Random(SEED)
    plans = list(case.random_plans(200))
    ended = [case.ended(number, plan, RUNGS, chance) for number, plan in enumerate(plans)]
    front = front_of(ended, ("error", "latency", "size"))
    for record in front:
        candidate(folder / "candidates" / record.hash, record)
    first, again = Stopwatch(), Stopwatch()
    with first.running():
        check_folders(folder, front)
    with again.running():
        for _ in range(TIMED):
            check_folders(folder, front)
    yield row("files", f"a front of {len(front)} checked first", first, 1)
    yield row("files", "a front checked again", again, TIMED)


def candidate(folder: Path, record: TrialRecord) -> None:
    """A candidate's folder with as many bytes as one of this network has."""
    from pipeline.candidate.folder import FORMAT, sourced

    with folder_atomically(folder) as new:
        (new / "plan.json").write_text(record.plan.to_json())
        (new / "network.pt").write_bytes(random.Random(record.number).randbytes(1_100_000))
        (new / "weights.blob").write_bytes(random.Random(record.number).randbytes(100_000))
        kept = {name: sha256(new / name) for name in ("plan.json", "network.pt", "weights.blob")}
        manifest = {"format": FORMAT, "hash": record.hash, "files": kept, "figures": sourced(record.figures)}
        (new / "manifest.json").write_text(json_text(manifest))


def mlflow(case: SimulatedSearch, folder: Path) -> Iterator[OrchestrationRow]:
    """The 500th trial, into a database file."""
    from pipeline.review.tracking import Tracker
    from pipeline.study.study import front_of

    chance, watch = random.Random(SEED), Stopwatch()
    ended = [case.ended(n, plan, RUNGS, chance) for n, plan in enumerate(case.random_plans(100 + TIMED))]
    tracker = Tracker(None, folder, "study", dict.fromkeys(case.space.layers, 1000))
    tracker.start({"model": NETWORK}, {"spec": "noise", "name": "noise"})

    def front(count: int) -> list[str]:
        return [record.hash for record in front_of(ended[:count], ("error", "latency", "size"))]

    tracker.sync(ended[:100], front(100))
    for count in range(101, 101 + TIMED):
        with watch.running():
            tracker.sync(ended[:count], front(count))
    yield row("mlflow", "a trial", watch, TIMED, held=100)


def engine(case: SimulatedSearch, folder: Path) -> Iterator[OrchestrationRow]:
    """Real Ray, with trials that take no time or a minute."""
    for seconds, trials in ((0.0, 40), (TRIAL_SECONDS, 4)):
        yield from searched(folder / f"engine{seconds:.0f}", seconds, trials)


def searched(folder: Path, seconds: float, trials: int) -> Iterator[OrchestrationRow]:
    """Two trials at a time; what the conductor takes is not counted, it stands under ``decisions``."""
    import psutil

    from benchmarks.simulated_trial import SPACE, SimulatedTrial
    from pipeline.cluster import engine as tune
    from pipeline.study.conductor import Conductor
    from pipeline.study.records import Figures, Reference
    from pipeline.study.settings import Settings
    from pipeline.study.study import Study

    decided = Stopwatch()

    class Timed(Conductor):
        def propose(self) -> Any:
            with decided.running():
                return super().propose()

        def judge(self, *given: Any) -> bool:
            with decided.running():
                return super().judge(*given)

        def end(self, *given: Any) -> None:
            with decided.running():
                super().end(*given)

    settings = Settings(
        name=folder.name, out=folder.parent, budget=trials, rungs=1, epochs_per_trial=seconds + 1.0,
        max_concurrent=2, sampler="random",
    )  # fmt: skip
    began: dict[str, float] = {}
    services: dict[int, float] = {}

    def watched() -> None:
        """Called after every trial: from the first on is counted, what starts is not."""
        own, now = time.process_time(), time.perf_counter()
        for child in psutil.Process().children(recursive=True):
            try:
                if child.name() in ("raylet", "gcs_server") or "agent" in " ".join(child.cmdline()):
                    services[child.pid] = sum(child.cpu_times()[:2])
            except psutil.Error:
                continue
        if not began:
            began.update(own=own, wall=now, services=sum(services.values()), decided=decided.seconds)
        began.update(
            own_end=own, wall_end=now, services_end=sum(services.values()), decided_end=decided.seconds
        )

    with Study(folder, SPACE, identity={}, sampler="random") as study:
        tune.run(
            settings, study, Unheard(), watched,
            references=[Reference("fp32", Figures(0.01))], trainable=SimulatedTrial, decides=Timed,
        )  # fmt: skip
    wall = began["wall_end"] - began["wall"]
    parts = {
        "driver": began["own_end"] - began["own"] - (began["decided_end"] - began["decided"]),
        "Ray's services": began["services_end"] - began["services"],
    }
    for what, cpu in parts.items():
        watch = Stopwatch()
        watch.seconds, watch.wall = cpu, wall
        shown = row("engine", f"{what}, trials of {seconds:.0f} s", watch, trials - 1, held=trials, workers=2)
        yield OrchestrationRow(**{**asdict(shown), "mib": memory()})


def share(known: Sequence[dict[str, str]]) -> Iterator[OrchestrationRow]:
    """All that the driver does for a trial at 500 trials, and that beside trials of 60 seconds, as a share of one worker's time
    and of one processor of the driver."""

    def of(part: str, **where: object) -> float:
        found = [
            float(each["seconds"])
            for each in known
            if each["part"] == part and all(each[key] == str(value) for key, value in where.items())
        ]
        if not found:
            raise UserError(f"--parts share: {part} has no rows yet; name it too")
        return sum(found)

    beside = (
        of("files", what="a front checked again")
        + of("mlflow", what="a trial")
        + of("engine", what="driver, trials of 0 s")
    )
    for workers in FLYING:
        seconds = of("decisions", sampler="programme", held=500, workers=workers) + beside
        for what, value in (
            ("a trial, all parts", seconds),
            ("of a 60-second trial", seconds / TRIAL_SECONDS),
            ("of the driver's processor", seconds * workers / TRIAL_SECONDS),
        ):
            yield OrchestrationRow("share", what, "programme", 500, workers, 1, round(value, 5), 0.0)


PARTS: dict[str, Callable[[SimulatedSearch, Path], Iterator[OrchestrationRow]]] = {
    "decisions": decisions,
    "opening": opening,
    "files": files,
    "mlflow": mlflow,
    "engine": engine,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(
        prog="python -m benchmarks.orchestration",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--parts", nargs="+", default=[*PARTS, "share"], metavar="PART", help="which (default all)"
    )
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE.csv", help="the table")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts if name not in (*PARTS, "share")]:
        raise UserError(f"--parts {unknown[0]}: allowed are {', '.join((*PARTS, 'share'))}")
    rows = [each for each in read(args.out, ["part"]) if each["part"] not in args.parts]
    with tempfile.TemporaryDirectory(prefix="orchestration") as place:
        case = SimulatedSearch.of(NETWORK, SIZE, Path(place)) if set(args.parts) & PARTS.keys() else None
        for part in args.parts:
            (folder := Path(place, part)).mkdir()
            found = share(rows) if case is None or part == "share" else PARTS[part](case, folder)
            for each in found:
                print(json.dumps(asdict(each)), flush=True)
                rows.append({key: str(value) for key, value in asdict(each).items()})
                write(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
