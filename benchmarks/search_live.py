"""Searches with real trials, as a search makes them, beside each other: samplers, halving and the filter before training.

    python -m benchmarks.search_live [--network vgg_tiny --data digits] --budget 30 --seeds 3 [--kept FOLDER]

Every run is a study with the conductor of ``python -m pipeline.search``, in this process and one trial at a time: what is
proposed, filtered, held back and resumed is decided by the same code. Only trials are shared. What a plan comes to follows from
the plan (trials of all runs have one seed), so each is rebuilt, tuned, compiled, compared and profiled once, and kept in
``trials.csv``; the next run that asks for it is told, and its epochs count as far as that run lets it go. Runs are kept too, in
``runs/``: the same command goes on, and every time it writes ``--out`` anew from all of them.

A run is a sampler with a suffix: ``tpe``; ``tpe+halving`` compares trials at rungs whatever the budget; ``tpe-filter`` trains
also what costs more than the front even with the best error; ``nsga2+dimensions`` also chooses from ``--dimensions``, which the
others do not know. ``uniform`` is every uniform plan, ``tpe-before`` TPE on every
parameter by itself, which begins with the space's own warm starts.

Hypervolume is that of error (search half), latency and size below the reference (fp32's error and ``WORST`` more, the costs of 8
bits and 5 % more), as a share of that of all trials of all runs together.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import append, read
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import json_text, write_atomically
from foundation.plan import Plan

if TYPE_CHECKING:
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.devices import Devices
    from pipeline.candidate.workspace import Workspace
    from pipeline.study.records import Figures, Reference, TrialRecord
    from search_spaces.samplers.base import Prior
    from search_spaces.space import Space

RESULTS = Path(__file__).parent / "results"
WORST = 0.1  # errors more than fp32's at the reference point
MARKS = (3, 5, 8, 12, 20, 30)  # trials at which the share is noted; and as many whole trials' epochs
HALVING, UNFILTERED, FURTHER = "+halving", "-filter", "+dimensions"
BEFORE = "tpe-before"
RUNS = (
    "uniform", "random", "nsga2", "metropolis", BEFORE, "tpe", "gp", "programme",
    *(f"{sampler}{how}" for sampler in ("random", "tpe", "programme") for how in (HALVING, UNFILTERED)),
)  # fmt: skip


@dataclass(frozen=True)
class LiveOutcome:
    """What a plan came to: its costs as they were known before training, its record, and its error on the report half."""

    known: Figures
    record: TrialRecord
    report_error: float

    def as_row(self) -> dict[str, str]:
        record = self.record
        return {
            "plan": record.plan.to_json(), "error": f"{record.figures.error:.6g}", "report_error": f"{self.report_error:.6g}",
            "latency_ms": f"{record.figures.latency_ms:.6g}", "size_bytes": str(record.figures.size_bytes),
            "known": json_text(dataclasses.asdict(self.known)), "record": record.to_json(),
        }  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> LiveOutcome:
        from pipeline.study.records import Figures, TrialRecord

        known = Figures(**json.loads(row["known"]))
        return cls(known, TrialRecord.from_json(row["record"]), float(row["report_error"]))


class Trials:
    """Every plan's outcome, made once and kept in ``file``."""

    def __init__(self, bench: Bench, devices: Devices, file: Path) -> None:
        self._bench, self._devices, self._file = bench, devices, file
        self.known: dict[str, LiveOutcome] = {}
        for row in read(file):
            self.known[Plan.from_json(row["plan"]).hash] = LiveOutcome.from_row(row)

    def __call__(self, plan: Plan) -> LiveOutcome:
        if plan.hash not in self.known:
            self.known[plan.hash] = self._made(plan)
            append(self._file, self.known[plan.hash].as_row())
        return self.known[plan.hash]

    @cached_property
    def _report(self) -> Any:
        from torch import arange

        from pipeline.training.judges import Judge

        workspace = self._bench.workspace
        images = workspace.data.report
        return Judge(workspace.model, images, arange(len(images)), workspace.mean, workspace.std, 256)

    def _made(self, plan: Plan) -> LiveOutcome:
        from pipeline.candidate.folder import candidate_path
        from pipeline.candidate.stages import CandidateRun
        from pipeline.study.checkpoints import trial_folder

        settings = self._bench.settings
        run = CandidateRun(self._bench, plan, 0, self._devices)
        known = run.profile()
        for place, stage in enumerate(settings.stages):
            run.reach(place, stage)
        record = run.finish()
        report = self._report(run.cotuning.hardened().network).error
        for left in (trial_folder(settings.folder, plan), candidate_path(settings.folder, plan)):
            shutil.rmtree(left, ignore_errors=True)
        return LiveOutcome(known, record, report)


class Silent:
    """Who is told what happens, and keeps it to itself."""

    def line(self, text: str) -> None: ...

    def status(self, text: str | Callable[[], str]) -> None: ...

    def trial(self, record: TrialRecord, done: int) -> None: ...


