"""Which candidate of a front is promoted, and what it must pass before: decisions alone, without a study."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from deploy_arm.devices.base import Profile
from foundation.errors import UserError
from pipeline.review.gates import Bounds, Evidence, Refused, choose, elsewhere, judge
from pipeline.review.recommendation import recommend
from pipeline.study.confidence import Paired

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


def test_a_candidate_just_within_the_bound_is_not_preferred_to_those_well_within_it() -> None:
    lucky, safe, slow = ("lucky", 0.109, 1.0, 50), ("safe", 0.101, 2.0, 100), ("slow", 0.1, 3.0, 100)
    measured = {**front(lucky, safe, slow), "images": 2500}  # a standard error of 0.6 points
    name, why = choose(measured, Bounds(1.0))
    assert name == "safe" and why.endswith(
        "among the 2 of 3 candidates within 1 point of fp32 by a standard error"
    )
    assert choose({**measured, "images": 10**6}, Bounds(1.0))[0] == "lucky"
    name, why = choose({**front(lucky), "images": 2500}, Bounds(1.0))  # better than none
    assert name == "lucky" and why.endswith("within 1 point of fp32")
    assert choose(measured, Bounds(1.0, latency_ms=1.5))[0] == "lucky"


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
    ("lost", "gained", "bounds", "failed", "strength"),
    [
        (10, 12, Bounds(1.0), set(), "strong"),
        (60, 12, Bounds(1.0), {"accuracy"}, "strong"),  # 2.4 points, the interval from 1.6 upward
        (30, 6, Bounds(1.0), set(), "weak"),  # 0.8 points, the interval up to 1.2
        (30, 6, Bounds(1.0, strict=True), {"evidence"}, "weak"),
        (36, 6, Bounds(1.0), set(), "weak"),  # 1.0 points: not to be blamed
        (6, 40, Bounds(0.0), set(), "strong"),
        (10, 10, Bounds(0.0), set(), "weak"),
    ],
)
def test_accuracy_fails_only_where_the_whole_interval_lies_above_the_bound(
    lost: int, gained: int, bounds: Bounds, failed: set[str], strength: str
) -> None:
    evidence = Evidence(
        Paired(3000, 2700, lost, gained), 3000, dataclasses.replace(MODELLED, source="measured")
    )
    gates = judge(evidence, bounds)
    assert {gate.name for gate in gates if not gate.passed} == failed
    assert evidence.strength(bounds) == strength
    text = " ".join(gate.text for gate in gates)
    told = f"{'gains' if gained > lost else 'loses'} {abs(lost - gained) / 30:.2f} points"
    assert told in text and ("weak" in text) == (strength == "weak")


def test_weak_evidence_says_how_many_images_would_settle_it() -> None:
    measured = dataclasses.replace(MODELLED, source="measured")
    few = judge(Evidence(Paired(3, 3, 0, 0), 299, measured), Bounds(1.0))
    assert [gate.passed for gate in few] == [True, True, True, True]
    assert "about 390 images like these would settle it, the report half has 299" in few[1].text
    assert "--limit left out 296" in few[1].text
    level = judge(Evidence(Paired(300, 290, 3, 3), 300, measured), Bounds(0.0))
    assert "no number of images settles" in level[1].text and "--limit" not in level[1].text


@pytest.mark.parametrize(
    ("source", "bounds", "failed"),
    [
        ("measured", Bounds(1.0, 2.3), set()),
        ("measured", Bounds(1.0, 2.29), {"latency"}),  # the upper end of the interval counts
        ("modelled", Bounds(1.0), {"source"}),
        ("modelled", Bounds(1.0, None, True), set()),
        ("modelled", Bounds(1.0, 1.0), {"latency", "source"}),
    ],
)
def test_the_gates_of_the_latency_are_exact(source: Any, bounds: Bounds, failed: set[str]) -> None:
    profile = dataclasses.replace(MODELLED, source=source)
    gates = judge(Evidence(Paired(1000, 900, 0, 10), 1000, profile), bounds)
    assert {gate.name for gate in gates if not gate.passed} == failed
    assert all(source in gate.text for gate in gates if gate.name == "latency")


# ---- the recommendation: what the terminal, the report and the command say alike


def test_the_recommendation_is_the_choice_and_the_flags_it_needs() -> None:
    shown = front(("fast", 0.105, 1.0, 900), ("alike", 0.108, 1.05, 500), ("slow", 0.1, 1.5, 100))
    for point in shown["points"]:
        point["source"] = "modelled"
    found = recommend(shown, None)
    assert found.hash == "alike" == choose(shown, Bounds())[0] and found.why == choose(shown, Bounds())[1]
    assert [flag for flag, _ in found.flags] == ["--allow-modelled"] and "no ARM CPU" in found.flags[0][1]
    assert recommend(shown, 0.5).hash == "fast"
    for point in shown["points"]:
        point["source"] = "measured"
    assert not recommend(shown, None).flags


def test_where_none_is_near_the_flag_that_accepts_the_closest_is_named() -> None:
    shown = front(("far", 0.2251, 1.0, 5), ("farther", 0.3, 0.5, 5))
    found = recommend(shown, None)
    assert found.hash is None and "closest, far, loses 12.51" in found.why
    [(flag, reason)] = found.flags
    assert flag == "--max-accuracy-drop 13" and "1 point of fp32" in reason
    assert choose(shown, Bounds(float(flag.split()[1])))[0] == "far"
    assert recommend(front(), 2.0).hash is None and not recommend(front(), 2.0).flags
    assert recommend({"points": [], "references": []}, None).hash is None


def test_another_device_is_asked_where_there_is_one() -> None:
    def pool(*names: str) -> Any:
        rest = [*names]
        return lambda: dataclasses.replace(MODELLED, device=rest.pop(0))

    assert elsewhere(pool("a", "b"), "a", 1).device == "b"
    assert elsewhere(pool("b"), "a", 1).device == "b"
    assert elsewhere(pool("a", "a"), "a", 1).device == "a"
    assert elsewhere(pool("a"), "a", 0).device == "a"


def test_whether_another_device_says_the_same_is_told_and_never_refuses() -> None:
    def device(chooser: str | None) -> list[str]:
        gates = judge(Evidence(Paired(1000, 900, 5, 5), 1000, MODELLED, chooser), Bounds())
        assert all(gate.passed for gate in gates if gate.name == "device")
        return [gate.text for gate in gates if gate.name == "device"]

    assert device(None) == []
    assert device("emulated a76") == ["emulated a76 chose it in the search too: no other device was at hand"]
    assert device("desk") == ["timed on emulated a76; it was chosen by its time on desk"]
