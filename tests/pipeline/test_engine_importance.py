"""Which layers mattered: on plans whose figures follow from known layers."""

from __future__ import annotations

import random

import pytest

from foundation.plan import Plan
from pipeline.report.data import ReportData
from pipeline.report.page import render
from pipeline.study.importance import LEAST, importance
from pipeline.study.records import OBJECTIVES, Figures, TrialRecord
from search_spaces.space import Space

SPACE = Space(("conv1", "conv<2>", "fc"))


def record(number: int, plan: Plan) -> TrialRecord:
    """The error is of the first layer's bits, the size of the second's; nothing moves the latency."""
    first, second, _ = plan.layers.values()
    figures = Figures(1 / first.bits, 1.0, source="modelled", size_bytes=100 * second.bits)
    return TrialRecord(number, plan, "finished", figures)


@pytest.fixture(scope="module")
def records() -> list[TrialRecord]:
    rng = random.Random(0)
    return [record(number, SPACE.random(rng)) for number in range(200)]


def test_the_layers_that_figures_follow_from_are_found(records: list[TrialRecord]) -> None:
    found = importance(records, OBJECTIVES)
    assert set(found) == {"error", "size"}, "no trial has another latency than the others"
    assert max(found["error"], key=lambda name: found["error"][name]) == "conv1"
    assert max(found["size"], key=lambda name: found["size"][name]) == "conv<2>"
    for shares, name in ((found["error"], "conv1"), (found["size"], "conv<2>")):
        assert shares[name] > 0.6 and sum(shares.values()) == pytest.approx(1.0)


def test_few_trials_or_equal_ones_say_nothing(records: list[TrialRecord]) -> None:
    assert importance(records[: LEAST - 1], OBJECTIVES) == {}
    unfinished = [TrialRecord(r.number, r.plan, "failed", Figures(None), "why") for r in records]
    assert importance(unfinished, OBJECTIVES) == {}
    assert importance([record(number, records[0].plan) for number in range(LEAST)], OBJECTIVES) == {}


def test_the_report_shows_them(records: list[TrialRecord]) -> None:
    found = importance(records, OBJECTIVES)
    page = render(ReportData("study", "model", "data", records, importance=found))
    [section] = page.split('<section id="importance">')[1:]
    section = section.split("</section>")[0]
    assert "<code>conv1</code>" in section and "<code>conv&lt;2&gt;</code>" in section
    assert f"{100 * found['error']['conv1']:.0f} %" in section
    assert 'id="importance"' not in render(ReportData("study", "model", "data", records[:3]))
