"""What is kept of a candidate while it trains, so that a trial that died can be taken up again: OUT/NAME/trials/HASH/."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.files import json_text, write_atomically
from foundation.plan import Plan
from pipeline.study.records import TrialRecord
from pipeline.training.rung import Rung

if TYPE_CHECKING:
    from pipeline.training.cotuning import Cotuning


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read; the text says which."""


def trial_folder(folder: Path, plan: Plan) -> Path:
    """Where all of it lies. ``folder`` is the study's."""
    return folder / "trials" / plan.hash


def checkpoint_path(folder: Path, plan: Plan) -> Path:
    """State and curve at the last rung that was reached."""
    return trial_folder(folder, plan) / "checkpoint.pt"


def record_path(folder: Path, plan: Plan) -> Path:
    """The outcome of a finished candidate, until the study has heard of it."""
    return trial_folder(folder, plan) / "record.json"


def earlier_record(folder: Path, plan: Plan, number: int) -> TrialRecord | None:
    """The outcome of a candidate that finished without the study hearing of it, as trial ``number``."""
    path = record_path(folder, plan)
    if not path.is_file():
        return None
    return dataclasses.replace(TrialRecord.from_json(path.read_text()), number=number)


def unheard(folder: Path) -> Iterator[tuple[Path, TrialRecord]]:
    """The outcomes of candidates that finished without the study hearing of it, and the files that hold them."""
    for path in sorted((folder / "trials").glob("*/record.json")):
        yield path, TrialRecord.from_json(path.read_text())


def forget(folder: Path, plan: Plan) -> None:
    """Remove all of it, and what a process that was killed had written of the candidate: the study knows the outcome now."""
    for left in (trial_folder(folder, plan), *(folder / "candidates").glob(f".{plan.hash}.*")):
        shutil.rmtree(left, ignore_errors=True)


def save_checkpoint(path: Path, run: Cotuning, curve: Sequence[Rung]) -> None:
    """Write state and curve, atomically."""
    import torch

    stream = io.BytesIO()
    rungs = json_text([dataclasses.asdict(rung) for rung in curve])
    torch.save({"state": run.state_dict(), "curve": rungs}, stream)
    write_atomically(path, stream.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """``state`` and ``curve`` of a checkpoint, on the CPU.

    Raises:
        DamagedCheckpoint: the file is no checkpoint.
    """
    import torch

    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["state"], saved["curve"]
    except Exception as error:  # damaged files raise nearly anything
        raise DamagedCheckpoint(f"{path} is no checkpoint; remove it to train from the start") from error
    return saved


def rungs_of(saved: dict[str, Any]) -> tuple[Rung, ...]:
    """The curve in a checkpoint."""
    return tuple(Rung(**rung) for rung in json.loads(saved["curve"]))
