"""What a person sees while a search runs: a line per finished trial above a live status line."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from pipeline.records import TrialRecord


def show_bytes(count: float | None) -> str:
    """``271.4 KiB``."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def show_seconds(seconds: float) -> str:
    """``48 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_latency(milliseconds: float | None, source: str | None = None) -> str:
    """``1.93 ms modelled``."""
    return "-" if milliseconds is None else f"{milliseconds:.3g} ms{f' {source}' if source else ''}"


def trial_line(record: TrialRecord, done: int, budget: int) -> str:
    """One ended trial in one line."""
    figures = record.figures
    seconds = (record.ended or 0) - (record.started or 0)
    parts = [f"{done:>{len(str(budget))}}/{budget}", record.hash, f"{record.status:<9}"]
    if figures.error is not None:
        parts.append(f"error {100 * figures.error:5.2f} %")
    if figures.latency_ms is not None:
        parts.append(show_latency(figures.latency_ms, figures.source))
    if figures.size_bytes is not None:
        parts.append(show_bytes(figures.size_bytes))
    parts.append(show_seconds(seconds))
    if record.reason:
        parts.append(f"({record.reason})")
    return "  ".join(parts)


class Progress:
    """Prints lines; on a terminal keeps one live status line below them (rich), elsewhere only the lines."""

    def __init__(self, budget: int, quiet: bool = False) -> None:
        self.budget, self.quiet = budget, quiet
        self._start = time.monotonic()
        self._status = None
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console

            self._console = Console(stderr=True)
            self._status = self._console.status("starting")

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._status:
            self._console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """What is going on now; replaces the former status."""
        if self._status:
            from rich.markup import escape

            self._status.update(f"{escape(text)}  [dim]{show_seconds(time.monotonic() - self._start)}[/dim]")

    def trial(self, record: TrialRecord, done: int) -> None:
        """An ended trial."""
        self.line(trial_line(record, done, self.budget))
