"""The report in a real browser: it draws, selects, sorts, escapes, and asks nobody for anything."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.plan import LayerPlan, Plan
from pipeline.candidate.describe import plan_parameters
from pipeline.candidate.details import LayerDetail, read_details
from pipeline.report.data import ReportData, hypervolume_history, payload
from pipeline.report.page import render
from pipeline.study.pareto import dominates, hypervolume
from pipeline.study.records import OBJECTIVES, Figures, Reference, TrialRecord
from pipeline.training.rung import Rung

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&'\u2028"
)
LAYERS = {"conv1": 432, "layer1.0.conv1": 2304, "fc": 640}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium to open the page in")


def trial(
    number: int, error: float | None, latency: float, size: int, status: Any = "finished"
) -> TrialRecord:
    bits = (2, 3, 4)[number % 3]
    plan = Plan(
        {
            "conv1": LayerPlan(8),
            "layer1.0.conv1": LayerPlan(bits, 4, zero_share=0.5),
            "fc": LayerPlan(bits, 3 + number % 2),
        }
    )
    figures = Figures(error, latency, 0.9 * latency, 1.2 * latency, "modelled", "emulated a76", size, 4096)
    curve = () if error is None else (Rung(1.0, error + 0.1, 0.5, 3.0), Rung(2.0, error, 0.4, 6.0))
    plan = plan.replace(activation_bits=8 - number // 6 % 2)
    return TrialRecord(
        number,
        plan,
        status,
        figures,
        HOSTILE if status == "failed" else None,
        curve,
        10.0 * number,
        10.0 * number + 5,
    )


def detail(generator: np.random.Generator, bits: int) -> LayerDetail:
    weights = generator.normal(0, 0.1, 500)
    integers = np.clip(np.round(weights / 0.1), -1, 1)
    if bits == 8:
        return LayerDetail.from_arrays(np.round(weights * 127), (), weights)
    levels = [(-1, -0.1), (0, 0.0), (1, 0.1)]
    return LayerDetail.from_arrays(
        integers, levels, weights, [(0.3, -0.1, 0.03), (0.4, 0.0, 0.02), (0.3, 0.1, 0.03)]
    )


@pytest.fixture(scope="module")
def study() -> ReportData:
    records = [trial(n, 0.05 + 0.01 * n, 3.0 - 0.2 * n, 9000 - 700 * n) for n in range(6)]
    records += [
        trial(6, None, 2.0, 5000, "failed"),
        trial(7, None, 2.5, 8000, "dominated"),
        trial(8, 0.9, 2.9, 8500, "stopped"),
    ]
    references = [
        Reference("fp32", Figures(0.04, size_bytes=40000)),
        Reference("int8", Figures(0.041, 4.0, 3.5, 4.5, "modelled", "emulated a76", 11000)),
    ]
    front = [record.hash for record in records[:6]]
    generator = np.random.default_rng(0)
    details = {
        r.hash: {name: detail(generator, p.bits) for name, p in r.plan.layers.items()} for r in records[:6]
    }
    return ReportData(
        "study " + HOSTILE, "resnet8", HOSTILE, records, references, front, settings={"model": HOSTILE, "bits": [2, 4]},
        layers=LAYERS, details=details, notes=[HOSTILE], created="today",
    )  # fmt: skip


def opened(page: str, folder: Path, script: str = "", fragment: str = "") -> str:
    """The page's DOM after its scripts, and then ``script``, have run."""
    file = folder / "report.html"
    file.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--window-size=1200,900", "--dump-dom", f"{file.as_uri()}{fragment}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout


def result_of(page: str, folder: Path, expression: str, fragment: str = "") -> Any:
    """The value of a JavaScript expression on the page, through the document."""
    script = (
        "const result = document.createElement('pre'); result.id = 'result';"
        f"try {{ result.textContent = JSON.stringify({expression}) }}"
        "catch (error) { result.textContent = JSON.stringify('' + error) }"
        "document.body.append(result);"
    )
    dom = opened(page, folder, script, fragment)
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_hypervolumes_are_those_of_all_points_so_far() -> None:
    """Against the definition: the volume of everything that ended until then, dominated, equal and unfinished ones too."""
    random = np.random.default_rng(11)
    figures = random.integers(1, 12, (60, 3)).astype(float)  # many of them equal
    records = [trial(n, e / 20, latency, int(100 * size)) for n, (e, latency, size) in enumerate(figures)]
    records[7] = dataclasses.replace(records[7], figures=Figures(None))
    records[8] = dataclasses.replace(records[8], figures=Figures(0.1, math.inf, size_bytes=100))
    references = [Reference("fp32", Figures(0.04, 12.0, size_bytes=1200))]
    for (_, volume), count in zip(hypervolume_history(records, references, OBJECTIVES), range(1, 61)):
        seen = [r.figures.objectives(OBJECTIVES) for r in records[:count]]
        points = [
            [a / b for a, b in zip(p, (1.0, 12.0, 1200.0))] for p in seen if p and all(map(math.isfinite, p))
        ]
        assert volume == pytest.approx(hypervolume(points, [1.0] * 3))


