"""Which candidate a search recommends, and the command that promotes it: the same in the terminal, front.json and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError
from pipeline.review.gates import DROP, Bounds, Refused, choose, points_of


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
