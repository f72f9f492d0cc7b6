"""Which candidate a search recommends, and the command that promotes it: the same in the terminal, front.json and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError
from foundation.show import show_points
from pipeline.review.gates import DROP, Bounds, Refused, choose, points_of
from pipeline.study.confidence import loss_error
from pipeline.training.settings import word_of

ALIKE = 1.05  # ratio of sizes or latencies below which they are called equal


@dataclass(frozen=True)
class Recommendation:
    """What ``pipeline.promote`` would choose from a front.

    Attributes:
        hash: of the candidate; None where none is within the bound.
        why: the choice in words, or why there is none.
        flags: what the promote command needs to go through, each with its reason.
    """

    hash: str | None
    why: str
    flags: Sequence[tuple[str, str]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for front.json."""
        return {"hash": self.hash, "why": self.why}


def recommend(front: Mapping[str, Any], accuracy_drop: float | None) -> Recommendation:
    """The recommendation for a front as front.json holds it; pure.

    Args:
        accuracy_drop: the study's bound in points, None where it has none.
    """
    points = front["points"]
    try:
        chosen, why = choose(dict(front), Bounds(bound_of(accuracy_drop)))
    except Refused as refused:
        flags = [*_wider(front, bound_of(accuracy_drop)), *_modelled(points)]
        return Recommendation(None, str(refused), flags)
    except UserError as error:
        return Recommendation(None, str(error), _modelled(points))
    return Recommendation(chosen, why, _modelled([p for p in points if p["hash"] == chosen]))


def in_words(front: Mapping[str, Any], candidate: str | None) -> str | None:
    """What taking a candidate means: ``9.3 times smaller and 2.1 times faster (modelled) than int8, 0.3 +- 0.4 points of
    accuracy lost against fp32``; None where there is no candidate, or nothing to compare with.

    The standard error is that of the difference on the same images where their answers were compared, else nothing is said of it.
    """
    point = next((one for one in front["points"] if one["hash"] == candidate), None)
    beside = {one["name"]: one for one in front["references"]}
    if point is None or not beside:
        return None
    than = "int8" if "int8" in beside else "fp32"
    parts = []
    for figure, more, less, unit in (
        ("size_bytes", "smaller", "larger", ""),
        ("latency_ms", "faster", "slower", f" ({point['source']})" if point.get("source") else ""),
    ):
        own, other = point[figure], beside.get(than, {}).get(figure)
        if own and other and (figure == "size_bytes" or point["source"] == beside[than]["source"]):
            parts.append(f"{_times(other / own, more, less)}{unit}")
    alike = any("as" in part.split() for part in parts)
    both = " and ".join(parts)
    told = [f"beside {than} {both}" if alike else f"{both} than {than}"] if parts else []
    if (fp32 := beside.get("fp32")) is not None and fp32["error"] is not None and point["error"] is not None:
        told.append(f"{_lost(point, fp32, front.get('images'), word_of(front.get('metric')))} against fp32")
    return ", ".join(told) or None


def _times(ratio: float, more: str, less: str) -> str:
    big = max(ratio, 1 / ratio)
    if big < ALIKE:
        return {"smaller": "about as large", "faster": "about as fast"}[more]
    shown = f"{big:.0f}" if big >= 99.5 else f"{big:.2g}"
    return f"{shown} times {more if ratio >= 1 else less}"


def _lost(point: Mapping[str, Any], fp32: Mapping[str, Any], images: int | None, metric: str) -> str:
    loss, discordant = point["error"] - fp32["error"], point.get("discordant")
    word = f"{metric} {'lost' if loss > -1e-9 else 'won'}"
    if not images or discordant is None:
        return f"{show_points(abs(loss))} points of {word}"
    return f"{show_points(abs(loss), loss_error(loss, discordant, images))} points of {word}"


def bound_of(*given: float | None) -> float:
    """The first bound that is given, in points of accuracy, or the default."""
    return next((bound for bound in given if bound is not None), DROP)


def _modelled(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if not any(point.get("source") == "modelled" for point in points):
        return []
    return [("--allow-modelled", "no ARM CPU has run these programs: their latencies are modelled")]


def _wider(front: Mapping[str, Any], bound: float) -> list[tuple[str, str]]:
    """The bound, in whole points, with which the closest candidate would be chosen."""
    fp32 = next((row["error"] for row in front["references"] if row["name"] == "fp32"), None)
    if not front["points"] or fp32 is None:
        return []
    wanted = math.ceil(100 * (min(point["error"] for point in front["points"]) - fp32) - 1e-6)
    return [
        (
            f"--max-accuracy-drop {wanted}",
            f"no candidate is within {points_of(bound)} of fp32: this accepts the closest",
        )
    ]
