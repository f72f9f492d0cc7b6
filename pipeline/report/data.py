"""What the report is made of, and its way into the page: plain values, then JSON."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy_arm.costs.model import KERNELS
from foundation.dimension import DIMENSIONS, usual_dimensions
from foundation.plan import LayerPlan, Plan
from foundation.show import decimals
from pipeline.candidate.describe import mean_bits
from pipeline.candidate.details import LayerDetail
from pipeline.candidate.reviewed import CandidateReview
from pipeline.review.gates import DROP
from pipeline.review.recommendation import Recommendation
from pipeline.study.confidence import error_spread
from pipeline.study.pareto import hypervolume
from pipeline.study.records import OBJECTIVES, Figures, Reference, TrialRecord
from search_spaces.sensitivity import Sensitivity


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        study, model, data: names to show.
        records: every trial, in any order.
        references: networks to compare with, ``fp32`` and ``int8``.
        front: hashes of the candidates on the front.
        objectives: what the front trades.
        settings: the resolved settings.
        layers: weights per layer in the network's order; without, the plans' layers in natural order.
        details: per front candidate and layer, what was packed and learned.
        reviews: per front candidate, what its operations take and where its answers differ from fp32's.
        history: (trial number, hypervolume) pairs; None computes them by ``hypervolume_history``.
        notes: sentences about the data, the devices and how figures came about.
        created: when, as text.
        images: of how many images an error is a share; with them, errors have a standard error.
        metric: what errors are 1 minus; None: they are shares of wrong answers.
        recommended: the candidate that ``pipeline.promote`` would take.
        accuracy_drop: points against fp32 that count as near.
        searched: a search made the records; False: there is one, of a network that was compressed by one plan.
        sensitivity: which layer hurts, where that was looked at.
        importance: by objective, each layer's share of what sets the best trials apart.
    """

    study: str
    model: str
    data: str
    records: Sequence[TrialRecord] = ()
    references: Sequence[Reference] = ()
    front: Sequence[str] = ()
    objectives: Sequence[str] = OBJECTIVES
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, LayerDetail]] = field(default_factory=dict)
    reviews: Mapping[str, CandidateReview] = field(default_factory=dict)
    history: Sequence[tuple[int, float]] | None = None
    notes: Sequence[str] = ()
    created: str = ""
    images: int | None = None
    metric: str | None = None
    recommended: Recommendation | None = None
    accuracy_drop: float = DROP
    searched: bool = True
    sensitivity: Sensitivity | None = None
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether there are errors, or will be."""
        return self.searched or any(record.figures.error is not None for record in self.records)


def hypervolume_history(
    records: Sequence[TrialRecord], references: Sequence[Reference], objectives: Sequence[str]
) -> list[tuple[int, float]]:
    """(trial number, hypervolume after it) for trials in the order in which they ended.

    The volume is the share of the box between zero and the fp32 network's latency and size and an error of 1; where there is
    no fp32 figure, 1.1 times the largest one of any trial takes its place.
    """
    known = [(r, r.figures.objectives(tuple(objectives))) for r in records if r.status != "running"]
    fp32 = next((r.figures for r in references if r.name == "fp32"), Figures(None))
    corner = []
    for index, name in enumerate(objectives):
        given = {"error": 1.0, "latency": fp32.latency_ms, "size": fp32.size_bytes}[name]
        seen = [point[index] for _, point in known if point is not None and math.isfinite(point[index])]
        corner.append(float(given or 1.1 * max(seen, default=1.0) or 1.0))
    history, volume = list[tuple[int, float]](), 0.0
    points: list[list[float]] = []
    for record, point in sorted(known, key=lambda pair: (pair[0].ended or 0, pair[0].number)):
        if point is not None and all(map(math.isfinite, point)):
            new = [value / limit for value, limit in zip(point, corner)]
            if not any(all(a <= b for a, b in zip(old, new)) for old in points):  # else nothing changes
                points = [old for old in points if not all(a <= b for a, b in zip(new, old))] + [new]
                volume = hypervolume(points, [1.0] * len(corner))
        history.append((record.number, volume))
    return history


def payload(data: ReportData) -> dict[str, Any]:
    """The values that the page's script draws; finite numbers, strings, lists and mappings only."""
    chosen = set(data.front)
    layers = dict(data.layers) or {name: 0 for record in data.records for name in record.plan.layers}
    names = list(layers) if data.layers else sorted(layers, key=_natural)
    history = data.history
    if history is None:
        history = hypervolume_history(data.records, data.references, data.objectives)
    columns = _columns([record.plan for record in data.records])
    places: dict[LayerPlan, int] = {}  # trials have most layers' plans in common
    rows = rows_of(data.records)
    page: dict[str, Any] = {
        "searched": data.searched,
        "labelled": data.labelled,
        "objectives": list(data.objectives),
        "layers": names,
        "weights": [layers[name] for name in names],
        "columns": [_column(name) for name in columns],
        "references": [{"name": r.name, **_figures(r.figures, data.images)} for r in data.references],
        "trials": [
            {
                **_trial(record, names, places, data, on_front=record.hash in chosen),
                "work": _work(record, rows),
            }
            for record in data.records
        ],
        "rows": [[name, device] for name, device in rows],
        "cells": [_cells(layer, columns) for layer in places],
        "recommended": data.recommended and data.recommended.hash,
        "accuracyDrop": data.accuracy_drop,
        "details": {
            candidate: {name: dataclasses.asdict(detail) for name, detail in details.items()}
            for candidate, details in data.details.items()
        },
        "origin": min((record.started for record in data.records if record.started), default=None),
        "reviews": {candidate: review.as_dict() for candidate, review in data.reviews.items()},
        "kernels": {name: KERNELS[name].does for name in KERNELS},
        "history": [list(pair) for pair in history],
    }
    finite: dict[str, Any] = _finite(page)
    return finite


