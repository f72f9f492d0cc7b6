"""Figures as people read them."""

from __future__ import annotations


def show_bytes(count: float | None) -> str:
    """``271.4 KiB``."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def counted(count: int, noun: str) -> str:
    """``1 candidate``, ``3 candidates``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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
