"""The fault table: what is killed, filled, damaged or silenced under a whole search, and what is found afterwards. Study,
storage, MLflow and front must agree (``disagreements``): every trial there, once; those in flight went on from their last rung.

Rows whose cause needs no processes of its own are in tests/pipeline/test_engine_faults.py; others stand beside what they try:
trials, memory and nodes in test_system_trial.py, test_system_engine.py and test_system_nodes.py, devices in
test_system_devices.py. ``--faults FILE.csv`` keeps the rows; all of them are made by `make test-slow`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.study.study import read_records
from tests.kept import Note
from tests.system.soak import MARK, TinyDriver, disagreements, left_of, rungs_of, session_folders, soak

QUICK = {"STEP_SECONDS": "0.05"}
AGREE = "study, storage, MLflow and front agree: every trial there, once"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, which Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "driver_every", "worker_every", "kills"),
    [
        (30, 3.0, 1.5, (3, 6)),
        (120, 30.0, 4.0, (float("inf"), float("inf"))),
        (500, 60.0, 4.0, (float("inf"), float("inf"))),
    ],
)
def test_a_soak_ends_with_exactly_its_trials(
    place: Path,
    trials: int,
    driver_every: float,
    worker_every: float,
    kills: tuple[float, float],
    fault: Note,
) -> None:
    folder = place / "out" / "soak"
    folder.parent.mkdir()
    found = soak(
        folder,
        trials,
        sessions=place / "r",
        driver_every=driver_every,
        worker_every=worker_every,
        kills=kills,
    )
    assert found.finished == trials and not disagreements(folder, trials)
    assert found.driver_kills >= 2 and found.worker_kills >= 1
    assert found.rungs_done_again == 0, "what was kept of a rung was taken up"
    assert not found.left_processes and not found.left_folders
    assert max(found.driver_mib) < 1.5 * found.driver_mib[0] + 100, "the driver grows"
    fault(
        f"soak of {trials} trials: {found.driver_kills} SIGKILLs of the driver, {found.worker_kills} of workers",
        f"exactly {found.finished} finished; {AGREE}; none of {found.rungs} rungs was done again after it was kept; no process "
        "and no session folder is left",
    )


@pytest.mark.slow
def test_the_driver_is_killed_at_twenty_random_moments(place: Path, fault: Note) -> None:
    """From its first instant on: while it opens the study, starts Ray, proposes, hears of rungs, writes."""
    folder, chance, sessions = place / "out" / "killed", random.Random(1), place / "r"
    folder.parent.mkdir()
    environment = {**QUICK, "RAY_TMPDIR": str(sessions), MARK: str(place)}
    seen: dict[str, object] = {}
    moments = 0
    while moments < 20:
        driver = TinyDriver(folder, 5000, environment, max_concurrent=2)  # more than it comes to by then
        # A third of the kills come before its first trial, whenever that is on this machine.
        if chance.random() < 0.67:
            driver.until(1)
            time.sleep(chance.uniform(0, 3))
        else:
            time.sleep(chance.uniform(0, 8))
        assert driver.process.poll() is None, "\n".join(driver.lines[-20:])
        driver.kill()
        moments += 1
        if (folder / "study.db").exists():
            for record in read_records(folder):
                assert seen.setdefault(record.hash, record) == record, "a trial that ended has changed"
    asked = len(read_records(folder)) + 10
    driver = TinyDriver(folder, asked, environment, max_concurrent=2)
    assert driver.finish()[-1] == "complete", driver.lines[-20:]
    assert not disagreements(folder, asked) and set(seen) <= {r.hash for r in read_records(folder)}
    assert rungs_of(folder)[1] == 0 and not left_of(str(place)) and not session_folders(sessions)
    fault(
        f"SIGKILL of the driver at {moments} random moments",
        f"{AGREE}, {asked} in all; rungs that were kept were not done again",
    )


@pytest.mark.slow
def test_sigint_sigterm_and_sigint_twice_are_incomplete_and_lose_nothing(place: Path, fault: Note) -> None:
    folder, environment = place / "out" / "told", {**QUICK, "RAY_TMPDIR": str(place / "r")}
    folder.parent.mkdir()
    for signals in ([signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]):
        driver = TinyDriver(folder, 60, environment, max_concurrent=2)
        driver.until(2)
        before = {record.hash: record for record in read_records(folder)}
        for number in signals:
            driver.process.send_signal(number)
            time.sleep(0.2)
        lines = driver.finish()
        assert driver.process.returncode == 3 and "Traceback" not in "\n".join(lines), lines[-20:]
        after = {record.hash: record for record in read_records(folder)}
        assert before.items() <= after.items()
        assert not read_records(folder, running=True)[len(after) :], "a trial RUNNING that nobody runs"
    driver = TinyDriver(folder, 60, environment, max_concurrent=2)
    assert driver.finish()[-1] == "complete" and not disagreements(folder, 60)
    fault("SIGINT, SIGTERM, SIGINT twice", f"exit status 3 each time, gone on with; {AGREE}")


@pytest.fixture
def disk(place: Path) -> Iterator[tuple[Path, Path, list[str]]]:
    """A small disk that only those see who are started by these words: its place, and the same as it is seen from here."""
    (where := place / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=48m none "$0" && echo ready && exec sleep 3600'
    holder = subprocess.Popen(["unshare", "-m", "sh", "-c", mount, where], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        if holder.stdout.readline().strip() != "ready":
            pytest.skip("no right to mount a tmpfs")
        seen = Path(f"/proc/{holder.pid}/root", *where.parts[1:])
        yield where, seen, ["nsenter", "-t", str(holder.pid), "-m", "--"]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoints", "everything"])
def test_a_full_disk_is_waited_out(
    place: Path, disk: tuple[Path, Path, list[str]], what: str, fault: Note
) -> None:
    """The disk of the checkpoints, or that of the whole output folder, is filled while trials write, and freed again."""
    where, seen, words = disk
    environment = {**QUICK, "RAY_TMPDIR": str(place / "r")}
    if what == "checkpoints":
        environment["STORAGE"] = str(where)
        folder = found = place / "out" / "full"
    else:
        folder, found = where / "out" / "full", seen / "out" / "full"
    found.parent.mkdir()
    driver = TinyDriver(folder, 30, environment, words, max_concurrent=2)
    driver.until(3)
    filler = seen / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    time.sleep(12)
    ended = driver.ended()
    filler.unlink()
    lines = driver.finish()
    assert lines[-1] == "complete", lines[-20:]
    assert any("No space left" in line or "is full" in line for line in lines), lines
    if what == "everything":  # sqlite opens nothing below /proc
        shutil.copytree(found.parent, place / "copy")
        found = place / "copy" / "full"
    assert driver.ended() > ended and not disagreements(found, 30)
    assert not any(record.status == "failed" for record in read_records(found))
    fault(f"the disk of {what} full for 12 s (tmpfs), freed again", f"the search went on; {AGREE}")


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["at the start", "for 30 s", "at the end"])
def test_a_dead_mlflow_server_is_not_waited_for(place: Path, dead: str, fault: Note) -> None:
    folder, port = place / "out" / "tracked", free_port()
    folder.parent.mkdir()
    uri = f"http://127.0.0.1:{port}"
    environment = {**QUICK, "RAY_TMPDIR": str(place / "r"), "TRACKING_URI": uri}
    server = None if dead == "at the start" else served(place, port)
    try:
        driver = TinyDriver(folder, 30, environment, max_concurrent=2)
        driver.until(3)
        if server is not None:
            stop(server)
            ended = driver.ended()
            driver.until(min(30, ended + 3))  # nobody waits for it
        if dead == "for 30 s":
            time.sleep(30)
        if dead != "at the end":
            server = served(place, port)
        lines = driver.finish()
        assert driver.process.returncode == 0, lines[-20:]
        if "MLflow has all" not in lines[-2]:  # then the next start makes up for it
            server = server if dead != "at the end" else served(place, port)
            again = TinyDriver(folder, 30, environment, max_concurrent=2)
            assert "MLflow has all" in again.finish()[-2], again.lines
        assert not disagreements(folder, 30, uri)
    finally:
        if server is not None:
            stop(server)
    fault(f"the MLflow server dead {dead}", f"trials went on meanwhile; afterwards {AGREE}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def served(place: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server that answers."""
    import urllib.request

    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "artifacts")],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2),
        ):
            return process
        time.sleep(0.2)
    raise AssertionError("no MLflow server")


def stop(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_the_folder_of_a_killed_cluster_goes_with_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that of a living one stays."""
    from pipeline.cluster.session import session_folder

    monkeypatch.setenv("RAY_TMPDIR", str(place))
    child = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cluster.session import session_folder; import time\n"
         "with session_folder() as folder: print(folder, flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    theirs = Path(child.stdout.readline().strip())
    (theirs / "session").mkdir()
    with session_folder() as ours:
        assert theirs.is_dir() and ours.is_dir() and ours != theirs
        assert ours.parent.stat().st_mode & 0o077 == 0
    assert theirs.is_dir() and not ours.exists()
    child.kill()
    child.wait()
    with session_folder():
        assert not theirs.exists()
    shutil.rmtree(ours.parent)
