"""What the report shows, read from a study's folder alone, wherever that lies now and whether or not a search runs on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from pipeline.candidate.details import read_details
from pipeline.report.data import ReportData
from pipeline.report.publish import gather
from pipeline.study.limits import Limits, chosen_front
from pipeline.study.paths import SETTINGS
from pipeline.study.pruned import read_pruned
from pipeline.study.records import OBJECTIVES, Figures, Reference
from pipeline.study.study import FILE, read_records
from pipeline.study.yaml_file import read_mapping

REFERENCES = "references.json"
SPLIT = "split.json"
CHANGING = (
    FILE,
    f"{FILE}-wal",
    SETTINGS,
    REFERENCES,
    SPLIT,
    "sensitivity.json",
    "candidates",
    "pruned.json",
    "decisions.json",
)


def read_study(folder: Path) -> tuple[dict[str, Any], ReportData]:
    """The content that front.json would have now, and what the report shows; nothing is changed.

    Raises:
        UserError: the folder holds no study, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; give a study's, which lies in the output folder by its name"
        )
    records = read_records(folder, running=True)
    settings: dict[str, Any] = (
        {"name": folder.name, **read_mapping(folder / SETTINGS)} if (folder / SETTINGS).is_file() else {}
    )
    references = _references(folder)
    try:
        limits = Limits(
            tuple(settings.get("objectives") or OBJECTIVES),
            *(settings.get(name) for name in ("max_accuracy_drop", "max_latency", "max_size")),
        )
        chosen = chosen_front(records, references, limits, read_pruned(folder))
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder / SETTINGS} holds settings of another kind ({error}); take it from a copy"
        ) from error
    return gather(folder, settings, records, chosen, references, _layer_weights(folder), _images(folder))


def stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """What changes when something that the report shows does: times and sizes of files."""
    found = []
    for name in CHANGING:
        try:
            status = (folder / name).stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _references(folder: Path) -> list[Reference]:
    path = folder / REFERENCES
    if not path.is_file():
        return []
    try:
        return [Reference(row["name"], Figures(**row["figures"])) for row in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); take it from a copy of the study") from error


def _images(folder: Path) -> int | None:
    """Of how many images an error is a share; None where that is not known."""
    try:
        record = json.loads((folder / SPLIT).read_text())
        return int(record["splits"]["search"]["count"]) if record.get("labelled", True) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _layer_weights(folder: Path) -> Mapping[str, int]:
    """Weights by layer, in the network's order, as some candidate tells; empty before there is one."""
    places = sorted((folder / "candidates").glob("*/layers.json"))
    details = (read_details(place.parent) for place in places)
    return next(({name: layer.weights for name, layer in found.items()} for found in details if found), {})
