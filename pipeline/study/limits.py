"""Which trials a study's front is made of: what keeps to the limits that were asked for, and still has its files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.study.records import OBJECTIVES, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import front_of


@dataclass(frozen=True)
class Limits:
    """What of a search's settings its front depends on; without, their defaults."""

    objectives: tuple[str, ...] = OBJECTIVES
    max_accuracy_drop: float | None = None
    max_latency: float | None = None
    max_size: int | None = None


def chosen_front(
    records: Sequence[TrialRecord],
    references: Sequence[Reference],
    settings: Settings | Limits,
    pruned: Collection[str] = (),
) -> list[TrialRecord]:
    """The finished trials within the settings' limits that no other of them dominates, without those that were ``pruned``."""
    allowed = within_drop(
        [r for r in records if r.hash not in pruned], references, settings.max_accuracy_drop
    )
    return front_of(within_costs(allowed, settings.max_latency, settings.max_size), settings.objectives)


def within_drop(
    records: Sequence[TrialRecord], references: Sequence[Reference], max_drop: float | None
) -> list[TrialRecord]:
    """The records that lose at most ``max_drop`` points of accuracy against fp32; all of them where it is None."""
    fp32 = next((r.figures.error for r in references if r.name == "fp32"), None)
    if max_drop is None or fp32 is None:
        return list(records)
    return [
        record
        for record in records
        if record.figures.error is not None and record.figures.error <= fp32 + max_drop / 100 + 1e-9
    ]


def within_costs(
    records: Sequence[TrialRecord], latency: float | None, size: int | None
) -> list[TrialRecord]:
    """The records of at most so many milliseconds and bytes, where such a limit is given and the figure is known."""
    return [
        record
        for record in records
        if (latency is None or (record.figures.latency_ms or 0) <= latency)
        and (size is None or (record.figures.size_bytes or 0) <= size)
    ]
