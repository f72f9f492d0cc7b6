"""What a search that may choose structures finds beside one that may not, at equal error.

    python -m benchmarks.search_live --dimensions kept_blocks kept_channels --runs programme programme+dimensions --kept FOLDER
    python -m benchmarks.structures_front FOLDER --data npz:CIFAR10.npz --network resnet20 --weights RESNET20.th

``FOLDER`` is what ``benchmarks.search_live`` kept. For each point of the front with structures, by error on the half that nothing
guided and by latency: how many times as fast it is as the fastest plan of the search without that loses at most ``WITHIN`` more.
The file has every trial of both, with the latency that the search measured on its core, and for X2-class cores, which it did not
search for, what the plan costs there before training.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.structures import CORES
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.plan import Plan

RESULT = Path(__file__).parent / "results" / "structures_front.csv"
WITHIN = 0.005  # of all images
SUFFIX = "+dimensions"
FIELDS = ("run", "seed", "plan", "search_error", "error", "a76_ms", "size_bytes", "x2_ms")


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


def collected(kept: Path, elsewhere: Callable[[Plan], float]) -> list[dict[str, str]]:
    """The trials of every run in a folder; ``elsewhere`` says what a plan costs on an X2-class core.

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
    other = {name: f"{elsewhere(Plan.from_json(row['plan'])):.6g}" for name, row in trials.items()}
    rows = []
    for file_ in sorted((kept / "runs").glob("*.json")):
        run, seed, _ = file_.name.split(".", 2)
        for trial in json.loads(file_.read_text()):
            if (found := trials.get(trial["plan"])) is not None and trial["status"] == "finished":
                values = (found[name] for name in ("error", "report_error", "latency_ms", "size_bytes"))
                rows.append(
                    dict(zip(FIELDS, (run, seed, trial["plan"], *values, other[trial["plan"]]), strict=True))
                )
    return rows


def compared(rows: Sequence[Mapping[str, str]], core: str) -> list[Faster]:
    """The points of the front with structures on a core, the fastest first; those that no plan without comes near in error are
    left out."""
    with_, without = (
        sorted(
            {
                (float(row[f"{core}_ms"]), float(row["error"]))
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


def priced(data: str, network: str, weights: str) -> Callable[[Plan], float]:
    """What plans of a network cost on an X2-class core before training, modelled milliseconds."""
    import torch

    from benchmarks.structures import CALIBRATION, profiles
    from pipeline.datasets.images import normalize
    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model
    from quantizers.network import quantize, synthetic

    images, spec = load_data(data), find_network(network)
    model = load_model(network, classes=len(images.classes), image_size=images.image_size, weights=weights)
    pixels = images.train.batch(torch.arange(CALIBRATION))

    def price(plan: Plan) -> float:
        hardened = synthetic(quantize(model, plan, normalize(pixels, *spec.normalization)), plan)
        return float(profiles(hardened, pixels[0].numpy(), spec)["x2_ms"])

    return price


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.structures_front",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kept", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    rows = collected(args.kept, priced(args.data, args.network, args.weights))
    lines = [",".join(FIELDS), *(",".join(row[name] for name in FIELDS) for row in rows)]
    write_atomically(args.out, "\n".join(lines) + "\n")
    for core in CORES:
        for each in compared(rows, core):
            print(
                f"{core}: {100 * each.error:.1f} % in {each.latency_ms:.3f} ms; without structures "
                f"{100 * each.other_error:.1f} % in {each.other_ms:.3f} ms: {each.times:.2f} times as fast"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
