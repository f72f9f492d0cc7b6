"""The soak: a search of tiny trials whose workers are killed every few seconds and whose driver is killed again and again, and
started anew each time, until it is complete. `python -m tests.system.soak TRIALS --csv FILE` runs it and adds a row."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from foundation.files import write_atomically
from pipeline.study.study import read_records

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "SOAK_OF"  # in the environment of every process that belongs to a soak: what is left of it is found by that
PATIENCE = 600.0  # seconds without a line after which a driver hangs


@dataclass
class Soak:
    """What happened, and what was found afterwards."""

    trials: int
    finished: int = 0
    driver_kills: int = 0
    worker_kills: int = 0
    seconds: float = 0.0
    rungs: int = 0
    rungs_done_again: int = 0  # although they were kept
    interrupted: int = (
        0  # trials in flight that a killed driver left behind, which went on under another number
    )
    driver_mib: list[float] = field(default_factory=list)  # the most that each driver held
    left_processes: int = 0
    left_folders: int = 0
    output: list[str] = field(default_factory=list)

    def row(self) -> dict[str, str]:
        """As it stands in a table."""
        kept = {key: str(value) for key, value in dataclasses.asdict(self).items() if isinstance(value, int)}
        first, last = self.driver_mib[0], self.driver_mib[-1]
        memory = {
            "driver_mib_first": f"{first:.0f}",
            "driver_mib_last": f"{last:.0f}",
            "driver_mib_most": f"{max(self.driver_mib):.0f}",
        }
        return {**kept, "seconds": f"{self.seconds:.0f}", **memory}


class TinyDriver:
    """One process of a tiny search. Its output is read by a thread, so that whoever starts it can look at other things."""

    def __init__(
        self,
        folder: Path,
        budget: int,
        environment: dict[str, str],
        before: Sequence[str] = (),
        **options: int,
    ) -> None:
        """``before``: words that the command is started by."""
        words = [f"{key}={value}" for key, value in options.items()]
        path = os.pathsep.join([str(ROOT), str(HERE)])
        self.process = subprocess.Popen(
            [*before, sys.executable, str(HERE / "tiny_search.py"), str(folder), str(budget), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def ended(self) -> int:
        """Trials that ended in this process."""
        return sum(line.startswith("ended") for line in self.lines)

    def until(self, ended: int) -> None:
        """Wait for so many trials to end."""
        while self.ended() < ended and self.process.poll() is None:
            time.sleep(0.02)
        assert self.ended() >= ended, "\n".join(self.lines)

    def finish(self, timeout: float = PATIENCE) -> list[str]:
        """All lines, once the process has ended."""
        self.process.wait(timeout)
        self._reader.join(30)
        return self.lines

    def workers(self) -> list[psutil.Process]:
        """The processes of its trials."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # Tune's name of the class while it works, ours while it is made.
                    if {"ResourceTrainable", "TinyTrial"} & set(
                        re.findall(r"\w+", " ".join(process.cmdline()))
                    ):
                        found.append(process)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def soak(
    folder: Path,
    trials: int,
    *,
    sessions: Path,
    worker_every: float = 4.0,
    driver_every: float = 60.0,
    within: float = float("inf"),
    kills: tuple[float, float] = (float("inf"), float("inf")),
    seed: int = 0,
) -> Soak:
    """Run it.

    Args:
        folder: the study's.
        sessions: where Ray puts its folders; a short path.
        worker_every: seconds on average until a worker is killed, from when some worker has begun to work since the last kill:
            where the machine is slow, nobody would get further.
        driver_every: seconds until a driver is killed, from its first trial on.
        kills: of drivers and of workers at most: where the machine is slow, it would not come to an end.
        within: seconds after which no more trials are asked for than there are by then, and some.
    """
    found, chance, mark = Soak(trials), random.Random(seed), f"{os.getpid()}-{time.time_ns()}"
    environment = {MARK: mark, "RAY_TMPDIR": str(sessions)}
    log = folder / "steps.log"
    began = time.monotonic()
    while True:
        if time.monotonic() > began + within:
            found.trials = trials = min(trials, len(records(folder)) + 5)
            within = float("inf")
        driver = TinyDriver(folder, trials, environment, max_concurrent=2)
        try:
            most, heard, lines, size = 0.0, time.monotonic(), 0, size_of(log)
            worker_at = driver_at = float("inf")
            while driver.process.poll() is None and (
                time.monotonic() < driver_at or found.driver_kills >= kills[0]
            ):
                time.sleep(0.2)
                now = time.monotonic()
                with contextlib.suppress(psutil.Error):
                    most = max(most, psutil.Process(driver.process.pid).memory_info().rss / 2**20)
                if len(driver.lines) > lines:
                    heard, lines = now, len(driver.lines)
                assert now < heard + PATIENCE, "the driver hangs:\n" + "\n".join(driver.lines[-20:])
                if worker_at == float("inf") and size_of(log) > size:
                    if found.worker_kills < kills[1]:
                        worker_at = now + chance.expovariate(1 / worker_every)
                    driver_at = min(driver_at, now + driver_every)
                if now >= worker_at and (workers := driver.workers()):
                    with contextlib.suppress(psutil.Error):
                        chance.choice(workers).kill()
                        found.worker_kills += 1
                    worker_at, size = float("inf"), size_of(log)
        finally:
            ended = driver.process.poll() is not None
            if not ended:
                driver.kill()
        found.driver_kills += not ended
        found.driver_mib.append(most)
        found.output += driver.finish()
        done = len(records(folder))
        print(f"{time.monotonic() - began:.0f} s: {done} of {trials} ended", file=sys.stderr, flush=True)
        if ended:
            assert driver.process.returncode == 0, "\n".join(driver.lines[-40:])
            break
    found.seconds = time.monotonic() - began
    found.finished = sum(record.status == "finished" for record in read_records(folder))
    found.interrupted = len(read_records(folder, interrupted=True)) - len(read_records(folder))
    found.rungs, found.rungs_done_again = rungs_of(folder)
    found.left_processes = len(left_of(mark))
    found.left_folders = len(session_folders(sessions))
    return found


