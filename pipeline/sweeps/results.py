"""What a sweep knows of itself between runs, and what is made of it: which searches are complete, the table, what changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.command import DONE
from foundation.errors import UserError
from foundation.files import json_text, write_atomically
from foundation.show import aligned, counted, show_bytes, show_latency
from pipeline.review.fronts import read_front
from pipeline.study.confidence import show_error
from pipeline.study.paths import SETTINGS
from pipeline.sweeps.asked import Asked, Sweep
from pipeline.sweeps.run import SearchEnd

RESULTS, LAST = "results.json", "last.json"
FILES = (SETTINGS, "study.db", "front.json")  # without which a study is not what it was


def read_results(file: Path) -> dict[str, Any]:
    """What a run left; empty where it left nothing that can be read, which costs no more than asking the searches again."""
    try:
        found = json.loads(file.read_text())
        rows, gates = found["rows"], found["gates"]
        sound = isinstance(gates, dict) and all(isinstance(row, dict) and row["study"] for row in rows)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return dict(found) if sound else {}


def begin(sweep: Sweep) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the run before this one left, be it killed; the last run that came to its end)."""
    before = read_results(sweep.folder / RESULTS)
    if before.get("ended"):
        write_atomically(sweep.folder / LAST, json_text(before, indent=1))
    return before, read_results(sweep.folder / LAST)


def complete(asked: Asked, before: Mapping[str, Any]) -> bool:
    """Whether a run before found this very search complete, and its study is still there."""
    row = next((row for row in before.get("rows", ()) if row["study"] == asked.study), None)
    if row is None or (row.get("status"), row.get("digest")) != (DONE, asked.digest):
        return False
    return all((asked.settings.folder / name).is_file() for name in FILES)


def row_of(asked: Asked, registered: str, outcome: SearchEnd | None) -> dict[str, Any]:
    """One search of the table; ``outcome`` is None where it has not been run."""
    settings = asked.settings
    row: dict[str, Any] = {
        "study": asked.study,
        "status": outcome.status if outcome else None,
        "word": outcome.word if outcome else "waiting",
        "why": outcome.why if outcome else "",
        "seconds": outcome.seconds if outcome else 0.0,
        "digest": asked.digest,
        "model": settings.model,
        "data": settings.data,
        "target": settings.target,
        "registered": registered,
        "folder": str(settings.folder),
        "drop": settings.max_accuracy_drop,
        "front": None,
    }
    try:
        row["front"] = read_front(settings.folder)
    except UserError as error:
        if row["status"] == DONE:
            row["why"] = f"complete, but not to be read from here: {error}"
    return row


def recommended(front: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The point that the search recommends."""
    chosen = ((front or {}).get("recommended") or {}).get("hash")
    return next((point for point in (front or {}).get("points", ()) if point["hash"] == chosen), None)


def reference(front: Mapping[str, Any] | None, name: str = "fp32") -> Mapping[str, Any]:
    return next((one for one in (front or {}).get("references", ()) if one["name"] == name), {})


def changes(now: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """What is different from the last run, a sentence each; ``now`` and ``last`` are results."""
    if not last:
        return ["This is the first run of the sweep that came to its end."]
    old = {row["study"]: row for row in last["rows"]}
    said = []
    for row in now["rows"]:
        study = row["study"]
        if study not in old:
            said.append(f"{study} is new.")
            continue
        before, after = (_hashes(one.get("front")) for one in (old[study], row))
        if row["word"] != old[study].get("word"):
            said.append(f"{study} is {row['word']}; it was {old[study].get('word')}.")
        if gained := len(after - before):
            said.append(f"{study}: {counted(gained, 'candidate')} joined the front.")
        if lost := len(before - after):
            said.append(f"{study}: {counted(lost, 'candidate')} left the front.")
        said += _other_choice(study, old[study].get("front"), row["front"])
    said += [
        f"{study} is no longer asked for." for study in old.keys() - {row["study"] for row in now["rows"]}
    ]
    return said or ["Nothing has changed since the last run."]


def _hashes(front: Mapping[str, Any] | None) -> set[str]:
    return {point["hash"] for point in (front or {}).get("points", ())}


def _other_choice(study: str, before: Any, after: Any) -> list[str]:
    old, new = recommended(before), recommended(after)
    if new is None or old is None:
        return []
    if old["hash"] != new["hash"]:
        return [
            f"{study} recommends {new['hash']} ({_costs(new)}), before it was {old['hash']} ({_costs(old)})."
        ]
    if _costs(old) != _costs(new):
        return [f"{study}: {new['hash']} costs {_costs(new)} now; it was {_costs(old)}."]
    return []


def _costs(point: Mapping[str, Any]) -> str:
    return f"{show_latency(point['latency_ms'], point['source'])}, {show_bytes(point['size_bytes'])}"


def columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table as text: study, what became of it, size of the front, and of fp32 and the recommended candidate the
    error, then latency, size, and how much smaller than fp32 it is."""
    front = row["front"]
    best, fp32 = recommended(front) or {}, reference(front)
    images = (front or {}).get("images")
    sizes = fp32.get("size_bytes"), best.get("size_bytes")
    return (
        row["study"],
        row["word"],
        str(len(front["points"])) if front else "-",
        show_error(fp32.get("error"), images, fp32.get("error_standard_error")),
        show_error(best.get("error"), images, best.get("error_standard_error")),
        show_latency(best.get("latency_ms"), best.get("source")),
        show_bytes(best.get("size_bytes")),
        f"{sizes[0] / sizes[1]:.1f}x" if sizes[0] and sizes[1] else "-",
    )


TITLES = ("study", "", "front", "fp32 error", "error", "latency", "size", "smaller")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All studies for a terminal; figures are those of each one's recommended candidate, errors on the images that guided it."""
    lines = [aligned([TITLES, *map(columns, rows)])]
    lines += [f"{row['study']}: {row['why']}" for row in rows if row["why"]]
    return "\n".join(lines)
