"""Whether the compiler's cost tables choose the faster kernel, on layers of real networks that they were not fitted to.

``python -m benchmarks.kernel_costs --models resnet18 --cores a76 x1`` profiles every network once with dense and once with
level-grouped kernels in all convolutions that have the choice, and adds up, per layer, the kernel that the table chooses,
the faster one, and the dense one. ``--record`` keeps the rows in ``benchmarks/results/kernel_costs.csv``. Cycles are modelled
(``deploy_arm.cycles.estimate``, without caches); weights are random, with the setting's bits and share of zeros.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.arm_kernels import print_table
from benchmarks.rows import read, write
from benchmarks.untrained import Setting, untrained
from deploy_arm.costs.choose import choose_kernels, models_of
from deploy_arm.costs.fit import operation_cycles
from deploy_arm.costs.model import KERNELS, Work
from deploy_arm.cycles import mca
from deploy_arm.ir import graph as g
from deploy_arm.target.cores import CORES
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULTS = Path(__file__).parent / "results" / "kernel_costs.csv"
MODELS = ("resnet18", "resnet20", "mobilenet_v2")
SETTINGS = (
    *(Setting(f"2bit-{share}", 2, share / 100, 7) for share in (50, 60, 70, 80, 90)),
    Setting("2bit-80, 8-bit activations", 2, 0.8, 8),
    *(Setting(f"4bit-{share}", 4, share / 100, 7) for share in (80, 90)),
)


@dataclass(frozen=True)
class Row:
    """One network in one setting on one core. Milliseconds are the whole network's.

    ``right`` of ``layers`` with a choice got the faster kernel, ``grouped`` the level-grouped one. ``chosen_ms`` is the table's
    choice, ``best_ms`` the faster kernel in every layer, ``dense_ms`` and ``grouped_ms`` the same one everywhere. ``regret`` is
    chosen over best, less one; ``predicted_error`` the mean relative error of the fitted costs.
    """

    model: str
    setting: str
    core: str
    layers: int
    right: int
    grouped: int
    chosen_ms: float
    best_ms: float
    dense_ms: float
    grouped_ms: float
    regret_percent: float
    predicted_error_percent: float
    cycle_model: str


def has_choice(operation: g.Operation) -> bool:
    return isinstance(operation, g.Convolution) and operation.groups == 1 and operation.weights.bits < 8


def forced(graph: g.Graph, kernel: g.Kernel) -> g.Graph:
    """The graph with one kernel in all convolutions that have the choice."""
    operations = [
        dataclasses.replace(op, kernel=kernel) if isinstance(op, g.Convolution) and has_choice(op) else op
        for op in graph.operations
    ]
    return dataclasses.replace(graph, operations=operations)


def compare(
    model: str, setting: Setting, graph: g.Graph, core: str, dense: Sequence[float], grouped: Sequence[float]
) -> Row:
    """A row from the cycles of every operation with dense and with level-grouped kernels."""
    models = models_of(core)
    chosen, best, errors, right, used, layers = 0.0, 0.0, 0.0, 0, 0, 0
    for operation, selected, one, other in zip(
        graph.operations, choose_kernels(graph, core).operations, dense, grouped, strict=True
    ):
        if not isinstance(operation, g.Convolution) or not has_choice(operation):
            chosen, best = chosen + one, best + one
            continue
        assert isinstance(selected, g.Convolution)
        cost = other if selected.kernel == "level-grouped" else one
        layers, used = layers + 1, used + (selected.kernel == "level-grouped")
        right += cost == min(one, other)
        chosen, best = chosen + cost, best + min(one, other)
        work = Work.of(operation, graph.tensors[operation.inputs[0]], graph.tensors[operation.output])
        for kernel, cycles in (("dense", one), ("level-grouped", other)):
            errors += abs(models[kernel].cost(KERNELS[kernel](work)) / cycles - 1)
    ms = CORES[core].frequency_ghz * 1e6
    taken, least, plain, sparse = (round(value / ms, 4) for value in (chosen, best, sum(dense), sum(grouped)))
    source = (
        f"llvm-mca {mca.version()} {CORES[core].scheduler}" if mca.find_tools() else "own throughput table"
    )
    regret, error = 100 * (chosen / best - 1), 100 * errors / (2 * layers)
    return Row(
        model,
        setting.name,
        core,
        layers,
        right,
        used,
        taken,
        least,
        plain,
        sparse,
        round(regret, 2),
        round(error, 1),
        source,
    )


def rows(model: str, cores: Sequence[str], settings: Sequence[Setting]) -> Iterator[Row]:
    """All settings of one network on all cores.

    Raises:
        UserError: unknown model or core, or the program cannot be built or counted.
    """
    dense: dict[tuple[str, int], list[float]] = {}
    for setting in settings:
        network = untrained(model, setting)
        for core in cores:
            if (core, setting.bits) not in dense:  # zeros and activations do not change it
                dense[core, setting.bits] = operation_cycles(forced(network.graph, "dense"), core)
            grouped = operation_cycles(forced(network.graph, "level-grouped"), core)
            yield compare(model, setting, network.graph, core, dense[core, setting.bits], grouped)


def record(found: Sequence[Row], path: Path = RESULTS) -> None:
    """Adds rows to the table, in place of those of the same network, setting and core."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {tuple(list(row.values())[:3]): row for row in read(path)}
    kept |= {(row.model, row.setting, row.core): asdict(row) for row in found}
    write(path, list(kept.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.kernel_costs", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help="names as in pipeline.networks.registry"
    )
    parser.add_argument(
        "--cores", nargs="+", default=["a76", "x1", "x2", "a72"], help=f"of {', '.join(CORES)}"
    )
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--settings", nargs="+", default=names, choices=names)
    parser.add_argument("--record", action="store_true", help=f"keep the rows in {RESULTS.name}")
    options = parser.parse_args(arguments)
    found: list[Row] = []
    try:
        for model in options.models:
            for row in rows(model, options.cores, [s for s in SETTINGS if s.name in options.settings]):
                found.append(row)
                if options.record:
                    record([row])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table([asdict(row) for row in found])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
