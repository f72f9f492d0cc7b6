"""What more threads would give, by the model: what every thread of an inference executes, operation by operation.

``python -m benchmarks.arm_threads`` writes ``benchmarks/results/arm_threads.csv``. A layer is split the same way every time, so
each thread's part is executed on its own under emulation, counted exactly and turned into modelled cycles
(``deploy_arm.cycles.estimate``). An operation ends with its slowest thread. What threads cost each other is not modelled: waking
and waiting between operations, shared caches and memory, and clocks that fall when all cores work.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import write
from benchmarks.untrained import SETTINGS, Untrained, untrained
from deploy_arm.cycles.estimate import Estimate, estimate
from deploy_arm.emulate.emulator import count
from deploy_arm.runtime.program import build_program
from deploy_arm.target.cores import CORES
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULTS = Path(__file__).parent / "results" / "arm_threads.csv"
COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One network on one number of threads.

    ``kilocycles`` sums the slowest thread's modelled cycles over the operations, ``all_threads_kilocycles`` every thread's.
    ``largest_thread_share`` is that of the thread with the most cycles in the whole inference; ``balance`` the mean of the
    threads' cycles over the largest. ``serial_share`` is the part of ``kilocycles`` in operations that one thread does alone.
    """

    model: str
    setting: str
    core: str
    threads: int
    kilocycles: float
    speedup: float
    efficiency: float
    all_threads_kilocycles: float
    all_threads_instructions: int
    largest_thread_share: float
    balance: float
    serial_share: float
    source: str


def row(model: str, setting: str, core: str, parts: Sequence[Estimate], single: float) -> Row:
    """The row of threads that execute ``parts``, beside ``single`` cycles on one thread."""
    by_operation = list(zip(*([operation.point for operation in part.operations] for part in parts)))
    slowest = sum(map(max, by_operation))
    serial = sum(max(cycles) for cycles in by_operation if is_serial(cycles))
    totals = [part.point for part in parts]
    return Row(
        model,
        setting,
        core,
        len(parts),
        round(slowest / 1e3, 1),
        round(single / slowest, 3),
        round(single / slowest / len(parts), 3),
        round(sum(totals) / 1e3, 1),
        sum(operation.instructions for part in parts for operation in part.operations),
        round(max(totals) / sum(totals), 4),
        round(sum(totals) / len(totals) / max(totals), 3),
        round(serial / slowest, 4),
        f"modelled, synchronization not included: {parts[0].model}",
    )


def is_serial(cycles: Sequence[float]) -> bool:
    """Whether the first thread alone works: the others only look whether there is something to do."""
    return len(cycles) > 1 and max(cycles[1:]) < 0.05 * cycles[0]


def estimates(network: Untrained, core: str, threads: int, folder: Path) -> list[Estimate]:
    """Modelled cycles of every thread.

    Raises:
        UserError: the program cannot be built or counted.
    """
    program, blob = build_program(core), folder / "weights.blob"
    blob.write_bytes(network.blob(core))
    return [
        estimate(
            program,
            count(program, blob, network.image, target=core, caches=False, part=(index, threads)),
            CORES[core],
        )
        for index in range(threads)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.arm_threads", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet20"])
    parser.add_argument("--settings", nargs="+", default=["4bit", "2bit-80"], choices=list(SETTINGS))
    parser.add_argument("--cores", nargs="+", default=["a76"], choices=list(CORES))
    parser.add_argument("--threads", nargs="+", type=int, default=list(COUNTS), choices=range(1, 9))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for model in options.models:
                for setting in options.settings:
                    network = untrained(model, SETTINGS[setting])
                    for core in options.cores:
                        single = estimates(network, core, 1, Path(folder))
                        for threads in options.threads:
                            parts = (
                                single if threads == 1 else estimates(network, core, threads, Path(folder))
                            )
                            rows.append(row(model, setting, core, parts, single[0].point))
                            print(dataclasses.asdict(rows[-1]), flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    write(options.out, [dataclasses.asdict(row) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
