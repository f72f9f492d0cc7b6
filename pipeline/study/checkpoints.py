"""What is kept of a candidate while it trains, so that whoever comes after a process that died can take it up: in a study's
storage, under ``trials/HASH/``, the two last rungs and the outcome; in its folder, what that process noted of itself."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.study.records import TrialRecord
from pipeline.study.storage import DamagedFile, LocalStorage, Storage
from pipeline.training.rung import Rung

if TYPE_CHECKING:
    from pipeline.training.cotuning import Cotuning

EVERY = 60.0  # seconds of training until what lies between two rungs is kept too
LATELY = 32  # trials
KEPT = 2  # rungs of a trial: where the last is damaged, the one before it is taken


@dataclass(frozen=True)
class Saved:
    """What was kept at a rung.

    Attributes:
        state: of ``Cotuning``, on the CPU; None where nothing whole is kept.
        curve: the rungs up to there.
        damaged: what was found damaged on the way to it, each in words.
    """

    state: dict[str, Any] | None = None
    curve: tuple[Rung, ...] = ()
    damaged: tuple[str, ...] = ()


def trial_folder(folder: Path, plan: Plan) -> Path:
    """Where a study's ``folder`` has all of it."""
    return folder / _place(plan)


def save_checkpoint(storage: Storage, plan: Plan, run: Cotuning, curve: Sequence[Rung]) -> None:
    """Keep state and curve; of earlier rungs only the last stays."""
    write_checkpoint(storage, f"{_place(plan)}/checkpoint-{len(curve):04d}.pt", run, curve)
    for name in _checkpoints(storage, plan)[:-KEPT]:
        storage.remove(name)


def keep_between(storage: Storage, plan: Plan, run: Cotuning, curve: Sequence[Rung]) -> None:
    """Keep, every ``EVERY`` seconds of the training to come, how far the run is beyond these rungs: a long one is not lost."""
    last = time.monotonic()

    def keep() -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            write_checkpoint(storage, f"{_place(plan)}/checkpoint-{len(curve):04d}.within.pt", run, curve)
            last = time.monotonic()

    run.between = keep


def last_checkpoint(storage: Storage, plan: Plan) -> Saved:
    """The last that was kept whole, a rung or what lies between two, and what is damaged of those after it.

    Raises:
        OSError: the storage cannot be read.
    """
    damaged: list[str] = []
    for name in reversed(_checkpoints(storage, plan)):
        try:
            return dataclasses.replace(read_checkpoint(storage, name), damaged=tuple(damaged))
        except DamagedFile as error:
            damaged.append(str(error))
    return Saved(damaged=tuple(damaged))


def write_checkpoint(storage: Storage, name: str, run: Cotuning, curve: Sequence[Rung]) -> None:
    """State and curve as one file of that name."""
    import torch

    stream = io.BytesIO()
    rungs = json_text([dataclasses.asdict(rung) for rung in curve])
    torch.save({"state": run.state_dict(), "curve": rungs}, stream)
    storage.write(name, stream.getvalue())


def read_checkpoint(storage: Storage, name: str) -> Saved:
    """What ``write_checkpoint`` wrote.

    Raises:
        DamagedFile: the file is not what was written.
    """
    import torch

    saved = torch.load(io.BytesIO(storage.read(name)), map_location="cpu", weights_only=True)
    return Saved(saved["state"], tuple(Rung(**rung) for rung in json.loads(saved["curve"])))


def forget_checkpoints(storage: Storage, plan: Plan) -> None:
    """Remove all rungs."""
    for name in _checkpoints(storage, plan):
        storage.remove(name)


def save_record(storage: Storage, record: TrialRecord) -> None:
    """Keep the outcome of a finished candidate until the study has heard of it."""
    storage.write(_record(record.plan), record.to_json().encode())


def earlier_record(storage: Storage, plan: Plan, number: int) -> TrialRecord | None:
    """The outcome of a candidate that finished without the study hearing of it, as trial ``number``; a damaged one counts as
    none, and is made again."""
    try:
        record = TrialRecord.from_json(storage.read(_record(plan)).decode())
    except (FileNotFoundError, DamagedFile):
        return None
    return dataclasses.replace(record, number=number)


def unheard(folder: Path) -> Iterator[TrialRecord]:
    """The outcomes of candidates that finished without the study hearing of it."""
    storage = LocalStorage(folder)
    for path in sorted((folder / "trials").glob("*/record.json")):
        try:
            yield TrialRecord.from_json(storage.read(str(path.relative_to(folder))).decode())
        except DamagedFile:
            continue


def forget(folder: Path, storage: Storage, plan: Plan) -> None:
    """Remove all of it, and what a process that was killed had written of the candidate: the study knows the outcome now."""
    storage.remove(_place(plan))
    for left in (trial_folder(folder, plan), *(folder / "candidates").glob(f".{plan.hash}.*")):
        shutil.rmtree(left, ignore_errors=True)


def forget_ended(folder: Path, storage: Storage, ended: Sequence[TrialRecord]) -> None:
    """Forget what is left of trials whose outcome the study knows: of the last one, where the driver was killed between hearing
    and forgetting, and of one that a process of a killed driver wrote on for some seconds more.

    Args:
        folder: the study's, looked through as a whole.
        storage: another one is asked for the ``LATELY`` last trials alone, since each costs a request.
        ended: without the trials whose plans may be tried again.
    """
    left = {path.name for path in (folder / "trials").glob("*")}
    left |= {path.name.split(".")[1] for path in (folder / "candidates").glob(".*.*")}
    if not isinstance(storage, LocalStorage):
        left |= {record.hash for record in ended[-LATELY:] if storage.names(_place(record.plan))}
    for record in ended:
        if record.hash in left:
            forget(folder, storage, record.plan)


def _place(plan: Plan) -> str:
    return f"trials/{plan.hash}"


def _record(plan: Plan) -> str:
    return f"{_place(plan)}/record.json"


def _checkpoints(storage: Storage, plan: Plan) -> list[str]:
    """The names of what is kept, the last rung's at the end."""
    names = storage.names(_place(plan))
    return [name for name in names if name.rpartition("/")[2].startswith("checkpoint-")]
