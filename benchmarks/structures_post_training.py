"""What buys time on ARM where nothing is trained: structures of zeros beside bits and zeros anywhere, rebuilt from a few images.

    python -m benchmarks.structures_post_training --shared DIR [--plans 0 5 ...]

``DIR`` is as ``benchmarks.post_training`` has it, the plans are those of ``benchmarks.structures``: the same for every layer
but the first and the last, which have 8 bits. Judged is how often the first answer is fp32's, and the divergence from fp32 in
nats, on images that did not rebuild; latency is modelled, bytes are those of the program's blob. A row is appended when its plan
is done; a plan that the file has is passed over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.post_training import Case, answers, judged, load, mean_and_error
from benchmarks.rows import append, as_text, done_in
from benchmarks.structures import CHOICES, StructureCell, plan_of, profiles
from foundation.command import Parser, main_guard

if TYPE_CHECKING:
    from torch import Tensor

RESULT = Path(__file__).parent / "results" / "structures_post_training.csv"


@dataclass(frozen=True)
class RebuiltCell:
    """One row's conditions; None is natural, or all."""

    network: str
    bits: int
    zero_share: float | None
    kept_blocks: float | None
    kept_channels: float | None
    taps: str | None


def measure(cell: RebuiltCell, bench: Case, wanted: list[Tensor]) -> dict[str, Any]:
    """Rebuild, judge and profile one plan."""
    import numpy as np
    import torch

    from pipeline.networks.registry import find_network
    from quantizers.calibration.reconstruction import Reconstruction, reconstruct
    from quantizers.network import harden, quantize

    plan = plan_of(StructureCell(**asdict(cell), start="post-training", steps=0, seed=0), bench.model)
    network = quantize(bench.model, plan, torch.cat(bench.rebuild[:4])[:256])
    reconstruct(network, bench.model, bench.rebuild, Reconstruction())
    hardened = harden(network)
    same, off = judged(bench, wanted, answers(bench, hardened.network))
    (agreement, agreement_error), (divergence, divergence_error) = mean_and_error(same), mean_and_error(off)
    size = bench.judge[0].shape[2:]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return {
        "agreement": agreement, "agreement_error": agreement_error,
        "divergence": divergence, "divergence_error": divergence_error,
        "rebuilding_images": sum(map(len, bench.rebuild)), "judged_images": len(off),
        **profiles(hardened, image, find_network(cell.network)), "torch": torch.__version__,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.structures_post_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
    parser.add_argument("--network", choices=("tiny_darknet", "resnet20"), default="tiny_darknet")
    every = list(range(len(CHOICES)))
    parser.add_argument(
        "--plans", nargs="+", type=int, choices=every, default=every, metavar="N", help="of the list, from 0"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(1)
    bench = load(args.network, args.shared, images=256, judged=2000)
    wanted, done = answers(bench, bench.model), done_in(args.out, RebuiltCell)
    for choice in (CHOICES[number] for number in args.plans):
        cell = RebuiltCell(args.network, *choice)
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        row = as_text(measure(cell, bench, wanted))
        append(args.out, {**said, **row})
        print(" ".join(f"{name} {value}" for name, value in {**said, **row}.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
