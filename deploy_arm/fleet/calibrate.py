"""How far what is measured on a device lies from what is modelled for its core."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deploy_arm.blob.write import write_blob
from deploy_arm.boards.added import Calibration, edit_added
from deploy_arm.costs.samples import network, samples
from deploy_arm.devices import canary
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.devices.timed import WARM_UP, TimedDevice
from deploy_arm.emulate import emulator
from deploy_arm.ir.graph import Graph
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError

SAMPLES = 3  # besides the fixed network: layer shapes, each in every kernel and setting
REPEAT = 30


def known_programs(count: int = SAMPLES) -> Iterator[tuple[Graph, np.ndarray]]:
    """Networks that are always the same, and an image uint8 [H, W, C] for each."""
    yield canary.canary_graph(), canary.IMAGE
    for number, sample in enumerate(samples(count)):
        graph = network(sample, number)
        yield graph, np.random.default_rng(0).integers(0, 256, graph.input.shape, dtype=np.uint8)


def calibrate(device: TimedDevice, model: EmulatedDevice | None = None) -> Calibration:
    """Time known programs on the device and under the model of its target's core; kept under the device's name.

    Raises:
        UserError: its times are an emulator's, or it fails.
    """
    if device.source != "measured":
        raise UserError(
            f"{device.name}: its times are {device.source}; only what is measured can calibrate a model"
        )
    program, model = build_program(device.target), model or EmulatedDevice(device.target)
    ratios = []
    with tempfile.TemporaryDirectory() as folder, device.reserved():
        canary.prove(device, program)
        for number, (graph, image) in enumerate(known_programs()):
            blob = Path(folder, f"{number}.blob")
            blob.write_bytes(write_blob(graph))
            given = emulator.checked_images(image[None])
            measured = float(np.median(device.bench(program, blob, given, REPEAT, WARM_UP)))
            ratios.append(measured / model.profile(program, blob, image).latency_ms)
    found = Calibration(
        float(np.exp(np.mean(np.log(ratios)))),
        min(ratios),
        max(ratios),
        len(ratios),
        model.target,
        time.strftime("%Y-%m-%d"),
    )
    with edit_added() as added:
        added.calibrations[device.name] = found
    return found
