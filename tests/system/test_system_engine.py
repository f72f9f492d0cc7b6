"""The engine on real Ray: budgets, failures, kills, interruptions and resuming. Trials take their figures from a table, so
that what is tested is the way of a trial through Tune, the study and back; test_system_trial.py has real trials."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import pytest

from foundation.show import show_bytes
from pipeline.study.memory import total_memory
from pipeline.study.study import FILE, INTERRUPTED, read_records
from tests.kept import Note
from tests.system.tabulated import SPACE, Driver


def states(folder: Path) -> Counter[str]:
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / FILE}")
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))


def test_a_search_survives_what_happens_to_its_trials(tmp_path: Path, fault: Note) -> None:
    """One trial raises, one process is killed once, one while it starts, another again and again; the others go on."""
    folder = tmp_path / "study"
    folder.mkdir()
    starting, raises, dies_once, dies_always = (plan.hash for plan in SPACE.warm_starts()[:4])
    (folder / f"{starting}.start").write_text("1")
    (folder / f"{raises}.raise").touch()
    (folder / f"{dies_once}.kill").write_text("1")
    (folder / f"{dies_always}.kill").write_text("99")
    lines = Driver(folder, 9).rest()
    assert lines[-1] == "complete 9"
    assert "latencies are modelled" in lines[1]
    assert "Traceback" not in "".join(lines) and "ray." not in "".join(lines).lower()
    for plan, deaths in ((starting, 1), (dies_once, 1), (dies_always, 2)):
        again = [line for line in lines if line.startswith(plan)]
        assert len(again) == deaths and all("queued again, 1 at a time" in line for line in again), lines
    records = {record.hash: record for record in read_records(folder)}
    assert len(records) == 9 and "RUNNING" not in states(folder)
    assert (records[raises].status, records[raises].reason) == ("failed", "ValueError: told to")
    assert records[starting].status in ("finished", "stopped")
    assert records[dies_once].status in ("finished", "stopped") and records[dies_once].curve
    assert records[dies_always].status == "failed"
    assert "died 3 times" in (records[dies_always].reason or "")
    assert sum(record.status == "failed" for record in records.values()) == 2
    log = [line.split() for line in (folder / "steps.log").read_text().splitlines()]
    starts = Counter(name for name, stage, _ in log if stage == "0")
    assert starts == {name: {dies_once: 2, dies_always: 3}.get(name, 1) for name in records}
    processes = Counter(pid for _, stage, pid in log if stage == "0")
    assert max(processes.values()) > 1  # processes are reused
    fault(
        "nine trials: one raises, one is SIGKILLed once, one while it starts, one each time",
        "all nine ended, once: those killed once finished, the other two failed with the reason",
    )


@pytest.mark.alone
@pytest.mark.parametrize("when", ["eat", pytest.param("start_eat", marks=pytest.mark.slow)])
def test_ray_kills_for_memory_and_the_search_goes_on(tmp_path: Path, when: str, fault: Note) -> None:
    """One trial takes far more than there is to be, once: Ray's own memory monitor kills it in the middle of its work, or while
    it starts."""
    folder = tmp_path / "study"
    folder.mkdir()
    hungry = SPACE.warm_starts()[1 if when == "eat" else 0].hash  # a process is started for the first alone
    (folder / f"{hungry}.{when}").write_text("1")
    memory = psutil.virtual_memory()
    if memory.available < 8 * 2**30:
        pytest.skip("needs 8 GiB of free memory")
    # Above what other tests beside this one may come to take meanwhile, below what the trial takes.
    room = min(memory.available / 2, 8 * 2**30)
    threshold = (memory.total - memory.available + room) / memory.total
    driver = Driver(folder, 3, environment={"RAY_memory_usage_threshold": f"{threshold:.4f}"})
    lines = driver.rest()
    assert lines[-1] == "complete 3" and "Traceback" not in "".join(lines)
    assert any(
        line.startswith(f"{hungry} was killed for memory") and "queued again" in line for line in lines
    )
    assert {record.status for record in read_records(folder)} <= {"finished", "stopped"}
    moment = "while it starts" if when == "start_eat" else "in the middle"
    fault(
        f"a trial takes too much memory {moment}: killed by Ray's memory monitor",
        "it was tried again alone and ended; its neighbours too",
    )


def test_what_does_not_fit_alone_ends_the_search_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    for plan in SPACE.warm_starts():
        (folder / f"{plan.hash}.greedy").touch()
    driver = Driver(folder, 3, max_concurrent=1)
    lines = list(driver.lines())
    assert driver.process.wait(60) == 2
    [error] = [line for line in lines if line.startswith("error")]
    assert "one trial alone does not fit" in error and "it wanted 4096.0 GiB more" in error
    assert f"of {show_bytes(total_memory())}" in error and "Traceback" not in "".join(lines)
    assert "RUNNING" not in states(folder) and not read_records(folder)


def test_killed_interrupted_and_resumed_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    driver = Driver(folder, 9, step_seconds=0.1)
    ended = driver.until_ended(3)
    loopback_only(driver.process.pid)
    no_idle_services(driver.process.pid)
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


def asked(driver: int, question: Callable[[psutil.Process], list[str]]) -> list[str]:
    """The answers of the driver and of its children; one that ends meanwhile, as Ray's workers do, has none."""
    parent, answers = psutil.Process(driver), []
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            answers += question(process)
    assert parent.is_running()
    return answers


def loopback_only(driver: int) -> None:
    """Whatever listens among the driver and its children listens on the loopback address only."""
    listening = asked(
        driver,
        lambda process: [
            connection.laddr.ip
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ],
    )
    assert listening and all(ip.removeprefix("::ffff:").startswith("127.") for ip in listening), listening
    assert (Path.home() / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def no_idle_services(driver: int) -> None:
    """None of Ray's services runs that a cluster of one driver on one machine has no use for."""
    running = " ".join(asked(driver, psutil.Process.cmdline))
    assert "raylet" in running and "dashboard.py" not in running and "monitor.py" not in running


@pytest.fixture(autouse=True)
def _no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
