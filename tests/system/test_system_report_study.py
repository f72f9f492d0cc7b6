"""A recorded study's page as a person uses it: made by the command from the folder alone, explored, followed while it changes."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.report.page import render
from pipeline.report.stored import read_study
from pipeline.study.records import Figures, TrialRecord
from tests.system.browser import CHROMIUM, CONTRAST, Browser
from tests.system.own_folder import command_here

RECORDED = Path(__file__).resolve().parents[2] / "examples" / "recorded"
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
READY = "document.documentElement.dataset.ready === 'true'"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded study under another name, elsewhere."""
    folder = tmp_path_factory.mktemp("moved") / "it's a #1 ü"
    shutil.copytree(RECORDED, folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), 1280, 900) as found:
        found.call("Log.enable")
        yield found


@pytest.fixture
def page(browser: Browser, moved: Path) -> Browser:
    """The recorded study's page, opened anew; what the browser said before is forgotten."""
    file = moved.parent / "page.html"
    if not file.exists():
        file.write_text(render(read_study(moved)[1]))
    browser.events.clear()
    browser.open(file.as_uri())
    browser.wait(READY)
    return browser


def faults(browser: Browser) -> list[Any]:
    """What went wrong in the page, and whom it asked for anything."""
    browser.evaluate("1")  # what was said until now has arrived
    bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    asked = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e.get("method") == "Network.requestWillBeSent"
    ]
    asked = [url for url in asked if not url.startswith(("file:", "data:", "about:"))]
    return [e for e in browser.events if e.get("method") in bad] + asked


def key(page: Browser, name: str, code: int) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)


def test_the_recorded_study_is_small_and_names_no_machine() -> None:
    files = [file for file in RECORDED.rglob("*") if file.is_file() and file.name != "report.html"]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    content = {file: file.read_bytes() for file in files}
    assert not [
        f for f, text in content.items() if any(p in text for p in (b"/tmp", b"/work", b"/root", b"/home"))
    ]
    front, data = read_study(RECORDED)
    assert (
        len(data.records) >= 10
        and len(front["points"]) >= 4
        and {r.name for r in data.references} == {"fp32", "int8"}
    )
    assert all(data.reviews[h].operations and data.reviews[h].answers["confusion"] for h in data.front)


def test_the_command_makes_the_page_from_a_moved_folder(moved: Path, tmp_path: Path) -> None:
    before = sorted(file.name for file in moved.iterdir())
    done = command_here(
        "report.__main__", moved.name, "--out", tmp_path / "new" / "page.html", cwd=moved.parent
    )
    front, _ = read_study(moved)
    assert done.returncode == 0, done.stderr
    assert all(point["hash"] in done.stdout for point in front["points"])
    text = (tmp_path / "new" / "page.html").read_text()
    assert front["recommended"]["hash"] in text and "connect-src" not in text
    assert sorted(file.name for file in moved.iterdir()) == before  # a study is looked at, not changed


