"""Which candidate of a front is promoted, and what it must pass before: decisions alone, without a study."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deploy_arm.profiling import Profile
from pipeline.gates import Bounds, Evidence, Refused, choose, judge
from quantizers.errors import UserError

MODELLED = Profile(2.0, 1.8, 2.3, "modelled", "emulated a76", 1000, 4096, 512)


def front(*points: tuple[str, float, float | None, int], fp32: float = 0.10) -> dict[str, Any]:
    rows = [
        {
            "hash": name,
            "error": error,
            "latency_ms": ms,
            "low": ms and 0.9 * ms,
            "high": ms and 1.1 * ms,
            "size_bytes": size,
        }
        for name, error, ms, size in points
    ]
    return {
        "objectives": ["error", "latency", "size"],
        "references": [{"name": "fp32", "error": fp32}],
        "points": rows,
    }


def test_the_choice_is_fast_then_small_then_accurate() -> None:
    fast, alike = ("fast", 0.105, 1.00, 900), ("alike", 0.108, 1.05, 500)
    slow, wrong = ("slow", 0.10, 1.5, 100), ("wrong", 0.2, 0.1, 10)
    assert choose(front(fast, slow, wrong), Bounds(1.0))[0] == "fast"
    assert (
        choose(front(fast, alike, slow, wrong), Bounds(1.0))[0] == "alike"
    )  # its latency is within fast's interval
    assert choose(front(fast, alike, slow, wrong), Bounds(0.5))[0] == "fast"
    assert choose(front(("a", 0.11, 1.0, 5), ("b", 0.10, 1.0, 5)), Bounds(1.0))[0] == "b"
    assert choose(front(("a", 0.11, None, 5), ("b", 0.10, None, 9)), Bounds(1.0))[0] == "a"
    assert choose(front(fast, wrong), Bounds(15.0))[0] == "wrong"


def test_what_cannot_be_chosen_is_refused_with_the_closest() -> None:
    with pytest.raises(Refused, match="closest, far, loses 10"):
        choose(front(("far", 0.2, 1.0, 5)), Bounds(1.0))
    with pytest.raises(Refused, match="the fastest may take"):
        choose(front(("near", 0.1, 1.0, 5)), Bounds(1.0, latency_ms=1.05))
    with pytest.raises(Refused, match="empty"):
        choose(front(), Bounds())
    with pytest.raises(UserError, match="no fp32"):
        choose({"points": [], "references": []}, Bounds())


@pytest.mark.parametrize(
    ("accuracy", "source", "bounds", "failed"),
    [
        (0.90, "measured", Bounds(1.0), set()),
        (0.89, "measured", Bounds(1.0), set()),
        (0.8899, "measured", Bounds(1.0), {"accuracy"}),
        (0.95, "measured", Bounds(0.0), set()),
        (0.90, "measured", Bounds(1.0, 2.3), set()),
        (0.90, "measured", Bounds(1.0, 2.29), {"latency"}),  # the upper end of the interval counts
        (0.90, "modelled", Bounds(1.0), {"source"}),
        (0.90, "modelled", Bounds(1.0, None, True), set()),
        (0.50, "modelled", Bounds(1.0, 1.0), {"accuracy", "latency", "source"}),
    ],
)
def test_the_gates_are_exact(accuracy: float, source: Any, bounds: Bounds, failed: set[str]) -> None:
    profile = dataclasses.replace(MODELLED, source=source)
    gates = judge(Evidence(1000, accuracy, 0.90, "board", profile), bounds)
    assert {gate.name for gate in gates if not gate.passed} == failed
    assert all(source in gate.text for gate in gates if gate.name == "latency")
