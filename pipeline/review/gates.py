"""The gates of a promotion: pure decisions, and the words that give their reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.show import show_milliseconds, show_percent, show_points
from pipeline.study.confidence import Paired, PairedScores, error_spread
from pipeline.training.settings import ACCURACY

if TYPE_CHECKING:
    from deploy_arm.devices.base import Profile
    from pipeline.candidate.folder import CandidateFolder

DROP = 1.0  # points of accuracy, where neither the flag nor the study's settings name a bound
RULE = (
    "of the front's candidates within the bounds, by the figures of the search, and by a standard error within that of accuracy "
    "where there are such, those count as equally fast whose latency lies "
    "within the interval of the fastest one; of these the smallest is taken, of equally small ones the most accurate"
)


@dataclass(frozen=True)
class Bounds:
    """What a program must keep to: points of accuracy lost against fp32, milliseconds, whether the time may be modelled, and
    whether the images must settle that the accuracy is within its bound."""

    accuracy_drop: float = DROP
    latency_ms: float | None = None
    allow_modelled: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Gate:
    """One check and its outcome in words."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Evidence:
    """What was found out about a program.

    Attributes:
        paired: it beside fp32 on images of the report half.
        available: how many images the report half has.
        chooser: the device whose figure chose the program in the search, where it is known.
        metric: by which it is judged, in a word.
    """

    paired: Paired | PairedScores
    available: int
    profile: Profile
    chooser: str | None = None
    metric: str = ACCURACY

    def strength(self, bounds: Bounds) -> str:
        """``strong`` where the images settle on which side of the bound the accuracy lies, else ``weak``."""
        return "weak" if self.paired.verdict(bounds.accuracy_drop / 100) == "open" else "strong"


class Refused(Exception):
    """No promotion; ``gates`` says why."""

    def __init__(self, gates: Sequence[Gate], candidate: str | None = None) -> None:
        super().__init__("; ".join(gate.text for gate in gates if not gate.passed))
        self.gates, self.candidate = list(gates), candidate


def elsewhere(profile: Callable[[], Profile], chooser: str, others: int) -> Profile:
    """A profile on another device than the ``chooser``, of a pool that goes round its free devices, within so many further
    tries; else the last one."""
    found = profile()
    for _ in range(others):
        if found.device != chooser:
            break
        found = profile()
    return found


def choose(front: dict[str, Any], bounds: Bounds) -> tuple[str, str]:
    """The hash of the front's best candidate by ``RULE``, and the choice in words; pure, the same wherever it is asked.

    Raises:
        Refused: none is within the bounds by the figures of the search.
    """
    points = front["points"]
    fp32 = next((r["error"] for r in front["references"] if r["name"] == "fp32"), None)
    if fp32 is None:
        raise UserError("front.json has no fp32 reference to compare with; name a candidate with --candidate")
    if not points:
        raise Refused([Gate("choice", passed=False, text="the front is empty")])
    worst = fp32 + bounds.accuracy_drop / 100 + 1e-9
    near = [p for p in points if p["error"] <= worst]
    if not near:
        best = min(points, key=lambda p: p["error"])
        text = (
            f"no candidate is within {points_of(bounds.accuracy_drop)} of fp32 on the search half; the closest, {best['hash']}, "
            f"loses {show_points(best['error'] - fp32)}"
        )
        raise Refused([Gate("choice", passed=False, text=text)])
    limit = bounds.latency_ms
    fit = [p for p in near if limit is None or (p["high"] is not None and p["high"] <= limit)]
    if not fit:
        fastest = min((p["high"] for p in near if p["high"] is not None), default=None)
        shown = (
            "none has a latency" if fastest is None else f"the fastest may take {show_milliseconds(fastest)}"
        )
        text = f"no candidate within {points_of(bounds.accuracy_drop)} keeps to {limit:g} ms; {shown}"
        raise Refused([Gate("choice", passed=False, text=text)])
    # Of many candidates the fastest within the bound is often within it by luck, and not on the images that judge it.
    images = front.get("images")
    spreads = [error_spread(p["error"], images, p.get("error_standard_error")) for p in fit]
    sure = [p for p, spread in zip(fit, spreads) if spread is not None and p["error"] + spread <= worst]
    within = f"within {points_of(bounds.accuracy_drop)} of fp32{' by a standard error' if sure else ''}"
    fit = near = sure or fit
    timed = [p for p in fit if p["latency_ms"] is not None]
    if timed:
        fastest = min(timed, key=lambda p: (p["latency_ms"], p["hash"]))
        end = fastest["latency_ms"] if fastest["high"] is None else fastest["high"]
        fit = [p for p in timed if p["latency_ms"] <= end]
    chosen = min(fit, key=lambda p: (p["size_bytes"] or 0, p["error"], p["hash"]))
    if not timed:
        fast = "the smallest"
    elif len(fit) == 1:
        fast = "the fastest (no other is equally fast)"
    else:
        fast = f"the smallest of {len(fit)} equally fast"
    return (
        chosen["hash"],
        f"{fast} among the {len(near)} of {len(points)} candidates {within}",
    )


def points_of(drop: float) -> str:
    """``1 point``, ``2.5 points``."""
    return f"{drop:g} point{'' if drop == 1 else 's'}"