@browser
def test_the_page_draws_selects_and_sorts(study: ReportData, tmp_path: Path) -> None:
    wanted = study.front[3]
    expression = """(() => {
      const text = (id) => document.getElementById(id).textContent;
      const seen = {ready: document.documentElement.dataset.ready, title: document.title, hash: text("candidate-hash")};
      seen.points = document.querySelectorAll("#chart-latency .point.front").length;
      seen.references = [...document.querySelectorAll("#chart-size .point.reference text")].map((t) => t.textContent);
      seen.bars = document.querySelectorAll("#chart-latency .point .bar").length;
      seen.layers = [...document.querySelectorAll("#layers .row")].map((r) => r.dataset.layer);
      document.querySelector("#layer").value = "fc";
      document.querySelector("#layer").onchange();
      seen.components = document.querySelectorAll("#chart-weights .component").length;
      seen.levels = document.querySelectorAll("#chart-weights .level").length;
      seen.weights = document.querySelectorAll("#chart-weights .weights-bar").length;
      const point = document.querySelectorAll("#chart-size .point.front")[0];
      point.dispatchEvent(new PointerEvent("pointerenter"));
      seen.tip = text("tip");
      point.dispatchEvent(new MouseEvent("click"));
      seen.clicked = [text("candidate-hash"), point.dataset.hash, location.hash];
      const pinned = [...document.querySelectorAll("#trials tbody tr.pinned")].map((r) => r.dataset.hash);
      seen.pinned = pinned;
      const heads = [...document.querySelectorAll("#trials thead th")];
      const column = heads.findIndex((h) => h.dataset.key === "error");
      heads[column].firstChild.click(); heads[column].firstChild.click();
      seen.sorted = [...document.querySelectorAll("#trials tbody tr")].map((r) => r.cells[column].dataset.value);
      [...document.querySelectorAll("#chips button")].find((b) => b.textContent.startsWith("failed")).click();
      seen.filtered = [...document.querySelectorAll("#trials tbody tr")].filter((r) => !r.hidden).length;
      seen.trace = document.querySelector("#chart-history .trace") !== null;
      seen.requests = performance.getEntriesByType("resource").map((e) => e.name);
      seen.images = document.images.length;
      return seen;
    })()"""
    seen = result_of(render(study), tmp_path, expression, f"#candidate={wanted}")
    assert isinstance(seen, dict), seen
    assert seen["ready"] == "true" and seen["hash"] == wanted and seen["title"].startswith("study </script>")
    assert (seen["points"], seen["references"]) == (6, ["fp32", "int8"]) and seen["bars"] == 8
    assert seen["layers"] == list(LAYERS) and seen["trace"]
    assert (seen["components"], seen["levels"]) == (3, 3) and seen["weights"] > 20
    assert "modelled, emulated a76" in seen["tip"] and "interval" in seen["tip"]
    clicked, hash_of_point, address = seen["clicked"]
    assert (
        clicked == hash_of_point != wanted
        and address == f"#candidate={clicked}"
        and seen["pinned"] == [clicked]
    )
    errors = [float(value) for value in seen["sorted"] if value]
    assert errors == sorted(errors, reverse=True) and seen["sorted"][-1] == "" and len(errors) == 9
    assert seen["filtered"] == 1
    assert seen["requests"] == [] and seen["images"] == 0


@browser
@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_studies_draw(study: ReportData, tmp_path: Path, count: int) -> None:
    records, front = study.records[:count], study.front[:count]
    small = ReportData("small", "resnet8", "digits", records, (), front)
    expression = "[document.documentElement.dataset.ready, document.querySelectorAll('.empty').length, document.body.innerText]"
    ready, empty, text = result_of(render(small), tmp_path, expression)
    assert ready == "true" and (empty >= 3 if count == 0 else empty == 1)
    assert "NaN" not in text and "undefined" not in text and "Infinity" not in text