@dataclass(frozen=True)
class RunName:
    """A run's name taken apart."""

    name: str
    sampler: str
    halving: bool
    filtered: bool
    further: bool = False

    @classmethod
    def of(cls, name: str) -> RunName:
        sampler = name.removesuffix(HALVING).removesuffix(UNFILTERED).removesuffix(FURTHER)
        halving, filtered = name.endswith(HALVING), not name.endswith(UNFILTERED)
        return cls(name, sampler, halving, filtered, name.endswith(FURTHER))


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    workspace: Workspace
    space: Space
    prior: Prior
    references: Sequence[Reference]
    trials: Trials
    budget: int
    further: Space | None = None  # with ``--dimensions``

    @property
    def fp32_error(self) -> float:
        assert self.prior.error is not None
        return self.prior.error


def run(setting: Setting, asked: RunName, seed: int, folder: Path) -> list[dict[str, Any]]:
    """One search, in ``folder``, which is made anew: what ended, in order, with the epochs that were trained by then."""
    from pipeline.candidate.beforehand import first_plans, profiled
    from pipeline.candidate.cost_fit import FittedCost
    from pipeline.study.conductor import PROFILED, RUNG, Conductor, Outlook
    from pipeline.study.halving import Rungs
    from pipeline.study.study import Study
    from pipeline.training.stages import places
    from search_spaces.warm_starts import uniform_starts

    settings, space = setting.workspace.settings, setting.further if asked.further else setting.space
    if space is None:
        raise UserError(f"--runs {asked.name}: say with --dimensions what it also chooses from")
    shutil.rmtree(folder, ignore_errors=True)
    cost = setting.prior.cost
    assert isinstance(cost, FittedCost)
    plain = asked.sampler == BEFORE
    name = {BEFORE: "benchmarks.plain_tpe:PlainTpe", "uniform": "random"}.get(asked.sampler, asked.sampler)
    starts = space.warm_starts() if plain else first_plans(space, setting.prior, name)
    if asked.sampler == "uniform":
        starts = [plan for plan in space.warm_starts() if alike(plan)]
    budget = len(starts or ()) if asked.sampler == "uniform" else setting.budget
    at_least = max(Rungs.at_least, len(uniform_starts(space))) if asked.halving else budget
    rungs = Rungs(places(settings.stages), settings.rungs, at_least=at_least)
    epochs: dict[int, float] = {}
    seconds: dict[int, float] = {}
    found: list[dict[str, Any]] = []
    with Study(
        folder, space, identity={}, sampler=name, seed=seed, warm_starts=starts, prior=setting.prior
    ) as study:
        cost.learn_from(profiled(study, setting.references, space))
        outlook = Outlook(
            setting.fp32_error,
            cost.foresee if asked.filtered else None,
            1 / len(setting.workspace.data.classes),
        )
        conductor = Conductor(study, rungs, budget, 1, Silent(), outlook=outlook)
        while (candidate := conductor.propose()) is not None:
            number, outcome = candidate.number, setting.trials(candidate.plan)
            on = conductor.judge(number, PROFILED, outcome.known)
            for rung in outcome.record.curve[:-1] if on else ():
                known = epochs.get(number, 0.0)
                epochs[number], seconds[number] = (
                    max(known, rung.epochs),
                    max(seconds.get(number, 0.0), rung.seconds),
                )
                figures = dataclasses.replace(
                    outcome.known, error=rung.error, divergence=rung.divergence,
                    divergence_standard_error=rung.divergence_standard_error,
                )  # fmt: skip
                on = conductor.judge(number, RUNG, figures, rung)
                if not on:
                    break
            if on:
                last = outcome.record.curve[-1]
                epochs[number], seconds[number] = last.epochs, last.seconds
                conductor.end(number, dataclasses.replace(outcome.record, number=number))
            else:
                conductor.end(number, None)
            ended = {record.number: record for record in study.records()}
            found.append({
                "plan": candidate.plan.hash, "number": number, "status": ended[number].status if number in ended else "held back",
                "spent": study.spent, "epochs": sum(epochs.values()), "seconds": sum(seconds.values()),
            })  # fmt: skip
        statuses = {record.hash: record.status for record in study.records()}
    return [{**each, "end": statuses.get(each["plan"], "held back")} for each in found]


def alike(plan: Plan) -> bool:
    """Whether all layers have the same."""
    return len({layer.bits for layer in plan.layers.values()}) == 1


