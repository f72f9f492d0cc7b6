"""The live line: what it says at a moment, and that it ticks by itself."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.review.progress import Progress, reference_line
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.remaining import State, seconds_left, usual_seconds

PLAN = Plan.uniform(("conv1", "fc"), LayerPlan(8))


def ended(status: str, started: float, seconds: float) -> TrialRecord:
    return TrialRecord(0, PLAN, status, Figures(0.1), started=started, ended=started + seconds)  # type: ignore[arg-type]


def test_a_usual_trial_bears_what_was_spent_without_budget() -> None:
    records = [
        ended("finished", 100, 30),
        ended("dominated", 110, 4),
        ended("stopped", 130, 10),
        ended("finished", 5, 999),
    ]
    assert usual_seconds(records, since=50) == (30 + 4 + 10) / 2
    assert usual_seconds(records[1:2], since=50) is None


@pytest.mark.parametrize(
    ("ages", "waiting", "concurrency", "left"),
    [
        ([], 4, 2, 20),  # two and two
        ([], 5, 2, 30),
        ([4], 0, 2, 6),
        ([4, 9], 2, 2, 16),  # the first begins when the older has ended, in 2.5 s, the second in 6
        ([30], 0, 1, 2.5),  # overdue: never nothing
        ([], 0, 3, 0),
    ],
)
def test_trials_that_wait_begin_when_one_has_ended(
    ages: list[float], waiting: int, concurrency: int, left: float
) -> None:
    assert seconds_left(10, ages, waiting, concurrency) == left


def test_the_line_says_how_far_it_is_and_what_is_left() -> None:
    state = State(3, 12, 0.0133, 2, started=(100.0, 110.0), concurrency=2, usual=20.0)
    assert (
        state.line(115)
        == "3 of 12 trials, best error 1.33 %, 2 on the front; 2 running; about 1 min 25 s left"
    )
    assert state.line(113).endswith("about 1 min 27 s left")
    first = State(0, 12, None, 0, started=(100.0,), concurrency=2, usual=None)
    assert first.line(101) == "0 of 12 trials; 1 running; time left: known after the first trial"
    late = State(3, 12, 0.0133, 2, started=(100.0, 110.0), concurrency=2, usual=20.0, deadline=120.0)
    assert late.line(115).endswith("about 15 s left")  # what runs is ended, nothing more is begun
    slower = State(1, 12, 0.5, 1, started=(100.0, 100.0), concurrency=2, usual=20.0)
    assert slower.line(101).endswith("about 1 min 59 s left")
    assert slower.line(220).endswith(
        "about 7 min 35 s left"
    )  # two that take six times as long are the rule by now


def test_the_line_ticks_by_itself_on_a_terminal() -> None:
    code = (
        "import time\nfrom pipeline.review.progress import Progress\nasked = []\n"
        "def text():\n    asked.append(1)\n    return f'asked {len(asked)} times'\n"
        "with Progress(3) as progress:\n    progress.status(text)\n    time.sleep(2.5)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    process.wait(60)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0, text
    assert {"1 s", "2 s"} <= set(re.findall(r"\d s", text)), text
    assert max(int(count) for count in re.findall(r"asked (\d+) times", text)) > 3


def test_without_a_terminal_how_far_it_is_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(3) as progress:
        for second in range(70):
            now[0] = float(second)
            progress.status(lambda second=second: f"{second} of 70")
            progress.status("something short")
    assert capsys.readouterr().err == "  30 of 70\n  60 of 70\n"


def test_a_reference_is_a_line_with_its_standard_error() -> None:
    figures = Figures(0.1, 2.0, 1.9, 2.2, "modelled", "emulated a76", 2048)
    line = reference_line(Reference("int8", figures), 900)
    assert re.split(" {2,}", line) == [
        "int8",
        "90.0 +- 1.0 % right on 900 images",
        "2.0 KiB",
        "2.00 ms modelled",
        "(1.90..2.20 ms)",
    ]
