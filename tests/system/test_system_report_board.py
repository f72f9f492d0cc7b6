"""The report's board: which worker ran which trial and which device profiled it, with a mouse, a finger and the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.data import ReportData
from pipeline.report.page import render
from pipeline.report.stored import read_study
from pipeline.study.records import TrialRecord
from pipeline.study.work import Piece
from tests.system.browser import CHROMIUM, CONTRAST, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
RECORDED = Path(__file__).resolve().parents[2] / "examples" / "recorded"
READY = "document.documentElement.dataset.ready === 'true'"
WORKERS = ("rack-b worker 2", "rack-b worker 10", "worker 1", "worker 2")  # in the order of the rows
DEVICES = ("emulated a76 on rack-b, 1", "emulated a76, 1", "emulated a76, 2")
BARS = """[...document.querySelectorAll("#chart-timeline .span")]"""
FOCUSED = "document.activeElement.getAttribute('aria-label')"


def worked(record: TrialRecord, place: int, start: float) -> TrialRecord:
    """Its work: profiled and trained on one worker, compared and profiled again at the end."""
    worker, end = WORKERS[place % 4], start + 70 + 12 * (place % 5)
    pieces = (
        Piece("trial", worker, start, end),
        Piece("profile", DEVICES[place % 3], start + 2, start + 6),
        Piece("run", DEVICES[(place + 1) % 3], end - 5, end - 3),
        Piece("profile", DEVICES[(place + 1) % 3], end - 3, end),
    )
    return replace(record, started=start - 1, ended=end + 1, work=pieces)


def study() -> ReportData:
    """The recorded one as if four workers and three devices had worked on it."""
    data = read_study(RECORDED)[1]
    records = [worked(r, n, 1.7e9 + 10 + 130 * (n // 4) + 3 * (n % 4)) for n, r in enumerate(data.records)]
    return replace(data, records=records, history=None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), 1280, 900) as found:
        found.call("Log.enable")
        yield found


def opened(browser: Browser, data: ReportData, folder: Path) -> None:
    (folder / "page.html").write_text(render(data))
    browser.events.clear()
    browser.open((folder / "page.html").as_uri())
    browser.wait(READY)


def faults(browser: Browser) -> list[Any]:
    browser.evaluate("1")
    bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    return [event for event in browser.events if event.get("method") in bad]


def key(browser: Browser, name: str) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)


def names(browser: Browser) -> list[str]:
    return list(
        browser.evaluate(
            "[...document.querySelectorAll('#chart-timeline .row-name title')].map((t) => t.textContent)"
        )
    )


def test_each_worker_and_each_device_has_a_row_with_what_it_did(browser: Browser, tmp_path: Path) -> None:
    data = study()
    opened(browser, data, tmp_path)
    assert names(browser) == [*WORKERS, *DEVICES]
    assert browser.evaluate("document.getElementById('timeline-text').textContent").startswith(
        "4 workers, 3 devices"
    )
    bars = browser.evaluate(
        f"""{BARS}.map((b) => ({{label: b.getAttribute("aria-label"), hash: b.dataset.hash, kind: b.getAttribute("class"),
          x: b.getBBox().x, y: b.getBBox().y, width: b.getBBox().width}}))"""
    )
    assert len(bars) == 4 * len(data.records)
    rows = sorted({bar["y"] for bar in bars})
    assert len(rows) == 7
    for number, record in enumerate(data.records):
        own = [bar for bar in bars if bar["hash"] == record.hash]
        [ran] = [bar for bar in own if "ran on" in bar["label"]]
        outcome = "front" if record.hash in data.front else record.status
        assert ran["label"].endswith(f"ran on {WORKERS[number % 4]}") and f"s-{outcome} " in ran["kind"]
        assert rows.index(ran["y"]) == number % 4
        profiles = [bar for bar in own if "profiled on" in bar["label"] or "compared" in bar["label"]]
        assert len(profiles) == 3 and all(rows.index(bar["y"]) >= 4 for bar in profiles)
        assert all(ran["x"] - 1 <= bar["x"] <= ran["x"] + ran["width"] + 1 for bar in profiles)
    assert faults(browser) == []


def test_the_board_is_one_stop_of_the_keyboard_and_arrows_go_on_it(browser: Browser, tmp_path: Path) -> None:
    data = study()
    opened(browser, data, tmp_path)
    assert browser.evaluate(f"{BARS}.filter((b) => b.getAttribute('tabindex') === '0').length") == 1
    browser.evaluate("document.querySelector('#chart-timeline .span[tabindex=\"0\"]').focus()")
    assert f"trial {data.records[0].number}, " in browser.evaluate(FOCUSED)
    key(browser, "ArrowRight")
    second = browser.evaluate(FOCUSED)
    assert f"trial {data.records[4].number}, " in second and second.endswith(f"ran on {WORKERS[0]}")
    assert f"ran on {WORKERS[0]}" in browser.evaluate("document.getElementById('tip').innerText")
    key(browser, "ArrowDown")
    assert browser.evaluate(FOCUSED).endswith(f"ran on {WORKERS[1]}")
    for _ in range(5):
        key(browser, "ArrowDown")
    assert browser.evaluate(FOCUSED).endswith(DEVICES[2])
    key(browser, "ArrowDown")  # there is nothing below
    assert browser.evaluate(FOCUSED).endswith(DEVICES[2])
    key(browser, "Home")
    chosen = browser.evaluate("document.activeElement.dataset.hash")
    key(browser, "Enter")
    assert browser.evaluate("document.getElementById('candidate-hash').textContent") == chosen
    pinned = browser.evaluate(
        f"{BARS}.filter((b) => b.classList.contains('pinned')).map((b) => b.dataset.hash)"
    )
    assert pinned == [chosen] * 4
    assert browser.evaluate(f"{BARS}.filter((b) => b.getAttribute('tabindex') === '0').length") == 1
    assert faults(browser) == []


def test_on_a_phone_and_in_both_themes_it_can_be_read_and_tapped(browser: Browser, tmp_path: Path) -> None:
    data = study()
    try:
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True
        )
        opened(browser, data, tmp_path)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        above = browser.evaluate(
            """[...document.querySelectorAll("#chart-timeline .row-name")].map((t) => [t.getBoundingClientRect().bottom,
              t.getBoundingClientRect().right, t.nextElementSibling.getBoundingClientRect().top])"""
        )
        assert all(bottom <= track + 2 and right <= 390 for bottom, right, track in above)
        # A finger beside a bar, on its row.
        x, y, wanted = browser.evaluate(
            f"""(() => {{
              const box = (b) => b.getBoundingClientRect(), bars = {BARS}.filter((b) => b.classList.contains("profile"));
              const apart = (b, o) => box(o).top !== box(b).top || box(o).left < box(b).left || box(o).left > box(b).right + 20;
              const alone = (b) => bars.every((o) => o === b || apart(b, o));
              const b = bars.find((each) => alone(each) && box(each).right < 330);
              b.scrollIntoView({{block: "center"}});
              return [box(b).right + 4, box(b).top + 5, b.dataset.hash]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        assert browser.evaluate("document.getElementById('candidate-hash').textContent") == wanted
        for theme in ("light", "dark"):
            feature = [{"name": "prefers-color-scheme", "value": theme}]
            browser.call("Emulation.setEmulatedMedia", media="", features=feature)
            assert browser.evaluate(CONTRAST)["pale"] == []
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
        browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert faults(browser) == []


def test_trials_of_before_stand_below_and_one_that_runs_goes_on(browser: Browser, tmp_path: Path) -> None:
    data = study()
    old = [replace(record, work=()) for record in data.records[:3]]
    runs = replace(data.records[4], status="running", ended=None, work=data.records[4].work[:2])
    front = [name for name in data.front if name != runs.hash]
    records = [*old, data.records[3], runs, *data.records[5:]]
    opened(browser, replace(data, records=records, front=front), tmp_path)
    lanes = names(browser)[7:]
    assert lanes == ["place not recorded"] * 3  # as many as ran at a time
    label = browser.evaluate(
        f"{BARS}.map((b) => b.getAttribute('aria-label')).filter((l) => l.includes('running') && l.includes('ran on'))"
    )
    begun, last = runs.work[0].begun, max(r.ended or 0 for r in data.records)
    assert label == [f"trial {runs.number}, running, {round(last - begun)} s, ran on {WORKERS[0]}"]
    assert faults(browser) == []


def test_a_place_is_text_whatever_it_is_called(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><b id=owned>\"'&" + "very.long." * 12
    data = study()
    records = [
        replace(r, work=(Piece("trial", hostile, 5.0, 9.0), Piece("profile", "é" * 300, 6.0, 6.0)))
        for r in data.records
    ]
    opened(browser, replace(data, records=records), tmp_path)
    assert (
        names(browser) == [hostile, "é" * 300]
        and browser.evaluate("document.getElementById('owned')") is None
    )
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    cut = browser.evaluate(
        "[...document.querySelectorAll('#chart-timeline .row-name')].map((t) => t.getBoundingClientRect().left)"
    )
    assert all(left >= 0 for left in cut), cut
    assert faults(browser) == []
