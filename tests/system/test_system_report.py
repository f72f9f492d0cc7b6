"""The report as a person uses it at 1280 pixels: with a real mouse and a real keyboard, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.report.data import ReportData
from pipeline.report.page import render
from pipeline.review.fronts import front_json
from pipeline.review.recommendation import Recommendation, recommend
from pipeline.study.records import OBJECTIVES, Figures, Reference, TrialRecord
from pipeline.training.rung import Rung
from tests.system.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
LONG = (
    "the worker died: it ran out of memory on batch 17; the machine has 24.0 GiB, it wanted 31.2 GiB; " * 5
    + "unbroken" * 30
)
IMAGES = 299


def trial(number: int, error: float | None, latency: float, reason: str | None = None) -> TrialRecord:
    plan = Plan({"conv1": LayerPlan(8), "fc": LayerPlan((2, 3, 4)[number % 3], 2 + number // 3)})
    figures = Figures(
        error, latency, 0.9 * latency, 1.2 * latency, "modelled", "emulated a76", 9000 + number, 4096
    )
    curve = () if error is None else (Rung(1 / 30, error + 0.1, 0.5, 3.0), Rung(2 / 30, error, 0.4, 6.0))
    status: Any = "finished" if reason is None else "failed"
    return TrialRecord(number, plan, status, figures, reason, curve, 10.0 * number, 10.0 * number + 5)


# 0 to 3 lie on the same spot, as far as eyes and a mouse can tell, and on that of int8.
RECORDS = [trial(n, 7 / IMAGES, 1.5 + 0.001 * n) for n in range(4)]
RECORDS += [trial(4, 20 / IMAGES, 0.7), trial(5, None, 1.6, LONG), trial(6, 30 / IMAGES, 2.4)]
REFERENCES = [
    Reference("fp32", Figures(6 / IMAGES, 2.9, 2.8, 3.0, "modelled", "emulated a76", 40000)),
    Reference("int8", Figures(7 / IMAGES, 1.502, 1.4, 1.6, "modelled", "emulated a76", 9001)),
]


def recommendation() -> Recommendation:
    return recommend(front_json(RECORDS[:5], REFERENCES, OBJECTIVES, IMAGES), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("report")
    front = [record.hash for record in RECORDS[:5]]
    data = ReportData(
        "a study",
        "resnet8",
        "digits",
        RECORDS,
        REFERENCES,
        front,
        images=IMAGES,
        recommended=recommendation(),
    )
    (folder / "report.html").write_text(render(data))
    with Browser(folder / "profile", 1280, 900) as browser:
        browser.open((folder / "report.html").as_uri())
        browser.wait("document.documentElement.dataset.ready === 'true'")
        yield browser


def mouse(page: Browser, kind: str, x: float, y: float) -> None:
    button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)


def test_reasons_are_whole(page: Browser) -> None:
    """However long: nothing is cut off below, at the right, or beyond the table's edge."""
    seen = page.evaluate("""(() => {
      const scroll = document.querySelector("#trials .scroll"), cells = [...document.querySelectorAll("#trials td:last-child")];
      const right = scroll.getBoundingClientRect().right;
      const text = cells.map((c) => c.querySelector("span")).filter((s) => s.textContent);
      return {width: innerWidth, overflow: scroll.scrollWidth - scroll.clientWidth, texts: text.map((s) => s.textContent),
        beyond: cells.filter((c) => c.getBoundingClientRect().right > right + 1).length,
        cut: text.filter((s) => s.parentElement.scrollWidth > s.parentElement.clientWidth + 1 ||
          s.scrollHeight > s.offsetHeight + 1 || getComputedStyle(s).webkitLineClamp !== "none").length};
    })()""")
    assert seen["texts"] == [LONG] and seen["width"] == 1280
    assert (seen["overflow"], seen["beyond"], seen["cut"]) == (0, 0, 0)


def test_figures_have_the_digits_that_they_are_worth(page: Browser) -> None:
    cells = page.evaluate(
        "[...document.querySelector('#trials tr[data-hash]').cells].map((c) => c.innerText)"
    )
    assert cells[3].split("\n") == ["2.3 ± 0.9 %", "+0.3 vs fp32"] and cells[7] == "0.067", cells
    assert "2.3 ± 0.9 %" in page.evaluate("document.getElementById('candidate-figures').innerText")
    assert "0.067 epochs" in page.evaluate("document.getElementById('candidate-figures').innerText")


def test_it_recommends_what_promote_takes_and_says_the_rule(page: Browser) -> None:
    found = recommendation()
    assert found.hash is not None
    text = page.evaluate("document.querySelector('.recommended').innerText")
    assert found.hash in text and found.why in text and "equally fast" in text
    card = page.evaluate(
        "[...document.querySelectorAll('.card')].map((c) => [c.querySelector('.name').innerText, c.dataset.hash])"
    )
    assert card[0] == ["Recommended", found.hash]


@pytest.mark.parametrize("chart", ["chart-latency", "chart-size"])
def test_the_mouse_reaches_every_point_of_a_heap(page: Browser, chart: str) -> None:
    heap = [record.hash for record in RECORDS[:4]]
    where = f"document.querySelector('#{chart} .point[data-hash=\"{heap[0]}\"] .mark')"
    page.evaluate(f"{where}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({where}.getBoundingClientRect())")
    mouse(page, "mouseMoved", x, y)
    tip = page.evaluate(
        "document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText"
    )
    assert all(name in tip for name in [*heap, "int8"]) and "fp32" not in tip.split("points here")[1], tip
    pinned = []
    for _ in heap:
        mouse(page, "mousePressed", x, y)
        mouse(page, "mouseReleased", x, y)
        pinned.append(page.evaluate("document.getElementById('candidate-hash').textContent"))
        shown = page.evaluate("document.querySelector('#tip b').textContent")
        assert shown == pinned[-1]  # what is pinned is what is told
    assert sorted(pinned) == sorted(heap)
    mouse(page, "mouseMoved", 2, 2)
    assert page.evaluate("document.getElementById('tip').hidden")


def test_the_keyboard_reaches_every_point(page: Browser) -> None:
    page.evaluate("document.getElementById('legend').tabIndex = 0, document.getElementById('legend').focus()")
    reached, told = [], set()
    for _ in range(8):
        for kind in ("rawKeyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        focused, tip = (
            page.evaluate("""[document.activeElement.closest("#chart-latency .point")?.getAttribute("aria-label") ?? "",
            document.getElementById("tip").hidden ? "" : document.querySelector("#tip b").textContent]""")
        )
        reached.append(focused)
        told.add(tip)
        if focused.startswith(RECORDS[2].hash):
            for kind in ("rawKeyDown", "keyUp"):
                page.call(
                    "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13
                )
            assert page.evaluate("document.getElementById('candidate-hash').textContent") == RECORDS[2].hash
    drawn = {record.hash for record in RECORDS if record.figures.error is not None} | {"fp32", "int8"}
    assert told == drawn and {label.split(":")[0] for label in reached} == drawn
