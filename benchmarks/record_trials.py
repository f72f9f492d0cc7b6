"""A table of real short trials, on which samplers are compared (``benchmarks.search_efficiency``).

    python -m benchmarks.record_trials --data npz:CIFAR10.npz --weights RESNET20.th --count 300 --part 0/2

Plans are of four kinds, in turn: ``start`` (the first plans of every search), ``random`` (drawn choice by choice), ``tied``
(neighbouring layers alike) and ``front`` (the least harmful within a random budget of time and bytes, with up to three layers
changed). Each is rebuilt from few images, tuned for a few dozen small steps with held levels, and judged, as a search does it;
its costs are the estimates that a search has before anything is profiled. What row is which plan follows from its number and
``--seed`` alone: several processes make parts of one table at once (``--part``, each with a file of its own), and a command that
was cut off goes on.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import append, as_text, read
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from foundation.plan import Plan
    from search_spaces.programme import ChoiceTable
    from search_spaces.space import Space

GROUPS = 3  # of layers between the first and the last that a ``tied`` plan has alike
RESULT = Path(__file__).parent / "results" / "recorded_trials.csv"


@dataclass(frozen=True)
class Row:
    """One trial; error as a share, divergence in nats, costs in modelled milliseconds and bytes, ``harm`` is the proxy."""

    number: int
    kind: str
    plan: str
    seed: int
    kept: str
    error: float
    divergence: float
    divergence_standard_error: float
    harm: float
    latency_ms: float
    size_bytes: float
    zeros: float
    steps: int
    seconds: float


def plan_at(number: int, seed: int, space: Space, table: ChoiceTable) -> tuple[str, Plan]:
    """The plan of a row, and its kind."""
    starts = space.warm_starts()
    if number < len(starts):
        return "start", starts[number]
    rng = random.Random(f"{seed}/{number}")
    kind = ("random", "tied", "front")[number % 3]
    plan = space.random(rng)
    if kind == "tied":
        plan = tied(plan, rng)
    elif kind == "front":
        plan = near_front(plan, rng, table)
    return kind, plan


def tied(plan: Plan, rng: random.Random) -> Plan:
    """Like ``plan``, but the layers between the first and the last in groups that share the choice of one of them, and those two
    with 8 bits as often as not."""
    names = list(plan.layers)
    inner, layers = names[1:-1], dict(plan.layers)
    for group in range(GROUPS):
        members = inner[group * len(inner) // GROUPS : (group + 1) * len(inner) // GROUPS]
        layers |= dict.fromkeys(members, plan.layers[rng.choice(members)]) if members else {}
    if rng.random() < 0.5:
        eight = type(plan.layers[names[0]])(8)
        layers |= {names[0]: eight, names[-1]: eight}
    return plan.replace(layers=layers)


def near_front(plan: Plan, rng: random.Random, table: ChoiceTable) -> Plan:
    """The least harmful plan within a random budget, with up to three layers as in ``plan``."""
    from search_spaces.programme import solve

    limits = {}
    for name in ("latency", "size"):
        low, high = table.reach(name)
        limits[name] = low + rng.random() * (high - low)
    chosen = solve(table, limits)
    assert chosen is not None, "every budget is within reach"
    best = table.plan(chosen)
    changed = rng.sample(list(plan.layers), rng.randrange(4))
    return best.replace(layers={**best.layers, **{name: plan.layers[name] for name in changed}})


def measure(number: int, kind: str, plan: Plan, known: Mapping[str, Any], args: argparse.Namespace) -> Row:
    """One trial."""
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.rung import best_of
    from pipeline.training.settings import TrainSettings
    from pipeline.training.stages import HELD, REBUILT, Stage

    model, data, mean, std = (known[name] for name in ("model", "data", "mean", "std"))
    settings = TrainSettings(
        epochs=1.0, batch_size=args.batch_size, seed=args.seed, kept_images=0, rung_images=args.judged,
        rebuild_images=args.images, held_steps=args.steps,
    )  # fmt: skip
    begun = time.process_time()
    run = Cotuning(model, plan, data, settings, mean, std)
    curve = [run.reach(Stage(REBUILT)), run.reach(Stage(HELD))]
    run.settle()
    kept, books = curve[best_of(tuple(curve))], run.hardened().codebooks.values()
    cost = known["cost"](plan)
    return Row(
        number, kind, plan.to_json(), args.seed, kept.where, kept.error,
        kept.divergence or 0.0, kept.divergence_standard_error or 0.0,
        known["harm"](plan), cost["latency"], cost["size"],
        sum(int((book.integers == 0).sum()) for book in books) / sum(book.indices.size for book in books),
        run.step, time.process_time() - begun,
    )  # fmt: skip


def known_of(args: argparse.Namespace) -> dict[str, Any]:
    """The network, its data, and what is known of plans beforehand."""
    from pipeline.candidate.plan_cost import PlanCost
    from pipeline.candidate.sensitivity import sensitivity_of
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model
    from pipeline.study.settings import Settings
    from search_spaces.layers import layers_of
    from search_spaces.programme import ChoiceTable, measures_of
    from search_spaces.space import Space

    network, data = find_network(args.network), load_data(args.data)
    mean, std = network.normalization
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    settings = Settings(model=args.network, target=args.target)
    workspace = Workspace(settings, data, model, mean, std, normalization="")
    layers = tuple(layers_of(model, workspace.input_shape))
    space = Space(layers, coded_bits=(None,))  # the recorded trials are from before it was there
    harm = sensitivity_of(model, data.train, mean, std, space)
    cost = PlanCost(workspace, harm.harms)
    measures = measures_of(harm, cost, ("latency", "size"))
    assert measures is not None
    table = ChoiceTable.of(space, space.warm_starts()[0], measures).undominated()
    return {
        "model": model, "data": data, "mean": mean, "std": std, "space": space, "layers": layers, "harm": harm, "cost": cost,
        "table": table,
    }  # fmt: skip


def add_network(parser: argparse.ArgumentParser) -> None:
    """The arguments that ``known_of`` reads."""
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--target", default="a76")


def part(text: str) -> tuple[int, int]:
    """``0/2`` as its two numbers."""
    try:
        own, of = (int(number) for number in text.split("/"))
    except ValueError:
        own, of = 0, 0
    if not 0 <= own < of:
        raise UserError(f"--part {text}: give the number of a part and how many there are, such as 0/2")
    return own, of


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    import torch

    parser = Parser(
        prog="python -m benchmarks.record_trials",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_network(parser)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--steps", type=int, default=24, help="of training with held levels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=128, help="of which layers are rebuilt")
    parser.add_argument("--judged", type=int, default=1500, help="images that guide the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    own, of = part(args.part)
    torch.set_num_threads(1)
    done = {int(row["number"]) for row in read(args.out, ["number"])}
    known = known_of(args)
    for number in range(own, args.count, of):
        if number in done:
            continue
        row = measure(number, *plan_at(number, args.seed, known["space"], known["table"]), known, args)
        append(args.out, {**as_text(vars(row)), "torch": torch.__version__})
        print(
            f"{number} {row.kind}: {100 * row.error:.2f} % wrong, {row.divergence:.4f} nats, "
            f"{row.latency_ms:.3f} ms, {row.size_bytes:.0f} bytes, {row.seconds:.0f} s, {row.kept}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
