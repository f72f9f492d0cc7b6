"""How far a search is, in one line, and how long it will still take. Numbers in, text out; nothing here looks at a clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.show import show_percent, show_seconds
from pipeline.study.records import TrialRecord

OVERDUE = 0.25  # of a usual trial: what one that takes longer than usual is expected to take still
COUNTED = ("finished", "stopped", "failed")


def usual_seconds(records: Sequence[TrialRecord], since: float) -> float | None:
    """What a trial of the budget took on average since then; what was spent on those that cost no budget is spread over them.

    Args:
        since: seconds since the epoch; trials that began earlier ran under another load, or on another machine.
    """
    ended = [r for r in records if r.started is not None and r.ended is not None and r.started >= since]
    counted = sum(record.status in COUNTED for record in ended)
    spent = sum((record.ended or 0) - (record.started or 0) for record in ended)
    return spent / counted if counted else None


def seconds_left(usual: float, ages: Sequence[float], waiting: int, concurrency: int) -> float:
    """Seconds until the last trial ends, where all take as long as usual.

    Args:
        ages: of the trials that run, in seconds.
        waiting: trials that have not begun.
    """
    free = [0.0] * max(0, concurrency - len(ages))
    ends = [*(max(usual - age, OVERDUE * usual) for age in ages), *free]
    heapq.heapify(ends)
    for _ in range(waiting):
        heapq.heappush(ends, heapq.heappop(ends) + usual)
    return max(ends, default=0.0)


@dataclass(frozen=True)
class State:
    """A search at one moment.

    Attributes:
        done, budget: trials.
        best_error: the lowest so far, 0..1.
        front: candidates on it.
        started: of the trials that run, seconds since the epoch.
        usual: seconds of a trial, None before the first has ended.
        deadline: seconds since the epoch at which nothing more is begun.
    """

    done: int
    budget: int
    best_error: float | None
    front: int
    started: tuple[float, ...]
    concurrency: int
    usual: float | None
    deadline: float | None = None

    def line(self, now: float) -> str:
        """The live line at ``now``, seconds since the epoch."""
        best = "" if self.best_error is None else f", best error {show_percent(self.best_error)}"
        front = f", {self.front} on the front" if self.front else ""
        return f"{self.done} of {self.budget} trials{best}{front}; {len(self.started)} running; {self._left(now)}"

    def _left(self, now: float) -> str:
        if self.usual is None:
            return "time left: known after the first trial"
        waiting = max(0, self.budget - self.done - len(self.started))
        ages = [max(0.0, now - started) for started in self.started]  # a clock may be put back
        # Trials that run for longer than usual say already that others will: else hours would be told as minutes.
        overrun = sum(max(0.0, age - self.usual) for age in ages)
        usual = self.usual + overrun / max(1, self.done + len(ages))
        left = seconds_left(usual, ages, waiting, self.concurrency)
        if self.deadline is not None and self.deadline < now + left:
            # What runs then is still ended.
            left = max(0.0, self.deadline - now, seconds_left(usual, ages, 0, self.concurrency))
        return f"about {show_seconds(left)} left"
