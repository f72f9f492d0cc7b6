"""A real MLflow server on the loopback, and a real browser on its pages."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from deploy_arm.blob.write import write_blob
from deploy_arm.fuzz.networks import random_network
from deploy_arm.ir.reference import run
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.report.data import ReportData
from pipeline.report.page import render
from pipeline.review.champions import Champions
from pipeline.review.store import TrackingError, how_to_look
from pipeline.review.tracking import Tracker
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.training.rung import Rung
from tests.system.browser import CHROMIUM, Browser

HOSTILE = "<script>alert('x')</script>"
READY_SECONDS = 300
PASSWORD = "a-long-secret-1234"


@contextmanager
def serving(folder: Path, *flags: str, **variables: str) -> Iterator[str]:
    """Address of an MLflow server with a store of its own in ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *flags,
    ]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'store.db'}",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **variables,
    }  # no helpers nobody asks for
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [*serve, *stores], stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + READY_SECONDS
        while not answers(address):
            told = (folder / "server.log").read_text()[-2000:]
            assert process.poll() is None and time.monotonic() < end, told
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that lets everybody in."""
    with serving(tmp_path_factory.mktemp("mlflow-server")) as address:
        yield address


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a user and a password."""
    pytest.importorskip("flask_wtf", reason="pip install 'mlflow[auth]' for a server with passwords")
    folder = tmp_path_factory.mktemp("mlflow-guarded")
    said = [
        "[mlflow]",
        "default_permission = MANAGE",
        f"database_uri = sqlite:///{folder / 'auth.db'}",
        "admin_username = admin",
    ]
    said += [
        f"admin_password = {PASSWORD}",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
    ]
    (folder / "auth.ini").write_text("\n".join(said))
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
    }
    with serving(folder, "--app-name", "basic-auth", **own) as address:
        yield address


def test_a_server_with_passwords_holds_a_study_and_serves_its_champion(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address with user and password as a person types it; MLflow's own loader predicts with the champion."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever is said here
        monkeypatch.delenv(name)
    with pytest.raises((UserError, TrackingError), match=r"40[13]|authori[sz]ed|authenticated"):
        Tracker(guarded, tmp_path, "refused").sync(trials()[:1])
    tracker = Tracker(guarded.replace("://", f"://admin:{PASSWORD}@"), tmp_path, "guarded")
    assert PASSWORD not in tracker.uri
    tracker.start({"model": "resnet8"}, {"spec": "digits"})
    records = trials()[:2]
    assert tracker.sync(records, [records[0].hash]) == 2
    graph, images = random_network(3, 2)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.blob").write_bytes(write_blob(graph))
    champions = Champions(tracker, "guarded")
    champions.promote(records[0].hash, "d", bundle, {"gate": "passed"}, "card")
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(guarded)
    try:
        network = mlflow.pyfunc.load_model("models:/guarded@champion")
    finally:
        mlflow.set_tracking_uri(before)
    np.testing.assert_array_equal(network.predict(images), run(graph, images))


def answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5):
            return True
    except (URLError, OSError):
        return False


