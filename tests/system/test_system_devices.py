"""The device pool on real Ray with real programs: exclusive devices, errors that reach the caller, nodes that die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from torch import nn

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.devices.kinds import open_device
from deploy_arm.ir.reference import run as run_reference
from deploy_arm.runtime.program import build_program
from foundation.plan import LayerPlan, Plan
from pipeline import devices
from pipeline.cluster.pool import LABELS, DeviceError, DevicePool, arm_nodes
from pipeline.cluster.ray_cluster import cluster
from quantizers.network import harden, quantize

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """A small network's program and blob, images, and what the reference answers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    plan = Plan.uniform(("0", "4"), LayerPlan(8))
    hardened = harden(quantize(model, plan, torch.randn(16, 3, 8, 8)))
    graph = compile_graph(hardened, (3, 8, 8), MEAN, STD)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    return {
        "program": build_program("a76"),
        "blob": write_blob(graph),
        "images": images,
        "expected": run_reference(graph, images),
        "layers": [operation.layer for operation in graph.operations],
    }


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with cluster():
        yield


def test_without_arm_nodes_there_is_one_emulated_device(
    local: None, made: dict[str, Any], tmp_path: Path
) -> None:
    pool = DevicePool.start("a76")
    [row] = pool.devices()
    assert (row["source"], row["state"], pool.source) == ("modelled", "free", "modelled")
    program = made["program"].read_bytes()
    (tmp_path / "blob").write_bytes(made["blob"])
    profile = pool.profile(program, made["blob"], made["images"][0], made["layers"])
    device = open_device("a76")
    assert profile == device.profile(
        made["program"], tmp_path / "blob", made["images"][0], layers=made["layers"]
    )
    assert profile.size_bytes == len(made["blob"]) and profile.source == "modelled"
    assert pool.run(program, made["blob"], made["images"]).tobytes() == made["expected"].tobytes()
    damaged = bytearray(made["blob"])
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(DeviceError, match=r"checksum|CRC|damaged|blob"):
        pool.run(program, bytes(damaged), made["images"])
    assert pool.devices()[0]["state"] == "free"  # the device is given back

    several = ray.remote(lambda: pool.run(program, made["blob"], made["images"])).options(num_cpus=0)
    answers = ray.get([several.remote() for _ in range(4)])
    assert all(answer.tobytes() == made["expected"].tobytes() for answer in answers)
    # A device whose process is killed is replaced.
    mine = psutil.Process().children(recursive=True)
    [process] = [p for p in mine if "ray::DeviceActor" in " ".join(p.cmdline())]
    process.kill()
    assert pool.run(program, made["blob"], made["images"]).tobytes() == made["expected"].tobytes()


def test_arm_nodes_share_the_work_and_one_may_die(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of this machine that call themselves ARM; their devices are honest about being emulated."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        arm = [
            nodes.add_node(num_cpus=0, resources={"arm_cpu": 1}, labels=LABELS, wait=True) for _ in range(2)
        ]
        ray.init(nodes.address, log_to_driver=False, logging_level=40)
        assert len(arm_nodes()) == 2
        pool = DevicePool.start("a76")
        program, images = made["program"].read_bytes(), np.repeat(made["images"], 1000, axis=0)
        work = ray.remote(lambda: pool.run(program, made["blob"], images)).options(num_cpus=0)
        pending = [work.remote() for _ in range(8)]
        most = 0
        while most < 2 and ray.wait(pending, num_returns=8, timeout=0.01)[1]:
            most = max(most, sum(row["state"] == "busy" for row in pool.devices()))
        assert most == 2
        assert pool.source == "modelled" and len({row["name"] for row in pool.devices()}) == 1
        nodes.remove_node(arm[0], allow_graceful=False)
        for answer in ray.get(pending, timeout=120):
            assert answer.tobytes() == np.repeat(made["expected"], 1000, axis=0).tobytes()
        # Until the cluster has noticed the death, a new actor waits for the dead node.
        assert sorted(row["state"] for row in pool.devices()) in (["free", "lost"], ["free", "waiting"])
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_the_command_lists_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lines: list[str] = []
    assert devices.main(["--format", "json"], write=lines.append) == 0
    [row] = json.loads("".join(lines))
    assert row["source"] in ("modelled", "measured") and row["state"] == "free"
    lines.clear()
    assert devices.main(["--target", "x1"], write=lines.append) == 0
    text = "".join(lines)
    assert ("modelled" in text) == ("No ARM CPU here" in text)
