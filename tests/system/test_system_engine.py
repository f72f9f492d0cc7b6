"""The engine on real Ray: budgets, failures, kills, interruptions and resuming. Trials take their figures from a table, so
that what is tested is the way of a trial through Tune, the study and back; test_system_trial.py has real trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from tabulated import SPACE

from pipeline.study import FILE, INTERRUPTED, read_records

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Driver:
    """A search in a process of its own; its output is read line by line."""

    def __init__(self, folder: Path, budget: int, step_seconds: float = 0.0, **options: float) -> None:
        path = os.pathsep.join([str(ROOT), str(HERE)])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "tabulated.py"), str(folder), str(budget)]
            + [f"{key}={value}" for key, value in options.items()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "STEP_SECONDS": str(step_seconds)},
        )
        self.output: list[str] = []

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.strip())
            yield line.strip()

    def until_ended(self, count: int) -> list[str]:
        """The hashes of the first ``count`` trials that end."""
        ended = []
        for line in self.lines():
            if line.startswith("ended"):
                ended.append(line.split()[1])
                if len(ended) == count:
                    return ended
        raise AssertionError("\n".join(self.output))

    def rest(self) -> list[str]:
        """All further lines; the process must end well."""
        lines = list(self.lines())
        assert self.process.wait(60) == 0, "\n".join(self.output)
        return lines


def states(folder: Path) -> Counter[str]:
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / FILE}")
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))


def test_a_search_survives_what_happens_to_its_trials(tmp_path: Path) -> None:
    """One trial raises, one process is killed once, another again and again; the others go on."""
    folder = tmp_path / "study"
    folder.mkdir()
    raises, dies_once, dies_always = (plan.hash for plan in SPACE.warm_starts()[1:4])
    (folder / f"{raises}.raise").touch()
    (folder / f"{dies_once}.kill").write_text("1")
    (folder / f"{dies_always}.kill").write_text("99")
    lines = Driver(folder, 9).rest()
    assert lines[-1] == "complete 9"
    assert "latencies are modelled" in lines[1]
    records = {record.hash: record for record in read_records(folder)}
    assert len(records) == 9 and "RUNNING" not in states(folder)
    assert (records[raises].status, records[raises].reason) == ("failed", "ValueError: told to")
    assert records[dies_once].status in ("finished", "stopped") and records[dies_once].curve
    assert records[dies_always].status == "failed"
    assert "died 3 times" in (records[dies_always].reason or "")
    assert sum(record.status == "failed" for record in records.values()) == 2
    log = [line.split() for line in (folder / "steps.log").read_text().splitlines()]
    starts = Counter(name for name, stage, _ in log if stage == "0")
    assert starts == {name: {dies_once: 2, dies_always: 3}.get(name, 1) for name in records}
    processes = Counter(pid for _, stage, pid in log if stage == "0")
    assert max(processes.values()) > 1  # processes are reused


def test_killed_interrupted_and_resumed_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    driver = Driver(folder, 9, step_seconds=0.1)
    ended = driver.until_ended(3)
    loopback_only(driver.process.pid)
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    before = {record.hash: record for record in read_records(folder)}
    assert set(ended) <= set(before)

    driver = Driver(folder, 9, step_seconds=0.1)
    ended += driver.until_ended(2)
    recovered = driver.output[0].split()
    assert int(recovered[1]) == len(before) and int(recovered[2]) >= 1 and recovered[3] == "0"
    driver.process.send_signal(signal.SIGINT)
    lines = driver.rest()
    assert lines[-1].startswith("incomplete")
    assert "RUNNING" not in states(folder)

    lines = Driver(folder, 9).rest()
    assert lines[-1] == "complete 9"
    records = read_records(folder)
    hashes = [record.hash for record in records]
    assert len(set(hashes)) == len(hashes) == 9 and set(ended) <= set(hashes)
    for old in before.values():
        assert old in records  # told once, never touched again
    assert all(record.status in ("finished", "stopped", "dominated") for record in records)
    interrupted = [record for record in read_records(folder, interrupted=True) if record not in records]
    assert interrupted and all(record.reason == INTERRUPTED for record in interrupted)
    assert {record.hash for record in interrupted} <= set(hashes)  # each was tried again
    assert set(states(folder)) <= {"COMPLETE", "PRUNED", "FAIL", "WAITING"}


def loopback_only(driver: int) -> None:
    """Whatever listens among the driver and its children listens on the loopback address only."""
    parent = psutil.Process(driver)
    listening = [
        connection.laddr.ip
        for process in (parent, *parent.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and all(ip.removeprefix("::ffff:").startswith("127.") for ip in listening), listening
    assert (Path.home() / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


@pytest.fixture(autouse=True)
def _no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
