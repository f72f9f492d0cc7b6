"""The champion of each model, and whether the sweep's best candidate would take its place: asked of ``pipeline.promote``,
which alone moves it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.command import DONE, INCOMPLETE, REFUSED
from pipeline.review.better import improves
from pipeline.sweeps.here import LoggedProcess
from pipeline.sweeps.results import recommended

Promote = Callable[[list[str], Path], tuple[int, str]]
"""Runs ``pipeline.promote`` with these words and this log; its exit status and what it wrote."""


def best_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Of the complete studies of one model the (row, point) to promote: what each search recommends, compared one after another
    as with a champion."""
    best = None
    for row in rows:
        point = recommended(row["front"]) if row["status"] == DONE else None
        if point is not None and (best is None or improves(point, _as_champion(best[1]))[0]):
            best = (row, point)
    return best


def _as_champion(point: Mapping[str, Any]) -> dict[str, str]:
    return {
        "candidate": point["hash"],
        "latency_ms": str(point["latency_ms"]),
        "latency_interval_ms": f"{point['low']} to {point['high']}",
        "latency_source": point["source"],
        "device": point["device"],
        "size_bytes": str(point["size_bytes"]),
    }


def judged(
    registered: str,
    rows: Sequence[Mapping[str, Any]],
    champion: Mapping[str, str] | None,
    before: Mapping[str, Any],
    flags: Sequence[str],
    log: Path,
    promote: Promote,
    *,
    move: bool,
) -> dict[str, Any]:
    """What is to be said of one model: champion, candidate, whether it is better, and the gates' answer.

    Args:
        champion: the tags of its version.
        before: the same of the run before; its gates' answer stands while candidate and flags are the same.
        flags: of ``pipeline.promote``.
        move: promote a candidate that is better, if its gates let it.
    """
    found: dict[str, Any] = {
        "registered": registered,
        "champion": dict(champion) if champion else None,
        "flags": list(flags),
    }
    best = best_of(rows)
    if best is None:
        waiting = any(row["status"] != DONE for row in rows)
        why = (
            "no search of it is complete"
            if waiting
            else "no search recommends a candidate: none is within the bound of accuracy"
        )
        return {**found, "candidate": None, "why": why, "status": DONE if waiting else REFUSED, "gates": []}
    row, point = best
    better, why = improves(point, champion)
    found |= {
        "candidate": point["hash"],
        "study": row["study"],
        "why": why,
        "better": better,
        "gates": [],
        "promoted": False,
    }
    if champion and champion.get("candidate") == point["hash"]:
        return {**found, "status": DONE}
    same = (before.get("candidate"), before.get("study"), before.get("flags")) == (
        point["hash"],
        row["study"],
        list(flags),
    )
    if (
        same
        and before.get("status") in (DONE, REFUSED)
        and (before["status"] == REFUSED or not (move and better))
    ):
        return {**found, "status": before["status"], "gates": before["gates"]}
    words = [row["study"], "--out", str(Path(row["folder"]).parent), "--candidate", point["hash"], *flags]
    words += ["--format", "json"] + ([] if move and better else ["--check"])
    status, text = promote(words, log)
    answer = _json_in(text)
    if status not in (DONE, REFUSED) or not answer:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
        return {
            **found,
            "status": status if status not in (DONE, REFUSED) else INCOMPLETE,
            "why": f"{why}; {last}",
        }
    return {
        **found,
        "status": status,
        "gates": answer.get("gates", []),
        "promoted": bool(answer.get("promoted")),
    }


def run_promote(words: list[str], log: Path) -> tuple[int, str]:
    """The command as a process of its own; an interruption ends it."""
    process = LoggedProcess(["pipeline.promote", *words], log)
    try:
        while (status := process.status()) is None:
            time.sleep(0.2)
    except BaseException:
        process.stop(at_once=True)
        raise
    return status if status >= 0 else INCOMPLETE, process.text()


def _json_in(text: str) -> dict[str, Any]:
    line = next((line for line in reversed(text.splitlines()) if line.startswith("{")), "")
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def lines(gates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each model's champion and candidate for a terminal."""
    out = []
    for name, one in gates.items():
        champion = (one["champion"] or {}).get("candidate") or "none"
        out.append(f"{name}: champion {champion}; candidate {one['candidate'] or 'none'}: {one['why']}")
        if one["gates"]:
            out[-1] += f"; {verdict(one)}"
        out += [f"  {'pass' if g['passed'] else 'FAIL'}  {g['name']:<9}  {g['text']}" for g in one["gates"]]
    return out


def verdict(one: Mapping[str, Any]) -> str:
    """The gates' answer in words."""
    if one.get("promoted"):
        return "it passed the gates and is the champion now"
    if one["status"] == DONE and one["gates"]:
        return "it would pass the gates"
    return "a gate said no" if one["gates"] else ""
