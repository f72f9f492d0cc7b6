"""What a person means to promote: a study by name or by path, or one of its candidates by path."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError
from pipeline.candidate.named import candidate_name
from pipeline.study import paths
from pipeline.study.command_line import read_config
from pipeline.study.settings import Settings

CANDIDATES = "candidates"


@dataclass(frozen=True)
class Named:
    """A study's folder and settings, and the full hash of the candidate, where one is named."""

    folder: Path
    settings: Settings
    candidate: str | None


def named(typed: str, out: Path, candidate: str | None = None, tracking_uri: str | None = None) -> Named:
    """The study, and candidate, of what was typed: a name in ``out``, the path of a study's folder, or that of a candidate's.

    A name in ``out`` comes before a folder of the same name here; a path with a slash in it is always a path.

    Args:
        candidate: the beginning of a candidate's hash, where the study is what is named.
        tracking_uri: in place of the study's.

    Raises:
        UserError: there is no such study or candidate, or the candidate lies in no study.
    """
    folder, own = _folder(typed, out)
    if own and candidate is not None and not own.startswith(candidate):
        raise UserError(f"{typed} is candidate {own}, and --candidate {candidate} is another: leave one out")
    file = folder / paths.SETTINGS
    record = {**read_config(file), "name": folder.name, "out": str(folder.parent)}
    settings = Settings.from_dict(record, str(file))
    settings = dataclasses.replace(settings, tracking_uri=tracking_uri or settings.tracking_uri)
    return Named(folder, settings, own or (None if candidate is None else candidate_name(folder, candidate)))


def _folder(typed: str, out: Path) -> tuple[Path, str | None]:
    """The study's folder, and the candidate's hash where its folder was named."""
    if os.sep not in typed and (out / typed / paths.SETTINGS).is_file():
        return out / typed, None
    place = paths.absolute(typed)
    if (place / paths.SETTINGS).is_file():
        return place, None
    if (place / "manifest.json").is_file() or place.parent.name == CANDIDATES:
        study = place.parent.parent
        if place.parent.name == CANDIDATES and (study / paths.SETTINGS).is_file():
            return study, candidate_name(study, place.name)
        raise UserError(
            f"{place} lies in no study ({study / paths.SETTINGS} is missing), so what it was made from and compared with is not "
            "known here; promote it where it was searched, or `python -m pipeline.evaluate` and `python -m pipeline.export` it"
        )
    known = sorted(path.parent.name for path in out.glob(f"*/{paths.SETTINGS}"))
    raise UserError(
        f"there is no study {typed!r} in {out}; there are: {', '.join(known) or 'none'} (--out names the folder; a path of a "
        "study or of a candidate is taken too)"
    )
