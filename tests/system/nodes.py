"""A Ray cluster of several nodes on this machine, started by the very lines of docs/cluster.md; the nodes that join share no
folder with the head: one of its folders is empty for them, by a mount of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
HIDE = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
PATIENCE = 300.0  # seconds for a node to come
BUSY = "timed out during startup"  # what Ray says where that takes more than 30 s, as on a busy machine
SMALL = (
    "--object-store-memory=100000000 --block"  # bytes; else each node takes a third of the machine's memory
)
RAY = '#!/bin/sh\nexec "{}" -c "from ray.scripts.scripts import main; main()" "$@"\n'


@cache
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


def documented(*words: str, ending: str = "") -> str:
    """The one command of docs/cluster.md in which all the words stand, and which ends so."""
    lines = (REPOSITORY / "docs" / "cluster.md").read_text().splitlines()
    [line] = [
        line.strip()
        for line in lines
        if line.startswith("    ") and line.endswith(ending) and all(word in line.split() for word in words)
    ]
    return line


class Nodes:
    """A head that trains nothing, and nodes on whose file system ``hidden`` is an empty folder.

    Attributes:
        environment: of every process; its home holds the cluster's token.
        address, jobs: of the cluster, and of its job API.
    """

    def __init__(self, hidden: Path, elsewhere: Path) -> None:
        self.hidden, self.elsewhere = hidden, elsewhere
        home, programs = elsewhere / "home", elsewhere / "bin"
        programs.mkdir()
        home.mkdir()
        (programs / "ray").write_text(RAY.format(sys.executable))
        (programs / "ray").chmod(0o755)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(elsewhere),
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "RAY_worker_niceness": "0",  # or whatever else this machine does comes first, and a node of one CPU seems dead
        }  # fmt: skip
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.boards: list[int] = []
        self.refused: str | None = None  # what the first node said that did not come
        port, board = _free_port(), _free_port()
        self.address, self.jobs = f"127.0.0.1:{port}", f"http://127.0.0.1:{board}"
        subprocess.run(
            ["sh", "-c", documented("get-auth-token")], env=self.environment, capture_output=True, check=True
        )
        assert (home / ".ray" / "auth_token").is_file()
        line = documented("start", "--head").replace("ADDRESS", "127.0.0.1").replace("6379", str(port))
        if said := self._started(f"{line} --num-cpus=0 --dashboard-port={board} {SMALL}", {}, []):
            raise AssertionError(f"the head did not start:\n{said}")

    def join(self) -> int:
        """One more node, of one CPU, and its number; the test is skipped where none comes up with mounts of its own."""
        line = documented("start", "--address=HEAD:6379", ending="--address=HEAD:6379")
        hide = hiding()
        assert hide is not None
        if self.refused is None:
            self.refused = self._started(
                f"{line.replace('HEAD:6379', self.address)} --num-cpus=1 {SMALL}",
                {"XDG_CACHE_HOME": str(self.cache(len(self.nodes)))},
                [*hide, str(self.hidden)],
            )
        if self.refused is not None:
            pytest.skip(f"no node with mounts of its own comes up here: {self.refused}")
        return len(self.nodes) - 1

    def join_board(self) -> int:
        """A node that says it is an ARM board, and its number."""
        line = documented("start", "--labels=arch=aarch64").replace("HEAD:6379", self.address)
        self.boards.append(len(self.nodes))
        if said := self._started(f"{line} {SMALL}", {}, []):
            raise AssertionError(f"the board did not join:\n{said}")
        return self.boards[-1]

    def living(self) -> list[int]:
        """The nodes that train."""
        return [n for n, node in enumerate(self.nodes) if n and n not in self.boards and node.poll() is None]

    def need(self, count: int) -> list[int]:
        """At least so many nodes that train."""
        while len(self.living()) < count:
            self.join()
        return self.living()

    def cache(self, node: int) -> Path:
        """Where a node compiles, if it does."""
        return self.elsewhere / f"cache{node}"

    def kill(self, node: int) -> None:
        """Everything of a node at once, as when its power fails."""
        process = psutil.Process(self.nodes[node].pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.nodes[node].wait()

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """A command as typed on the head."""
        return subprocess.run(
            ["sh", "-c", line], env=self.environment, cwd=self.hidden, capture_output=True, text=True
        )

    def command(self, *words: str, cwd: Path) -> subprocess.Popen[str]:
        """``python -m ...`` on the head."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=cwd,
            env={**self.environment, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def search(self, *flags: str, cwd: Path) -> subprocess.Popen[str]:
        return self.command("pipeline.search", "--address", self.address, *flags, cwd=cwd)

    def end(self) -> None:
        for node in reversed(range(len(self.nodes))):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.kill(node)
            self.nodes[node].wait()

    def _started(self, line: str, more: dict[str, str], before: list[str]) -> str | None:
        """Start a node, several times where the machine is too busy for Ray; what it said if it does not come."""
        for _ in range(3):
            self._start(line, more, before)
            said = self._ended_before()
            if said is None or BUSY not in said:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.nodes.pop().pid, signal.SIGKILL)
        return said

    def _start(self, line: str, more: dict[str, str], before: list[str]) -> None:
        line = re.sub(r"^RAY_AUTH_MODE=token ray", "RAY_AUTH_MODE=token exec ray", line)
        with self._said(len(self.nodes)).open("wb") as said:
            process = subprocess.Popen(
                [*before, "sh", "-c", line],
                env={**self.environment, **more},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(process)

    def _said(self, node: int) -> Path:
        return self.elsewhere / f"node{node}.txt"

    def _ended_before(self) -> str | None:
        """Wait until the cluster has every living node; if it does not come to that, what the last one said."""
        alive = (
            "import ray; ray.init('auto', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        )
        environment = {**self.environment, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": self.address}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.nodes[-1].poll() is not None:
                break
            there = subprocess.run(
                [sys.executable, "-c", alive], env=environment, capture_output=True, text=True
            )
            living = sum(node.poll() is None for node in self.nodes)
            if there.stdout.strip().isdecimal() and int(there.stdout) >= living:
                return None
            time.sleep(1)
        return self._said(len(self.nodes) - 1).read_text(errors="replace")[-3000:] or "nothing"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