def size_of(log: Path) -> int:
    """Bytes of what was noted by now."""
    return log.stat().st_size if log.exists() else 0


def records(folder: Path) -> list[object]:
    """The trials that ended; none where there is no study yet."""
    return [*read_records(folder)] if (folder / "study.db").exists() else []


def left_of(mark: str, patience: float = 30.0) -> list[str]:
    """The processes with that mark that are still there after a while, by their command lines."""
    end = time.monotonic() + patience
    while (found := list(_marked(mark))) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def _marked(mark: str) -> Iterator[str]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield " ".join(process.cmdline())


def session_folders(home: Path) -> list[Path]:
    """The folders that clusters have left."""
    return [path for below in home.glob("dgms-ray-*") for path in below.iterdir() if path.is_dir()]


def rungs_of(folder: Path) -> tuple[int, int]:
    """Rungs that were worked on, and those of them that had been kept before."""
    kept: set[tuple[str, str]] = set()
    again = works = 0
    for line in (folder / "steps.log").read_text().splitlines():
        name, what, rung, _ = line.split()
        works += what == "works"
        again += what == "works" and (name, rung) in kept
        if what == "kept":
            kept.add((name, rung))
    return works, again


def disagreements(folder: Path, trials: int, uri: str | None = None) -> list[str]:
    """Where study, MLflow, storage and front of an ended tiny search do not say the same: nothing is lost, nothing twice."""
    import json

    import optuna
    from mlflow import MlflowClient

    from pipeline.candidate.folder import load_candidate
    from pipeline.review.tags import FRONT
    from pipeline.study.paths import sqlite_uri
    from pipeline.study.study import front_of

    found, ended = [], read_records(folder)
    names = [record.hash for record in ended]
    if Counter(record.status for record in ended) != {"finished": trials} or len(set(names)) != trials:
        found.append(f"study: {Counter(record.status for record in ended)}, {len(set(names))} plans")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="search", storage=sqlite_uri(folder / "study.db"))
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    if states["RUNNING"] or states["COMPLETE"] != trials:
        found.append(f"Optuna: {states}")
    client = MlflowClient(uri or sqlite_uri(folder.parent / "mlflow.db"))
    experiment = client.get_experiment_by_name("dgms-arm-search")
    assert experiment is not None
    mine = f"tags.study = '{folder.name}'"
    runs = [
        run
        for kind in ("search", "trial")
        for run in client.search_runs([experiment.experiment_id], f"{mine} and tags.kind = '{kind}'", max_results=5000)
    ]  # fmt: skip
    tracked = sorted(run.data.tags["candidate"] for run in runs if run.data.tags["kind"] == "trial")
    if tracked != sorted(names):
        found.append(
            f"MLflow: {len(tracked)} runs of {len(set(tracked))} candidates, the study has {len(names)}"
        )
    if [run.info.status for run in runs if run.data.tags["kind"] == "search"] != ["FINISHED"]:
        found.append("MLflow: the search's run is not finished")
    candidates = list((folder / "candidates").iterdir())
    if sorted(path.name for path in candidates) != sorted(names):
        found.append(f"storage: {len(candidates)} folders of candidates, half-written ones among them")
    for path in candidates:
        load_candidate(path)
    if left := [*(folder / "trials").iterdir()] if (folder / "trials").exists() else []:
        found.append(f"storage: {len(left)} trials have left something behind")
    front = json.loads((folder / "front.json").read_text())
    wanted = {record.hash for record in front_of(ended, ("error", "latency", "size"))}
    if {point["hash"] for point in front["points"]} != wanted:
        found.append(f"front.json has {len(front['points'])} candidates, the study {len(wanted)}")
    on = {run.data.tags["candidate"] for run in runs if run.data.tags.get(FRONT) == "true"}
    if on != wanted:
        found.append(f"MLflow has {len(on)} candidates on the front, the study {len(wanted)}")
    return found


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", type=int)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then it ends with fewer trials")
    asked = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as place:
        folder = Path(place, "out", "soak")
        folder.parent.mkdir()
        found = soak(folder, asked.trials, sessions=Path(place, "r"), within=60 * asked.minutes)
        wrong = disagreements(folder, found.trials)
    row = {**found.row(), "disagreements": str(len(wrong))}
    print("\n".join([*wrong, *(f"{key}: {value}" for key, value in row.items())]))
    if asked.csv is not None:
        keep_row(asked.csv, row)
    return int(bool(wrong))


def keep_row(path: Path, row: dict[str, str]) -> None:
    """Add a row to a table; the one of as many trials is replaced."""
    before = []
    if path.exists():
        with path.open(newline="") as file:
            before = [old for old in csv.DictReader(file) if old["trials"] != row["trials"]]
    lines = [",".join(row), *(",".join(each.get(key, "") for key in row) for each in (*before, row))]
    write_atomically(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
