"""FastestDet quantized: how well it still detects, how alike it sees each image, what its ARM program costs.

    python -m benchmarks.detection --weights FILE --data DIR [--settings a,b] [--epochs 2] [--out FILE.csv]

``DIR`` holds ``train128.npz`` (calibrates and teaches; boxes only measure) and ``val_a64.npz`` (see ``pipeline.detection.data``).
Settings in bits have all layers alike; where they are rebuilt, or rebuilt and co-tuned as in a search, the first and the last
have 8 bits, and of co-tuning the stage is kept that is closest to fp32 on every second validation image. AP50 in per cent is
that of the PyTorch network with quantized weights and activations; ``program`` columns are of the integer reference, whose
results the ARM program must give bit for bit on ``--images`` validation images. ``agreement`` is the mean over the validation
images of ``pipeline.detection.beside.agreement`` with fp32. Times are modelled, untouched by the weights' values.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.rows import read, write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.datasets.base import ImageData
    from pipeline.detection.data import BoxImages
    from pipeline.detection.decode import Detections
    from quantizers.network import Hardened

RESULT = Path(__file__).parent / "results" / "detection.csv"
NAME, CLASSES, CORES = "fastestdet", 80, ("a76", "x1")
CALIBRATION, BATCH = 32, 16  # images: for activation steps, evaluated at once
RATE, TAUGHT = 0.001, 16  # of co-tuning: the peak rate of a search, images in a step


@dataclass(frozen=True)
class Setting:
    """``made``: as calibrated; or with batch-norm statistics of the quantized weights; or rebuilt; or co-tuned too. ``one_step``:
    the output of all branches as 8-bit integers of one step, for comparison."""

    name: str
    bits: int
    components: int | None = None
    made: Literal["calibrated", "refitted", "rebuilt", "cotuned"] = "calibrated"
    one_step: bool = False


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("fp32", 32),
        Setting("8bit", 8),
        Setting("8bit-one-output-step", 8, one_step=True),
        Setting("4bit", 4, 16),
        Setting("4bit-refitted", 4, 16, "refitted"),
        *(Setting(f"{bits}bit-rebuilt", bits, 2**bits, "rebuilt") for bits in (4, 3, 2)),
        *(Setting(f"{bits}bit-cotuned", bits, 2**bits, "cotuned") for bits in (4, 3, 2)),
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
    data: ImageData
    train: BoxImages
    val: BoxImages
    seen: list[Detections]  # by fp32, on ``val``

    def quality(self, raw: Tensor) -> tuple[float, float]:
        """AP50 in per cent and agreement of a raw output for the validation images."""
        from pipeline.detection.beside import agreement
        from pipeline.detection.decode import decode
        from pipeline.detection.quality import average_precision

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
    from pipeline.detection.dataset import detection_data
    from pipeline.detection.decode import decode
    from pipeline.networks.registry import find_network, load_model

    model = load_model(NAME, classes=CLASSES, weights=weights)
    train, val = (
        load_boxes(data / f"{part}.npz", find_network(NAME).image_size) for part in ("train128", "val_a64")
    )
    side = find_network(NAME).image_size
    images = detection_data(f"coco:{data}", (side, side)).of_classes(tuple(map(str, range(CLASSES))))
    bench = DetectionBench(model, *find_network(NAME).normalization, images, train, val, [])
    bench.seen.extend(decode(bench.raw(model, val)))
    return bench


def hardened_for(bench: DetectionBench, setting: Setting, epochs: float) -> tuple[Hardened, int]:
    """The detector quantized as ``setting`` says, and after how many steps of training."""
    from foundation.plan import LayerPlan, Plan
    from pipeline.datasets.images import normalize
    from pipeline.detection.task import Detection
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.judges import Judges
    from pipeline.training.settings import TrainSettings
    from pipeline.training.stages import stages
    from quantizers.network import end_layers, harden, layer_names, quantize
    from quantizers.tracing.trace import traced

    layer, mean, std = LayerPlan(setting.bits, setting.components), bench.mean, bench.std
    plan = Plan.uniform(layer_names(bench.model), layer)
    if setting.made == "calibrated":
        pixels = bench.train.pixels[:CALIBRATION]
        return harden(quantize(bench.model, plan, normalize(pixels, mean, std))), 0
    if setting.made != "refitted":
        ends = end_layers(traced(bench.model))
        plan = Plan({name: LayerPlan(8) if name in ends else layer for name in layer_names(bench.model)})
    settings = TrainSettings(
        epochs=epochs,
        batch_size=TAUGHT,
        learning_rate=RATE,
        calibration_images=CALIBRATION,
        evaluation_batch=BATCH,
    )
    task = Detection(CLASSES, bench.data.image_size)
    judges = Judges.of(bench.model, bench.data, settings, mean, std, task=task)
    run = Cotuning(bench.model, plan, bench.data, settings, mean, std, judges=judges)
    count = {"refitted": 0, "rebuilt": 1, "cotuned": 3}[setting.made]
    for stage in stages(epochs, 3)[:count]:
        run.reach(stage)
    run.settle()
    return run.hardened(), run.step


def in_one_step(raw: Tensor, calibrating: Tensor) -> Tensor:
    """A raw output as if all branches had one 8-bit step, that of the largest calibrating value."""
    step = calibrating.abs().max() / 127
    return (raw / step).round().clamp(-128, 127) * step


def measure(bench: DetectionBench, setting: Setting, epochs: float, images: int) -> Row:
    """One row.

    Raises:
        UserError: no compiler or emulator for the program.
    """
    import torch

    from pipeline.detection.decode import decode
    from pipeline.detection.quality import average_precision

    start = time.process_time()
    hardened, steps = hardened_for(bench, setting, epochs) if setting.bits < 32 else (None, 0)
    network = hardened.network if hardened else bench.model
    train, val = bench.raw(network, bench.train), bench.raw(network, bench.val)
    if setting.one_step:
        train, val = (in_one_step(raw, train[:CALIBRATION]) for raw in (train, val))
    ap, alike = bench.quality(val)
    taught = f", {epochs:g} epochs at {RATE:g}, {TAUGHT} images a step" if steps else ""
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
        steps=steps,
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
    order = list(SETTINGS)
    rows = [old for old in read(out) if (old["setting"], old["steps"]) != (row.setting, str(row.steps))]
    write(out, sorted([*rows, asdict(row)], key=lambda entry: order.index(str(entry["setting"]))))


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
    parser.add_argument("--epochs", type=float, default=2.0, help="of co-tuning (default %(default)s)")
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
            row = measure(bench, SETTINGS[name], args.epochs, images)
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