def judge(evidence: Evidence, bounds: Bounds) -> list[Gate]:
    """The gates for accuracy and its evidence, latency and the latency's source.

    The accuracy fails where even the lower end of the loss's interval lies above the bound: a program is not blamed for images
    that cannot tell. Where they cannot, the evidence is weak.
    """
    profile, limit = evidence.profile, bounds.latency_ms
    interval = show_milliseconds(profile.latency_ms, profile.low_ms, profile.high_ms)
    latency = Gate(
        "latency",
        passed=limit is None or profile.high_ms <= limit,
        text=f"{interval} {profile.source} on {profile.device}"
        + ("; no bound given" if limit is None else f"; the upper end must be within {limit:g} ms")
        + (f"; {profile.warning}" if profile.warning else ""),
    )
    measured = profile.source == "measured"
    source = Gate(
        "source",
        passed=measured or bounds.allow_modelled,
        text="the latency was measured on an ARM CPU"
        if measured
        else "the latency is modelled, no ARM CPU has run the program"
        + (
            "; allowed by --allow-modelled"
            if bounds.allow_modelled
            else "; run this on one, or add --allow-modelled"
        ),
    )
    return [*_accuracy(evidence, bounds), latency, *_device(evidence), source]


def _device(evidence: Evidence) -> list[Gate]:
    """Whether another device than the one that chose the program says the same; where none is at hand it is only told."""
    chooser, device = evidence.chooser, evidence.profile.device
    if chooser is None:
        return []
    text = f"timed on {device}; it was chosen by its time on {chooser}"
    if chooser == device:
        text = f"{device} chose it in the search too: no other device was at hand"
    return [Gate("device", passed=True, text=text)]


def _accuracy(evidence: Evidence, bounds: Bounds) -> list[Gate]:
    paired, drop = evidence.paired, bounds.accuracy_drop
    low, high = paired.interval
    verdict = paired.verdict(drop / 100)
    now, before, images = show_percent(paired.accuracy), show_percent(paired.before), paired.images
    found = (
        f"the program is right on {now} of {images} images it was never chosen on, fp32 on {before}"
        if evidence.metric == ACCURACY
        else f"{evidence.metric} of the program is {now} on {images} images it was never chosen on, fp32's {before}"
    )
    told = f"{'gains' if paired.loss < 0 else 'loses'} {show_points(abs(paired.loss))}"
    accuracy = Gate(
        "accuracy",
        passed=verdict != "beyond",
        text=f"{found}: it {told} points (95 % interval of what it loses {show_points(low)} to {show_points(high)}), "
        f"allowed are {drop:g}",
    )
    if verdict == "beyond":
        return [accuracy]
    if verdict == "within":
        evidence_gate = Gate("evidence", passed=True, text="strong: the whole interval is within the bound")
    else:
        evidence_gate = Gate("evidence", passed=not bounds.strict, text=_weak(evidence, bounds))
    return [accuracy, evidence_gate]


def _weak(evidence: Evidence, bounds: Bounds) -> str:
    """Why the evidence is weak, and what would make it strong."""
    used, available = evidence.paired.images, evidence.available
    wanted = evidence.paired.images_to_settle(bounds.accuracy_drop / 100)
    text = f"weak: the interval reaches beyond the bound of {points_of(bounds.accuracy_drop)}; "
    if wanted is None:
        text += "the loss is as good as the bound, which no number of images settles"
    else:
        text += f"about {rounded(wanted)} images like these would settle it, the report half has {available}"
    if used < available:
        text += f", of which --limit left out {available - used}"
    return text + ("; refused by --strict" if bounds.strict else "; --strict refuses such a one")


def rounded(count: int) -> int:
    """Two figures, upward: no estimate of a number of images has more."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def figures(candidate: CandidateFolder, evidence: Evidence, bounds: Bounds) -> dict[str, Any]:
    """What the bundle and the registry say of the program, each with its source."""
    profile, paired = evidence.profile, evidence.paired
    low, high = paired.interval
    return {
        "accuracy": {
            "metric": evidence.metric,
            "value": paired.accuracy,
            "fp32": paired.before,
            "loss": paired.loss,
            "loss_low": low,
            "loss_high": high,
            "evidence": evidence.strength(bounds),
            "images": paired.images,
            "source": f"the program on {profile.device}, {paired.images} images of the report half",
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


def tags_of(candidate: CandidateFolder, told: dict[str, Any]) -> dict[str, str]:
    """The registry's tags of a version."""
    latency = told["latency"]
    return {
        "gate": "passed",
        "model": candidate.manifest["model"],
        "target": candidate.manifest["target"],
        "accuracy": f"{told['accuracy']['value']:.6f}",
        "accuracy_fp32": f"{told['accuracy']['fp32']:.6f}",
        "accuracy_loss": f"{told['accuracy']['loss']:.6f}",
        "accuracy_loss_interval": f"{told['accuracy']['loss_low']:.6f} to {told['accuracy']['loss_high']:.6f}",
        "evidence": told["accuracy"]["evidence"],
        "images": str(told["accuracy"]["images"]),
        "latency_ms": f"{latency['value']:.6g}",
        "latency_interval_ms": f"{latency['low']:.6g} to {latency['high']:.6g}",
        "latency_source": latency["source"],
        "device": latency["device"],
        "size_bytes": str(told["size"]["value"]),
    }
