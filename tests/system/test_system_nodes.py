"""A cluster of three nodes that share nothing: the two that train see neither the study's folder nor the data, the weights and
the person's own module, have no compiler's cache, and one of them is killed in the middle."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy_arm.target.toolchain import is_arm
from pipeline.candidate.folder import load_candidate
from pipeline.study.study import read_records
from tests.kept import Note
from tests.s3 import s3_server
from tests.system.nodes import Nodes, documented, hiding
from tests.system.small_task import FLAGS, write_small_task

PATIENCE = 600.0  # seconds for what takes a minute on an idle machine
pytestmark = pytest.mark.skipif(
    hiding() is None, reason="no mounts of one's own here, so no node from which a folder is hidden"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    hidden = tmp_path_factory.mktemp("the driver's own")
    elsewhere = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: sockets lie there
    write_small_task(hidden)
    started = Nodes(hidden, elsewhere)
    try:
        yield started
    finally:
        started.end()
        shutil.rmtree(elsewhere, ignore_errors=True)


def until_a_rung(cluster: Nodes, *studies: str, running: subprocess.Popen[str]) -> None:
    """Wait until a trial of one of the studies has kept its first."""
    until(
        lambda: any(list(cluster.hidden.glob(f"runs/{study}/trials/*/checkpoint-*")) for study in studies),
        running,
    )


def until(reached: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Wait for it while the command runs."""
    deadline = time.monotonic() + PATIENCE
    while running.poll() is None and time.monotonic() < deadline:
        if reached():
            return
        time.sleep(0.02)
    running.kill()
    raise AssertionError(f"it never came to that: {running.communicate()[0]}")


def trained_at(study: Path) -> dict[str, set[str]]:
    """Of each trial, the nodes that have done something for it, by their workers' names."""
    records = read_records(study, running=True) if (study / "study.db").exists() else []
    return {
        record.hash: {piece.place for piece in record.work if piece.kind == "trial"} for record in records
    }


def whole(study: Path) -> list[str]:
    """The hashes of the trials that count, all of them there with their files, once."""
    records = read_records(study)
    assert {record.status for record in records} <= {"finished", "stopped", "dominated"}, records
    for record in (record for record in records if record.status == "finished"):
        candidate = load_candidate(study / "candidates" / record.hash)
        assert candidate.blob.stat().st_size == record.figures.size_bytes
    assert json.loads((study / "front.json").read_text())["points"]
    assert not list(study.glob("candidates/*.tar")) and not list(study.glob("trials/*"))
    # One may be stopped as the worse one: by chance of who comes first.
    ended = [record.hash for record in records if record.status in ("finished", "stopped")]
    assert len(ended) == len(set(ended))
    return ended


def untouched(cluster: Nodes) -> None:
    """What the living nodes see where the driver's folder is: nothing was written there."""
    for node in cluster.living():
        assert not list(Path(f"/proc/{cluster.nodes[node].pid}/root{cluster.hidden}").iterdir())


def test_nodes_that_share_nothing_train_and_one_of_them_dies(cluster: Nodes, fault: Note) -> None:
    nodes = cluster.need(2)
    search = cluster.search(*FLAGS, "--out", "runs", cwd=cluster.hidden)
    study = cluster.hidden / "runs" / "study"
    until_a_rung(cluster, "study", running=search)
    until(lambda: len(set().union(*trained_at(study).values())) == 2, search)
    cluster.kill(nodes[0])
    said, _ = search.communicate(timeout=PATIENCE)
    assert search.returncode == 0 and "Traceback" not in said, said
    assert len(whole(study)) == 3, said
    places = trained_at(study)
    assert all(places.values()) and len(set().union(*places.values())) == 2, places
    assert all(re.fullmatch(r".+ worker 1", place) for found in places.values() for place in found), places
    untouched(cluster)
    for node in nodes:  # nobody compiled or trained the fp32 network there
        assert not list(cluster.cache(node).rglob("a76-*"))
    fault(
        "one of two nodes that train SIGKILLed, its trial after its first rung",
        "all three trials there, once; the other node went on with it",
    )


@pytest.mark.slow
def test_two_nodes_that_share_nothing_train_one_trial_together(cluster: Nodes) -> None:
    """Each has one processor, so a trial of two workers is on both."""
    assert len(cluster.need(2)) == 2
    flags = [*FLAGS, "--workers-per-trial", "2", "--rungs", "2", "--budget", "2"]
    flags[flags.index("study")] = "together"
    search = cluster.search(*flags, "--out", "runs", cwd=cluster.hidden)
    said, _ = search.communicate(timeout=PATIENCE)
    assert search.returncode == 0 and "Traceback" not in said, said
    assert len(whole(cluster.hidden / "runs" / "together")) == 2, said
    assert all(record.curve for record in read_records(cluster.hidden / "runs" / "together"))
    untouched(cluster)


