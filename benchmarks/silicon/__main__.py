"""`python -m benchmarks.silicon`: modelled cycles beside published measurements of real chips, for the same networks and runtime.

ncnn's benchmark publishes times of its networks on many chips. The same networks are run by ncnn's own wheel under emulation
and modelled as everything here is (one thread, caches not simulated); figures that ``benchmarks.arm_peers`` has already are
taken from its table. What the chips say is in ``published.csv``: least time of several runs times clock, each with its source;
where kernels became faster since, the chip looks slower than it is, so int8 entries of before today's kernels are left out.

``ratio`` is the chip's cycles over the model's: above one, the chip is slower than the model says. On several threads nothing
is modelled (the model has no memory): there ``speedup`` says what the chip gains over its one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import read, write
from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from benchmarks.arm_peers.modelled import Modelled

PUBLISHED = Path(__file__).with_name("published.csv")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "silicon.csv"
# ncnn computes the layers between int8 convolutions in float16 where the core has it, as its benchmark does.
CONFIGURATIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8 fp16"}
WITHOUT_HALF = {"a72": {"int8": "int8 fp32"}}


@dataclass(frozen=True)
class Published:
    """One published time of ncnn; ``megacycles`` is the time times the clock. ``core`` is the modelled one it is held against."""

    chip: str
    core: str
    network: str
    precision: str
    threads: int
    megacycles: float
    source: str

    @property
    def configuration(self) -> str:
        """Which of our ways to run ncnn it was."""
        return (CONFIGURATIONS | WITHOUT_HALF.get(self.core, {}))[self.precision]


@dataclass(frozen=True)
class Row:
    """A published figure beside the model's: megacycles with their interval, and what they were found with. On several threads
    the model's columns are empty."""

    chip: str
    core: str
    network: str
    precision: str
    threads: int
    published: float
    modelled: float | None
    low: float | None
    high: float | None
    ratio: float | None
    speedup: float | None
    published_source: str
    modelled_source: str


def read_published(path: Path = PUBLISHED) -> list[Published]:
    """The published figures.

    Raises:
        UserError: a row that is none.
    """
    kinds = {"threads": int, "megacycles": float}
    if not (rows := read(path)):
        raise UserError(f"{path} is no table of published figures: it has no rows")
    try:
        return [
            Published(**{name: kinds.get(name, str)(value) for name, value in row.items()}) for row in rows
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of published figures: {error}") from error


def compared(published: Published, everything: Iterable[Published], modelled: Modelled | None) -> Row:
    """One published figure beside the model's, which is None on several threads."""
    single = [
        other.megacycles
        for other in everything
        if dataclasses.replace(other, megacycles=0, source="")
        == dataclasses.replace(published, megacycles=0, source="", threads=1)
    ]
    low, point, high = (
        (None, None, None)
        if modelled is None
        else (round(value / 1e6, 2) for value in (modelled.low, modelled.point, modelled.high))
    )
    return Row(
        published.chip,
        published.core,
        published.network,
        published.precision,
        published.threads,
        published.megacycles,
        point,
        low,
        high,
        None if point is None else round(published.megacycles / point, 3),
        round(single[0] / published.megacycles, 2) if published.threads > 1 and single else None,
        published.source,
        "" if modelled is None else modelled.model,
    )


def model(wanted: Sequence[Published]) -> dict[tuple[str, str, str], Modelled]:
    """Modelled cycles of one thread by network, configuration and core.

    Raises:
        UserError: the emulator, the analyser or ncnn's wheel is missing, or ncnn fails.
    """
    from benchmarks.arm_peers import peers
    from benchmarks.arm_peers.float_network import float_network
    from benchmarks.silicon.networks import workload
    from deploy_arm.target.cores import CORES

    found = known_already(wanted)
    left = [each for each in wanted if (each.network, each.configuration, each.core) not in found]
    for name in dict.fromkeys(each.network for each in left):
        work = workload(name)
        ways = dict.fromkeys((each.configuration, each.core) for each in left if each.network == name)
        with tempfile.TemporaryDirectory(prefix="silicon-") as folder:
            network = float_network(work.model, work.normalized(work.calibration))
            variants = {each.configuration: each for each in peers.ncnn_variants(network, Path(folder))}
            for configuration, core in ways:
                print(f"{name}, ncnn {configuration}, {core}", file=sys.stderr, flush=True)
                # One core a call: cores without float16 execute other instructions.
                measured = peers.measure_peer(work, variants[configuration], [CORES[core]], caches=False)
                found[name, configuration, core] = measured[core]
    return found


def known_already(wanted: Sequence[Published]) -> dict[tuple[str, str, str], Modelled]:
    """What ``benchmarks.arm_peers`` found of the same networks under the same conditions."""
    from benchmarks.arm_peers.__main__ import conditions_of, earlier_figures
    from benchmarks.arm_peers.figures import NCNN
    from benchmarks.arm_peers.modelled import Modelled
    from benchmarks.silicon.networks import SAME_AS_PEERS

    asked = {
        (each.network, each.configuration, each.core) for each in wanted if each.network in SAME_AS_PEERS
    }
    return {
        place: Modelled(each.low_cycles, each.cycles, each.high_cycles, each.instructions, each.cycle_model)
        for each in earlier_figures(RESULTS.parent / f"arm_peers_{conditions_of(caches=False)}.csv")
        if each.runtime == NCNN and (place := (each.model, each.configuration, each.core)) in asked
    }


def conditions() -> str:
    """What all modelled figures share."""
    from benchmarks.arm_peers.__main__ import emulator_version
    from benchmarks.arm_peers.sysroot import NCNN_VERSION
    from deploy_arm.cycles import mca

    return (
        f"modelled: ncnn {NCNN_VERSION}, {emulator_version()}, llvm-mca {mca.version()}, caches not simulated"
    )


def said(rows: Sequence[Row]) -> str:
    """The table that is printed."""
    lines = []
    for row in rows:
        name = f"{row.chip:<16} {row.network:<13} {row.precision:<5}"
        if row.modelled is None:
            lines.append(f"{name} {row.threads} threads: {row.speedup} times as fast as one")
        else:
            lines.append(
                f"{name} published {row.published:6.1f}  {row.core} {row.modelled:6.1f}  ratio {row.ratio:.2f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = Parser(
        prog="python -m benchmarks.silicon",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everything = read_published()
    cores, networks = (sorted({getattr(each, name) for each in everything}) for name in ("core", "network"))
    parser.add_argument("--cores", nargs="+", choices=cores, default=cores)
    parser.add_argument("--networks", nargs="+", choices=networks, default=networks)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="CSV file (default benchmarks/results/silicon.csv)"
    )
    options = parser.parse_args(arguments)

    from deploy_arm.cycles import mca
    from deploy_arm.emulate import emulator

    if emulator.choose_counter() != "qemu":
        raise UserError("counting ncnn needs QEMU 7.2 to 8.2 with plugins: `apt-get install qemu-user gcc`")
    mca.tools()
    asked = [each for each in everything if each.core in options.cores and each.network in options.networks]
    found = model([each for each in asked if each.threads == 1])
    rows = []
    for each in asked:
        modelled = found[each.network, each.configuration, each.core] if each.threads == 1 else None
        row = compared(each, everything, modelled)
        rows.append(
            dataclasses.replace(
                row, modelled_source=f"{conditions()} ({row.modelled_source})" if modelled else ""
            )
        )
    write(options.out, [dataclasses.asdict(row) for row in rows])
    print(said(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