@pytest.mark.parametrize(
    "words",
    [("pipeline.report.__main__", "{study}", "--out", "{page}"), ("pipeline.studies", "show", "{study}")],
    ids=("report", "studies"),
)
def test_looking_at_a_study_does_not_load_pytorch(
    moved: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Which takes seconds, to look for less than one."""
    module, *rest = (word.format(study=moved, page=tmp_path / "page.html") for word in words)
    script = (
        f"import sys; sys.modules['torch'] = None; from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *rest], capture_output=True, text=True, cwd=RECORDED.parents[1]
    )
    assert done.returncode == 0 and read_study(moved)[0]["points"][0]["hash"] in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda study: shutil.rmtree(study), "there is no folder"),
        (lambda study: (study / "study.db").unlink(), "holds no study"),
        (lambda study: (study / "study.db").write_bytes(b"x" * 5000), "no database of a study, or damaged"),
        (lambda study: (study / "references.json").write_text("{"), "references.json cannot be read"),
        (lambda study: (study / "settings.yaml").write_text("max_latency: soon"), "settings of another kind"),
        (lambda study: (study / "report.html").mkdir(), "is a folder; give the name of a file"),
    ],
)
def test_what_is_wrong_with_a_study_is_told_in_a_line(tmp_path: Path, damage: Any, told: str) -> None:
    shutil.copytree(RECORDED, tmp_path / "study")
    damage(tmp_path / "study")
    done = command_here("report.__main__", "study", cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_study_that_lacks_what_newer_ones_have_is_shown(tmp_path: Path) -> None:
    study = tmp_path / "old"
    shutil.copytree(RECORDED, study)
    for name in ("settings.yaml", "split.json", "sensitivity.json", "references.json"):
        (study / name).unlink()
    shutil.rmtree(study / "candidates")
    front, data = read_study(study)
    assert data.study == "old" and len(front["points"]) >= 4 and not any(data.details.values())
    assert "old" in render(data)


@in_browser
def test_the_slider_and_a_frame_choose_in_all_plots(page: Browser) -> None:
    outside = "[...document.querySelectorAll('#chart-size .point.outside')].map((p) => p.dataset.hash).sort()"
    rows = """[...document.querySelectorAll('#trials tbody tr[data-hash]')].filter((r) => r.hidden)
      .map((r) => r.dataset.hash).sort()"""
    data = read_study(RECORDED)[1]
    fp32 = next(r.figures.error for r in data.references if r.name == "fp32")
    errors = {r.hash: r.figures.error for r in data.records if r.figures.error is not None}
    assert page.evaluate(outside) == [] and fp32 is not None
    page.evaluate(
        "(s => { s.value = 50; s.dispatchEvent(new Event('input')); })(document.getElementById('lost'))"
    )
    bound = float(page.evaluate("document.getElementById('lost-text').textContent").split()[0])
    lost = sorted(name for name, error in errors.items() if 100 * (error - fp32) > bound + 1e-6)
    assert 0 < len(lost) < len(errors) and page.evaluate(outside) == lost
    unknown = sorted(r.hash for r in data.records if r.figures.error is None)
    assert page.evaluate(rows) == sorted([*lost, *unknown])
    page.evaluate("document.getElementById('unbrush').click()")
    assert page.evaluate(outside) == [] and page.evaluate("document.getElementById('lost').value") == "100"
    # A frame around the left half of the plot of latencies, which chooses in that of sizes.
    page.evaluate("document.getElementById('chart-latency').scrollIntoView({block: 'center'})")
    box = page.evaluate(
        "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#chart-latency .brush-area').getBoundingClientRect())"
    )
    x, y, width, height = box
    edges = [(x + 1, y + 1), (x + width * 0.2, y + height - 1)]
    for kind, (a, b) in zip(("mousePressed", "mouseMoved", "mouseReleased"), (edges[0], edges[1], edges[1])):
        page.call("Input.dispatchMouseEvent", type=kind, x=a, y=b, button="left", buttons=1, clickCount=1)
    left = f"""[...document.querySelectorAll('#chart-latency .point[data-hash]')].filter((p) => {{
      const b = p.querySelector('.mark').getBoundingClientRect();
      return b.x + b.width / 2 > {edges[1][0]}; }}).map((p) => p.dataset.hash).sort()"""
    assert 0 < len(page.evaluate(outside)) < len(errors) and page.evaluate(outside) == page.evaluate(left)
    assert "on the front" in page.evaluate("document.getElementById('chosen').innerText")
    key(page, "Escape", 27)
    assert page.evaluate(outside) == [] and page.evaluate("document.querySelectorAll('.brush').length") == 0
    assert faults(page) == []


@in_browser
def test_two_candidates_stand_side_by_side(page: Browser) -> None:
    data = read_study(RECORDED)[1]
    own = page.evaluate("document.getElementById('candidate-hash').textContent")
    other = next(name for name in data.front if name != own)
    page.evaluate(
        f"(s => {{ s.value = '{other}'; s.dispatchEvent(new Event('change')); }})(document.getElementById('other'))"
    )
    seen = page.evaluate("""({heads: [...document.querySelectorAll('#beside-table thead th')].map((h) => h.innerText),
      rows: document.querySelectorAll('#layers .row').length, columns: document.querySelectorAll('#layers .titles span').length,
      pairs: document.querySelector('#layers .row').querySelectorAll('.two').length,
      titles: document.querySelector('#layers .titles').innerText})""")
    plan = next(r.plan for r in data.records if r.hash == own)
    assert seen["heads"] == [own, other, "Difference"] and seen["rows"] == len(plan.layers)
    assert seen["pairs"] == seen["columns"] - 2  # all but the name and the number of weights
    assert {"Blocks", "Time", "Bytes"} <= set(seen["titles"].split("\n")), seen["titles"]
    page.evaluate(
        "(s => { s.value = ''; s.dispatchEvent(new Event('change')); })(document.getElementById('other'))"
    )
    assert page.evaluate("document.getElementById('beside').hidden") and faults(page) == []


@in_browser
def test_times_answers_and_the_course_are_those_of_the_files(page: Browser) -> None:
    data = read_study(RECORDED)[1]
    own = page.evaluate("document.getElementById('candidate-hash').textContent")
    review = data.reviews[own]
    rows = page.evaluate(
        """[...document.querySelectorAll('#operations-rows tr')]
          .map((r) => [r.cells[0].innerText, r.cells[1].innerText, r.cells[3].innerText])"""
    )
    slowest = max(review.operations, key=lambda o: o.ms)
    assert (
        len(rows) == len(review.operations)
        and rows[0][0].startswith(slowest.layer)
        and rows[0][1] == slowest.kernel
    )
    assert "foreseen" in rows[0][2]
    cells = page.evaluate(
        "[...document.querySelectorAll('#confusion tbody td')].map((c) => Number(c.innerText))"
    )
    assert cells == [n for row in review.answers["confusion"] for n in row]
    assert page.evaluate(
        "[...document.querySelectorAll('#differing img')].every((i) => i.complete && i.naturalWidth === 32)"
    )
    for over in ("epochs", "minutes", "trials"):
        page.evaluate(
            f"(s => {{ s.value = '{over}'; s.dispatchEvent(new Event('change')); }})(document.getElementById('over'))"
        )
        assert over in page.evaluate(
            "document.querySelector('#chart-history svg').getAttribute('aria-label')"
        )
    assert page.evaluate("document.querySelectorAll('#chart-timeline .span').length") == len(data.records)
    assert faults(page) == []


HEADLESS = """[...document.querySelectorAll("table")].filter((t) => {
  const heads = [...(t.tHead ? t.tHead.querySelectorAll("th") : [])];
  const columns = heads.length && heads.every((h) => h.scope === "col" && h.textContent.trim());
  return t.rows.length && !columns && ![...t.rows].every((r) => r.querySelector("th[scope=row]"));
}).map((t) => t.outerHTML.slice(0, 200))"""
UNREACHED = """[...document.querySelectorAll(".scroll")].filter((s) => s.tabIndex !== 0
  || s.getAttribute("role") !== "region" || !s.getAttribute("aria-label")).map((s) => s.outerHTML.slice(0, 90))"""
UNSAID = """[...document.querySelectorAll("svg [role]")].filter((g) => g.getAttribute("role") !== "group"
  && g.querySelector("text") && !g.getAttribute("aria-label").includes(g.querySelector("text").textContent))
  .map((g) => g.outerHTML.slice(0, 200))"""


@in_browser
def test_every_control_has_a_name_and_nothing_overflows(page: Browser) -> None:
    """By the browser's own accessibility tree; in both themes, on a phone and on paper."""
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    acted = {"button", "slider", "combobox", "link", "checkbox", "region", "figure", "image", "img"}
    nameless = [
        n for n in nodes
        if not n.get("ignored") and n["role"]["value"] in acted - {"figure"} and not n.get("name", {}).get("value")
    ]  # fmt: skip
    kinds = {n["role"]["value"] for n in nodes if not n.get("ignored")}
    assert nameless == [] and {"button", "slider", "combobox", "table", "heading", "main"} <= kinds
    # Tables are told by their heads; what scrolls is reached by the keyboard; what is written on a point is part of its name.
    page.evaluate(
        "(s => { s.value = s.options[1].value; s.dispatchEvent(new Event('change')) })(document.getElementById('other'))"
    )
    assert page.evaluate(HEADLESS) == [] and page.evaluate(UNREACHED) == [] and page.evaluate(UNSAID) == []
    paper = set()
    for theme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": theme}]
        page.call("Emulation.setEmulatedMedia", media="", features=feature)
        pale = page.evaluate(CONTRAST)
        assert pale["texts"] > 300 and pale["pale"] == [], (theme, pale)
        colours = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        light, dark = (sum(map(int, c[4:-1].split(","))) for c in colours)
        assert abs(light - dark) > 450, colours
        paper.add(colours[0])
    assert len(paper) == 2
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.evaluate("getComputedStyle(document.getElementById('tools')).display") == "none"
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    page.wait("document.querySelector('#chart-size svg').viewBox.baseVal.width < 390")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.call("Emulation.clearDeviceMetricsOverride")
    assert faults(page) == []


@in_browser
def test_boxes_of_both_networks_are_drawn_apart_and_told(browser: Browser, tmp_path: Path) -> None:
    """A detector's page: without colours, for who hears it, in both themes, on a phone; names are text whatever they hold."""
    data = read_study(RECORDED)[1]
    own, hostile = data.front[0], "</script><b id=owned>\"'& dog"
    picture = data.reviews[own].answers["differing"][0]["png"]
    one = {
        "index": 7, "undrawn": 2, "jpeg": picture,
        "both": [[3, 0.78, 0.1, 0.1, 0.6, 0.9, 0.71, 0.12, 0.1, 0.6, 0.88]],
        "fp32": [[5, 0.69, 0.2, 0.2, 0.5, 0.5], [5, 0.55, -0.1, 0.6, 0.3, 1.2]], "given": [[3, 0.52, 0.6, 0.6, 0.9, 0.8]],
    }  # fmt: skip
    answers = {
        "images": 32,
        "agreement": 0.8712,
        "scores": [0.5, 0.3],
        "classes": {"3": "person", "5": hostile},
    }
    review = replace(data.reviews[own], answers={**answers, "differing": [one]})
    page = replace(data, front=[own], reviews={own: review}, metric="AP50", recommended=None)
    browser.events.clear()
    (tmp_path / "boxes.html").write_text(render(page))
    browser.open((tmp_path / "boxes.html").as_uri())
    browser.wait(READY)
    lines = (
        browser.evaluate("document.querySelector('.scenes dl').innerText").replace("\u00a0", " ").split("\n")
    )
    alone = [f"Only fp32 {hostile} 69, 55 %", "Only the candidate person 52 %"]
    assert lines == [*alone, "Both person 78 → 71 %", "Not drawn 2 more of lower scores"]
    told = browser.evaluate("document.getElementById('answers').innerText")
    assert "87 % of the detections on 32 images" in told and "images alike" not in told
    assert browser.evaluate("document.getElementById('owned')") is None
    assert browser.evaluate("document.getElementById('confusion').checkVisibility()") is False
    drawn = browser.evaluate("""[...document.querySelectorAll(".scenes rect.box")].map((r) => [r.classList[1],
      r.classList.length === 3, getComputedStyle(r).strokeDasharray !== "none", r.getBoundingClientRect().width > 10])""")
    wanted = [("fp32", True), ("candidate", True), ("fp32", False), ("fp32", False), ("candidate", False)]
    assert drawn == [[whose, paired, whose == "candidate", True] for whose, paired in wanted]
    inside = "(n) => n.left >= f.left - 1 && n.right <= f.right + 1 && n.top >= f.top - 1 && n.bottom <= f.bottom + 1"
    frame = "document.querySelector('.scenes .frame').getBoundingClientRect()"
    names = "[...document.querySelectorAll('.scenes .name')].map((n) => n.getBoundingClientRect())"
    assert browser.evaluate(f"(f => {names}.every({inside}))({frame})")
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {n["name"]["value"] for n in nodes if not n.get("ignored") and n.get("name", {}).get("value")}
    assert {"image 7, what is detected on it drawn as boxes", "Image 7"} <= named
    assert "Error 1 minus AP50" in browser.evaluate("document.querySelector('.origin').innerText").replace(
        "\n", " "
    )
    for theme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": theme}]
        browser.call("Emulation.setEmulatedMedia", media="", features=feature)
        assert browser.evaluate(CONTRAST)["pale"] == [], theme
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert faults(browser) == []


@in_browser
def test_large_and_hostile_studies_draw(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><b id=owned>\"'&" + "very.long." * 12
    plans = [Plan({f"{hostile}{k}": LayerPlan(2 + (n + k) % 3, 4) for k in range(200)}) for n in range(3)]
    data = read_study(RECORDED)[1]
    records = [
        TrialRecord(n, plan, "finished", Figures(0.1 * n, 1.0, 0.9, 1.1, "modelled", hostile, 900))
        for n, plan in enumerate(plans)
    ]
    records += [
        TrialRecord(
            3, plans[0].replace(activation_bits=7), "failed", Figures(float("nan"), float("inf")), hostile
        )
    ]
    odd = replace(
        data,
        study=hostile,
        records=records,
        front=[r.hash for r in records[:3]],
        details={},
        reviews={},
        layers={},
    )
    odd = replace(odd, history=None, recommended=None, sensitivity=None, importance={})
    browser.events.clear()
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True
    )
    (tmp_path / "odd.html").write_text(render(odd))
    browser.open((tmp_path / "odd.html").as_uri())
    browser.wait(READY)
    text = browser.evaluate("document.body.innerText")
    assert browser.evaluate("document.querySelectorAll('#layers .row').length") == 200
    assert (
        "NaN" not in text
        and "undefined" not in text
        and browser.evaluate("document.getElementById('owned')") is None
    )
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert faults(browser) == []


@in_browser
def test_a_running_search_is_followed_without_reloading(browser: Browser, tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "study")
    settings = tmp_path / "study" / "settings.yaml"
    words = [sys.executable, "-m", "pipeline.report", "study", "--watch"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        parts = urlsplit(address)
        assert parts.hostname == "127.0.0.1" and parts.port and len(parts.path) > 20, address

        def ask(path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=20)
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            return connection.getresponse()

        whole = ask(parts.path)
        assert whole.status == 200 and b"resnet20" in whole.read()
        assert ask(parts.path, If_None_Match=str(whole.headers["ETag"])).status == 304
        assert [
            ask(path).status for path in ("/", parts.path[:-2] + "/", "/study.db", parts.path + "../")
        ] == [404] * 4
        assert [
            ask(parts.path, Host=host).status
            for host in ("evil.example", f"evil.example:{parts.port}", "127.0.0.1")
        ] == [403] * 3
        assert ask(parts.path, "POST").status == 501

        browser.events.clear()
        browser.open(address)
        browser.wait(READY)
        other = browser.evaluate(
            "(window.same = 1, [...document.querySelectorAll('#trials tr[data-hash]')].at(-1).dataset.hash)"
        )
        browser.evaluate(f"document.querySelector('#strip [data-hash=\"{other}\"]').click()")
        settings.write_text(settings.read_text().replace("name: ", "name: renamed-"))
        browser.wait("document.querySelector('h1').innerText.startsWith('renamed-')")
        assert browser.evaluate("[window.same, document.getElementById('candidate-hash').textContent]") == [
            1,
            other,
        ]
        assert not [fault for fault in faults(browser) if not str(fault).startswith(address)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        browser.wait("document.getElementById('live-text').textContent.startsWith('No longer live')")
    finally:
        process.kill()
        process.wait()
    browser.open((tmp_path / "study" / "report.html").as_uri())
    browser.wait(READY)
    assert browser.evaluate("document.querySelector('h1').innerText").startswith("renamed-")


@in_browser
def test_of_very_many_trials_the_first_rows_are_shown_in_any_order(browser: Browser, tmp_path: Path) -> None:
    data = read_study(RECORDED)[1]
    first = data.records[0]
    figures = [replace(first.figures, error=n / 4000) for n in range(600)]
    records = [replace(first, number=n, figures=one) for n, one in enumerate(figures)]
    (tmp_path / "many.html").write_text(render(replace(data, records=records, history=None)))
    browser.events.clear()
    browser.open((tmp_path / "many.html").as_uri())
    browser.wait(READY)
    shown = "[...document.querySelectorAll('#trials tbody tr')].filter((r) => !r.hidden)"
    assert browser.evaluate(shown + ".length") == 250
    browser.evaluate("document.querySelector('#trials th[data-key=error] button').click()")
    browser.evaluate("document.querySelector('#trials th[data-key=error] button').click()")
    assert browser.evaluate(shown + "[0].cells[0].innerText") == "599"
    browser.evaluate("document.getElementById('all-rows').click()")
    assert browser.evaluate(shown + ".length") == 602 and browser.evaluate(
        "document.getElementById('all-rows').hidden"
    )
    assert faults(browser) == []
