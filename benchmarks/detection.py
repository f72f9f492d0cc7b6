"""FastestDet quantized: how well it still detects, how alike it sees each image, what its ARM program costs.

    python -m benchmarks.detection --weights FILE --data DIR [--settings a,b] [--steps 40] [--out FILE.csv]

``DIR`` holds ``train128.npz`` (calibrates and teaches; boxes only measure) and ``val_a64.npz`` (see ``pipeline.detection.data``).
AP50 in per cent is that of the PyTorch network with quantized weights and activations; ``program`` columns are of the integer
reference, whose results the ARM program must give bit for bit on ``--images`` validation images. ``agreement`` is the mean over
the validation images of ``pipeline.detection.quality.agreement`` with fp32. Times are modelled, untouched by the weights' values.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.detection.data import BoxImages
    from pipeline.detection.decode import Detections
    from quantizers.network import Hardened

RESULT = Path(__file__).parent / "results" / "detection.csv"
NAME, CLASSES, CORES = "fastestdet", 80, ("a76", "x1")
CALIBRATION, BATCH, TAUGHT = 32, 16, 8  # images: for activation steps, evaluated at once, in a training step


@dataclass(frozen=True)
class Setting:
    """Every layer alike. ``refitted``: batch-norm statistics are of the quantized weights; ``taught``: and these learned from
    the fp32 outputs for ``--steps`` steps; ``one_step``: the output of all branches as 8-bit integers of one step, for
    comparison."""

    name: str
    bits: int
    components: int | None = None
    refitted: bool = False
    taught: bool = False
    one_step: bool = False


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("fp32", 32),
        Setting("8bit", 8),
        Setting("8bit-one-output-step", 8, one_step=True),
        Setting("4bit", 4, 16),
        Setting("4bit-refitted", 4, 16, refitted=True),
        Setting("4bit-taught", 4, 16, refitted=True, taught=True),
    )
}


@dataclass(frozen=True)
class Row:
    """One setting; empty where a figure does not apply."""

    setting: str
    bits: int
    activation_bits: int
    steps: int
    train_ap50: float
    val_ap50: float
    val_agreement: float
    program_val_ap50: float | str = ""
    program_val_agreement: float | str = ""
    exact_images: str = ""
    blob_bytes: int | str = ""
    a76_ms: float | str = ""
    x1_ms: float | str = ""
    ms_source: str = ""
    conditions: str = ""


@dataclass(frozen=True)
class DetectionBench:
    """What every setting is measured with."""

    model: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    train: BoxImages
    val: BoxImages
    seen: list[Detections]  # by fp32, on ``val``

    def quality(self, raw: Tensor) -> tuple[float, float]:
        """AP50 in per cent and agreement of a raw output for the validation images."""
        from pipeline.detection.decode import decode
        from pipeline.detection.quality import agreement, average_precision

        found = decode(raw)
        alike = [agreement(one, other) for one, other in zip(found, self.seen, strict=True)]
        ap = average_precision(found, self.val.boxes)
        return round(100 * ap, 2), round(sum(alike) / len(alike), 4)

    def raw(self, network: nn.Module, images: BoxImages) -> Tensor:
        import torch

        from pipeline.datasets.images import normalize

        with torch.inference_mode():
            parts = [network(normalize(part, self.mean, self.std)) for part in images.pixels.split(BATCH)]
        return torch.cat(parts)


def prepare(weights: Path, data: Path) -> DetectionBench:
    """Raises UserError where a file is missing or does not fit."""
    from pipeline.detection.data import load_boxes
    from pipeline.detection.decode import decode
    from pipeline.networks.registry import find_network, load_model

    model = load_model(NAME, classes=CLASSES, weights=weights)
    train, val = (
        load_boxes(data / f"{part}.npz", find_network(NAME).image_size) for part in ("train128", "val_a64")
    )
    bench = DetectionBench(model, *find_network(NAME).normalization, train, val, [])
    bench.seen.extend(decode(bench.raw(model, val)))
    return bench


def hardened_for(bench: DetectionBench, setting: Setting, steps: int, learning_rate: float) -> Hardened:
    """The detector quantized as ``setting`` says."""
    from foundation.plan import LayerPlan, Plan
    from pipeline.datasets.images import normalize
    from pipeline.detection.distillation import Distillation
    from pipeline.training.settings import TrainSettings
    from quantizers.network import harden, layer_names, quantize

    plan = Plan.uniform(layer_names(bench.model), LayerPlan(setting.bits, setting.components))
    pixels = bench.train.pixels
    if not setting.refitted:
        return harden(quantize(bench.model, plan, normalize(pixels[:CALIBRATION], bench.mean, bench.std)))
    settings = TrainSettings(
        epochs=steps / (len(pixels) // TAUGHT),
        batch_size=TAUGHT,
        learning_rate=learning_rate,
        calibration_images=CALIBRATION,
        batch_norm_images=len(pixels),
        evaluation_batch=BATCH,
    )
    run = Distillation(bench.model, plan, pixels, settings, bench.mean, bench.std)
    run.run_until(settings.epochs if setting.taught else 0)
    return run.hardened()


def in_one_step(raw: Tensor, calibrating: Tensor) -> Tensor:
    """A raw output as if all branches had one 8-bit step, that of the largest calibrating value."""
    step = calibrating.abs().max() / 127
    return (raw / step).round().clamp(-128, 127) * step


def measure(bench: DetectionBench, setting: Setting, steps: int, learning_rate: float, images: int) -> Row:
    """One row.

    Raises:
        UserError: no compiler or emulator for the program.
    """
    import torch

    from pipeline.detection.decode import decode
    from pipeline.detection.quality import average_precision

    start = time.process_time()
    hardened = hardened_for(bench, setting, steps, learning_rate) if setting.bits < 32 else None
    network = hardened.network if hardened else bench.model
    train, val = bench.raw(network, bench.train), bench.raw(network, bench.val)
    if setting.one_step:
        train, val = (in_one_step(raw, train[:CALIBRATION]) for raw in (train, val))
    ap, alike = bench.quality(val)
    taught = f", SGD at {learning_rate:g}, {TAUGHT} images a step" if setting.taught else ""
    conditions = (
        f"{len(bench.train.pixels)} and {len(bench.val.pixels)} images of {val.shape[-1] * 16} pixels, "
        f"{CALIBRATION} calibrate{taught}, torch {torch.__version__}, {time.process_time() - start:.0f} s of CPU"
    )
    compiled: dict[str, Any] = {}
    if hardened and images and not setting.one_step:
        compiled = program_figures(bench, hardened, images)
    return Row(
        setting=setting.name,
        bits=setting.bits,
        activation_bits=8 if hardened else 32,
        steps=steps if setting.taught else 0,
        train_ap50=round(100 * average_precision(decode(train), bench.train.boxes), 2),
        val_ap50=ap,
        val_agreement=alike,
        conditions=conditions,
        **compiled,
    )


def program_figures(bench: DetectionBench, hardened: Hardened, images: int) -> dict[str, Any]:
    """The columns of the compiled detector."""
    import numpy as np
    import torch

    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.devices.emulated import EmulatedDevice
    from deploy_arm.emulate.emulator import run as run_program
    from deploy_arm.ir.reference import run
    from deploy_arm.runtime.program import build_program

    pixels = bench.val.pixels.numpy()
    graph = compile_graph(hardened, (3, *pixels.shape[1:3]), bench.mean, bench.std)
    wanted = run(graph, pixels, batch=4)
    raw = torch.from_numpy(wanted).unflatten(1, graph.tensors[graph.output].shape).permute(0, 3, 1, 2)
    ap, alike = bench.quality(raw)
    blob = write_blob(graph)
    with tempfile.TemporaryDirectory(prefix="detection-") as folder:
        path = Path(folder, "weights.blob")
        path.write_bytes(blob)
        found = run_program(build_program(CORES[0]), path, pixels[:images], target=CORES[0])
        profiles = {
            core: EmulatedDevice(core).profile(build_program(core), path, pixels[0]) for core in CORES
        }
    exact = (found.view(np.uint32) == wanted[:images].view(np.uint32)).all(axis=1)
    sources = [f"{core} {p.source}: {p.details['model']}" for core, p in profiles.items()]
    return {
        "program_val_ap50": ap,
        "program_val_agreement": alike,
        "exact_images": f"{exact.sum()} of {images}",
        "blob_bytes": len(blob),
        **{f"{core}_ms": round(profile.latency_ms, 2) for core, profile in profiles.items()},
        "ms_source": "; ".join(sources) + "; dense, one thread",
    }


def record(row: Row, out: Path) -> None:
    """Put a row into the table, in place of an earlier one of its setting and steps."""
    from foundation.files import write_atomically

    rows: list[dict[str, Any]] = []
    if out.exists():
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    rows = [old for old in rows if (old["setting"], old["steps"]) != (row.setting, str(row.steps))]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    order = list(SETTINGS)
    writer.writerows(sorted([*rows, asdict(row)], key=lambda entry: order.index(entry["setting"])))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.getvalue().encode())


def count(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least {least}")
        return int(text)

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table; 1 when a program is not exact."""
    parser = Parser(prog="python -m benchmarks.detection", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="FastestDet's state dict")
    parser.add_argument("--data", type=Path, required=True, help="folder with train128.npz and val_a64.npz")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="default: %(default)s")
    parser.add_argument("--steps", type=count(1), default=40, help="of teaching (default %(default)s)")
    parser.add_argument(
        "--learning-rate", type=float, default=0.003, help="of teaching (default %(default)s)"
    )
    parser.add_argument(
        "--images", type=count(0), default=3, help="run by the program; 0 makes none (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="the CSV file (default: %(default)s)")
    args = parser.parse_args(argv)
    exact = True
    try:
        unknown = [name for name in args.settings.split(",") if name not in SETTINGS]
        if unknown:
            raise UserError(f"unknown setting {unknown[0]!r}; allowed are {', '.join(SETTINGS)}")
        bench = prepare(args.weights, args.data)
        images = min(args.images, len(bench.val.pixels))
        for name in args.settings.split(","):
            row = measure(bench, SETTINGS[name], args.steps, args.learning_rate, images)
            record(row, args.out)
            exact &= row.exact_images in ("", f"{images} of {images}")
            print(
                ", ".join(f"{key} {value}" for key, value in asdict(row).items() if value != ""), flush=True
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(not exact)


if __name__ == "__main__":
    sys.exit(main_guard(main))
