"""What the report shows, read from a study's folder alone, wherever that lies now and whether or not a search runs on it; or
from the folder of ``pipeline.quantize``, which holds one candidate."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from pipeline.candidate.details import read_details
from pipeline.candidate.folder import load_candidate
from pipeline.candidate.reviewed import json_mapping
from pipeline.report.data import ReportData
from pipeline.report.publish import gather
from pipeline.study.limits import Limits, chosen_front
from pipeline.study.paths import MADE, SETTINGS
from pipeline.study.pruned import read_pruned
from pipeline.study.records import OBJECTIVES, Figures, Reference, TrialRecord
from pipeline.study.study import FILE, read_records
from pipeline.study.yaml_file import read_mapping

REFERENCES = "references.json"
SPLIT = "split.json"
MANIFEST = "manifest.json"
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
        UserError: the folder holds neither a study nor a quantized network, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; give a study's, which lies in the output folder by its name"
        )
    if (folder / MADE).is_file():
        return _read_quantized(folder)
    if (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is one candidate; give the folder that its folder candidates lies in")
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
    return gather(
        folder,
        settings,
        records,
        chosen,
        references,
        _layer_weights(folder),
        _images(json_mapping(folder / SPLIT)),
    )


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


def _read_quantized(folder: Path) -> tuple[dict[str, Any], ReportData]:
    """The same of the one network that ``pipeline.quantize`` made, beside fp32 and int8."""
    made = json_mapping(folder / MADE)
    places = sorted(place.parent for place in folder.glob(f"candidates/*/{MANIFEST}"))
    if not places:
        raise UserError(
            f"the network in {folder} is not finished; the same pipeline.quantize goes on with it"
        )
    candidate = load_candidate(places[0])
    record = TrialRecord(0, candidate.plan, "finished", candidate.figures)
    weights = {name: layer.weights for name, layer in read_details(candidate.folder).items()}
    images = _images(candidate.manifest.get("data"))
    settings = {"name": folder.resolve().name, **made}
    front, data = gather(folder, settings, [record], [record], _references(folder), weights, images)
    del front["recommended"]  # there is no other
    return front, dataclasses.replace(data, recommended=None, searched=False)


def _references(folder: Path) -> list[Reference]:
    path = folder / REFERENCES
    if not path.is_file():
        return []
    try:
        return [Reference(row["name"], Figures(**row["figures"])) for row in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); take it from a copy of the study") from error


def _images(split: Any) -> int | None:
    """Of how many images an error is a share, by the record of the data; None where that is not known."""
    try:
        return int(split["splits"]["search"]["count"]) if split.get("labelled", True) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _layer_weights(folder: Path) -> Mapping[str, int]:
    """Weights by layer, in the network's order, as some candidate tells; empty before there is one."""
    places = sorted((folder / "candidates").glob("*/layers.json"))
    details = (read_details(place.parent) for place in places)
    return next(({name: layer.weights for name, layer in found.items()} for found in details if found), {})
