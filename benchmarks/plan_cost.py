"""What plans cost by their layers alone, beside what their programs cost: how far the first can be trusted.

    python -m benchmarks.plan_cost [--networks resnet20 ...] [--plans 12] [--out FILE.csv]

Every network with random weights and images (costs hardly depend on values), uniform plans first, then random ones. ``estimate``
is the sum over layers (``pipeline.candidate.plan_cost``), ``foreseen`` what a search expects after it has profiled 8 bits and the
plans above (``pipeline.candidate.cost_fit``), ``real`` the profile of the whole program on an emulated core, modelled. A
ResNet-18 takes one to two minutes a plan.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import read, write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from foundation.plan import Plan
    from pipeline.candidate.workspace import Workspace
    from search_spaces.space import Space

RESULT = Path(__file__).parent / "results" / "plan_cost.csv"
NETWORKS = {"resnet20": 32, "resnet18": 224, "mobilenet_v2_cifar": 32}
CORE, SEED = "a76", 0


@dataclass(frozen=True)
class PlanCostRow:
    """One plan of one network; costs in milliseconds and bytes, ``off`` in per cent of the real cost."""

    network: str
    image_size: int
    core: str
    plan: str
    estimate_ms: float
    foreseen_ms: float
    real_ms: float
    ms_off: float
    inside: bool
    estimate_bytes: int
    foreseen_bytes: int
    real_bytes: int
    bytes_off: float


def plans(space: Space, count: int) -> Iterator[tuple[str, Plan]]:
    """Uniform ones and those of the space's other warm starts, then random ones."""
    for number, plan in enumerate(space.warm_starts()):
        yield ("8 bits" if number == 0 else f"start {number}"), plan
    rng = random.Random(SEED)
    for number in range(count):
        yield f"random {number}", space.random(rng)


def measured(network: str, size: int, count: int) -> Iterator[PlanCostRow]:
    """The rows of one network, one after another."""
    import numpy as np
    import torch

    from deploy_arm.devices.kinds import open_device
    from pipeline.candidate.cost_fit import CostFit
    from pipeline.candidate.plan_cost import PlanCost
    from pipeline.candidate.sensitivity import sensitivity_of
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.base import ImageData
    from pipeline.datasets.images import ArrayImages
    from pipeline.networks.registry import find_network, load_model
    from pipeline.study.settings import Settings
    from search_spaces.layers import layers_of
    from search_spaces.space import Space

    rng = np.random.default_rng(SEED)
    images = ArrayImages(
        torch.from_numpy(rng.integers(0, 256, (64, size, size, 3), dtype=np.uint8)), torch.arange(64) % 10
    )
    data = ImageData("noise", tuple("0123456789"), (size, size), images, images, images, "none")
    spec = find_network(network)
    model = load_model(spec, classes=10, image_size=size)
    settings = Settings(model=network, target=CORE)
    workspace = Workspace(settings, data, model, *spec.normalized()[:2], normalization="")
    space = Space(layers_of(model, workspace.input_shape))
    found = sensitivity_of(model, images, workspace.mean, workspace.std, space, count=8)
    cost, device = PlanCost(workspace, found.harms), open_device(CORE, "emulated")
    seen: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    for name, plan in plans(space, count):
        estimate = cost(plan)
        with tempfile.TemporaryDirectory() as folder:
            ms, size_bytes = real(workspace, plan, device, Path(folder))
        latency = CostFit.of(seen).foresee(estimate["latency"])
        bytes_ = CostFit.of(sizes).foresee(estimate["size"])
        seen.append((estimate["latency"], ms))
        sizes.append((estimate["size"], size_bytes))
        yield PlanCostRow(
            network, size, CORE, name,
            round(estimate["latency"], 5), round(latency.point, 5), round(ms, 5),
            round(100 * (latency.point / ms - 1), 2), latency.low <= ms <= latency.high,
            round(estimate["size"]), round(bytes_.point), size_bytes,
            round(100 * (bytes_.point / size_bytes - 1), 2),
        )  # fmt: skip


def real(workspace: Workspace, plan: Plan, device: object, folder: Path) -> tuple[float, int]:
    """Milliseconds and bytes of the program of a plan, whose weights are as before training."""
    import torch

    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from deploy_arm.costs.choose import choose_kernels
    from deploy_arm.devices.base import Device
    from deploy_arm.runtime.program import build_program
    from pipeline.datasets.images import normalize
    from quantizers.network import quantize, synthetic

    assert isinstance(device, Device)
    pixels = workspace.data.train.batch(torch.arange(8))
    x = normalize(pixels, workspace.mean, workspace.std)
    graph = compile_graph(
        synthetic(quantize(workspace.model, plan, x), plan),
        workspace.input_shape,
        workspace.mean,
        workspace.std,
    )
    (folder / "blob").write_bytes(write_blob(choose_kernels(graph, CORE)))
    profile = device.profile(build_program(CORE), folder / "blob", pixels[0].numpy())
    return profile.latency_ms, profile.size_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(
        prog="python -m benchmarks.plan_cost",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS)
    )
    parser.add_argument("--plans", type=int, default=5, metavar="N", help="random plans of each (default 5)")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE.csv", help="the table")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.networks if name not in NETWORKS]:
        raise UserError(f"--networks {unknown[0]}: allowed are {', '.join(NETWORKS)}")
    if args.plans < 0:
        raise UserError(f"--plans {args.plans}: give 0 or more")
    rows: list[PlanCostRow] = []
    kept = [row for row in read(args.out, ["network"]) if row["network"] not in args.networks]
    for network in args.networks:
        for row in measured(network, NETWORKS[network], args.plans):
            print(row, flush=True)
            rows.append(row)
            write(args.out, [*kept, *map(asdict, rows)])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
