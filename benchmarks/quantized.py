"""What `python -m pipeline.quantize` makes of a network, as a person types it: how alike it answers, beside int8.

    python -m benchmarks.quantized --model tiny_darknet --weights TINY_DARKNET.pt --images-from PHOTOS --images 228

A row is one run of the command, in a folder of its own that is thrown away, for a bit-width, the bits of a coded index where
such are asked for, and a seed (of the places of images that layers are rebuilt from). Agreement with fp32 and divergence from it,
in nats, are of images that rebuilt nothing; ``int8_*`` are those of the int8 network that the command prints beside, which is
calibrated and not rebuilt; ``--bits 8`` rebuilds it. Latency is that of the emulated device, modelled. Seconds are those of the
clock, on threads as the machine has them, for all that the command does. What the file has is passed over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import append, as_text, done_in
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULT = Path(__file__).parent / "results" / "quantized.csv"


@dataclass(frozen=True)
class Cell:
    """One row's conditions; ``rebuilding_images`` as asked for."""

    model: str
    bits: int
    coded_bits: float | None
    rebuilding_images: int
    seed: int


def measure(cell: Cell, weights: Path, photos: Path, modules: Path | None = None) -> dict[str, Any]:
    """Run the command and read what it prints.

    Raises:
        UserError: it failed; the message is its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pipeline.quantize",
            "--quiet",
            "--format",
            "json",
            "--model",
            cell.model,
        ]
        command += ["--weights", str(weights.absolute()), "--images-from", str(photos.absolute())]
        command += [
            "--bits",
            str(cell.bits),
            "--images",
            str(cell.rebuilding_images),
            "--seed",
            str(cell.seed),
        ]
        command += [] if cell.coded_bits is None else ["--coded-bits", str(cell.coded_bits)]
        command += [] if modules is None else ["--modules", str(modules.absolute())]
        begun = time.perf_counter()
        run = subprocess.run(
            [*command, "--out", "out"], cwd=folder, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begun
    if run.returncode:
        raise UserError(run.stderr.strip().removeprefix("error: "))
    printed = json.loads(run.stdout)
    (point,) = printed["points"]
    own, int8 = (printed["compared"][name] for name in (printed["plan"], "int8"))
    small = next(reference for reference in printed["references"] if reference["name"] == "int8")
    return {
        "judged_images": own["images"],
        **{name: own[name] for name in ("agreement", "agreement_error", "divergence", "divergence_error")},
        "bytes": point["size_bytes"],
        "latency_ms": point["latency_ms"],
        **{f"int8_{name}": int8[name] for name in ("agreement", "divergence")},
        "int8_bytes": small["size_bytes"],
        "int8_latency_ms": small["latency_ms"],
        "seconds": seconds,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.quantized",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images-from", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3, 8])
    parser.add_argument("--coded-bits", nargs="+", type=float, default=[None])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--modules", type=Path, help="as in pipeline.quantize")
    args = parser.parse_args(argv)
    for path in (args.weights, args.images_from):
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    for bits, coded, seed in itertools.product(args.bits, args.coded_bits, args.seeds):
        cell = Cell(args.model, bits, coded, args.images, seed)
        conditions = as_text(asdict(cell))
        if tuple(conditions.values()) in done_in(args.out, Cell):
            print(f"{args.out} has {' '.join(value for value in conditions.values() if value)}", flush=True)
            continue
        row = conditions | as_text(measure(cell, args.weights, args.images_from, args.modules))
        append(args.out, row)
        print(
            f"{cell.model}, {bits} bits{'' if coded is None else f' coded in {coded:g}'}, seed {seed}: "
            f"{100 * float(row['agreement']):.1f} % agree (int8 {100 * float(row['int8_agreement']):.1f} %), "
            f"{int(row['bytes']):,} bytes, {float(row['seconds']):.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
