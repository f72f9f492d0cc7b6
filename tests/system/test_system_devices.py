"""The device pool on real Ray with real programs: exclusive devices, errors that reach the caller, nodes that die."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from deploy_arm.target.toolchain import is_arm
from foundation.plan import LayerPlan, Plan
from pipeline import devices
from pipeline.cluster.broker import PoolLimits
from pipeline.cluster.nodes import LABELS, arm_devices, arm_nodes
from pipeline.cluster.pool import DevicePool
from pipeline.cluster.ray_cluster import cluster
from pipeline.cluster.work import DeviceError, NoDevice, Wanted
from quantizers.network import harden, quantize
from tests.kept import Note
from tests.own_cache import own_cache

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


def process_of(name: str) -> psutil.Process:
    """The process of a Ray task or actor that is at work; waits for it."""
    for _ in range(600):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if f"ray::{name}" in " ".join(process.cmdline()):
                    return process
        time.sleep(0.05)
    raise AssertionError(f"no process of {name}")


def test_whatever_dies_or_hangs_under_the_work_the_answer_comes(
    local: None, made: dict[str, Any], fault: Note
) -> None:
    pool = DevicePool.start("a76", limits=PoolLimits(silence=4.0, beat=0.5, rest=0.5))
    program, images = made["program"].read_bytes(), np.repeat(made["images"], 2000, axis=0)
    for harm in ("the task dies", "the task hangs", "the broker dies"):
        work = ThreadPoolExecutor().submit(pool.run, program, made["blob"], images)
        task = process_of("serve")
        if harm == "the task dies":
            task.kill()
        elif harm == "the task hangs":
            task.suspend()
        else:
            process_of("Broker").kill()
        answer = work.result(timeout=180)
        assert answer.tobytes() == np.repeat(made["expected"], 2000, axis=0).tobytes(), harm
        if harm == "the task hangs":
            task.wait(180)  # nobody is left behind who holds memory, or the board
    assert [row["state"] for row in pool.devices()] == ["free"] and pool.source == "modelled"
    fault(
        "the task on a device SIGKILLed, then hung (SIGSTOP), then its broker SIGKILLed",
        "the answer came each time, bit for bit; the hung process was ended, and the device is free",
    )


FLAKY = """
import dataclasses, os, signal
from pathlib import Path
from deploy_arm.devices.emulated import EmulatedDevice
from deploy_arm.target.fault import DeviceFault
from foundation.files import sha256

FOLDER = Path(__file__).parent
os.environ["XDG_CACHE_HOME"] = str(FOLDER / "cache")  # of the workers too, which remember no profile of an earlier run

class Flaky(EmulatedDevice):
    exclusive, name = True, "one"

    @classmethod
    def names(cls, target):
        return ["one", "two"]

    @classmethod
    def named(cls, target, name):
        device = cls(target)
        device.name = name
        return device

    @classmethod
    def report(cls, name, reason):
        with (FOLDER / "reports").open("a") as file:
            file.write(f"{name}: {reason}\\n")

    def execute(self, program, arguments, given, timeout):
        mode = FOLDER / self.name
        with (FOLDER / "log").open("a") as file:
            file.write(f"{self.name} {arguments[0]} {sha256(Path(arguments[1]))}\\n")
        told = mode.read_text() if mode.exists() else ""
        if told == "fault":
            raise DeviceFault("it is on fire")
        answer = super().execute(program, arguments, given, timeout)
        return bytes(len(answer)) if told == "rubbish" else answer

    def measure(self, program, blob, image):
        found = super().measure(program, blob, image)
        told = FOLDER / self.name
        if told.exists() and told.read_text() == "drift":
            canary = {"before_ms": 1.0, "after_ms": 2.0, "allowed": 0.03, "attempts": 3}
            found = dataclasses.replace(found, details={**found.details, "steady": False, "canary": canary})
        return found
