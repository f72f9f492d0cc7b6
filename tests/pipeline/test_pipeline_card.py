"""What MLflow shows of a promoted version and of a search: whole, short enough, and harmless whatever names hold."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from foundation.plan import LayerPlan, Plan
from pipeline.candidate.describe import ROWS, note
from pipeline.review.card import LONGEST, card
from pipeline.shelf.picture import picture

HOSTILE = "<img src=x onerror=alert(1)> | `x`\n| row |"
FIGURES: dict[str, Any] = {
    "accuracy": {
        "value": 0.912, "fp32": 0.92, "loss": 0.008, "loss_low": 0.001, "loss_high": 0.015, "evidence": "weak", "images": 4999,
    },
    "latency": {"value": 2.5, "low": 2.25, "high": 2.75, "source": "modelled", "device": "emulated a76"},
    "size": {"value": 51200},
    "peak_memory": {"value": 2048},
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "hash": "abcdef", "model": "resnet20", "target": "a76", "classes": ["a", "b"],
    "data": {"name": "cifar10", "splits": {"search": {"count": 5000}, "report": {"count": 4999}, "rule": "halves"}},
    "references": {"fp32": {"size": {"value": 512000}}},
}  # fmt: skip


def made(plan: Plan, manifest: dict[str, Any] = MANIFEST, **more: Any) -> str:
    gates = [{"name": "accuracy", "passed": True, "text": "right often enough"}]
    told: dict[str, Any] = {
        "name": "resnet20-cifar10-a76", "study": "one", "source_run": "0123abc", "code": "dgms-arm-search 0.1",
        "image": (32, 32, 3), "outputs": 10,
    }  # fmt: skip
    return card(manifest, plan, FIGURES, gates, **{**told, **more})


def test_a_card_says_where_each_figure_comes_from() -> None:
    text = made(Plan({"conv1": LayerPlan(8), "fc": LayerPlan(3, 4, zero_share=0.5)}))
    for wanted in (
        "91.20 % on 4999 images", "fp32 92.00 %", "0.80 points, 95 % interval 0.10 to 1.50; evidence weak",
        "2.50 ms modelled (2.25..2.75 ms) on emulated a76", "50.0 KiB (51200 bytes), 10.0 times smaller than fp32",
        "cifar10 (search 5000, report 4999)", "| source run | 0123abc |", "uint8 [N, 32, 32, 3]", "float32 [N, 10]",
        "dgms-arm-search 0.1", "- accuracy: right often enough", 'load_model("models:/resnet20-cifar10-a76@champion")',
    ):  # fmt: skip
        assert wanted in text, (wanted, text)
    rows = [line for line in text.splitlines() if line.startswith(("| conv1", "| fc", "| layer"))]
    assert len({line.count("|") for line in rows}) == 1 and "0.5" in rows[2]
    assert "not in this MLflow" in made(Plan({"a": LayerPlan(8)}), source_run=None)
    assert "no splits" in made(
        Plan({"a": LayerPlan(8)}), {**MANIFEST, "data": {"spec": "x"}, "references": {}}
    )


@pytest.mark.parametrize("layers", [1, 39, 41, 400])
def test_a_card_fits_into_a_registry(layers: int) -> None:
    plan = Plan({f"features.{n}.{'conv' * 12}": LayerPlan(4, 3, zero_share=0.25) for n in range(layers)})
    text = made(plan)
    assert len(text) <= LONGEST and "**Gates**" in text and "**Plan**" in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))


def test_what_a_name_holds_is_no_markup() -> None:
    text = made(Plan({"a": LayerPlan(8)}), {**MANIFEST, "model": HOSTILE, "hash": HOSTILE}, study=HOSTILE)
    assert "<" not in text and "\n| row" not in text
    front: dict[str, Any] = {
        "objectives": ["error", "latency"], "images": 100, "recommended": {"hash": HOSTILE},
        "references": [{"name": "fp32", **{k: v for k, v in point(1).items() if k != "hash"}}],
        "points": [{**point(0), "hash": HOSTILE, "low": None, "high": None}],
    }  # fmt: skip
    root = ElementTree.fromstring(picture(front, HOSTILE))
    assert {child.tag.rpartition("}")[2] for child in root.iter()} <= {
        "svg",
        "style",
        "rect",
        "line",
        "text",
        "path",
        "title",
    }


def point(number: int) -> dict[str, Any]:
    figures = {"latency_ms": 1.0 + number, "low": 1.0, "high": 2.0, "size_bytes": 100, "source": "modelled"}
    return {"hash": f"{number:012d}", "error": 0.1, "device": "a76", **figures}


def test_a_description_shows_the_picture_and_is_short_enough_for_a_tag() -> None:
    front: dict[str, Any] = {
        "objectives": ["error"],
        "references": [],
        "points": [point(n) for n in range(500)],
    }
    text = note(
        {**front, "recommended": {"hash": "000000000001", "why": "the smallest"}},
        "get-artifact?path=front.svg",
    )
    assert (
        '<img src="get-artifact?path=front.svg">' in text
        and "Recommended: 000000000001, the smallest." in text
    )
    assert len(text) < 8000 and f"and {500 - ROWS} more" in text
    assert "<img" not in note({**front, "points": []})
    assert picture({**front, "points": []}, "empty") == ""
    sizes = picture(
        {**front, "points": [{**point(0), "latency_ms": None}], "recommended": {"hash": None}}, "sizes"
    )
    assert "error over size of sizes" in sizes