def opened(args: argparse.Namespace) -> Setting:
    """Network, data, what is known beforehand, and the trials made so far."""
    import torch

    from deploy_arm.runtime.program import build_program
    from pipeline.candidate.beforehand import known_beforehand
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.fp32 import refuse_chance
    from pipeline.candidate.references import references
    from pipeline.cluster.pool import LocalDevice, devices_at_hand
    from pipeline.review.progress import Progress
    from pipeline.search import opened as as_a_search
    from pipeline.study.searched import searched_space
    from pipeline.study.settings import Settings

    torch.set_num_threads(1)
    settings = Settings(
        model=args.network, data=args.data, weights=args.weights, epochs_per_trial=args.epochs, batch_size=args.batch_size,
        image_size=args.image_size, target=args.target, budget=args.budget, out=args.kept.absolute(), name="trials",
        dimensions=tuple(args.dimensions),
    )  # fmt: skip
    settings.folder.mkdir(parents=True, exist_ok=True)
    with Progress(args.budget) as progress:
        workspace, space = as_a_search(settings, progress)
        refuse_chance(workspace, allow=False)
        fp32 = workspace.judges.search.fp32_error
        compared = references(workspace, args.kept / "references.json", devices_at_hand)
        known = known_beforehand(workspace, space, fp32, progress)
        assert known.sensitivity is not None
    bench = Bench(settings, workspace, build_program(settings.target))
    trials = Trials(bench, LocalDevice(settings.target), args.kept / "trials.csv")
    usual = searched_space(dataclasses.replace(settings, dimensions=()), known.layers)
    return Setting(
        workspace, usual, known.prior, compared, trials, args.budget, space if args.dimensions else None
    )


@dataclass(frozen=True)
class LiveVolumes:
    """Shares of the hypervolume of all trials."""

    trials: Mapping[str, LiveOutcome]
    reference: tuple[float, ...]

    def of(self, plans: Sequence[str]) -> float:
        from pipeline.study.pareto import hypervolume

        points = [self.trials[plan].record.figures.objectives(("error", "latency", "size")) for plan in plans]
        return hypervolume([point for point in points if point is not None], self.reference) / self._whole

    @cached_property
    def _whole(self) -> float:
        from pipeline.study.pareto import hypervolume

        points = [
            each.record.figures.objectives(("error", "latency", "size")) for each in self.trials.values()
        ]
        return hypervolume([point for point in points if point is not None], self.reference)


def row_of(
    name: str, seed: int, log: Sequence[Mapping[str, Any]], volumes: LiveVolumes, epochs: float
) -> dict[str, str]:
    """What one run found by so many trials, and by so many whole trials' epochs."""
    finished = [each for each in log if each["status"] == "finished"]
    ends = [each["end"] for each in {each["plan"]: each for each in log}.values()]
    row = {"run": name, "seed": str(seed)}
    last = log[-1]
    for mark in MARKS:
        enough = last["spent"] >= mark or name == "uniform"
        row[f"share_{mark}"] = (
            f"{volumes.of([e['plan'] for e in finished if e['spent'] <= mark]):.4f}" if enough else ""
        )
    for mark in MARKS:
        enough = last["epochs"] >= mark * epochs or name == "uniform"
        within = [e["plan"] for e in finished if e["epochs"] <= mark * epochs * (1 + 1e-9)]
        row[f"share_of_epochs_{mark}"] = f"{volumes.of(within):.4f}" if enough else ""
    return row | {
        "share": f"{volumes.of([each['plan'] for each in finished]):.4f}", "trials": str(last["spent"]),
        "epochs": f"{last['epochs']:.4g}", "seconds": f"{last['seconds']:.0f}",
        **{status: str(ends.count(status)) for status in ("finished", "stopped", "dominated")},
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.search_live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", default="vgg_tiny")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--target", default="a76")
    parser.add_argument("--epochs", type=float, default=2.0, help="of a trial")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dimensions", nargs="+", default=[], help=f"further ones, of runs with {FURTHER}")
    parser.add_argument("--budget", type=int, default=30)
    parser.add_argument("--runs", nargs="+", default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kept", type=Path, default=Path("search_live"), help="folder of trials and runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_live_digits.csv")
    args = parser.parse_args(argv)
    setting = opened(args)
    runs = args.kept / "runs"
    for seed in range(args.seeds):
        for name in args.runs:
            file = runs / f"{name}.{seed}.{args.budget}.json"
            if file.exists() or (name == "uniform" and seed):
                continue
            begun, before = time.process_time(), len(setting.trials.known)
            log = run(setting, RunName.of(name), seed, args.kept / "study")
            write_atomically(file, json_text(log, indent=1))
            new = len(setting.trials.known) - before
            print(
                f"{name} {seed}: {log[-1]['spent']} trials, {new} new, {time.process_time() - begun:.0f} s",
                flush=True,
            )
            write(args, setting)
    write(args, setting)
    return 0


def write(args: argparse.Namespace, setting: Setting) -> None:
    """The table of all runs that are kept."""
    eight = next(r.figures for r in setting.references if r.name == "int8")
    assert eight.latency_ms is not None and eight.size_bytes is not None
    corner = (setting.fp32_error + WORST, 1.05 * eight.latency_ms, 1.05 * eight.size_bytes)
    volumes = LiveVolumes(setting.trials.known, corner)
    rows = []
    for file in sorted((args.kept / "runs").glob("*.json")):
        name, seed, budget = file.stem.rsplit(".", 2)
        log = json.loads(file.read_text())
        rows.append({**row_of(name, int(seed), log, volumes, args.epochs), "budget": budget})
    if rows:
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        write_atomically(args.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main_guard(main))
