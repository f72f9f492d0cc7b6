"""What a study's folder tells of it, whether or not a search runs on it. Nothing is changed."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from pipeline.review.fronts import front_json
from pipeline.review.recommendation import recommend
from pipeline.shelf.driver import Driver, driver_of
from pipeline.study.command_line import of_study
from pipeline.study.decided import read_decisions, without_rejected
from pipeline.study.limits import chosen_front
from pipeline.study.pruned import read_pruned
from pipeline.study.records import Reference, TrialRecord
from pipeline.study.references import REFERENCES, read_references
from pipeline.study.settings import Settings
from pipeline.study.study import read_records


@dataclass(frozen=True)
class View:
    """A study.

    Attributes:
        folder: where it lies.
        settings: those it was started with, its place being where it lies now.
        records: of all trials that ended.
        front: the content of front.json, made anew of what is known now.
        images: how many guide the search; None where that is not written down yet.
        driver: who runs it.
    """

    folder: Path
    settings: Settings
    records: Sequence[TrialRecord]
    front: Mapping[str, Any]
    driver: Driver | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def counts(self) -> Mapping[str, int]:
        """Trials by how they ended."""
        return Counter(record.status for record in self.records)

    @property
    def spent(self) -> int:
        """Trials that count toward the budget."""
        return sum(self.counts[status] for status in ("finished", "stopped", "failed"))

    @property
    def state(self) -> str:
        """``running``, ``complete`` or ``resumable``."""
        if self.driver is not None:
            return "running"
        return "complete" if self.spent >= self.settings.budget else "resumable"

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The recommended candidate of the front, or else the most accurate one."""
        points = self.front["points"]
        chosen = self.front["recommended"]["hash"]
        found = next((point for point in points if point["hash"] == chosen), None)
        return found or min(points, key=lambda point: (point["error"], point["hash"]), default=None)

    @property
    def fp32(self) -> Mapping[str, Any] | None:
        """The reference."""
        return next((one for one in self.front["references"] if one["name"] == "fp32"), None)


def look(folder: Path) -> View:
    """The study in ``folder``.

    Raises:
        UserError: it is none, or damaged; the message says what cannot be read.
    """
    settings = settings_of(folder)
    records = read_records(folder)
    references = [Reference(name, figures) for name, figures in _references(folder / REFERENCES).items()]
    chosen = chosen_front(records, references, settings, read_pruned(folder))
    front = front_json(chosen, references, settings.objectives, _images(folder), settings.metric)
    left = without_rejected(front, read_decisions(folder))
    front["recommended"] = recommend(left, settings.max_accuracy_drop).as_dict()
    return View(folder, settings, records, front, driver_of(folder))


def settings_of(folder: Path) -> Settings:
    """The settings of the study in ``folder``, with the name and the place that it has now.

    Raises:
        UserError: they cannot be read.
    """
    found = of_study(folder.parent, folder.name)
    if not found:
        raise UserError(f"{folder} has no settings (settings.yaml): its search ended before it began")
    return Settings(**{**found, "out": folder.parent, "name": folder.name})


def bytes_of(folder: Path) -> int:
    """What a folder takes on the disk; what is linked to elsewhere is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except OSError:  # a running search has removed it
                continue
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _references(file: Path) -> Mapping[str, Any]:
    try:
        return read_references(file)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} is damaged ({error}); remove it, and the next resume makes it anew"
        ) from error


def _images(folder: Path) -> int | None:
    try:
        return int(json.loads((folder / "split.json").read_text())["splits"]["search"]["count"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
