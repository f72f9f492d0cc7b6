"""What the rooms of the pipeline hand each other about trials: plain values, no behaviour that has effects."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.study.work import Piece
from pipeline.training.rung import Rung

Status = Literal["finished", "stopped", "dominated", "failed", "running"]
OBJECTIVES = ("error", "latency", "size")


@dataclass(frozen=True)
class Figures:
    """The three objectives of one candidate and where the latency comes from.

    ``error`` is the share of wrong answers (0..1) on the half of the validation images that guides the search, or 1 minus what a
    metric of one's own says, with ``error_standard_error`` where the number of images does not say it; ``divergence`` is that
    of the class probabilities from the fp32 network's on the same images, in nats; ``discordant`` the share of them on which
    exactly one of the two is right (of other metrics the mean squared difference of an image's scores); latency is in
    milliseconds for one image, with its interval; sizes are bytes of the blob the program loads.
    """

    error: float | None
    latency_ms: float | None = None
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    source: str | None = None  # "measured" or "modelled"
    device: str | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    divergence: float | None = None
    divergence_standard_error: float | None = None
    discordant: float | None = None
    error_standard_error: float | None = None

    def objectives(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        """The chosen objectives in order, or None when one is missing."""
        values = {"error": self.error, "latency": self.latency_ms, "size": self.size_bytes}
        chosen = [values[name] for name in names]
        return (
            None
            if any(value is None for value in chosen)
            else tuple(float(v) for v in chosen if v is not None)
        )


@dataclass(frozen=True)
class TrialRecord:
    """Everything the study knows of one trial.

    Statuses: ``finished`` ran all its rungs; ``stopped`` was ended at a rung by the halving rule; ``dominated`` could not
    enter the front and was never trained; ``failed`` has a reason; ``running`` is in flight.

    ``inherits`` is the hash of the candidate whose weights the trial may start from; it had them where its curve has the stage
    ``inherited``.
    """

    number: int
    plan: Plan
    status: Status
    figures: Figures
    reason: str | None = None
    curve: tuple[Rung, ...] = ()
    started: float | None = None  # seconds since the epoch
    ended: float | None = None
    work: tuple[Piece, ...] = ()  # where and when; empty in studies of versions that did not keep that
    inherits: str | None = None

    @property
    def hash(self) -> str:
        return self.plan.hash

    def to_json(self) -> str:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        record["plan"] = json.loads(self.plan.to_json())
        record["figures"] = dataclasses.asdict(self.figures)
        record["curve"] = [dataclasses.asdict(rung) for rung in self.curve]
        record["work"] = [piece.as_list() for piece in self.work]
        if self.inherits is None:
            del record["inherits"]
        return json_text(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        record: dict[str, Any] = json.loads(text)
        record["plan"] = Plan.from_record(record["plan"])
        record["figures"] = Figures(**record["figures"])
        record["curve"] = tuple(Rung(**_with_numbers(rung)) for rung in record["curve"])
        record["work"] = tuple(map(Piece.of_list, record.get("work", ())))
        return cls(**record)


def _with_numbers(rung: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was none is null there."""
    return {**rung, **{key: math.nan for key in ("error", "loss", "seconds") if rung[key] is None}}


def sound(record: TrialRecord, objectives: tuple[str, ...]) -> TrialRecord:
    """The record; as that of a failed trial where it says that it finished, with figures that are no numbers: nothing can be
    compared with them, and one of them would keep the study from being opened."""
    if record.status != "finished":
        return record
    point = record.figures.objectives(objectives)
    if point is not None and all(map(math.isfinite, point)):
        return record
    reason = f"it came to figures that are no numbers ({', '.join(objectives)}: {point or 'not all known'})"
    return dataclasses.replace(record, status="failed", reason=reason)


@dataclass(frozen=True)
class Reference:
    """A network to compare with: ``fp32`` or ``int8`` (uncompressed in the search's sense)."""

    name: str
    figures: Figures
