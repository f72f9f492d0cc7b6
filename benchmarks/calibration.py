"""How well a network survives few bits when there are a few hundred images and no labels.

    python -m benchmarks.calibration --data IMAGES.npz --weights TINY_DARKNET.pt

``--data`` holds JPEG streams (``jpeg``, ``offset``, ``label``), all of one size, at least that of the network's input. Even rows
calibrate, odd rows judge; the random views that teach are cut out of the calibration images. Labels are used for the column
``top1`` alone. Judged is how often the compressed network's first answer is the fp32 network's.

    ours                    Gaussian mixtures, layer by layer
    ours_then_distilled     and after that all together, by distillation from the fp32 network
    distilled_only          that alone
    ours_uneven             output channels left as they are
    adaround                uniform with learned rounding (Nagel et al., ICML 2020), as published
    kmeans                  exact k-means
    adaround_even, kmeans_even   the same after what ours begins with: output channels of one size, matched batch-norms
    int8                    8 bits everywhere, nothing trained

Activations have 8 bits, the first and the last layer 8-bit weights. ``bytes`` is the length of the blob that the ARM program
loads. ``--choose`` judges on a fourth of the calibration images, held out, and never looks at the others: settings are chosen
so. Rows are appended as they are done; those that the file has are passed over. At the end stands, per pair of methods, on how
many images only one of them agrees with fp32 (McNemar's counts, summed over seeds).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.calibration_methods import METHODS, Recipe
from benchmarks.rows import append, read
from foundation.command import Parser, main_guard


@dataclass(frozen=True)
class Cell:
    """One row's conditions, beside its recipe."""

    network: str
    method: str
    bits: int
    seed: int
    judged_on: str  # "odd rows", or "held out" from the even ones
    data: str


def cells(args: argparse.Namespace) -> list[tuple[Cell, Recipe]]:
    """The rows asked for, each once: seed 0 alone where a seed makes no difference."""
    found: dict[Cell, Recipe] = {}
    for seed in args.seeds:
        for bits in args.bits:
            for method in args.methods:
                recipe = METHODS[method]
                cell = Cell(
                    args.network, method, 8 if method == "int8" else bits, seed if recipe.random else 0,
                    "held out" if args.choose else "odd rows", args.data.name,
                )  # fmt: skip
                found[cell] = recipe
    return list(found.items())


def text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def conditions(cell: Cell, recipe: Recipe) -> dict[str, str]:
    """As the file has them; they tell rows apart."""
    return {name: text(value) for name, value in (asdict(cell) | asdict(recipe)).items()}


def measure(model: Any, cell: Cell, recipe: Recipe, few: Any, size: int) -> dict[str, str]:
    """One row: conditions and what came out."""
    import torch

    from benchmarks.calibration_data import central
    from benchmarks.calibration_methods import BATCH, compress
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from pipeline.networks.registry import find_network
    from pipeline.training.evaluation import batches

    mean, std = find_network(cell.network).normalization
    judged, device = central(few.judged, size), torch.device("cpu")

    @torch.no_grad()
    def logits(network: Any) -> Any:
        return torch.cat([network(x) for x in batches(judged, mean, std, BATCH, device)])

    wanted = logits(model)
    started = time.process_time()
    hardened = compress(model, recipe, cell.bits, cell.seed, few, size, wanted.shape[1], mean, std)
    seconds = time.process_time() - started
    given = logits(hardened.network)
    agrees = given.argmax(1) == wanted.argmax(1)
    logs = wanted.log_softmax(1)
    divergence = (logs.exp() * (logs - given.log_softmax(1))).sum(1).mean()
    correct, fp32 = ((answer.argmax(1) == judged.labels).double().mean() for answer in (given, wanted))
    blob = write_blob(compile_graph(hardened, (3, size, size), mean, std))
    return {
        **conditions(cell, recipe),
        "agreement": text(float(agrees.double().mean())),
        "divergence": text(float(divergence)),
        "top1": text(float(correct)),
        "fp32_top1": text(float(fp32)),
        "bytes": str(len(blob)),
        "calibration_images": str(len(few.calibration)),
        "judged_images": str(len(judged)),
        "cpu_seconds": f"{seconds:.0f}",
        "torch": torch.__version__,
        "agrees": "".join("01"[bool(agree)] for agree in agrees),
    }


def only_one_agrees(ours: list[str], theirs: list[str]) -> tuple[int, int]:
    """Images on which only the first agrees with fp32, and only the second, over pairs of rows of 0 and 1."""
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    return pairs.count(("1", "0")), pairs.count(("0", "1"))


def chance(first: int, second: int) -> float:
    """The probability that two counts differ this much or more when either image was as likely to fall on either side."""
    total, least = first + second, min(first, second)
    ways: int = 2 * sum(math.comb(total, k) for k in range(least + 1))
    return float(min(1.0, ways / 2**total))


def compare(rows: list[dict[str, str]]) -> list[str]:
    """Lines that compare ``ours`` with the other methods of equal bits, image by image; one without seeds stands beside each."""
    lines = []
    for bits in sorted({row["bits"] for row in rows if row["method"] == "ours"}, reverse=True):
        mine = {row["seed"]: row["agrees"] for row in rows if (row["method"], row["bits"]) == ("ours", bits)}
        for method in METHODS:
            if method == "ours":
                continue
            wanted = "8" if method == "int8" else bits
            other = {
                row["seed"]: row["agrees"] for row in rows if (row["method"], row["bits"]) == (method, wanted)
            }
            seeds = [seed for seed in mine if seed in other or not METHODS[method].random]
            if not other or not seeds:
                continue
            a, b = only_one_agrees(
                [mine[s] for s in seeds], [other.get(s, other.get("0", "")) for s in seeds]
            )
            first = only_one_agrees([mine[seeds[0]]], [other.get(seeds[0], other.get("0", ""))])
            lines.append(
                f"{bits} bits, ours against {method}: only ours agrees {a} times, only {method} {b} times over {len(seeds)} "
                f"seeds; seed {seeds[0]}: {first[0]} and {first[1]}, by chance with probability {chance(*first):.2g}"
            )
    return lines


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="npz with jpeg, offset and label")
    parser.add_argument("--weights", type=Path, required=True, help="the network's trained weights")
    parser.add_argument("--network", default="tiny_darknet", help="as --model of pipeline.search")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument(
        "--image-size", type=int, help="side of the network's input (default: the network's own)"
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, choices=(2, 3, 4), default=[4, 3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="judge on held-out calibration images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration_tiny_darknet.csv"))
    args = parser.parse_args(argv)
    from benchmarks.calibration_data import load_few
    from pipeline.networks.registry import find_network, load_model

    few = load_few(args.data)
    if args.choose:
        few = few.for_choosing()
    size = args.image_size or find_network(args.network).image_size
    model = load_model(args.network, classes=args.classes, image_size=size, weights=args.weights)
    names = [f.name for f in (*fields(Cell), *fields(Recipe))]
    done = {tuple(row.get(name, "") for name in names) for row in read(args.out, names)}
    for cell, recipe in cells(args):
        if tuple(conditions(cell, recipe).values()) in done:
            continue
        row = measure(model, cell, recipe, few, size)
        append(args.out, row)
        print(
            f"{cell.method} {cell.bits} bits, seed {cell.seed}: {100 * float(row['agreement']):.1f} % agree with fp32 "
            f"(divergence {row['divergence']}), {row['bytes']} bytes, {row['cpu_seconds']} CPU seconds",
            flush=True,
        )
    for line in compare(
        [row for row in read(args.out, names) if row["judged_on"] == cells(args)[0][0].judged_on]
    ):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
