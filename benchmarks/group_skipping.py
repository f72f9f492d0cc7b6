"""What a kernel that skips groups of four zero weights could gain at most: arithmetic on the fitted costs, no such kernel exists.

``python -m benchmarks.group_skipping`` prices every convolution of real networks three ways, with independent zeros and all
levels equally frequent: dense and level-grouped by the tables of ``deploy_arm.costs.choose``, skipping by a bound. A group of 4
consecutive products is all zero with probability share ** 4. One that is not costs, for 32 outputs of a channel, 8 loads and
8 SDOT, in no more cycles than two loads per cycle and the front end allow (4 + 8 + 5 instructions at 4 or 5 a cycle); laying
out the input, outputs and stores cost what the level-grouped kernel's do, without its copies by channel.
``--record`` keeps the rows in ``benchmarks/results/group_skipping.csv``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.arm_kernels import print_table
from benchmarks.rows import write
from deploy_arm.costs.choose import models_of
from deploy_arm.costs.model import KERNELS, Work
from deploy_arm.target.cores import CORES
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from pipeline.networks.registry import find_network, load_model

RESULTS = Path(__file__).parent / "results" / "group_skipping.csv"
MODELS = ("resnet20", "resnet18", "resnet50", "mobilenet_v2")
CORES_WITH_SDOT = ("a76", "x1")


@dataclass(frozen=True)
class Row:
    """``wins`` of ``layers`` would be fastest by skipping; ``gain_percent`` is of all of them together, at most."""

    model: str
    core: str
    bits: int
    zero_share: float
    layers: int
    wins: int
    gain_percent: float
    speedup_over_dense: float


def shapes(name: str) -> list[dict[str, Any]]:
    """Convolutions of one group of a network, as far as ``Work`` needs them.

    Raises:
        UserError: unknown network.
    """
    size, found = find_network(name).image_size, []
    model = load_model(name, classes=10 if size <= 64 else 1000, image_size=(size, size)).eval()

    def see(module: nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
        if module.groups == 1:
            (_, channels, height, width), (_, outs, rows, columns) = given[0].shape, result.shape
            found.append(
                {
                    "source": (height, width, channels),
                    "result": (rows, columns, outs),
                    "kernel": module.kernel_size,
                    "stride": module.stride,
                    "padding": (*module.padding, *module.padding),
                    "dilation": module.dilation,
                }
            )

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(see)
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return found


def work_of(shape: dict[str, Any], bits: int, share: float) -> Work:
    """Independent zeros, and as many weights of every other level."""
    products, outs = math.prod(shape["kernel"]) * shape["source"][2], shape["result"][2]
    levels, nonzeros = 2**bits - 1, products * outs * (1 - share)
    pairs = outs * levels * (1 - math.exp(-nonzeros / (outs * levels)))
    return Work(**shape, bits=bits, nonzeros=round(nonzeros), pairs=round(pairs), narrow=True)


def skipping_bound(work: Work, share: float, core: str) -> float:
    """Cycles that skipping takes at least."""
    quantities, coefficients = KERNELS["level-grouped"](work), models_of(core)["level-grouped"].coefficients
    shared = sum(
        amount * coefficients.get(name, 0.0)
        for name, amount in quantities.items()
        if not name.startswith(("nonzeros", "levels", "vectors laid out"))
    )
    groups = work.result[2] * math.prod(work.kernel) * math.ceil(work.source[2] / 4) * (1 - share**4)
    per_group = max(2.0, 17 / 2 / CORES[core].front_end[0])
    return shared + groups * per_group * quantities["places"]


def price(model: str, layers: Sequence[dict[str, Any]], core: str, bits: int, share: float) -> Row:
    costs = models_of(core)
    dense = best = least = 0.0
    wins = 0
    for shape in layers:
        work = work_of(shape, bits, share)
        one, other = (costs[kernel].cost(KERNELS[kernel](work)) for kernel in ("dense", "level-grouped"))
        skipping = skipping_bound(work, share, core)
        wins += skipping < min(one, other)
        dense, best, least = dense + one, best + min(one, other), least + min(one, other, skipping)
    return Row(
        model,
        core,
        bits,
        share,
        len(layers),
        wins,
        round(100 * (1 - least / best), 1),
        round(dense / best, 2),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.group_skipping", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help="names as in pipeline.networks.registry"
    )
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {RESULTS.name}")
    options = parser.parse_args(arguments)
    try:
        found = [
            price(model, layers, core, bits, share)
            for model in options.models
            for layers in [shapes(model)]
            for core in CORES_WITH_SDOT
            for bits in (2, 3, 4)
            for share in (0.8, 0.9)
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.record:
        write(RESULTS, [asdict(row) for row in found])
    print_table([asdict(row) for row in found])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
