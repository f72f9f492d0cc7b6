"""Fits what kernels cost to profiles of single convolutions: ``python -m deploy_arm.fit_costs``.

``--device KIND`` (``native``, ``ssh``, ...) fits to what a real CPU takes instead, in nanoseconds.

Every core's program is profiled as ``deploy_arm.devices.emulated`` does (modelled cycles of executed counts, without caches).
Less than a minute of one processor per core; run it again when a kernel has changed. Other cores' entries of the table are kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy_arm.blob.write import write_blob
from deploy_arm.costs import model as costs
from deploy_arm.costs.choose import TABLE
from deploy_arm.costs.samples import network, samples
from deploy_arm.cycles import estimate as cycles
from deploy_arm.cycles import mca
from deploy_arm.devices.kinds import open_device
from deploy_arm.devices.timed import TimedDevice
from deploy_arm.emulate import emulator
from deploy_arm.ir import graph as g
from deploy_arm.runtime.program import build_program
from deploy_arm.target.cores import CORES
from deploy_arm.target.kernel_sources import timed_digest
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import json_text, sha256, write_atomically
from foundation.show import show_percent

SAMPLES = 120
REPEAT = 20  # of each network on a device

CostRow = tuple[costs.Work, str, float]


def operation_cycles(graph: g.Graph, core: str) -> list[float]:
    """Modelled cycles of every operation of one inference.

    Raises:
        UserError: the program cannot be built or counted.
    """
    program = build_program(CORES[core].target)
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder, "weights.blob")
        blob.write_bytes(write_blob(graph, coded=False))
        image = np.random.default_rng(0).integers(0, 256, graph.input.shape, dtype=np.uint8)
        counts = emulator.count(program, blob, image, target=core, caches=False)
    return [part.point for part in cycles.estimate(program, counts, CORES[core]).operations]


def operation_nanoseconds(graph: g.Graph, device: TimedDevice) -> list[float]:
    """Median times of every operation of one inference, measured on a device.

    Raises:
        UserError: the device or the program fails.
    """
    program = build_program(device.target)
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder, "weights.blob")
        blob.write_bytes(write_blob(graph, coded=False))
        image = np.random.default_rng(0).integers(0, 256, (1, *graph.input.shape), dtype=np.uint8)
        given, operations = emulator.checked_images(image), len(graph.operations)
        with device.reserved():
            times = device.operation_times(program, blob, given, REPEAT, operations)
    return [float(median) * 1e6 for median in np.median(times, axis=0)]


def rows(core: str, count: int, device: TimedDevice | None = None) -> Iterator[CostRow]:
    """The profiles of ``count`` shapes in every setting: modelled for a core, or measured on a device."""
    for number, sample in enumerate(samples(count)):
        graph = network(sample, number)
        costs_found = operation_nanoseconds(graph, device) if device else operation_cycles(graph, core)
        for operation, found in zip(graph.operations, costs_found, strict=True):
            if isinstance(operation, g.Convolution):
                tensors = graph.tensors[operation.inputs[0]], graph.tensors[operation.output]
                yield costs.Work.of(operation, *tensors), operation.kernel, found


def measuring(target: str, kind: str) -> TimedDevice:
    """A device that takes the time of each operation. Raises UserError where the kind does not."""
    device = open_device(target, kind)
    if not isinstance(device, TimedDevice):
        raise UserError(f"--device {kind!r} takes no times of operations; give native or ssh")
    return device


def fit(found: Sequence[CostRow]) -> dict[str, costs.CostModel]:
    """A model per kernel."""
    return {
        kernel: costs.fit(
            [(costs.KERNELS[kernel](work), cost) for work, used, cost in found if used == kernel]
        )
        for kernel in costs.KERNELS
    }


def entry(
    core: str, models: Mapping[str, costs.CostModel], count: int, device: TimedDevice | None = None
) -> dict[str, Any]:
    """A core's part of the table: models, and the conditions they were fitted under."""
    model = (
        f"llvm-mca {mca.version()} {CORES[core].scheduler}" if mca.find_tools() else "own throughput table"
    )
    return {
        "kernels": {kernel: asdict(found) for kernel, found in models.items()},
        "unit": f"{device.source} nanoseconds" if device else "modelled cycles",
        "model": device.name if device else model,
        "program": sha256(build_program(CORES[core].target))[:12],
        "kernel_code": timed_digest(),
        "shapes": count,
        "date": time.strftime("%Y-%m-%d"),
    }


def earlier(path: Path) -> dict[str, Any]:
    """The table that there is, an empty one where there is none.

    Raises:
        UserError: the file is no such table.
    """
    if not path.exists():
        return {"cores": {}}
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        record["cores"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no table of kernel costs ({error}): move it away") from error
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m deploy_arm.fit_costs", description=__doc__)
    parser.add_argument(
        "--cores", nargs="+", default=list(CORES), metavar="CORE", help=f"of {', '.join(CORES)}"
    )
    parser.add_argument("--shapes", type=int, default=SAMPLES, help="how many layer shapes are profiled")
    parser.add_argument("--output", type=Path, default=TABLE, help="the table")
    parser.add_argument(
        "--device", metavar="KIND", help="measure on such a device, for the one core that it is"
    )
    options = parser.parse_args(arguments)
    try:
        if options.shapes < 1:
            raise UserError(f"--shapes {options.shapes}: at least one shape is needed")
        if options.device and len(options.cores) != 1:
            raise UserError("--device measures for one core: name it by --cores")
        record = earlier(options.output)
        for core in options.cores:
            device = measuring(CORES[core].target, options.device) if options.device else None
            models = fit(list(rows(core, options.shapes, device)))
            record["cores"][core] = entry(core, models, options.shapes, device)
            errors = ", ".join(
                f"{kernel} {show_percent(model.error, digits=1)}" for kernel, model in models.items()
            )
            print(f"{core}: mean relative error {errors}")
            write_atomically(options.output, json_text(record, indent=1, sort_keys=True) + "\n")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