def trials() -> list[TrialRecord]:
    records = []
    for number in range(7):
        plan = Plan({"conv1": LayerPlan(8), "fc": LayerPlan((2, 3, 4)[number % 3], 2 + number // 3)})
        figures = Figures(0.1 + 0.02 * number, 3.0 - 0.3 * number, 2.5 - 0.3 * number, 3.5 - 0.3 * number, "modelled",
                          "emulated a76", 9000 - 900 * number, 2048, divergence=0.01 * number)  # fmt: skip
        status: Any = "failed" if number == 6 else "finished"
        curve = (Rung(1.0, 0.3, 0.9, 2.0), Rung(2.0, figures.error or 0.0, 0.5, 4.0))
        records.append(
            TrialRecord(
                number, plan, status, figures, HOSTILE if number == 6 else None, curve, 1e9, 1e9 + number
            )
        )
    return records


@pytest.fixture(scope="module")
def study(server: str, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A finished study, written in two goes by two drivers."""
    records, out = trials(), tmp_path_factory.mktemp("runs")
    front = [record.hash for record in records[:6]]
    first = Tracker(server, out, "resnet8-digits")
    first.start({"model": "resnet8", "data": "digits", "sampler": "tpe"}, {"spec": "digits"})
    first.sync(records[:3])
    tracker = Tracker(server, out, "resnet8-digits")
    tracker.start({"model": "resnet8", "data": "digits", "sampler": "tpe"}, {"spec": "digits"})
    assert tracker.sync(records, front) == 4
    references = [Reference("fp32", Figures(0.09, size_bytes=40000))]
    page = render(ReportData("resnet8-digits", "resnet8", "digits", records, references, front))
    candidate = tmp_path_factory.mktemp("candidate")
    (candidate / "program").write_bytes(b"\x7fELF")
    points = [{"hash": r.hash, "error": r.figures.error, "latency_ms": r.figures.latency_ms, "size_bytes": r.figures.size_bytes}
              for r in records[:6]]  # fmt: skip
    shown = {
        "objectives": ["error", "latency", "size"],
        "references": [{"name": "fp32", "error": 0.09}],
        "points": points,
    }
    tracker.finish(shown, page, {front[0]: candidate}, {"trials": 7}, [(n, 0.1 * n) for n in range(7)])
    return tracker


def test_a_server_holds_each_trial_once_and_the_artifacts(study: Tracker) -> None:
    runs = study.client.search_runs([study.experiment], "tags.kind = 'trial'")
    assert sorted(int(run.data.tags["trial_number"]) for run in runs) == list(range(7))
    kept = {item.path for item in study.client.list_artifacts(study.parent)}
    assert {"front.json", "front_table.json", "report.html", "candidates", "settings.json"} <= kept
    best = study.client.search_runs(
        [study.experiment], "tags.`pareto.front` = 'true'", order_by=["metrics.latency_ms ASC"]
    )
    assert [run.data.metrics["latency_ms"] for run in best] == sorted(
        run.data.metrics["latency_ms"] for run in best
    )
    assert len(best) == 6


def test_the_registry_of_a_server_takes_and_gives_back_bundles(study: Tracker, tmp_path: Path) -> None:
    champions = Champions(study, "resnet8-digits-a76")
    for name in ("first", "second"):
        (tmp_path / "bundle").mkdir(exist_ok=True)
        (tmp_path / "bundle" / "program").write_text(name)
        champions.promote(name, name, tmp_path / "bundle", {"gate": "passed"}, "note")
    now, before = champions.rollback()
    assert (now.candidate, before.candidate) == ("first", "second")
    assert (champions.fetch(now, tmp_path / "back") / "program").read_text() == "first"


def test_a_wrong_address_is_told_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="mlflow server"):
        Tracker("http://127.0.0.1:1", tmp_path, "none")
    assert time.monotonic() - start < 30


def distinct_colours(png: bytes) -> int:
    """A blank page has a handful."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at MLflow's pages with")
def test_a_person_sees_the_runs_the_table_and_the_report(study: Tracker, tmp_path: Path) -> None:
    runs = f"{study.uri}/#/experiments/{study.experiment}/runs"
    with Browser(tmp_path / "profile", 2200) as browser:  # columns beyond the edge are not in the page
        browser.open(runs)
        browser.wait("/resnet8-digits[^]*\\d+ matching runs/.test(document.body.innerText)")
        assert distinct_colours(browser.screenshot(tmp_path / "runs.png").read_bytes()) > 200
        browser.open(how_to_look(study.uri, study.front_page))
        heads = "[...document.querySelectorAll('.ag-header-cell-text, [role=columnheader]')].map((h) => h.innerText.trim())"
        wanted = ["error", "latency_ms", "size_bytes", "divergence", "pareto.front", "decision", "source"]
        browser.wait(f"{json.dumps(wanted)}.every((name) => {heads}.includes(name))")
        browser.screenshot(tmp_path / "front.png")
        chosen = [
            run.info.run_id for run in study.client.search_runs([study.experiment], "tags.kind = 'trial'")
        ]
        lists = {"runs": chosen, "experiments": [study.experiment]}
        words = urlencode({name: json.dumps(values, separators=(",", ":")) for name, values in lists.items()})
        browser.open(f"{study.uri}/#/compare-runs?{words}")
        # Each trial is a line across what it chose and what came of it.
        browser.wait("document.body.innerText.includes('Parallel Coordinates Plot')")
        axes = "[...document.querySelectorAll('.parcoords .axis-title')].map((t) => t.textContent)"
        browser.wait(f"{axes}.includes('bits_mean') && {axes}.includes('error')")
        assert all(trial.hash in browser.evaluate("document.body.innerText") for trial in trials()[:1])
        assert distinct_colours(browser.screenshot(tmp_path / "compared.png").read_bytes()) > 200
        browser.open(f"{runs}/{study.parent}/artifacts/front_table.json")
        browser.wait(f"document.body.innerText.includes('{trials()[0].hash}')")
        assert distinct_colours(browser.screenshot(tmp_path / "table.png").read_bytes()) > 200
        browser.open(f"{runs}/{study.parent}/artifacts/report.html")
        frame = "document.querySelector('iframe.mlflow-html-iframe')"
        browser.wait(f"{frame} && {frame}.getBoundingClientRect().height > 100")
        box = browser.evaluate(f"(b => [b.left, b.top, b.right, b.bottom])({frame}.getBoundingClientRect())")
        left, top, right, bottom = (int(value) for value in box)
        end = time.monotonic() + 120
        while True:  # the frame is sealed off from the page around it: what it shows can only be seen
            png = browser.screenshot(tmp_path / "report.png").read_bytes()
            inside = Image.open(io.BytesIO(png)).convert("RGB").crop((left, top, right, bottom))
            accent = (np.abs(np.asarray(inside).astype(int) - (0x0B, 0x6B, 0x74)).max(axis=2) < 12).sum()
            if (
                accent > 200
            ):  # "SEARCH REPORT", the pinned card and, when it fits, the front are drawn in this colour
                break
            assert time.monotonic() < end, (
                f"the report stays blank in MLflow's viewer ({accent} pixels of its colour)"
            )
            time.sleep(0.2)
        assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
