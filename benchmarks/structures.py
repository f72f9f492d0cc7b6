"""What buys time on ARM for least accuracy: structures of zeros beside bits and zeros anywhere, on one trained network.

    python -m benchmarks.structures --data npz:CIFAR10.npz --weights RESNET20.th --steps 100

Every cell has the first and the last layer in 8 bits and the same plan for all layers between. ``--start untrained`` says what
plans cost and trains nothing: ten seconds a cell. ``directly`` trains for as many steps as every other cell, by the product's own
settings; ``rebuilt`` rebuilds from a few images first, and keeps the stage that is closest to fp32 on the search half, as a trial
does: one to three minutes of one processor. Error is that of images by which nothing was chosen, paired with fp32's
answers; latency is modelled (instructions of the emulated program), bytes are those of its blob. At the end the cells are named
that no other cell matches in error and in latency. A row is appended when its cell is done; a cell that the file has is passed
over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import append, as_text, done_in, read
from foundation.command import Parser, main_guard
from foundation.plan import LayerPlan, Plan
from search_spaces.dimensions.taps import Taps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "structures.csv"
# bits, share of zeros anywhere, shares of blocks and of inner channels that are kept, taps of 3x3
CHOICES: Sequence[tuple[int, float | None, float | None, float | None, str | None]] = (
    (4, None, None, None, None), (4, None, 0.5, None, None), (4, None, None, 0.5, None), (2, 0.8, None, None, None),
    (4, None, 0.75, None, None), (4, None, None, 0.75, None), (2, 0.9, None, None, None), (2, None, None, None, None),
    (2, None, 0.6, None, None), (3, None, 0.6, None, None), (8, None, 0.5, None, None), (8, None, None, None, None),
    (4, None, None, None, "plus"), (4, None, None, None, "5"), (4, None, None, None, "7"), (4, None, None, None, "row"),
    (2, 0.7, None, None, None), (2, 0.7, None, 0.75, None),
)  # fmt: skip
CORES = ("a76", "x2")
STRUCTURES = ("zero_share", "kept_blocks", "kept_channels", "taps")
TRAINING = ("network", "start", "steps", "seed")
JUDGED = ("fp32_error", "error", "difference", "difference_standard_error", "images")
CALIBRATION = 64  # images that an untrained network's steps are taken from


@dataclass(frozen=True)
class StructureCell:
    """One row's conditions; None is natural, or all."""

    network: str
    bits: int
    zero_share: float | None
    kept_blocks: float | None
    kept_channels: float | None
    taps: str | None
    start: str
    steps: int
    seed: int

    @property
    def plan(self) -> LayerPlan:
        """Of every layer but the first and the last."""
        components = None if self.bits == 8 else 2**self.bits
        taps = None if self.taps is None else Taps.typed(self.taps)
        structure = {"kept_blocks": self.kept_blocks, "kept_channels": self.kept_channels, "taps": taps}
        return LayerPlan(self.bits, components, zero_share=self.zero_share, values=structure)


