"""What a candidate's folder tells who reviews it: what each operation takes, and where its answers differ from fp32's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWERS = "answers.json"  # beside a candidate: ``pipeline.candidate.answers`` writes it


@dataclass(frozen=True)
class OperationTime:
    """One operation of a profile.

    Attributes:
        layer: the network's name for it.
        kind, kernel: what it is and, of a convolution, what computes it.
        ms, low_ms, high_ms: for one image, with its interval.
        instructions: executed; None where they were not counted.
        foreseen: milliseconds that the fitted cost of every kernel that could do it foresaw, by its name; the least was chosen.
    """

    layer: str
    kind: str
    kernel: str
    ms: float
    low_ms: float
    high_ms: float
    instructions: int | None = None
    foreseen: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CandidateReview:
    """Attributes:
    operations: in the program's order; empty where the device cannot tell them apart.
    source, device: where their times come from.
    answers: the content of ``answers.json``; empty where it was not kept.
    """

    operations: Sequence[OperationTime] = ()
    source: str = ""
    device: str = ""
    answers: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the page; operations as lists, which are shorter."""
        rows = [
            [o.layer, o.kind, o.kernel, o.ms, o.low_ms, o.high_ms, o.instructions, dict(o.foreseen)]
            for o in self.operations
        ]
        return {
            "operations": rows,
            "source": self.source,
            "device": self.device,
            "answers": dict(self.answers),
        }


def read_review(candidate: Path) -> CandidateReview:
    """Of a candidate's folder; what is missing there, or cannot be read, stays empty."""
    manifest, answers = json_mapping(candidate / "manifest.json"), json_mapping(candidate / ANSWERS)
    profile = manifest.get("profile")
    if not isinstance(profile, dict):
        return CandidateReview(answers=answers)
    foreseen = manifest.get("foreseen")
    foreseen = foreseen if isinstance(foreseen, dict) else {}
    try:
        operations = [
            OperationTime(
                str(row["layer"]),
                str(row["kind"]),
                str(row["kernel"]),
                float(row["ms"]),
                float(row["low_ms"]),
                float(row["high_ms"]),
                row.get("instructions"),
                foreseen.get(str(row["operation"]), {}),
            )
            for row in profile.get("layers") or ()
        ]
    except (KeyError, TypeError, ValueError):
        operations = []
    return CandidateReview(
        operations, str(profile.get("source", "")), str(profile.get("device", "")), answers
    )


def json_mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty where it cannot be read or holds something else."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
