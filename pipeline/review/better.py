"""Whether a candidate would be an improvement on a champion: a pure decision, by the rule that chooses within a front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.show import show_bytes, show_latency


def improves(point: Mapping[str, Any], champion: Mapping[str, str] | None) -> tuple[bool, str]:
    """Whether a point of a front beats the champion, and why in words.

    Both keep to their bound of accuracy, the one by the figures of its search, the other by the gates. So the faster is the
    better; those count as equally fast whose latency lies within the interval of the faster, and of these the smaller is.

    Args:
        champion: the tags of its version (``pipeline.review.gates.tags_of``); None where there is none.
    """
    if champion is None:
        return True, "there is no champion yet"
    if champion.get("candidate") == point["hash"]:
        return False, "it is the champion"
    ours, theirs = point["latency_ms"], _number(champion.get("latency_ms"))
    device = (point["source"], point["device"])
    if None in (ours, theirs) or device != (champion.get("latency_source"), champion.get("device")):
        there = f"{champion.get('latency_source')} on {champion.get('device')}"
        return False, (
            f"its latency, {point['source']} on {point['device']}, cannot be compared with the champion's, {there}; promote by "
            "hand if it is to replace it"
        )
    end = _number(str(champion.get("latency_interval_ms", "")).partition(" to ")[2])
    both = f"{show_latency(ours)} against {show_latency(theirs)}"
    if ours < theirs and theirs > (ours if point["high"] is None else point["high"]):
        return True, f"it is faster than the champion: {both} {point['source']}"
    if theirs < ours and ours > (theirs if end is None else end):
        return False, f"the champion is faster: {both} {point['source']}"
    size, other = point["size_bytes"] or 0, int(_number(champion.get("size_bytes")) or 0)
    sizes = f"{show_bytes(size)} against {show_bytes(other)}, equally fast"
    if size < other:
        return True, f"it is smaller than the champion: {sizes}"
    return False, f"it is {'no smaller' if size == other else 'larger'} than the champion: {sizes}"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