class Outline(HTMLParser):
    """Collects what a page could ask for or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(), st.text())
def test_whatever_a_name_or_reason_holds_is_text(name: str, reason: str, device: str) -> None:
    figures = Figures(0.5, 1.0, 0.9, 1.1, "modelled", device + HOSTILE, 100)
    plan = Plan({name + HOSTILE: LayerPlan(4, 4)})
    record = TrialRecord(0, plan, "failed", figures, reason + HOSTILE)
    page = render(
        ReportData(
            name + HOSTILE, HOSTILE, reason, [record], [], [record.hash], settings={name + HOSTILE: HOSTILE}
        )
    )
    outline = Outline()
    outline.feed(page)
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("script") == 2 and "img" not in tags and "iframe" not in tags
    assert all(
        not key.startswith("on") and key not in ("src", "srcset", "action")
        for _, attributes in outline.tags
        for key in attributes
    )
    assert [attributes["href"] for _, attributes in outline.tags if "href" in attributes] == ["data:,"]
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert embedded and json.loads(embedded[1])["trials"][0]["reason"] == reason + HOSTILE


def test_the_page_names_no_address(study: ReportData) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", render(dataclasses.replace(study, notes=()))))
    assert addresses == {"http://www.w3.org/2000/svg"}


def test_measured_and_modelled_are_never_divided_by_each_other(study: ReportData) -> None:
    measured = [Reference("fp32", Figures(0.045, 100.0, 99.0, 101.0, "measured", "board", 40000))]
    page = render(dataclasses.replace(study, references=measured))
    assert "faster</b>" not in page and "smaller</b>" in page
    same = [Reference("fp32", Figures(0.045, 30.0, 29.0, 31.0, "modelled", "emulated a76", 40000))]
    assert "10.0× faster</b> than fp32 (modelled, emulated a76)" in render(
        dataclasses.replace(study, references=same)
    )
    int8 = Reference("int8", dataclasses.replace(study.references[1].figures, error=0.05, latency_ms=6.0))
    against_int8 = render(dataclasses.replace(study, references=[Reference("fp32", Figures(0.045)), int8]))
    assert "2.0× faster</b> than int8 (modelled, emulated a76)" in against_int8


def test_hypervolume_never_falls_and_ends_with_the_fronts(study: ReportData) -> None:
    references = [Reference("fp32", Figures(0.04, 10.0, size_bytes=40000))]
    history = hypervolume_history(study.records, references, OBJECTIVES)
    values = [value for _, value in history]
    assert values == sorted(values) and len(values) == len(study.records) and 0 < values[0] < values[-1] < 1
    one = hypervolume_history(study.records[:1], references, OBJECTIVES)
    assert one == [(0, pytest.approx(0.95 * 0.7 * (1 - 9000 / 40000)))]
    assert hypervolume_history([], [], OBJECTIVES) == []
    points = [r.figures.objectives(OBJECTIVES) for r in study.records[:6]]
    assert not any(dominates(a, b) for a in points for b in points if a and b)


def test_what_is_not_finite_does_not_reach_the_page(study: ReportData) -> None:
    odd = TrialRecord(
        0,
        study.records[0].plan,
        "failed",
        Figures(math.nan, math.inf),
        None,
        (Rung(1.0, math.nan, math.inf, 0.0),),
    )
    values = payload(ReportData("odd", "m", "d", [odd]))
    assert values["trials"][0]["error"] is None and values["trials"][0]["curve"] == [
        [1.0, None, None, "free", None]
    ]
    assert (
        "NaN" not in json.dumps(values)
        and "nan" not in render(ReportData("odd", "m", "d", [odd])).split("<script>")[0]
    )


def test_layer_details_say_what_was_packed() -> None:
    generator = np.random.default_rng(1)
    made = detail(generator, 2)
    assert made.weights == 500 and sum(made.shares) == pytest.approx(1) and sum(made.counts) == 500
    assert made.zeros == made.shares[1]
    assert LayerDetail.from_dict(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    assert LayerDetail.from_arrays([], []).weights == 0
    constant = LayerDetail.from_arrays([1, 1], [(1, 0.5)], [0.5, 0.5])
    assert constant.low < 0.5 < constant.high and sum(constant.counts) == 2


def test_layers_without_weights_are_in_natural_order() -> None:
    plan = Plan({f"features.{i}.conv": LayerPlan(8) for i in (10, 2, 1)})
    record = TrialRecord(0, plan, "finished", Figures(0.1))
    assert payload(ReportData("s", "m", "d", [record]))["layers"] == [
        f"features.{i}.conv" for i in (1, 2, 10)
    ]


def test_details_of_older_candidates_are_read(tmp_path: Path) -> None:
    """They called what a layer's packed weights are, and what its plan aims at, by one name."""
    (tmp_path / "layers.json").write_text(
        '{"conv": {"weights": 4, "zero_share": 0.25, "levels": [0.0, 1.0]}}'
    )
    assert read_details(tmp_path) == {"conv": LayerDetail(4, zeros=0.25, levels=(0.0, 1.0))}


def test_a_dimension_from_outside_has_a_column_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page draws what the dimensions say; it names none."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples" / "extending"))
    plan = Plan({"conv": LayerPlan(4, 12), "fc": LayerPlan(8, values={"kept_inputs:KeptInputs": 0.5})})
    page = payload(ReportData("s", "m", "d", records=[TrialRecord(0, plan, "finished", Figures(0.1))]))
    assert [column["title"] for column in page["columns"]] == ["Bits", "Components", "Zero share", "Inputs"]
    assert [page["cells"][place] for place in page["trials"][0]["plan"]] == [
        [4, 12, None, None, ["4", "12", "nat.", "all"]],
        [8, None, None, 0.5, ["8", "int8", "-", "50 %"]],
    ]
    assert page["trials"][0]["network"] == [["activations", "8-bit"], ["temperature", "constant 0.5"]]
    assert plan_parameters(plan, {})["kept_inputs:KeptInputs_mean"] == "0.5"
