"""What the ARM kernels cost: modelled cycles and executed instructions per multiply-accumulate, on networks without training.

``python -m benchmarks.arm_kernels --models resnet20 --layers`` prints one row per network, setting and core, and the
roofline of each layer. Time is modelled (``deploy_arm.cycles.estimate``), counts are executed under emulation; nothing here ran
on ARM hardware. ``--record LABEL`` keeps the rows in ``benchmarks/results/arm_kernels.csv``, in place of older ones of that
label, and rooflines in ``arm_roofline_MODEL.csv`` beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import read, write
from benchmarks.untrained import SETTINGS, Untrained, untrained
from deploy_arm.devices.base import LayerProfile, Profile
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.runtime.program import build_program
from deploy_arm.target.cores import CORES
from deploy_arm.target.targets import TARGETS
from foundation.command import Parser, main_guard
from foundation.errors import UserError

RESULTS = Path(__file__).parent / "results" / "arm_kernels.csv"
MODELS = ("resnet18", "resnet20", "mobilenet_v2")
# Multiply-accumulates of one vector instruction: SDOT 16, SMMLA 32, SMLAL 8 where neither exists.
DOT, MATRIX, WIDENING = 16, 32, 8
# Such instructions per cycle, at most, in the scheduling model of each core.
ISSUE = {"neoverse-n1": 2, "neoverse-v1": 4, "cortex-a72": 1, "cortex-a55": 1, "cortex-a53": 1}


@dataclass(frozen=True)
class Row:
    """One network in one setting on one core; cycles and instructions are per multiply-accumulate of the convolutions."""

    label: str
    model: str
    setting: str
    core: str
    megamacs: float
    cycles_per_mac: float
    low_cycles_per_mac: float
    high_cycles_per_mac: float
    instructions_per_mac: float
    ms: float
    source: str


def peak(layer: LayerProfile, core: str) -> tuple[float, float]:
    """Least instructions and cycles per multiply-accumulate of a layer's dense form on a core."""
    products = MATRIX if "matrix" in layer.kernel else DOT if TARGETS[core].dot_product else WIDENING
    return 1 / products, 1 / products / ISSUE[CORES[core].scheduler]


def profile(network: Untrained, core: str, folder: Path) -> Profile:
    """One modelled inference.

    Raises:
        UserError: the program cannot be built or emulated.
    """
    blob = folder / "weights.blob"
    blob.write_bytes(network.blob(core))
    return EmulatedDevice(core).profile(build_program(core), blob, network.image, layers=network.layers)


def row(label: str, model: str, setting: str, core: str, profile: Profile) -> Row:
    products = sum(layer.multiplications for layer in profile.layers)
    cycles = CORES[core].frequency_ghz * 1e6 / products
    return Row(
        label,
        model,
        setting,
        core,
        round(products / 1e6, 1),
        round(profile.latency_ms * cycles, 4),
        round(profile.low_ms * cycles, 4),
        round(profile.high_ms * cycles, 4),
        round((profile.instructions or 0) / products, 4),
        round(profile.latency_ms, 3),
        f"{profile.source}: {profile.details['model']}",
    )


def bound_by(layer: LayerProfile, core: str) -> str:
    """What most of a layer's modelled cycles are explained by."""
    cycles = layer.ms * CORES[core].frequency_ghz * 1e6
    multiplying = peak(layer, core)[1] * layer.multiplications if layer.kernel != "level-grouped" else 0.0
    delivering = (layer.instructions or 0) / CORES[core].front_end[0]
    if multiplying >= 0.85 * cycles:
        return "multiply-accumulate units"
    if delivering >= 0.95 * cycles:
        return "instructions per cycle"
    return "other vector work" if layer.multiplications else "vector and load units"


def roofline(profile: Profile, setting: str, core: str) -> list[dict[str, Any]]:
    """Per operation: share of the time, instructions and cycles per multiply-accumulate beside their least.

    The least is that of a dense form; the level-grouped kernel, which leaves out zero weights, may stay below it.
    """
    table = []
    for layer in profile.layers:
        cycles = layer.ms * CORES[core].frequency_ghz * 1e6
        entry: dict[str, Any] = {
            "setting": setting,
            "core": core,
            "layer": layer.layer,
            "operation": layer.kind,
            "kernel": layer.kernel,
            "megamacs": round(layer.multiplications / 1e6, 3),
            "share_of_time": round(layer.ms / profile.latency_ms, 4),
            "kilocycles": round(cycles / 1e3, 1),
            "bound_by": bound_by(layer, core),
        }
        if layer.multiplications:
            instructions, least = peak(layer, core)
            entry |= {
                "instructions_per_mac": round((layer.instructions or 0) / layer.multiplications, 4),
                "least_instructions_per_mac": instructions,
                "cycles_per_mac": round(cycles / layer.multiplications, 4),
                "least_cycles_per_mac": round(least, 5),
                "share_of_peak": round(least * layer.multiplications / cycles, 3),
            }
        entry["source"] = profile.source
        table.append(entry)
    return table


def record(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Adds rows to the table, in place of those of the same label, network, setting and core."""
    merge(path, [asdict(row) for row in rows], ("label", "model", "setting", "core"))


def merge(path: Path, fresh: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Adds rows to a table, in place of those that agree in ``keys``."""
    replaced = {tuple(row[key] for key in keys) for row in fresh}
    kept = [row for row in read(path, keys) if tuple(row[key] for key in keys) not in replaced]
    names = dict.fromkeys(name for row in [*fresh, *kept] for name in row)
    write(path, [{name: row.get(name) for name in names} for row in [*kept, *fresh]])


def print_table(entries: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    lines = [names, *([str(entry.get(name, "")) for name in names] for entry in entries)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.arm_kernels", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help="names as in pipeline.networks.registry"
    )
    parser.add_argument("--settings", nargs="+", default=["4bit", "2bit-80"], choices=list(SETTINGS))
    parser.add_argument("--cores", nargs="+", default=["a76", "x1"], choices=list(CORES))
    parser.add_argument("--image-size", type=int, help="pixels; by default the model's own")
    parser.add_argument("--layers", action="store_true", help="the roofline of every layer as well")
    parser.add_argument("--format", default="text", choices=["text", "json"])
    parser.add_argument("--record", metavar="LABEL", help=f"keep the rows in {RESULTS.name}")
    options = parser.parse_args(arguments)
    rows, rooflines = [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for model in options.models:
                for setting in options.settings:
                    network = untrained(model, SETTINGS[setting], size=options.image_size)
                    for core in options.cores:
                        profiled = profile(network, core, Path(folder))
                        rows.append(row(options.record or "now", model, setting, core, profiled))
                        rooflines.append(roofline(profiled, setting, core))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.record:
        record(rows)
    for model in options.models if options.record and options.layers else []:
        tables = [table for entry, table in zip(rows, rooflines) if entry.model == model]
        path = RESULTS.parent / f"arm_roofline_{model}.csv"
        merge(path, [entry for table in tables for entry in table], ("setting", "core"))
    if options.format == "json":
        found = [asdict(row) for row in rows]
        if options.layers:
            found = [{**entry, "layers": table} for entry, table in zip(found, rooflines)]
        print(json.dumps(found, indent=1))
        return 0
    print_table([asdict(row) for row in rows])
    for entry, table in zip(rows, rooflines if options.layers else []):
        print(f"\n{entry.model}, {entry.setting}, {entry.core}")
        print_table(table)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
