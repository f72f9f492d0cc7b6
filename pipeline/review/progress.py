"""What a person sees while a search runs: a line per finished trial above a live status line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from foundation.command import is_quiet, say
from foundation.show import show_bytes, show_interval, show_latency, show_percent, show_seconds
from pipeline.study.confidence import error_spread
from pipeline.study.records import Reference, TrialRecord
from pipeline.training.settings import ACCURACY

SELDOM = 30.0  # seconds between two lines of how far it is, where there is no terminal

if TYPE_CHECKING:
    from rich.text import Text


def trial_line(record: TrialRecord, done: int, budget: int) -> str:
    """One ended trial in one line."""
    figures = record.figures
    seconds = (record.ended or 0) - (record.started or 0)
    parts = [f"{done:>{len(str(budget))}}/{budget}", record.hash, f"{record.status:<9}"]
    if figures.error is not None:
        parts.append(f"error {show_percent(figures.error):>7}")
    if figures.latency_ms is not None:
        parts.append(show_latency(figures.latency_ms, figures.source))
    if figures.size_bytes is not None:
        parts.append(show_bytes(figures.size_bytes))
    parts.append(show_seconds(seconds))
    if record.reason:
        parts.append(f"({record.reason})")
    return "  ".join(parts)


def reference_line(reference: Reference, images: int, metric: str = ACCURACY) -> str:
    """fp32 or int8 in one line: how good on so many images with its standard error, size, latency with its interval."""
    figures = reference.figures
    parts = [f"{reference.name:<5}"]
    if figures.error is not None:
        right = show_percent(
            1 - figures.error, error_spread(figures.error, images, figures.error_standard_error)
        )
        parts.append(f"{right:>14} {'right' if metric == ACCURACY else metric} on {images:,} images")
    parts.append(f"{show_bytes(figures.size_bytes):>10}")
    parts.append(show_latency(figures.latency_ms, figures.source))
    if figures.latency_low_ms is not None:
        parts.append(f"({show_interval(figures.latency_low_ms, figures.latency_high_ms)})")
    return "  ".join(parts)


class Progress:
    """Prints lines; on a terminal keeps one live status line below them (rich), elsewhere only the lines."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._start = self._changed = time.monotonic()
        self._told = self._start
        self._text: str | Callable[[], str] = "starting"
        self._status = None
        if sys.stderr.isatty() and not is_quiet():
            from rich.console import Console

            self._console = Console(stderr=True)
            self._status = self._console.status(self)

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._status:
            self._console.print(text, highlight=False, markup=False)
        else:
            say(text)

    def status(self, text: str | Callable[[], str]) -> None:
        """What is going on now; replaces the former status. A function is asked for its text again and again; where there is no
        terminal it is a line now and then."""
        self._text, self._changed = text, time.monotonic()
        if self._status is None and callable(text) and self._changed - self._told >= SELDOM:
            self._told = self._changed
            say(f"  {text()}")

    def __rich__(self) -> Text:
        """The live line; rich asks for it several times a second, so it ticks by itself."""
        from rich.text import Text

        now, live = time.monotonic(), callable(self._text)
        text = self._text() if callable(self._text) else self._text
        since = "" if live or now - self._changed < 1 else f" for {show_seconds(now - self._changed)}"
        return Text.assemble(text, (f"{since}  {show_seconds(now - self._start)}", "dim"))

    def trial(self, record: TrialRecord, done: int) -> None:
        """An ended trial."""
        self.line(trial_line(record, done, self.budget))


class StepLine:
    """A live line of steps and loss on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and not is_quiet() and (now - self.last > 0.2 or done == total):
            self.last = now
            print(
                f"\rstep {done}/{total}, loss {loss:.4f} ",
                end="\n" if done == total else "",
                file=sys.stderr,
                flush=True,
            )
