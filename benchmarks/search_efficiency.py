"""How soon samplers find what: hypervolume against trials, on a table of real ones.

    python -m benchmarks.search_efficiency --data npz:CIFAR10.npz --weights RESNET20.th [--samplers programme tpe random]

A surrogate is fitted to the table (``benchmarks.record_trials``): a Gaussian process from what each layer's choice does to the
layer (two numbers each), and activation bits, to the error's logit. Its held-out error and rank correlation are printed, beside
those of the proxy that samplers are given. Then every sampler searches with the surrogate's errors and the estimates' costs, as a
search would ask it: beginning with the first plans that it has there, which count as trials. ``random-bare`` begins with none,
``uniform`` is those of one bit-width alone, ``tpe-before`` is TPE on every parameter by itself after the space's own warm starts.
The surrogate of seed 0 is of the whole table, that of each other seed of as many rows drawn from it with replacement, so that
samplers without chance meet different truths too.

Hypervolume is that of error, latency and size below a reference (the costs of 8 bits and 5 % more; ``share``: error ``WORST``,
``useful``: the least error and ``USEFUL`` more), as a share of that of a near-exact front: the best of long evolutions on the
surrogate; two seeds of them say how exact. One row a run, appended when it is done; a row that the file has is passed over. With
the last one the other file is written: samplers beside each other by Mann and Whitney's test.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record_trials import RESULT as TABLE
from benchmarks.record_trials import add_network, known_of
from benchmarks.rows import append, read, write
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.plan import Plan

if TYPE_CHECKING:
    from search_spaces.samplers.base import Prior
    from search_spaces.sensitivity import Sensitivity
    from search_spaces.space import Space

Floats = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "search_efficiency.csv"
OBJECTIVES = ("error", "latency", "size")
MARKS = (3, 5, 8, 12, 20, 30, 50, 100)  # trials at which the hypervolume is noted
WORST = 0.5  # error of the reference point
USEFUL = 0.1  # errors more than the least, of the other one
BEFORE = "tpe-before"
AGAINST = "programme"  # what others are tested against
FOLDS = 10
TINY = 1e-5  # nats; less harm than that makes no difference
SCALES = (
    2.0,
    4.0,
    8.0,
    16.0,
)  # of the kernel, in standard deviations of a feature times the root of how many there are, by 4
NOISES = (0.03, 0.1, 0.3)  # deviation of a row, relative to that of all
EVOLVED = 20_000  # plans that the near-exact front is the best of
BROOD = 64  # of them at a time


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process with a squared exponential kernel and a linear part, fitted to the logits of errors."""

    inputs: Floats
    weights: Floats
    centre: float
    scale: float

    @classmethod
    def fit(cls, inputs: Floats, errors: Floats, scale: float, noise: float) -> Surrogate:
        logits = logit(errors)
        centre, spread = float(logits.mean()), float(logits.std()) or 1.0
        kernel = _kernel(inputs, inputs, scale)
        kernel[np.diag_indices_from(kernel)] += noise**2
        weights = np.asarray(np.linalg.solve(kernel, (logits - centre) / spread) * spread, dtype=np.float64)
        return cls(inputs, weights, centre, scale)

    def __call__(self, inputs: Floats) -> Floats:
        """Errors of plans with these inputs [m, f]."""
        found = _kernel(inputs, self.inputs, self.scale) @ self.weights + self.centre
        errors: Floats = 1 / (1 + np.exp(-found))
        return errors


def logit(errors: Floats) -> Floats:
    """Of shares, kept away from 0 and 1."""
    inside = np.clip(errors, 1e-3, 1 - 1e-3)
    found: Floats = np.log(inside / (1 - inside))
    return found


def _kernel(a: Floats, b: Floats, scale: float) -> Floats:
    features = a.shape[1]
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    found: Floats = np.exp(-np.maximum(square, 0) / (2 * features * (scale / 4) ** 2)) + a @ b.T / features
    return found


