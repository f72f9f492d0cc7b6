"""A cluster of a host and an ARM board that offers CPUs: what is trained where, and who is let in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kept import Note

TOKEN = "a" * 64
START = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=4, labels={"arch": "aarch64"}, resources={"arm_cpu": 1})
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""
PLACED = """
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from pipeline.cluster.engine import placement
from pipeline.cluster.ray_cluster import cluster
from pipeline.study.settings import Settings

with cluster():
    capacity, wanted = placement(Settings(name="s"))
    boards = {node["NodeID"] for node in ray.nodes() if node["Labels"].get("arch") == "aarch64"}
    groups = [wanted.to_placement_group() for _ in range(2)]
    assert groups[0].wait(60)
    strategy = PlacementGroupSchedulingStrategy(groups[0])
    where = ray.remote(lambda: ray.get_runtime_context().get_node_id()).options(num_cpus=1, scheduling_strategy=strategy)
    print(capacity(), len(boards), ray.get(where.remote()) in boards, groups[1].wait(2))
"""
JOINED = """
from foundation.command import main_guard
from pipeline.cluster.ray_cluster import cluster

def main():
    with cluster():
        return 0

raise SystemExit(main_guard(main))
"""


def environment(home: Path, **given: str | None) -> dict[str, str]:
    known: dict[str, Any] = {
        **os.environ,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        **given,
    }
    return {key: value for key, value in known.items() if value is not None}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    held = subprocess.Popen(
        [sys.executable, "-c", START],
        env=environment(home, RAY_ADDRESS=None),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert held.stdin is not None and held.stdout is not None
    yield next(line.strip() for line in held.stdout if line.strip().rpartition(":")[2].isdecimal())
    held.communicate("\n", timeout=60)


def python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_nothing_is_trained_on_an_arm_board_though_it_offers_more_cpus(address: str, tmp_path: Path) -> None:
    done = python(PLACED, environment(tmp_path, RAY_ADDRESS=address))
    assert done.stdout.split() == ["1", "1", "False", "False"], done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RAY_AUTH_TOKEN": "b" * 64}, "the one in RAY_AUTH_TOKEN is not its own"),
        ({"RAY_AUTH_TOKEN": None}, "there is none here"),
    ],
)
def test_a_token_that_is_missing_or_another_is_told_in_a_line(
    address: str, tmp_path: Path, given: dict[str, str | None], said: str, fault: Note
) -> None:
    done = python(JOINED, environment(tmp_path, RAY_ADDRESS=address, **given))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line and "~/.ray/auth_token of the head" in line and "Traceback" not in done.stderr
    token = "another token" if given["RAY_AUTH_TOKEN"] else "no token"
    fault(f"a client with {token}", "refused in a line that names the file to copy")


def test_where_nothing_answers_the_token_is_not_blamed(tmp_path: Path) -> None:
    done = python(JOINED, environment(tmp_path, RAY_ADDRESS="127.0.0.1:9"))
    assert done.returncode == 2 and "no Ray cluster answers at RAY_ADDRESS '127.0.0.1:9'" in done.stderr