"""


def test_work_goes_on_where_a_device_fails_and_is_shared_and_ordered(
    local: None, made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache(tmp_path))
    (tmp_path / "flaky.py").write_text(FLAKY)
    pool = DevicePool.start("a76", "flaky:Flaky", tmp_path, PoolLimits(patience=12.0, rest=1.0, beat=0.5))
    program = build_program("a76").read_bytes()
    states = {row["name"]: row["state"] for row in pool.devices()}
    assert "free" in states.values() and set(states) == {"one", "two"}

    def reports() -> list[str]:
        return (tmp_path / "reports").read_text().splitlines() if (tmp_path / "reports").exists() else []

    for mode, reason in (("fault", "it is on fire"), ("rubbish", "answers otherwise than the reference")):
        (tmp_path / "one").write_text(mode)
        answers = list(
            ThreadPoolExecutor(4).map(lambda _: pool.run(program, made["blob"], made["images"]), range(4))
        )
        assert all(answer.tobytes() == made["expected"].tobytes() for answer in answers), mode
        for _ in range(200):  # until it had its turn
            if any(reason in line for line in reports()):
                break
            pool.run(program, made["blob"], made["images"])
        assert any(line.startswith("one: ") and reason in line for line in reports()), mode
        assert not any(line.startswith("two: ") for line in reports()), mode
        (tmp_path / "one").unlink()
        for _ in range(600):  # it proves that it works, and is used again
            if all(row["state"] == "free" for row in pool.devices()):
                break
            time.sleep(0.1)
        assert reports()[-1] == "one: "

    # Asked for by several at once, and once more: done once.
    image, layers = made["images"][0], made["layers"]
    (tmp_path / "log").unlink()
    profiles = list(
        ThreadPoolExecutor(4).map(lambda _: pool.profile(program, made["blob"], image, layers), range(4))
    )
    assert all(profile == profiles[0] for profile in profiles)
    infos = [line for line in (tmp_path / "log").read_text().splitlines() if " info " in line]
    assert len(infos) == 1

    # A device that drifts is left to rest; where there is no other, its profile says so itself.
    (tmp_path / "one").write_text("drift")
    (tmp_path / "two").write_text("drift")
    profile = pool.profile(program, made["blob"], image, layers, anew=True)
    assert "not steady" in profile.warning
    assert any("not steady" in line for line in reports())

    # None left: told after a while, with the reasons, and not as the candidate's failure.
    (tmp_path / "one").write_text("fault")
    (tmp_path / "two").write_text("fault")
    with pytest.raises(NoDevice, match=r"no device for 12 s: .*one is quarantine: it is on fire"):
        pool.run(program, made["blob"], made["images"])


LOGGED = """
import os, time
from pathlib import Path
from deploy_arm.devices.emulated import EmulatedDevice

class Logged(EmulatedDevice):
    of_the_node = True

    def run(self, *arguments, **named):
        began = time.monotonic()
        answer = super().run(*arguments, **named)
        with (Path(__file__).parent / "log").open("a") as file:
            file.write(f"{began} {time.monotonic()} {os.getpid()}\\n")
        return answer
"""


def one_after_another(made: dict[str, Any], folder: Path) -> None:
    """Two searches' pools with one board between them: it is never used by two at a time, and both get their answers."""
    (folder / "logged.py").write_text(LOGGED)
    pools = [DevicePool.start("a76", "logged:Logged", folder) for _ in range(2)]
    program, images = made["program"].read_bytes(), np.repeat(made["images"], 200, axis=0)
    work: Any = ray.remote(lambda pool: pool.run(program, made["blob"], images)).options(num_cpus=0)
    for answer in ray.get([work.remote(pool) for _ in range(3) for pool in pools], timeout=240):
        assert answer.tobytes() == np.repeat(made["expected"], 200, axis=0).tobytes()
    rows = sorted(tuple(map(float, line.split())) for line in (folder / "log").read_text().splitlines())
    assert len(rows) == 6 and all(end <= begin for (_, end, _), (begin, _, _) in itertools.pairwise(rows))


@pytest.mark.slow
def test_two_searches_share_one_arm_node(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=0, resources={"arm_cpu": 1}, labels=LABELS, wait=True)
        ray.init(nodes.address, log_to_driver=False, logging_level=40)
        one_after_another(made, tmp_path)
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_arm_nodes_share_the_work_and_one_may_die(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: Note
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
        listed = arm_devices(Wanted("a76"))  # as they say of themselves, not as their label does
        source = "measured" if is_arm() else "modelled"
        assert [(row["source"], row["state"]) for row in listed] == [(source, "free")] * 2
        [strange, _] = arm_devices(Wanted("a76", "nowhere:Board"))
        assert strange["state"] == "quarantine" and "nowhere" in strange["reason"]
        pool = DevicePool.start("a76")
        program, images = made["program"].read_bytes(), np.repeat(made["images"], 1000, axis=0)
        work = ray.remote(lambda: pool.run(program, made["blob"], images)).options(num_cpus=0)
        pending = [work.remote() for _ in range(8)]
        most = 0
        while most < 2 and ray.wait(pending, num_returns=8, timeout=0.01)[1]:
            most = max(most, sum(row["state"] == "busy" for row in pool.devices()))
        assert most == 2
        assert pool.source == source and len({row["name"] for row in pool.devices()}) == 1
        nodes.remove_node(arm[0], allow_graceful=False)
        for answer in ray.get(pending, timeout=120):
            assert answer.tobytes() == np.repeat(made["expected"], 1000, axis=0).tobytes()
        # Until the cluster has noticed the death, a new actor waits for the dead node.
        assert sorted(row["state"] for row in pool.devices()) in (["free", "lost"], ["free", "waiting"])
        fault("one of two ARM nodes lost under eight pieces of work", "all eight answers came, bit for bit")
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
    documented = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    assert f"    {devices.JOIN}\n" in documented and (devices.JOIN in text or "modelled" not in text)