def rows_of(records: Sequence[TrialRecord]) -> list[tuple[str, bool]]:
    """Every worker, then every device that the trials' work names, by name: the rows of the board; and whether it is a device."""
    found = {(piece.place, piece.kind != "trial") for record in records for piece in record.work}
    return sorted(found, key=lambda row: (row[1], _natural(row[0])))


def _work(record: TrialRecord, rows: Sequence[tuple[str, bool]]) -> list[list[Any]]:
    """Its pieces of work: the row, what was done, begin and end in seconds since the epoch."""
    return [
        [rows.index((piece.place, piece.kind != "trial")), piece.kind, piece.begun, piece.ended]
        for piece in record.work
    ]


def _columns(plans: Sequence[Plan]) -> list[str]:
    """The dimensions of layers: the project's own, the first of them bits, and others (or those that take the place of one) that
    some plan has."""
    own = [n for n in usual_dimensions() if not DIMENSIONS[n].of_network and not DIMENSIONS[n].excludes]
    seen = {name: None for plan in plans for layer in plan.layers.values() for name in layer.values}
    return list(dict.fromkeys(("bits", *own, *sorted(seen))))


def _column(name: str) -> dict[str, Any]:
    dimension = DIMENSIONS[name]
    return {"title": dimension.title, "most": dimension.most, "measured": dimension.measured}


def _cells(layer: LayerPlan, columns: Sequence[str]) -> list[Any]:
    """A layer's values as numbers (null: none, or absent), then as words."""
    numbers = [DIMENSIONS[name].number(layer[name]) for name in columns]
    return [*numbers, [DIMENSIONS[name].say(layer[name], layer.values) for name in columns]]


def _trial(
    record: TrialRecord,
    names: Sequence[str],
    places: dict[LayerPlan, int],
    data: ReportData,
    *,
    on_front: bool,
) -> dict[str, Any]:
    """A trial; of each layer's plan its place among all of them, where new ones are added."""
    plan = record.plan
    planned = [plan.layers.get(name) for name in names]
    spoken = {name: DIMENSIONS[name] for name in plan.values}
    return {
        "number": record.number,
        "hash": record.hash,
        "status": record.status,
        "reason": record.reason,
        "front": on_front,
        **_figures(record.figures, data.images),
        "bits": mean_bits(plan, data.layers),
        "network": [[one.noun, one.say(plan[name], plan.values)] for name, one in spoken.items()],
        "quantizer": plan.quantizer,
        "plan": [None if layer is None else places.setdefault(layer, len(places)) for layer in planned],
        "curve": [[rung.epochs, rung.error, rung.loss, rung.stage, rung.divergence] for rung in record.curve],
        "epochs": record.curve[-1].epochs if record.curve else 0,
        "seconds": record.ended - record.started if record.ended and record.started else None,
        "started": record.started,
        "uniform": uniform_bits(plan),
    }


def uniform_bits(plan: Plan) -> int | None:
    """The bits that all layers but the first and the last have alike, with all else; None where they differ."""
    inner = list(plan.layers.values())[1:-1]
    alike = all(layer.values == inner[0].values for layer in inner)
    return inner[0].bits if inner and alike else None


def _figures(figures: Figures, images: int | None) -> dict[str, Any]:
    known = figures.error is not None and math.isfinite(figures.error)
    deviation = error_spread(figures.error, images, figures.error_standard_error) if known else None
    return {
        "error": figures.error,
        "deviation": deviation,
        "decimals": 2 if deviation is None else decimals(deviation),
        "latency": figures.latency_ms,
        "low": figures.latency_low_ms,
        "high": figures.latency_high_ms,
        "source": figures.source,
        "device": figures.device,
        "size": figures.size_bytes,
        "memory": figures.peak_memory_bytes,
        "divergence": figures.divergence,
        "divergenceDeviation": figures.divergence_standard_error,
    }


def _natural(name: str) -> list[Any]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _short(value: float) -> float:
    """Six digits; of times since the epoch all."""
    return round(value, 1) if abs(value) >= 1e6 else float(f"{value:.6g}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return _short(value) if math.isfinite(value) else None
    return value
