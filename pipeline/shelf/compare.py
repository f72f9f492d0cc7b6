"""Several studies' fronts beside each other: pure, from what ``look`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.show import aligned, show_bytes, show_interval, show_latency
from pipeline.shelf.view import View
from pipeline.study.confidence import show_error
from pipeline.study.pareto import hypervolume
from pipeline.study.records import OBJECTIVES

FIGURES = {"error": "error", "latency": "latency_ms", "size": "size_bytes"}


def compared(views: Sequence[View]) -> dict[str, Any]:
    """The fronts, and how much of one box each dominates.

    The box ends at an error of 1 and at the largest latency and size of any fp32 network here (of any candidate, where there is
    none), the same for all. Latencies that were measured and those that were modelled are no common scale: then, or where the
    studies do not have two objectives in common, there are no volumes and ``why_no_volume`` says so.
    """
    fronts = [
        dict(view.front, study=view.name, model=view.settings.model, data=view.settings.data)
        for view in views
    ]
    objectives = [name for name in OBJECTIVES if all(name in view.settings.objectives for view in views)]
    why = _incomparable(fronts, objectives)
    corner = [_end(fronts, name) for name in objectives]
    for front in fronts:
        points = [
            [point[FIGURES[name]] / end for name, end in zip(objectives, corner)]
            for point in front["points"]
            if all(point[FIGURES[name]] is not None for name in objectives)
        ]
        front["hypervolume"] = None if why else hypervolume(points, [1.0] * len(objectives))
    return {
        "studies": fronts,
        "objectives": objectives,
        "box": dict(zip(objectives, corner)),
        "why_no_volume": why,
        "notes": _notes(views),
    }


def text_of(found: Mapping[str, Any]) -> str:
    """The comparison for a terminal: all points in one table, then the volumes."""
    rows: list[tuple[str, ...]] = [("study", "candidate", "error", "latency", "interval", "size")]
    for front in found["studies"]:
        chosen = front["recommended"]["hash"]
        for entry in (*front["references"], *front["points"]):
            name = entry.get("hash") or entry["name"]
            rows.append((
                front["study"],
                f"{name}{' *' if name == chosen else '  '}",
                show_error(entry["error"], front.get("images"), entry.get("error_standard_error")),
                show_latency(entry["latency_ms"], entry["source"]),
                show_interval(entry["low"], entry["high"]),
                show_bytes(entry["size_bytes"]),
            ))  # fmt: skip
    lines = [aligned(rows), "* recommended"]
    if found["why_no_volume"]:
        lines += ["", f"no hypervolume: {found['why_no_volume']}"]
    else:
        lines += ["", f"hypervolume, the share that a front dominates of {_box(found['box'])}:"]
        ordered = sorted(found["studies"], key=lambda front: -front["hypervolume"])
        lines.append(aligned([(f"  {front['study']}", f"{front['hypervolume']:.4f}") for front in ordered]))
    return "\n".join([*lines, *found["notes"]])


def _incomparable(fronts: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> str | None:
    if len(objectives) < 2:
        return "the studies have fewer than two objectives in common"
    sources = {point["source"] for front in fronts for point in front["points"]} - {None}
    if "latency" in objectives and len(sources) > 1:
        return f"some latencies are {' and others '.join(sorted(sources))}, which are no common scale"
    return None


def _end(fronts: Sequence[Mapping[str, Any]], objective: str) -> float:
    if objective == "error":
        return 1.0
    key = FIGURES[objective]
    fp32 = [one[key] for front in fronts for one in front["references"] if one["name"] == "fp32" and one[key]]
    points = [1.1 * point[key] for front in fronts for point in front["points"] if point[key]]
    return float(max(fp32 or points, default=1.0))


def _box(ends: Mapping[str, float]) -> str:
    shown = {
        "error": "error 1",
        "latency": show_latency(ends.get("latency")),
        "size": show_bytes(ends.get("size")),
    }
    return ", ".join(shown[name] for name in ends)


def _notes(views: Sequence[View]) -> list[str]:
    """What a reader must know before believing the table."""
    notes = []
    if len({(view.settings.model, view.settings.data) for view in views}) > 1:
        told = "; ".join(f"{view.name} is {view.settings.model} on {view.settings.data}" for view in views)
        notes.append(f"note: not the same network and images: {told}")
    devices = {point["device"] for view in views for point in view.front["points"]} - {None}
    if len(devices) > 1:
        notes.append(f"note: not the same devices: {', '.join(sorted(devices))}")
    running = [view.name for view in views if view.state == "running"]
    if running:
        notes.append(f"note: still running: {', '.join(running)}")
    return notes