class Coded:
    """Plans as rows of numbers, the place of each layer's choice and last that of the activation bits; costs and harms of many
    at once."""

    def __init__(
        self, space: Space, sensitivity: Sensitivity, cost: Callable[[Plan], Mapping[str, float]]
    ) -> None:
        from search_spaces.programme import ChoiceTable, measures_of

        measures = measures_of(sensitivity, cost, OBJECTIVES[1:])
        assert measures is not None
        base = space.warm_starts()[0]
        self.bits: list[int] = list(space["activation_bits"].values)
        self.tables = [
            ChoiceTable.of(space, base.replace(activation_bits=bits), measures) for bits in self.bits
        ]
        self.counts = np.array([*map(len, self.tables[0].plans), len(self.bits)])
        widest = int(self.counts[:-1].max())

        def padded(values: Sequence[Floats]) -> Floats:
            return np.stack([np.pad(each, ((0, widest - len(each)), (0, 0))) for each in values])

        self._harms = padded(
            [
                np.array([sensitivity.harms[name][plan][:2] for plan in plans])
                for name, plans in zip(base.layers, self.tables[0].plans)
            ]
        )  # [layers, choices, 2]
        self._costs = np.stack(
            [
                padded([np.stack(each, 1) for each in zip(*(table.added[name] for name in OBJECTIVES[1:]))])
                for table in self.tables
            ]
        )  # [activation bits, layers, choices, 2]
        self._totals = np.array([[table.totals[name] for name in OBJECTIVES[1:]] for table in self.tables])
        self._layers = np.arange(len(self.counts) - 1)

    def rows(self, plans: Sequence[Plan]) -> NDArray[np.int64]:
        """Of plans of this space."""
        return np.array([
            [*self.tables[0].chosen(plan), self.bits.index(plan.activation_bits)] for plan in plans
        ])  # fmt: skip

    def raw(self, rows: NDArray[np.int64]) -> Floats:
        """Logarithms of what each layer's choice adds by quantization and by pruning, and of the sums; activation bits."""
        harms = self._harms[self._layers, rows[:, :-1]]
        sums = harms.sum(1)
        logs = np.log(
            TINY + np.concatenate([harms.reshape(len(rows), -1), sums, sums.sum(1, keepdims=True)], 1)
        )
        return np.concatenate([logs, np.array(self.bits, dtype=np.float64)[rows[:, -1:]]], 1)

    def costs(self, rows: NDArray[np.int64]) -> Floats:
        """Latency and size, [m, 2]."""
        found: Floats = (
            self._costs[rows[:, -1:], self._layers, rows[:, :-1]].sum(1) + self._totals[rows[:, -1]]
        )
        return found


@dataclass(frozen=True)
class Truth:
    """What trials of this benchmark come to: [m, 3], error, latency and size."""

    coded: Coded
    mean: Floats
    deviation: Floats
    surrogate: Surrogate

    def __call__(self, rows: NDArray[np.int64]) -> Floats:
        errors = self.surrogate((self.coded.raw(rows) - self.mean) / self.deviation)
        return np.concatenate([errors[:, None], self.coded.costs(rows)], 1)

    def judge(self, plan: Plan) -> tuple[float, ...]:
        """Of one plan."""
        return tuple(map(float, self(self.coded.rows([plan]))[0]))


def cross_validated(inputs: Floats, errors: Floats, scale: float, noise: float) -> Floats:
    """Each row's error as it is foreseen from the other folds."""
    fold, found = np.arange(len(errors)) % FOLDS, np.empty(len(errors))
    for number in range(FOLDS):
        out = fold == number
        found[out] = Surrogate.fit(inputs[~out], errors[~out], scale, noise)(inputs[out])
    return found


