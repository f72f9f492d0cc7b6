"""The gates of a promotion: pure decisions, and the words that give their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantizers.errors import UserError

if TYPE_CHECKING:
    from deploy_arm.profiling import Profile
    from pipeline.candidate import Candidate

DROP = 1.0  # points of accuracy, where neither the flag nor the study's settings name a bound


@dataclass(frozen=True)
class Bounds:
    """What a program must keep to: points of accuracy lost against fp32, milliseconds, and whether the time may be modelled."""

    accuracy_drop: float = DROP
    latency_ms: float | None = None
    allow_modelled: bool = False


@dataclass(frozen=True)
class Gate:
    """One check and its outcome in words."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Evidence:
    """What was found out about a program: accuracies are shares of 1 on the same ``images`` images of the report half."""

    images: int
    accuracy: float
    fp32: float
    on: str
    profile: Profile


class Refused(Exception):
    """No promotion; ``gates`` says why."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        super().__init__("; ".join(gate.text for gate in gates if not gate.passed))
        self.gates = list(gates)


def choose(front: dict[str, Any], bounds: Bounds) -> tuple[str, str]:
    """The hash of the front's best candidate by the rule above, and the choice in words.

    Raises:
        Refused: none is within the bounds by the figures of the search.
    """
    points = front["points"]
    fp32 = next((r["error"] for r in front["references"] if r["name"] == "fp32"), None)
    if fp32 is None:
        raise UserError("front.json has no fp32 reference to compare with; name a candidate with --candidate")
    if not points:
        raise Refused([Gate("choice", False, "the front is empty")])
    near = [p for p in points if p["error"] <= fp32 + bounds.accuracy_drop / 100 + 1e-9]
    if not near:
        best = min(points, key=lambda p: p["error"])
        raise Refused([Gate("choice", False, f"no candidate is within {bounds.accuracy_drop:g} points of fp32 on the search "
                            f"half; the closest, {best['hash']}, loses {100 * (best['error'] - fp32):.2f}")])  # fmt: skip
    limit = bounds.latency_ms
    fit = [p for p in near if limit is None or (p["high"] is not None and p["high"] <= limit)]
    if not fit:
        fastest = min((p["high"] for p in near if p["high"] is not None), default=None)
        shown = "none has a latency" if fastest is None else f"the fastest may take {fastest:.4g} ms"
        raise Refused([Gate("choice", False, f"no candidate within {bounds.accuracy_drop:g} points keeps to {limit:g} ms; "
                            f"{shown}")])  # fmt: skip
    timed = [p for p in fit if p["latency_ms"] is not None]
    if timed:
        fastest = min(timed, key=lambda p: (p["latency_ms"], p["hash"]))
        end = fastest["latency_ms"] if fastest["high"] is None else fastest["high"]
        fit = [p for p in timed if p["latency_ms"] <= end]
    chosen = min(fit, key=lambda p: (p["size_bytes"] or 0, p["error"], p["hash"]))
    fast = f"the smallest of {len(fit)} equally fast" if timed else "the smallest"
    return (
        chosen["hash"],
        f"{fast} among the {len(near)} of {len(points)} candidates within {bounds.accuracy_drop:g} points of fp32",
    )


def judge(evidence: Evidence, bounds: Bounds) -> list[Gate]:
    """The gates for accuracy, latency and the latency's source."""
    drop, profile, limit = 100 * (evidence.fp32 - evidence.accuracy), evidence.profile, bounds.latency_ms
    accuracy = Gate(
        "accuracy",
        drop <= bounds.accuracy_drop + 1e-9,
        f"the program is right on {100 * evidence.accuracy:.2f} % of {evidence.images} images it was never chosen on, fp32 on "
        f"{100 * evidence.fp32:.2f} %: it loses {drop:.2f} points, allowed are {bounds.accuracy_drop:g}",
    )
    interval = f"{profile.latency_ms:.4g} ms ({profile.low_ms:.4g} to {profile.high_ms:.4g})"
    latency = Gate(
        "latency",
        limit is None or profile.high_ms <= limit,
        f"{interval} {profile.source} on {profile.device}"
        + ("; no bound given" if limit is None else f"; the upper end must be within {limit:g} ms")
        + (f"; {profile.warning}" if profile.warning else ""),
    )
    measured = profile.source == "measured"
    source = Gate(
        "source",
        measured or bounds.allow_modelled,
        "the latency was measured on an ARM CPU"
        if measured
        else "the latency is modelled, no ARM CPU has run the program"
        + (
            "; allowed by --allow-modelled"
            if bounds.allow_modelled
            else "; run this on one, or add --allow-modelled"
        ),
    )
    return [accuracy, latency, source]


def figures(candidate: Candidate, evidence: Evidence) -> dict[str, Any]:
    """What the bundle and the registry say of the program, each with its source."""
    profile = evidence.profile
    return {
        "accuracy": {
            "value": evidence.accuracy,
            "fp32": evidence.fp32,
            "images": evidence.images,
            "source": f"the program on {evidence.on}, {evidence.images} images of the report half",
        },
        "latency": {
            "value": profile.latency_ms,
            "low": profile.low_ms,
            "high": profile.high_ms,
            "unit": "ms",
            "source": profile.source,
            "device": profile.device,
            "warning": profile.warning,
            "details": profile.details,
        },
        "size": {"value": candidate.blob.stat().st_size, "unit": "bytes", "source": "length of weights.blob"},
        "peak_memory": {"value": profile.peak_memory_bytes, "unit": "bytes", "source": profile.source},
    }


def tags_of(candidate: Candidate, told: dict[str, Any]) -> dict[str, str]:
    """The registry's tags of a version."""
    latency = told["latency"]
    return {
        "gate": "passed",
        "model": candidate.manifest["model"],
        "target": candidate.manifest["target"],
        "accuracy": f"{told['accuracy']['value']:.6f}",
        "accuracy_fp32": f"{told['accuracy']['fp32']:.6f}",
        "images": str(told["accuracy"]["images"]),
        "latency_ms": f"{latency['value']:.6g}",
        "latency_interval_ms": f"{latency['low']:.6g} to {latency['high']:.6g}",
        "latency_source": latency["source"],
        "device": latency["device"],
        "size_bytes": str(told["size"]["value"]),
    }
