"""What a recommendation says in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.review.fronts import front_json
from pipeline.review.recommendation import in_words
from pipeline.study.confidence import loss_error
from pipeline.study.records import OBJECTIVES, Figures, Reference, TrialRecord

FP32 = Figures(0.05, 4.0, 3.9, 4.2, "modelled", "emulated a76", 40_000)
INT8 = Figures(0.05, 2.0, 1.9, 2.1, "modelled", "emulated a76", 10_000)


def test_the_recommendation_says_what_it_means_to_take_it() -> None:
    def told(figures: Figures, images: int | None = 1000, beside: Any = (FP32, INT8)) -> str | None:
        record = TrialRecord(0, Plan({"a": LayerPlan(8)}), "finished", figures)
        references = [Reference(name, one) for name, one in zip(("fp32", "int8"), beside)]
        return in_words(front_json([record], references, OBJECTIVES, images), record.hash)

    good = Figures(0.053, 0.95, source="modelled", size_bytes=1075, discordant=0.02)
    spread = loss_error(0.003, 0.02, 1000)
    assert spread == pytest.approx(((0.02 - 0.003**2) / 1000) ** 0.5)
    assert told(good) == (
        f"9.3 times smaller and 2.1 times faster (modelled) than int8, 0.3 +- {100 * spread:.1f} points of accuracy lost "
        "against fp32"
    )
    assert "0.30 points of accuracy lost" in told(dataclasses.replace(good, discordant=None))  # older studies
    assert "0.3 +- 0.4 points of accuracy won" in told(dataclasses.replace(good, error=0.047))
    assert "1.2 times larger and 1.5 times slower" in told(
        Figures(0.05, 3.0, source="modelled", size_bytes=12_000)
    )
    assert "faster" not in told(dataclasses.replace(good, source="measured")), "of another kind of figure"
    same = told(Figures(0.05 - 1e-17, 1.0, source="modelled", size_bytes=10_100, discordant=0.0))
    assert same.startswith(
        "beside int8 about as large and 2 times faster (modelled), 0.00 +- 0.07 points of accuracy lost"
    )
    assert "than fp32" in told(good, beside=(FP32,)) and told(good, beside=()) is None
    assert "+- 0.0 " not in told(dataclasses.replace(good, error=0.05, discordant=0.0), images=50)
