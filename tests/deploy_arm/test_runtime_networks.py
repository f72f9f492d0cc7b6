"""Real networks on real images: the program's results are the reference's, dense and level-grouped."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import is_arm
from pipeline.networks.registry import find_network, load_model
from tests.deploy_arm.compiler_networks import harden, normalized, scramble_norms

QEMU = [] if is_arm() else ["qemu-aarch64", "-cpu", "cortex-a76"]


@pytest.mark.parametrize(
    ("name", "bits", "activation_bits", "zeros", "kernels"),
    [
        ("resnet20", 4, 8, 0.0, {"dense"}),
        ("resnet20", 2, 7, 0.8, {"dense", "level-grouped"}),
        ("mobilenet_v2_cifar", 3, 8, 0.0, {"dense", "depthwise"}),
    ],
)
def test_networks_agree_with_the_reference(
    cifar10: dict[str, np.ndarray],
    tmp_path: Path,
    name: str,
    bits: int,
    activation_bits: int,
    zeros: float,
    kernels: set[str],
) -> None:
    images = cifar10["x_val"][:6]
    mean, std = find_network(name).normalization
    model = scramble_norms(load_model(name, classes=10, image_size=(32, 32)))
    hardened = harden(model, normalized(images, mean, std), bits, activation_bits, zeros)
    graph = compile_graph(hardened, (3, 32, 32), mean, std)
    blob = tmp_path / "weights.blob"
    blob.write_bytes(write_blob(graph))
    command = [*QEMU, str(build_program("a76"))]
    done = subprocess.run(
        [*command, "run", str(blob)], input=images.tobytes(), capture_output=True, check=True
    )
    result = np.frombuffer(done.stdout, np.float32).reshape(len(images), 10)
    np.testing.assert_array_equal(result, run(graph, images))
    assert len(np.unique(result)) > 30
    threads = subprocess.run(
        [*command, "run", str(blob), "--threads", "8"],
        input=images.tobytes(),
        capture_output=True,
        check=True,
    )
    assert threads.stdout == done.stdout
    described = json.loads(
        subprocess.run([*command, "info", str(blob)], capture_output=True, check=True).stdout
    )
    assert {step["kernel"] for step in described["operations"] if "kernel" in step} == kernels
