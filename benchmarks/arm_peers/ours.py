"""Our own programs of one network: plans without training, since cost follows from shapes, bits and shares of zeros."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.arm_peers.figures import OURS, Sanity, agreement
from benchmarks.arm_peers.modelled import Modelled, kept, model_cycles
from benchmarks.arm_peers.workload import Workload
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_float, compile_graph
from deploy_arm.costs.choose import choose_kernels
from deploy_arm.cycles import mca
from deploy_arm.emulate import emulator
from deploy_arm.emulate.elf import read_executable
from deploy_arm.runtime.program import build_program
from deploy_arm.target.cores import Core
from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from quantizers.network import layer_names, quantize, synthetic

SHARES = (50, 70, 80, 90)  # per cent of zeros
CALIBRATION = 4  # images: the steps matter for the check's agreement only
SETTINGS = "1 thread, every layer alike, first and last included"


@dataclass(frozen=True)
class Configuration:
    """A plan for every layer; None: the network as it is. ``checked``: whether the untrained plan still computes the network."""

    name: str
    layer: LayerPlan | None
    activation_bits: int = 32
    checked: bool = False


def configurations() -> Iterator[Configuration]:
    """The network as it is, dense with 8, 4 and 2 bits, and 2 bits with growing shares of zeros."""
    yield Configuration("fp32", None, checked=True)
    yield Configuration("8-bit, 8-bit activations", LayerPlan(8), 8, checked=True)
    yield Configuration("4-bit, 8-bit activations", LayerPlan(4, 16), 8)
    yield Configuration("2-bit, 8-bit activations", LayerPlan(2, 4), 8)
    for share in SHARES:
        name = f"2-bit, {share} % zeros, 7-bit activations"
        yield Configuration(name, LayerPlan(2, 4, zero_share=share / 100), 7)


def compile_ours(
    workload: Workload, folder: Path, cores: Sequence[Core], only: str = ""
) -> Iterator[tuple[Configuration, dict[str, Path]]]:
    """Writes the blobs, by core, of every configuration whose name begins with ``only``, one configuration after the other.

    Configurations that differ only in their share of zeros take their levels from one quantized network: ``synthetic`` moves
    the weights, and finding the levels of a large network takes longer than all the rest.

    Raises:
        UserError: the compiler does not support a layer.
    """
    names = layer_names(workload.model)
    calibration = workload.normalized(workload.calibration[:CALIBRATION])
    shape = (len(workload.mean), workload.size, workload.size)
    made: tuple[object, ...] = ()
    for configuration in configurations():
        layer = configuration.layer
        if not configuration.name.startswith(only):
            continue
        if layer is None:
            path = folder / "fp32.blob"
            path.write_bytes(write_blob(compile_float(workload.model, shape, workload.mean, workload.std)))
            yield configuration, {core.target: path for core in cores}
            continue
        plan = Plan.uniform(names, layer, activation_bits=configuration.activation_bits)
        kind = (layer.bits, layer.components, plan.activation_bits)
        if kind != made:
            network, made = quantize(workload.model, plan, calibration), kind
        graph = compile_graph(synthetic(network, plan), shape, workload.mean, workload.std)
        blobs = {core.target: folder / f"{plan.hash}-{core.target}.blob" for core in cores}
        for core, path in blobs.items():
            path.write_bytes(write_blob(choose_kernels(graph, core)))
        yield configuration, blobs


def measure_ours(workload: Workload, blob: Path, core: Core, *, caches: bool) -> Modelled:
    """Counts the second inference of the program on a core, as for the peers, and models its cycles.

    Raises:
        UserError: no compiler, or the program fails.
    """
    program = build_program(core.target)
    image = workload.images[0]
    seen = hashlib.sha256(image.tobytes()).hexdigest()
    key = (OURS, sha256(program), sha256(blob), core, caches, seen)

    def compute() -> Modelled:
        counts = emulator.count(
            program, blob, image, target=core.target, caches=caches, warm_up=1, timeout=3000.0, under="qemu"
        )
        return model_cycles(read_executable(program), partial(mca.disassemble, program), counts, core)

    return kept(Modelled, key, compute)


def check_ours(workload: Workload, blob: Path, core: Core) -> Sanity:
    """Compares the program's outputs with the float32 network's in PyTorch.

    Raises:
        UserError: the program fails.
    """
    with torch.inference_mode():
        expected = workload.model(workload.normalized(workload.images)).numpy()
    outputs = emulator.run(build_program(core.target), blob, workload.images, target=core.target)
    return Sanity(*agreement(outputs, expected), len(outputs))


def version(core: Core) -> str:
    """What the kernels of a core are told apart by."""
    return f"program {sha256(build_program(core.target))[:12]}"


def multiplications(blob: Path, core: Core) -> int:
    """Multiplications of the network as direct convolutions."""
    record = json.loads(emulator.emulate(build_program(core.target), ["info", str(blob)], target=core.target))
    return sum(operation.get("multiplications", 0) for operation in record["operations"])
