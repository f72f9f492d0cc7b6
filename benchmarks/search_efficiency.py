"""How soon samplers find what: hypervolume against trials, on a table of real ones.

    python -m benchmarks.search_efficiency --data npz:CIFAR10.npz --weights RESNET20.th [--samplers programme tpe random]

A surrogate is fitted to the table (``benchmarks.record_trials``): a Gaussian process from what each layer's choice does to the
layer (two numbers each), and activation bits, to the error's logit. Its held-out error and rank correlation are printed, beside
those of the proxy that samplers are given. Then every sampler searches with the surrogate's errors and the estimates' costs, as a
search would ask it: beginning with the first plans that it has there, which count as trials. ``random-bare`` begins with none,
``uniform`` is those of one bit-width alone. Hypervolume is that of error, latency and size below the reference (error ``WORST``,
the costs of 8 bits and 5 % more), as a share of that of a near-exact front: the best of a long evolution on the surrogate; two
seeds of it say how exact. One row a run, appended when it is done; a row that the file has is passed over.
"""

from __future__ import annotations

import argparse
import csv
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
from benchmarks.trial_accuracy import add
from foundation.command import Parser, main_guard
from foundation.files import write_atomically
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


@dataclass(frozen=True)
class Features:
    """Of each layer the logarithms of what its choice adds by quantization and by pruning, and of the sums; activation bits.
    Standardized."""

    sensitivity: Sensitivity
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, sensitivity: Sensitivity, plans: Sequence[Plan]) -> Features:
        raw = np.array([_raw(sensitivity, plan) for plan in plans])
        return cls(sensitivity, raw.mean(0), np.maximum(raw.std(0), 1e-6))

    def __call__(self, plans: Sequence[Plan]) -> Floats:
        found: Floats = (
            np.array([_raw(self.sensitivity, plan) for plan in plans]) - self.mean
        ) / self.deviation
        return found


def _raw(sensitivity: Sensitivity, plan: Plan) -> Floats:
    harms = np.array([sensitivity.harms[name][layer][:2] for name, layer in plan.layers.items()])
    logs = np.log(TINY + np.concatenate([harms.ravel(), harms.sum(0), [harms.sum()]]))
    return np.append(logs, plan.activation_bits).astype(np.float64)


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
    name: str, seed: int, trials: int, space: Space, prior: Prior, judge: Callable[[Plan], tuple[float, ...]]
) -> list[tuple[float, ...]]:
    """The objectives of one search's trials."""
    from pipeline.search import first_plans
    from search_spaces.samplers.base import Context, asking
    from search_spaces.warm_starts import uniform_starts

    sampler = "random" if name in ("random-bare", "uniform") else name
    queue = [] if name == "random-bare" else first_plans(space, prior, sampler) or space.warm_starts()
    queue = uniform_starts(space) if name == "uniform" else queue
    records: dict[str, Trial] = {}
    ask = asking(sampler, Context(space, OBJECTIVES, lambda: [*records.values()], seed, prior))
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
    return [trial.figures.values for trial in records.values()]


def evolved(
    space: Space, judge: Callable[[Plan], tuple[float, ...]], starts: Sequence[Plan], seed: int
) -> list[Any]:
    """The undominated points of ``EVOLVED`` plans: each a changed one of those undominated so far."""
    rng = random.Random(seed)
    archive = [(judge(plan), plan) for plan in starts]
    choices, bits = space.layer_plans(), space["activation_bits"].values
    for _ in range(EVOLVED):
        here = rng.choice(archive)[1]
        names = rng.sample(list(here.layers), min(len(here.layers), 1 + int(rng.expovariate(0.7))))
        plan = here.replace(layers={**here.layers, **{name: rng.choice(choices[name]) for name in names}})
        if rng.random() < 0.1:
            plan = plan.replace(activation_bits=rng.choice(bits))
        point = judge(plan)
        if any(all(x <= y for x, y in zip(old, point)) for old, _ in archive):
            continue
        archive = [pair for pair in archive if not all(x <= y for x, y in zip(point, pair[0]))]
        archive.append((point, plan))
    return [point for point, _ in archive]


def setting(args: argparse.Namespace) -> dict[str, Any]:
    """The surrogate, and all that a search of it needs; what is known of the surrogate is printed."""
    from scipy.stats import spearmanr

    from search_spaces.samplers.base import Prior

    with args.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = known_of(args)
    plans, errors = [Plan.from_json(row["plan"]) for row in rows], np.array([float(r["error"]) for r in rows])
    features = Features.of(known["harm"], plans)
    inputs = features(plans)
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
    surrogate, cost = Surrogate.fit(inputs, errors, *best), known["cost"]

    def judge(plan: Plan) -> tuple[float, ...]:
        costs: Mapping[str, float] = cost(plan)
        return float(surrogate(features([plan]))[0]), costs["latency"], costs["size"]

    space = known["space"]
    prior = Prior(known["layers"], cost, known["harm"], error=float(errors.min()), images=args.judged)
    return {
        "space": space, "prior": prior, "judge": judge, "cost": cost, "starts": plans, "about": about, "known": known,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    from pipeline.study.pareto import hypervolume
    from search_spaces.samplers.base import SAMPLERS

    parser = Parser(
        prog="python -m benchmarks.search_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_network(parser)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--judged", type=int, default=1500, help="images that the table's errors are of")
    parser.add_argument("--samplers", nargs="+", default=["uniform", "random-bare", *SAMPLERS])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    known = setting(args)
    space, judge, cost = known["space"], known["judge"], known["cost"]
    eight = cost(space.warm_starts()[0])
    reference = (WORST, 1.05 * eight["latency"], 1.05 * eight["size"])
    volumes = [hypervolume(evolved(space, judge, known["starts"], seed), reference) for seed in (0, 1)]
    near = max(volumes)
    print(
        f"near-exact fronts: {volumes[0]:.6g} and {volumes[1]:.6g}, the second seed {volumes[1] / volumes[0]:.4f} of the first",
        flush=True,
    )
    said = {**known["about"], "fronts_differ": f"{1 - min(volumes) / near:.4f}"}
    write_atomically(
        args.out.with_name(f"{args.out.stem}_surrogate.csv"), f"{','.join(said)}\n{','.join(said.values())}\n"
    )
    done = set()
    if args.out.exists():
        with args.out.open(newline="") as file:
            done = {(row["sampler"], row["seed"], row["trials"]) for row in csv.DictReader(file)}
    for seed in range(args.seeds):
        for name in args.samplers:
            if (name, str(seed), str(args.trials)) in done:
                continue
            begun = time.process_time()
            points = searched(name, seed, args.trials, space, known["prior"], judge)
            spent = time.process_time() - begun
            shares = {
                f"share_{mark}": f"{hypervolume(points[:mark], reference) / near:.4f}"
                if mark <= args.trials
                else ""
                for mark in MARKS
            }
            add(args.out, {
                "sampler": name, "seed": str(seed), "trials": str(args.trials), **shares,
                "seconds": f"{spent:.1f}", "table": str(len(known["starts"])),
            })  # fmt: skip
            print(name, seed, *shares.values(), f"{spent:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