def plan_of(cell: StructureCell, model: Any) -> Plan:
    """The plan of a cell for every layer of a network."""
    from quantizers.core.producers import producers_of
    from quantizers.network import layer_names

    names = layer_names(model)
    ends = {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    made = producers_of(model)  # others have no inner channels
    rest = {name: cell.plan if name in made else cell.plan.replace(kept_channels=None) for name in names}
    return Plan(rest | ends)


def measure(cell: StructureCell, model: Any, data: Any, network: Any) -> dict[str, Any]:
    """Train, judge and profile one cell. Shares of images 0..1, milliseconds, bytes."""
    import torch

    from pipeline.datasets.images import normalize
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import predictions
    from pipeline.training.settings import TrainSettings
    from pipeline.training.stages import FREE, HELD, REBUILT, Stage
    from quantizers.network import quantize, synthetic

    mean, std = network.normalization
    plan = plan_of(cell, model)
    image = data.train.batch(torch.arange(1))[0].numpy()
    if cell.start == "untrained":
        images = normalize(data.train.batch(torch.arange(CALIBRATION)), mean, std)
        hardened = synthetic(quantize(model, plan, images), plan)
        return {**dict.fromkeys(JUDGED), **profiles(hardened, image, network), "torch": torch.__version__}
    run = Cotuning(model, plan, data, TrainSettings(epochs=1.0, seed=cell.seed), mean, std)
    run.total_steps = cell.steps
    stages = [Stage(REBUILT), Stage(HELD)] if cell.start == "rebuilt" else []
    for stage in [*stages, *([Stage(FREE, cell.steps / run.steps_per_epoch)] if cell.steps else [])]:
        run.reach(stage)
    run.settle()
    hardened = run.hardened()
    half = data.report
    right, wanted = (
        (predictions(net, half, mean, std) == half.labels).double() for net in (hardened.network, model)
    )
    difference = right - wanted
    judged = (
        1 - float(wanted.mean()),
        1 - float(right.mean()),
        float(difference.mean()),
        float(difference.std() / len(half) ** 0.5),
        len(half),
    )
    return {
        **dict(zip(JUDGED, judged, strict=True)),
        **profiles(hardened, image, network),
        "torch": torch.__version__,
    }


def profiles(hardened: Any, image: NDArray[np.uint8], network: Any) -> dict[str, Any]:
    """Modelled milliseconds on each core for an image [H, W, 3], and the bytes of its blob."""
    import tempfile

    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.costs.choose import choose_kernels
    from deploy_arm.devices.kinds import open_device
    from deploy_arm.runtime.program import build_program
    from deploy_arm.target.cores import CORES as KNOWN

    graph = compile_graph(hardened, (3, *image.shape[:2]), *network.normalization)
    found: dict[str, Any] = {}
    for core in CORES:
        blob = write_blob(choose_kernels(graph, core))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.blob")
            path.write_bytes(blob)
            profile = open_device(core, "emulated").profile(build_program(KNOWN[core].target), path, image)
        found |= {f"{core}_ms": profile.latency_ms, f"{core}_bytes": len(blob)}
    return found


def fronts(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """For each row the cores for which no other of equal training is as good in error and latency, and better in one."""
    said = []
    for row in rows:
        peers = [other for other in rows if all(other[name] == row[name] for name in TRAINING)]
        if not row["error"]:
            said.append("")
            continue
        on = []
        for core in CORES:
            own = (float(row["error"]), float(row[f"{core}_ms"]))
            others = [(float(other["error"]), float(other[f"{core}_ms"])) for other in peers]
            if not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in others):
                on.append(core)
        said.append(" ".join(on))
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.structures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--start", choices=("untrained", "directly", "rebuilt"), default="rebuilt")
    parser.add_argument("--steps", type=int, default=100, help="of training with free weights")
    parser.add_argument("--seed", type=int, default=0)
    every = list(range(len(CHOICES)))
    parser.add_argument(
        "--plans",
        nargs="+",
        type=int,
        choices=every,
        default=every,
        metavar="N",
        help="of the list of plans, from 0",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)

    import torch

    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model

    torch.set_num_threads(1)
    network = find_network(args.network)
    data = load_data(args.data)
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    done = done_in(args.out, StructureCell)
    for bits, zeros, blocks, channels, taps in (CHOICES[number] for number in args.plans):
        steps = 0 if args.start == "untrained" else args.steps
        cell = StructureCell(args.network, bits, zeros, blocks, channels, taps, args.start, steps, args.seed)
        said = as_text(asdict(cell))
        if tuple(said.values()) in done:
            continue
        row = measure(cell, model, data, network)
        append(args.out, {**said, **as_text(row)})
        print(" ".join(f"{name} {value}" for name, value in {**said, **as_text(row)}.items()), flush=True)
    rows = read(args.out)
    for row, cores in zip(rows, fronts(rows), strict=True):
        if cores:
            what = ", ".join(f"{name} {row[name]}" for name in ("bits", *STRUCTURES) if row[name])
            print(f"front of {cores}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
