"""`python -m benchmarks.arm_peers`: our programs beside ONNX Runtime and ncnn on emulated ARM cores.

Same networks, images, emulator and cycle model for everybody, one thread, one image, whole network. Every figure is modelled:
executed instructions per block under QEMU, weighted by llvm-mca (``deploy_arm/cycles/estimate.py``). Results of networks that
were counted before come from the cache directory, and rows of other networks and cores in a file of the same conditions stay.

Ours includes normalization and quantization of the bytes; the peers are given normalized floats.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.command import Parser, main_guard
from foundation.errors import UserError

if TYPE_CHECKING:
    from benchmarks.arm_peers.figures import Figure, Sanity
    from benchmarks.arm_peers.modelled import Modelled
    from benchmarks.arm_peers.workload import Workload
    from deploy_arm.target.cores import Core

MODELS = "resnet18,resnet20,mobilenet_v2,resnet50"
DEFAULT_CORES = "a76,x1"
RESULTS = Path(__file__).resolve().parent.parent / "results"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.arm_peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models",
        default=MODELS,
        help=f"networks, comma-separated, or single layers like conv64x56to128s2 (default {MODELS})",
    )
    parser.add_argument(
        "--cores", default=DEFAULT_CORES, help=f"modelled cores, comma-separated (default {DEFAULT_CORES})"
    )
    parser.add_argument(
        "--caches",
        choices=("on", "off"),
        default="on",
        help="simulate the data caches: gives the interval's upper end, takes three times as long (default on)",
    )
    parser.add_argument("--check", choices=("on", "off"), default="on", help="compare the outputs too")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help="count only those of our configurations whose name begins so, and no peer; other rows of the file stay",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="folder of the CSV file and chart (default benchmarks/results)",
    )
    return parser.parse_args(arguments)


class Comparison:
    """Collects the figures of networks, and says on stderr what it does."""

    def __init__(self, cores: list[Core], *, caches: bool, check: bool, only: str = "") -> None:
        self.cores, self.caches, self.check, self.only = cores, caches, check, only
        self.figures: list[Figure] = []

    def add_network(self, workload: Workload, folder: Path) -> None:
        """Ours first, then the peers.

        Raises:
            UserError: something cannot be built, compiled or run.
        """
        from benchmarks.arm_peers import ours, peers
        from benchmarks.arm_peers.figures import OURS, Sanity

        multiplications = 0
        for configuration, blobs in ours.compile_ours(workload, folder, self.cores, self.only):
            blob = blobs[self.cores[0].target]
            say(f"{workload.name}: {OURS} {configuration.name}")
            multiplications = multiplications or ours.multiplications(blob, self.cores[0])
            checked = self.check and configuration.checked
            sanity = ours.check_ours(workload, blob, self.cores[0]) if checked else Sanity()
            settings = ours.SETTINGS if checked else f"{ours.SETTINGS}, plan not co-tuned: cost only"
            for core in self.cores:
                modelled = ours.measure_ours(workload, blobs[core.target], core, caches=self.caches)
                named = (OURS, configuration.name, ours.version(core), settings)
                self.add(workload, named, core, modelled, sanity, blob.stat().st_size, multiplications)
        for variant in [] if self.only else peers.write_variants(workload, folder):
            say(f"{workload.name}: {variant.runtime} {variant.configuration}")
            sanity = peers.check_peer(workload, variant) if self.check else Sanity()
            modelled_on = peers.measure_peer(workload, variant, self.cores, caches=self.caches)
            named = (variant.runtime, variant.configuration, variant.version, variant.settings)
            for core in self.cores:
                self.add(
                    workload, named, core, modelled_on[core.target], sanity, variant.size, multiplications
                )

    def add(
        self,
        workload: Workload,
        named: tuple[str, str, str, str],
        core: Core,
        modelled: Modelled,
        sanity: Sanity,
        size: int,
        multiplications: int,
    ) -> None:
        from benchmarks.arm_peers.figures import Figure

        runtime, configuration, version, settings = named
        per_ms = core.frequency_ghz * 1e6
        self.figures.append(
            Figure(
                model=workload.name,
                runtime=runtime,
                configuration=configuration,
                core=core.target,
                latency_ms=modelled.point / per_ms,
                low_ms=modelled.low / per_ms,
                high_ms=modelled.high / per_ms,
                cycles=modelled.point,
                low_cycles=modelled.low,
                high_cycles=modelled.high,
                instructions=modelled.instructions,
                multiplications=multiplications,
                cycles_per_multiplication=modelled.point / multiplications,
                model_bytes=size,
                top1_agreement=sanity.top1_agreement,
                correlation=sanity.correlation,
                checked_images=sanity.images,
                source="modelled",
                version=version,
                settings=settings,
                weights=workload.weights,
                images=f"{workload.source}, {workload.size} x {workload.size}",
                emulator=emulator_version(),
                cycle_model=modelled.model,
                clock_ghz=core.frequency_ghz,
                caches="simulated, second inference" if self.caches else "not simulated, second inference",
            )
        )


def emulator_version() -> str:
    from deploy_arm.emulate.emulator import find_qemu
    from deploy_arm.target.toolchain import version_of

    return version_of((find_qemu() or "qemu-aarch64",)).split("(")[0].strip()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def are_single_layers(models: str) -> bool:
    """Whether the comma-separated names are all of single layers.

    Raises:
        UserError: networks and single layers together.
    """
    from benchmarks.arm_peers.single_layers import is_single_layer

    single = {is_single_layer(name) for name in models.split(",")}
    if len(single) > 1:
        raise UserError(f"--models {models}: whole networks and single layers have files of their own")
    return single == {True}


def conditions(options: argparse.Namespace) -> str:
    """What the result files are called by."""
    return conditions_of(
        caches=options.caches == "on", layers="_layers" if are_single_layers(options.models) else ""
    )


def conditions_of(*, caches: bool, layers: str = "") -> str:
    """Everything that the figures of one file share."""
    from benchmarks.arm_peers.sysroot import NCNN_VERSION, ORT_VERSION
    from deploy_arm.cycles import mca

    tools = f"qemu{emulator_version().split()[-1]}_mca{mca.version()}"
    return f"ort{ORT_VERSION}_ncnn{NCNN_VERSION}_{tools}_{'caches' if caches else 'nocaches'}_1thread{layers}"


def earlier_figures(path: Path) -> list[Figure]:
    """What a file of the same conditions has; nothing where there is none.

    Raises:
        UserError: it is no such file.
    """
    from benchmarks.arm_peers.report import read_csv

    if not path.exists():
        return []
    try:
        return read_csv(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not a file of this benchmark ({error}): move it away") from error


def run(options: argparse.Namespace) -> int:
    import torch

    from benchmarks.arm_peers.figures import TARGETS, outcome
    from benchmarks.arm_peers.onnx_model import require_onnx
    from benchmarks.arm_peers.report import chart, csv_text, merged, outcome_table, table
    from benchmarks.arm_peers.workload import load_workload
    from deploy_arm.cycles import mca
    from deploy_arm.emulate import emulator
    from deploy_arm.target.cores import CORES
    from foundation.files import write_atomically

    torch.set_num_threads(1)
    are_single_layers(options.models)  # a wrong choice is refused before anything is looked for
    require_onnx()
    mca.tools()
    if emulator.choose_counter() != "qemu":
        raise UserError(
            "counting the peers needs QEMU 7.2 to 8.2 with plugins: `apt-get install qemu-user gcc`"
        )
    comparison = Comparison(
        [CORES[name] for name in options.cores.split(",")],
        caches=options.caches == "on",
        check=options.check == "on",
        only=options.only,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"arm_peers_{conditions(options)}.csv"
    for name in options.models.split(","):
        workload = load_workload(name)
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            comparison.add_network(workload, Path(folder))
        # After every network, so that an interrupted run leaves what it has.
        figures = merged(earlier_figures(path), comparison.figures, by_row=bool(options.only))
        write_atomically(path, csv_text(figures))
        write_atomically(path.with_suffix(".svg"), chart(figures))
    outcomes = [outcome(target, figures) for target in TARGETS]
    if options.format == "json":
        records = [figure.record() for figure in figures]
        print(json.dumps({"figures": records, "targets": [each.record() for each in outcomes]}, indent=1))
    else:
        print(table(figures))
        print(outcome_table(outcomes))
    say(f"written: {path} and {path.with_suffix('.svg').name}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when all figures were found, 2 when something is missing or wrong; the message says what."""
    options = parse(arguments)
    try:
        return run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main_guard(main))