@dataclass(frozen=True)
class Known:
    """Figures that follow from the plan."""

    values: tuple[float, ...]

    def objectives(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        found = dict(zip(OBJECTIVES, self.values))
        return tuple(found[name] for name in names)


@dataclass(frozen=True)
class Trial:
    """One record."""

    number: int
    plan: Plan
    figures: Known
    status: str = "finished"


def searched(
    name: str, seed: int, trials: int, space: Space, prior: Prior, judge: Callable[[Plan], tuple[float, ...]],
    objectives: tuple[str, ...] = OBJECTIVES,
) -> list[Trial]:  # fmt: skip
    """One search's trials, whose sampler is told of these objectives."""
    from pipeline.candidate.beforehand import first_plans
    from search_spaces.samplers.base import Context, asking
    from search_spaces.warm_starts import uniform_starts

    aliases = {"random-bare": "random", "uniform": "random", BEFORE: "benchmarks.plain_tpe:PlainTpe"}
    sampler = aliases.get(name, name)
    queue = [] if name == "random-bare" else first_plans(space, prior, sampler) or space.warm_starts()
    queue = uniform_starts(space) if name == "uniform" else space.warm_starts() if name == BEFORE else queue
    records: dict[str, Trial] = {}
    ask = asking(sampler, Context(space, objectives, lambda: [*records.values()], seed, prior))
    rng = random.Random(f"{seed}/{name}")
    while len(records) < trials and (queue or name != "uniform"):
        plan = queue.pop(0) if queue else ask()
        for _ in range(8):  # as a study asks again
            if plan is None or plan.hash not in records:
                break
            plan = ask()
        if plan is None or plan.hash in records:
            plan = space.random(rng)
        records.setdefault(plan.hash, Trial(len(records), plan, Known(judge(plan))))
    return [*records.values()]


def evolved(truth: Truth, starts: Sequence[Plan], seed: int) -> Floats:
    """The undominated points of ``EVOLVED`` plans: each a changed one of those undominated so far."""
    from pipeline.study.pareto import front

    rng = np.random.default_rng(seed)
    rows = truth.coded.rows(starts)
    points, counts, layers = truth(rows), truth.coded.counts, len(truth.coded.counts) - 1
    for _ in range(0, EVOLVED, BROOD):
        children = rows[rng.integers(len(rows), size=BROOD)]
        changes = np.minimum(layers, 1 + rng.exponential(1 / 0.7, BROOD).astype(int))
        for child, count in zip(children, changes):
            places = rng.choice(layers, count, replace=False)
            child[places] = rng.integers(counts[places])
            if rng.random() < 0.1:
                child[-1] = rng.integers(counts[-1])
        rows, points = np.concatenate([rows, children]), np.concatenate([points, truth(children)])
        _, first = np.unique(points, axis=0, return_index=True)
        rows, points = rows[first], points[first]
        best = front(points.tolist())
        rows, points = rows[best], points[best]
    return points


def setting(args: argparse.Namespace) -> dict[str, Any]:
    """All that searches of the table need; what is known of the surrogate is printed.

    Raises:
        UserError: the table has no rows.
    """
    from scipy.stats import spearmanr

    from search_spaces.samplers.base import Prior

    if not (rows := read(args.table)):
        raise UserError(f"{args.table} has no rows; run python -m benchmarks.record_trials first")
    known = known_of(args)
    plans, errors = [Plan.from_json(row["plan"]) for row in rows], np.array([float(r["error"]) for r in rows])
    coded = Coded(known["space"], known["harm"], known["cost"])
    raw = coded.raw(coded.rows(plans))
    mean, deviation = raw.mean(0), np.maximum(raw.std(0), 1e-6)
    inputs = (raw - mean) / deviation
    tried = {
        (scale, noise): cross_validated(inputs, errors, scale, noise) for scale in SCALES for noise in NOISES
    }
    best = min(tried, key=lambda key: float(np.square(logit(tried[key]) - logit(errors)).mean()))
    off = np.abs(tried[best] - errors)
    rank, proxy = (
        float(spearmanr(found, errors).statistic)
        for found in (tried[best], [known["harm"](plan) for plan in plans])
    )
    print(
        f"{len(rows)} trials; held out: the surrogate is off by {100 * np.median(off):.2f} points (median; mean "
        f"{100 * off.mean():.2f}), rank correlation {rank:.3f}; the proxy's {proxy:.3f}",
        flush=True,
    )
    about = {
        "trials": str(len(rows)), "images": str(args.judged),
        "off_median": f"{np.median(off):.4f}", "off_mean": f"{off.mean():.4f}",
        "rank": f"{rank:.3f}", "proxy_rank": f"{proxy:.3f}",
    }  # fmt: skip

    def truth(seed: int) -> Truth:
        drawn = np.arange(len(rows))
        if seed:
            drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
        return Truth(coded, mean, deviation, Surrogate.fit(inputs[drawn], errors[drawn], *best))

    prior = Prior(
        known["layers"], known["cost"], known["harm"], error=float(errors.min()), images=args.judged
    )
    return {
        "space": known["space"], "prior": prior, "truth": truth, "starts": plans, "about": about, "known": known,
    }  # fmt: skip


@dataclass(frozen=True)
class FrontVolumes:
    """Shares of the hypervolume of a near-exact front, for each reference point."""

    references: Mapping[str, tuple[float, ...]]
    whole: Mapping[str, float]

    @classmethod
    def of(cls, fronts: Sequence[Floats], floor: float, eight: Mapping[str, float]) -> FrontVolumes:
        from pipeline.study.pareto import hypervolume

        corner = (1.05 * eight["latency"], 1.05 * eight["size"])
        references = {"share": (WORST, *corner), "useful": (floor + USEFUL, *corner)}
        return cls(
            references,
            {name: max(hypervolume(f.tolist(), point) for f in fronts) for name, point in references.items()},
        )

    def shares(self, points: Sequence[tuple[float, ...]]) -> dict[str, float]:
        """Of a front."""
        from pipeline.study.pareto import hypervolume

        return {name: hypervolume(points, at) / self.whole[name] for name, at in self.references.items()}


def compared(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """``AGAINST`` beside each other sampler, at each number of trials: medians, and how probable so large a difference is
    where there is none."""
    from scipy.stats import mannwhitneyu

    found = []
    names = dict.fromkeys(row["sampler"] for row in rows)
    for kind in ("share", "useful"):
        for mark in MARKS:
            column = f"{kind}_{mark}"
            by = {n: [float(r[column]) for r in rows if r["sampler"] == n and r[column]] for n in names}
            for name, values in by.items():
                if name != AGAINST and values and by.get(AGAINST):
                    test = mannwhitneyu(by[AGAINST], values)
                    found.append({
                        "measure": kind, "trials": str(mark), "sampler": name, "median": f"{np.median(values):.4f}",
                        AGAINST: f"{np.median(by[AGAINST]):.4f}", "p": f"{test.pvalue:.2g}", "runs": str(len(values)),
                    })  # fmt: skip
    return found


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    from search_spaces.samplers.base import SAMPLERS

    parser = Parser(
        prog="python -m benchmarks.search_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_network(parser)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--judged", type=int, default=1500, help="images that the table's errors are of")
    parser.add_argument("--samplers", nargs="+", default=["uniform", "random-bare", BEFORE, *SAMPLERS])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    known = setting(args)
    space, truth, starts = known["space"], known["truth"], known["starts"]
    eight, floor = known["prior"].cost(space.warm_starts()[0]), known["prior"].error
    done = read(args.out)
    if other := {row["table"] for row in done} - {str(len(starts))}:
        raise UserError(
            f"{args.out} has searches of a table of {', '.join(sorted(other))} trials, this one has {len(starts)}: give another "
            "--out, or remove the file"
        )
    have = {(row["sampler"], row["seed"], row["trials"]) for row in done}
    for seed in range(args.seeds):
        left = [name for name in args.samplers if (name, str(seed), str(args.trials)) not in have]
        if not left:
            continue
        own = truth(seed)
        fronts = [evolved(own, starts, one) for one in ((0, 1) if seed == 0 else (0,))]
        volumes = FrontVolumes.of(fronts, floor, eight)
        if seed == 0:
            differ = {
                name: 1 - min(FrontVolumes.of([f], floor, eight).whole[name] for f in fronts) / whole
                for name, whole in volumes.whole.items()
            }
            said = {
                **known["about"],
                **{f"fronts_differ_{name}": f"{value:.4f}" for name, value in differ.items()},
            }
            print(
                "near-exact fronts differ by",
                *(f"{100 * value:.2f} %" for value in differ.values()),
                flush=True,
            )
            write(args.out.with_name(f"{args.out.stem}_surrogate.csv"), [said])
        for name in left:
            begun = time.process_time()
            found = searched(name, seed, args.trials, space, known["prior"], own.judge)
            points = [trial.figures.values for trial in found]
            spent = time.process_time() - begun
            row = {"sampler": name, "seed": str(seed), "trials": str(args.trials)}
            for mark in MARKS:
                shares = volumes.shares(points[:mark])
                row |= {
                    f"{kind}_{mark}": f"{value:.4f}" if mark <= args.trials else ""
                    for kind, value in shares.items()
                }
            row |= {"seconds": f"{spent:.1f}", "table": str(len(starts))}
            append(args.out, row)
            print(*row.values(), flush=True)
    if beside := compared(read(args.out)):
        write(args.out.with_name(f"{args.out.stem}_tests.csv"), beside)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
