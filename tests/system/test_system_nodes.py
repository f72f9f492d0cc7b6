"""A cluster of three nodes that share nothing: the two that train see neither the study's folder nor the data, the weights and
the person's own module, have no compiler's cache, and one of them is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pipeline.candidate.folder import load_candidate
from pipeline.study.study import read_records
from tests.s3 import s3_server

REPOSITORY = Path(__file__).parents[2]
TOKEN = "c" * 64
NETWORK = """
from torch import nn

def network(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, classes),
    )

network.normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""


HIDE = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
STORE = "--object-store-memory=100000000"  # bytes; else each node takes a third of the machine's memory


def hiding() -> list[str] | None:
    """A command after which the folder that it is given is empty for the command that follows, and for nobody else; None where
    no kind of mount namespace lets one do so."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "file")
        file.touch()
        for command in (["unshare", "-m"], ["unshare", "-r", "-m"]):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                probe = [*command, "sh", "-c", HIDE, name, "ls", "-A", name]
                done = subprocess.run(probe, capture_output=True, timeout=20)
                if done.returncode == 0 and not done.stdout.strip() and file.is_file():
                    return [*command, "sh", "-c", HIDE]
    return None


HIDING = hiding()
pytestmark = pytest.mark.skipif(
    HIDING is None, reason="no mounts of one's own here, so no node from which a folder is hidden"
)


class Cluster:
    """A head that trains nothing, and nodes on whose file system ``hidden`` is an empty folder."""

    def __init__(self, hidden: Path, elsewhere: Path) -> None:
        self.hidden, self.elsewhere = hidden, elsewhere
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(REPOSITORY),
            "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(elsewhere), "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        }  # fmt: skip
        self.environment.pop("RAY_ADDRESS", None)
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.refused: str | None = None  # what the first node said that did not come
        head = [
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={self.port}",
            "--include-dashboard=false",
            "--num-cpus=0",
        ]
        self._start([*self._ray(*head)], self.environment)
        if said := self._ended_before(1):
            raise AssertionError(f"the head did not start:\n{said}")

    def join(self) -> None:
        """One more node, of one CPU; the test is skipped where it does not come up with mounts of its own."""
        assert HIDING is not None
        own = {"XDG_CACHE_HOME": str(self.elsewhere / f"cache{len(self.nodes)}")}
        if self.refused is None:
            command = [
                *HIDING,
                str(self.hidden),
                *self._ray(f"--address=127.0.0.1:{self.port}", "--num-cpus=1"),
            ]
            self._start(command, {**self.environment, **own})
            self.refused = self._ended_before(len(self.nodes))
        if self.refused is not None:
            pytest.skip(f"no node with mounts of its own comes up here: {self.refused}")

    def kill(self, node: int) -> None:
        """Everything of a node at once, as when its power fails."""
        process = psutil.Process(self.nodes[node].pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def run(self, code: str) -> str:
        environment = {**self.environment, "RAY_ADDRESS": f"127.0.0.1:{self.port}"}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        ).stdout

    def search(self, *flags: str, cwd: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline.search", "--address", f"127.0.0.1:{self.port}", *flags]
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        for node in reversed(range(len(self.nodes))):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.kill(node)
            self.nodes[node].wait()

    def _ray(self, *flags: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from ray.scripts.scripts import main; main()",
            "start",
            *flags,
            STORE,
            "--block",
        ]

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        with self._said(len(self.nodes)).open("wb") as said:
            process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.nodes.append(process)

    def _said(self, node: int) -> Path:
        return self.elsewhere / f"node{node}.txt"

    def _ended_before(self, count: int) -> str | None:
        """Wait until the cluster has ``count`` nodes; if it does not come to that, what the last one said."""
        alive = (
            "import ray; ray.init('auto', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        )
        for _ in range(20):
            if self.run(alive).strip() == str(count):
                return None
            if self.nodes[-1].poll() is not None:
                break
            time.sleep(1)
        return self._said(len(self.nodes) - 1).read_text(errors="replace")[-2000:] or "nothing"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    hidden = tmp_path_factory.mktemp("the driver's own")
    elsewhere = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: sockets lie there
    (hidden / "mine.py").write_text(NETWORK)
    chance = np.random.default_rng(0)
    labels = np.arange(400) % 4
    pixels = chance.integers(0, 40, (400, 16, 16, 3)) + 60 * labels[:, None, None, None]
    arrays = {"x_train": pixels[:240], "x_val": pixels[240:], "y_train": labels[:240], "y_val": labels[240:]}
    arrays = {name: array.astype(np.uint8 if name[0] == "x" else np.int64) for name, array in arrays.items()}
    np.savez(hidden / "images.npz", **arrays)
    torch.manual_seed(0)
    space: dict[str, object] = {}
    exec(NETWORK, space)
    network = space["network"](4)  # type: ignore[operator]
    x = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    y = torch.from_numpy(arrays["y_train"])
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    torch.save(network.state_dict(), hidden / "weights.pt")
    started = Cluster(hidden, elsewhere)
    try:
        yield started
    finally:
        started.end()
        shutil.rmtree(elsewhere, ignore_errors=True)


FLAGS = (
    "--model", "mine:network", "--data", "npz:images.npz", "--weights", "weights.pt", "--budget", "3",
    "--epochs-per-trial", "0.5", "--batch-size", "32", "--bits", "4,8", "--name", "study",
)  # fmt: skip


def test_nodes_that_share_nothing_train_and_one_of_them_dies(cluster: Cluster) -> None:
    cluster.join()
    cluster.join()
    search = cluster.search(*FLAGS, "--out", "runs", cwd=cluster.hidden)
    study = cluster.hidden / "runs" / "study"
    deadline = time.monotonic() + 240
    while (
        not list(study.glob("trials/*/checkpoint-*"))
        and search.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    cluster.kill(1)
    said, _ = search.communicate(timeout=400)
    assert search.returncode == 0 and "Traceback" not in said, said
    records = read_records(study)
    # One may be stopped as the worse one: by chance of who comes first.
    ended = [record.hash for record in records if record.status in ("finished", "stopped")]
    assert len(ended) == len(set(ended)) == 3 and {record.status for record in records} <= {
        "finished",
        "stopped",
        "dominated",
    }, said
    front = json.loads((study / "front.json").read_text())
    for record in (record for record in records if record.status == "finished"):
        candidate = load_candidate(study / "candidates" / record.hash)
        assert candidate.blob.stat().st_size == record.figures.size_bytes
    assert front["points"]
    assert not list(study.glob("candidates/*.tar")) and not list(study.glob("trials/*"))
    for node in (1, 2):  # nobody compiled or trained the fp32 network there
        assert not list((cluster.elsewhere / f"cache{node}").rglob("a76-*"))


@pytest.mark.slow
def test_what_s3_keeps_makes_the_study_again(cluster: Cluster, tmp_path: Path) -> None:
    """The same with a storage that all nodes reach; then the driver's disk is lost, and the study goes on from the copy."""
    with s3_server() as url:
        while len(cluster.nodes) < 3:
            cluster.join()
        search = cluster.search(*FLAGS, "--out", "lost", "--storage", url, cwd=cluster.hidden)
        said, _ = search.communicate(timeout=400)
        assert search.returncode == 0 and "Traceback" not in said and "warning" not in said, said
        before = read_records(cluster.hidden / "lost" / "study")
        shutil.rmtree(cluster.hidden / "lost")

        command = [
            sys.executable,
            "-m",
            "pipeline.studies",
            "rebuild",
            "study",
            "--storage",
            url,
            "--out",
            "again",
        ]
        done = subprocess.run(
            command, cwd=cluster.hidden, env=cluster.environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and "go on " in done.stdout, done.stderr
        study = cluster.hidden / "again" / "study"
        assert read_records(study) == before
        for record in (record for record in before if record.status == "finished"):
            load_candidate(study / "candidates" / record.hash)
        search = cluster.search("--name", "study", "--out", "again", "--budget", "4", cwd=cluster.hidden)
        said, _ = search.communicate(timeout=400)
        assert search.returncode == 0 and "Traceback" not in said, said
        assert read_records(study)[: len(before)] == before and len(read_records(study)) > len(before)
