"""Figures as people read them: the one place where they are spelled. (The report's script spells what it draws itself.)"""

from __future__ import annotations

import math
from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """``1 candidate``, ``3 candidates``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    )


def show_bytes(count: float | None) -> str:
    """``271.4 KiB``."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 1) < 1024 or unit == "GiB":
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
    return "-" if milliseconds is None else f"{_three(milliseconds)} ms{f' {source}' if source else ''}"


def show_milliseconds(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """``1.934 ms``, with its interval ``1.934 ms (1.809 to 2.3)``: to four digits, where small differences decide."""
    if value is None:
        return "-"
    within = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return f"{value:.4g} ms{within}"


def show_interval(low: float | None, high: float | None) -> str:
    """``1.81..2.30 ms``, of a latency."""
    return "-" if low is None or high is None else f"{_three(low)}..{_three(high)} ms"


def show_percent(share: float | None, deviation: float | None = None, digits: int = 2) -> str:
    """``8.36 %`` of a share 0.0836, with other ``digits`` behind the point ``8 %``; with its standard error, a share too,
    ``8.4 +- 0.9 %``: no more decimals than that leaves."""
    return "-" if share is None else f"{show_points(share, deviation, digits)} %"


def show_points(share: float, deviation: float | None = None, digits: int = 2) -> str:
    """``0.53``: percentage points of a difference between two shares; otherwise as ``show_percent``."""
    if deviation is None:
        return f"{100 * share:.{digits}f}"
    digits = decimals(deviation)
    return f"{100 * share:.{digits}f} +- {100 * deviation:.{digits}f}"


def decimals(deviation: float) -> int:
    """How many decimals a percentage has whose standard error, as a share, is ``deviation``."""
    return 1 if deviation >= 0.00095 else 2


def show_tick(value: float) -> str:
    """``0.25``: a round number, as short as it goes."""
    return f"{value:.4g}"


def ticks(low: float, high: float, at_most: int = 8) -> list[float]:
    """Round numbers between ``low`` and ``high`` for an axis: two or more, up to ``at_most``, which is at least five."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(
        s for s in (step / 5, step / 2, step, 2 * step, 2.5 * step) if (high - low) / s <= at_most - 1
    )
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _three(value: float) -> str:
    """Three digits, more of a whole number that has more."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"
