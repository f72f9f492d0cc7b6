"""How much the networks kept under ``benchmarks/results/candidates`` lose against fp32, image by image.

    python -m benchmarks.kept_candidates --data npz:CIFAR10.npz --weights resnet20=RESNET20.th resnet32=RESNET32.th

Every network is judged in PyTorch with its hard weights on both halves of the validation images, beside the fp32 network that it
started from, on the same images: ``points`` is the mean difference, ``standard_error`` that of the mean over images. Each is
the network of one seed, taken as it came; the rows of other seeds are in ``cotuning_accuracy.csv``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.rows import write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Halves: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.bool_]]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Kept:
    """One candidate folder; accuracies are shares of ``images``, 0..1, differences points. ``zeros`` is the share of zero
    weights, ``seed`` that of its training."""

    candidate: str
    network: str
    bits: int
    zero_share: str
    epochs: float
    seed: int
    images: int
    top1: float
    fp32_top1: float
    points: float
    standard_error: float
    report_points: float
    report_standard_error: float
    zeros: float
    bytes: int


def judged(folder: Path, data: Any, fp32: Callable[[str], Halves]) -> Kept:
    """The row of a candidate folder that ``benchmarks.cotuning_accuracy`` kept.

    ``fp32`` gives the right answers of a network by name, in the search and in the report half.

    Raises:
        UserError: no sound candidate, or other data than it was made with.
    """
    import numpy as np

    from benchmarks.cotuning_accuracy import right
    from benchmarks.cotuning_differences import mean_and_error
    from pipeline.candidate.folder import load_candidate
    from pipeline.evaluate import checked

    candidate = load_candidate(folder)
    notes = candidate.manifest["notes"]
    if notes.get("benchmark") != "cotuning_accuracy":
        raise UserError(f"{folder} was not kept by benchmarks.cotuning_accuracy")
    splits = candidate.manifest["data"]["splits"]
    checked(candidate, data)
    for half in ("search", "report"):
        if getattr(data, half).digest() != splits[half]["sha256"]:
            raise UserError(f"{data.name}: other validation images than those {folder} was made with")
    ours = right(candidate.hardened().network, data, candidate.mean, candidate.std)
    theirs = fp32(notes["network"])
    both, both_fp32 = np.concatenate(ours), np.concatenate(theirs)
    points, error = mean_and_error(100 * (both.astype(float) - both_fp32))
    report_points, report_error = mean_and_error(100 * (ours[1].astype(float) - theirs[1]))
    return Kept(
        candidate=folder.name,
        network=notes["network"],
        bits=int(notes["bits"]),
        zero_share=notes["zero_share"] or "natural",
        epochs=float(notes["epochs"]),
        seed=int(notes["seed"]),
        images=len(both),
        top1=round(float(both.mean()), 4),
        fp32_top1=round(float(both_fp32.mean()), 4),
        points=round(points, 2),
        standard_error=round(error, 2),
        report_points=round(report_points, 2),
        report_standard_error=round(report_error, 2),
        zeros=float(notes["zeros"]),
        bytes=int(notes["bytes"]),
    )


def _by_network(said: str) -> tuple[str, Path]:
    network, equals, file = said.partition("=")
    if not equals or not network or not file:
        raise argparse.ArgumentTypeError(f"{said!r}: give NETWORK=FILE")
    return network, Path(file)


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.kept_candidates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="data set, as in pipeline.search")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=_by_network,
        required=True,
        metavar="NETWORK=FILE",
        help="of the fp32 networks",
    )
    parser.add_argument("--candidates", type=Path, default=RESULTS / "candidates", metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS / "kept_candidates.csv")
    args = parser.parse_args(argv)

    from benchmarks.cotuning_accuracy import right
    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model

    weights = dict(args.weights)
    folders = sorted(path.parent for path in args.candidates.glob("*/manifest.json"))
    if not folders:
        raise UserError(f"{args.candidates} holds no candidate")
    unknown = sorted({name for each in folders if (name := each.name.partition("-")[0]) not in weights})
    if unknown:
        raise UserError(f"--weights lacks {', '.join(unknown)}: give NETWORK=FILE for each")
    data, rows = load_data(args.data), []

    @functools.cache
    def fp32(network: str) -> Halves:
        model = load_model(
            network, classes=len(data.classes), image_size=data.image_size, weights=str(weights[network])
        )
        return right(model, data, *find_network(network).normalization)

    for folder in folders:
        row = judged(folder, data, fp32)
        rows.append(row)
        print(
            f"{row.candidate}: {100 * row.top1:.2f} % of {row.images} (fp32 {100 * row.fp32_top1:.2f}), "
            f"{row.points:+.2f} +- {row.standard_error:.2f} points",
            flush=True,
        )
    write(args.out, [dataclasses.asdict(row) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
