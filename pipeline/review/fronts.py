"""A front as plain values: the content of front.json, made, read again, and as the table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.show import aligned, show_bytes, show_interval, show_latency
from pipeline.study.confidence import show_error
from pipeline.study.records import Figures, Reference, TrialRecord


def read_front(folder: Path) -> dict[str, Any]:
    """The content of a study's front.json.

    Raises:
        UserError: there is none, or it holds no front.
    """
    try:
        front: dict[str, Any] = json.loads((folder / "front.json").read_text())
        if not isinstance(front, dict) or not isinstance(front.get("points"), list):
            raise ValueError("it holds no front")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / 'front.json'} cannot be read ({error}): let the search reach its front first"
        ) from error
    return front


def point(figures: Figures) -> dict[str, Any]:
    """One row of front.json."""
    return {
        "error": figures.error,
        "latency_ms": figures.latency_ms,
        "low": figures.latency_low_ms,
        "high": figures.latency_high_ms,
        "source": figures.source,
        "device": figures.device,
        "size_bytes": figures.size_bytes,
        "peak_memory_bytes": figures.peak_memory_bytes,
        "divergence": figures.divergence,
        "divergence_standard_error": figures.divergence_standard_error,
        "discordant": figures.discordant,
        **(
            {}
            if figures.error_standard_error is None
            else {"error_standard_error": figures.error_standard_error}
        ),
    }


def front_json(
    front: Sequence[TrialRecord],
    references: Sequence[Reference],
    objectives: Sequence[str],
    images: int | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """The content of front.json; points from the largest to the smallest. ``images``: of how many an error is a share;
    ``metric``: what it is 1 minus, where that is a person's own."""
    ordered = sorted(front, key=lambda r: (-(r.figures.size_bytes or 0), r.hash))
    return {
        "objectives": list(objectives),
        "images": images,
        **({} if metric is None else {"metric": metric}),
        "references": [{"name": r.name, **point(r.figures)} for r in references],
        "points": [
            {"hash": r.hash, **point(r.figures), "candidate": f"candidates/{r.hash}"} for r in ordered
        ],
    }


def front_table(front: dict[str, Any]) -> str:
    """The front as a table for a terminal, the references first."""
    rows: list[tuple[str, ...]] = [("", "error", "latency", "interval", "size", "smaller")]
    fp32 = next((r["size_bytes"] for r in front["references"] if r["name"] == "fp32"), None)
    for entry in [*front["references"], *front["points"]]:
        rows.append(
            (
                entry.get("hash") or entry["name"],
                show_error(entry["error"], front.get("images"), entry.get("error_standard_error")),
                show_latency(entry["latency_ms"], entry["source"]),
                show_interval(entry["low"], entry["high"]),
                show_bytes(entry["size_bytes"]),
                f"{fp32 / entry['size_bytes']:.1f}x" if fp32 and entry["size_bytes"] else "-",
            )
        )
    if all(entry["error"] is None for entry in [*front["references"], *front["points"]]):
        rows = [(row[0], *row[2:]) for row in rows]  # nobody has labels
    devices = sorted({e["device"] for e in [*front["references"], *front["points"]] if e["device"]})
    notes = [f"latency: one image, one thread, on {', '.join(devices)}"] if devices else []
    if images := front.get("images"):
        what = f"1 - {front['metric']}, " if front.get("metric") else ""
        notes.append(f"error: {what}on the {images} images that guided the search, +- its standard error")
    return "\n".join([aligned(rows), *notes])