@pytest.mark.slow
def test_a_submitted_job_searches_as_the_documented_line_says(cluster: Nodes) -> None:
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    cluster.need(1)
    line = documented("job", "submit").replace("http://127.0.0.1:8265", cluster.jobs)
    line = line.replace("STUDY", "submitted").replace("/shared/runs", shlex.quote(f"{cluster.hidden}/runs"))
    line = line.removesuffix("--model resnet20")
    where = str(cluster.hidden)
    flags = [
        "--modules",
        where,
        "--model",
        "mine:network",
        "--data",
        f"npz:{where}/images.npz",
        "--weights",
        f"{where}/network.pt",
    ]
    flags += ["--budget", "1", "--epochs-per-trial", "0.5", "--batch-size", "32", "--bits", "4,8"]
    done = cluster.shell(f"{line} {shlex.join(flags)}")
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout + done.stderr
    assert len(whole(cluster.hidden / "runs" / "submitted")) == 1
    untouched(cluster)


@pytest.mark.slow
def test_a_board_joins_by_the_documented_line_and_is_called_by_its_name(cluster: Nodes) -> None:
    board = cluster.join_board()
    try:
        done = cluster.shell(
            f"RAY_AUTH_MODE=token RAY_ADDRESS={cluster.address} python -m pipeline.devices --format json"
        )
        [row] = json.loads(done.stdout)
        assert row["state"] == "free" and row["source"] == ("measured" if is_arm() else "modelled"), row
        assert not re.search("[0-9a-f]{16}", row["name"])  # as nodes are called by Ray
    finally:
        cluster.kill(board)


SWEEP = """
name: two
defaults: {data: "npz:images.npz", budget: 2, epochs-per-trial: 0.5, batch-size: 32, bits: "4,8"}
searches:
- {model: "mine:network", weights: network.pt}
- {model: "mine:wider", weights: wider.pt}
"""


@pytest.mark.slow
def test_a_sweep_of_jobs_loses_a_node_and_is_killed_and_goes_on(cluster: Nodes, fault: Note) -> None:
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    nodes = cluster.need(2)
    (cluster.hidden / "two.yaml").write_text(SWEEP)
    words = ("pipeline.sweep", "two.yaml", "--jobs", cluster.jobs, "--allow-modelled")
    sweep = cluster.command(*words, cwd=cluster.hidden)
    until_a_rung(cluster, "two-mine-network", "two-mine-wider", running=sweep)
    cluster.kill(nodes[0])
    sweep.kill()
    said, _ = sweep.communicate()
    assert "started; job two-" in said and "Traceback" not in said, said

    sweep = cluster.command(*words, cwd=cluster.hidden)
    said, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode in (0, 1) and "Traceback" not in said, said  # 1: a gate may say no
    folder = cluster.hidden / "runs" / "sweeps" / "two"
    results = json.loads((folder / "results.json").read_text())
    assert [row["word"] for row in results["rows"]] == ["complete", "complete"], said
    for row in results["rows"]:
        assert len(whole(cluster.hidden / "runs" / row["study"])) == 2
        assert row["study"] in (folder / "sweep.html").read_text()
    assert {one["status"] for one in results["gates"].values()} <= {0, 1} and len(results["gates"]) == 2
    untouched(cluster)

    # Once more: nothing is to be done, and nothing has changed.
    said, _ = cluster.command(*words, cwd=cluster.hidden).communicate(timeout=PATIENCE)
    assert "2 of 2 searches complete already" in said and "Nothing has changed since the last run." in said, (
        said
    )
    fault(
        "a sweep of two models as jobs on three nodes: one node and the sweep itself SIGKILLed",
        "both studies complete, each trial there, once; the same command went on, and a third time had nothing to do",
    )


@pytest.mark.slow
def test_what_s3_keeps_makes_the_study_again(cluster: Nodes, fault: Note) -> None:
    """The same with a storage that all nodes reach; then the driver's disk is lost, and the study goes on from the copy."""
    with s3_server() as url:
        cluster.need(2)
        search = cluster.search(*FLAGS, "--out", "lost", "--storage", url, cwd=cluster.hidden)
        said, _ = search.communicate(timeout=PATIENCE)
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
        said, _ = search.communicate(timeout=PATIENCE)
        assert search.returncode == 0 and "Traceback" not in said, said
        assert read_records(study)[: len(before)] == before and len(read_records(study)) > len(before)
    fault(
        "the driver's disk lost, the study made again from an S3 storage",
        "every record and candidate there; the search went on",
    )
