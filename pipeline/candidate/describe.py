"""How a plan, a trial and a front read in an experiment tracker: short flat names and texts. Knows no tracker."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from foundation.dimension import DIMENSIONS, usual_dimensions
from foundation.plan import Plan
from foundation.show import show_bytes, show_latency
from pipeline.study.confidence import show_error
from pipeline.study.records import TrialRecord
from pipeline.training.settings import ACCURACY

LAYERS = 64  # networks of up to this many layers get a parameter per layer: one batch of MLflow's holds 100
ROWS = 40  # of the table in a run's description, which holds 8000 characters
PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "dgms-arm-search")


def plan_parameters(plan: Plan, layer_weights: Mapping[str, int]) -> dict[str, str]:
    """A plan as short flat parameters; the whole plan is an artifact."""
    values: dict[str, Any] = {
        "quantizer": plan.quantizer,
        "layers": len(plan.layers),
        "bits_mean": mean_bits(plan, layer_weights),
    }
    layers = [layer.values for layer in plan.layers.values()]
    for name in dict.fromkeys(
        (*usual_dimensions(), *plan.values, *(name for layer in layers for name in layer))
    ):
        homes = [plan.values] if DIMENSIONS[name].of_network else layers
        values |= DIMENSIONS[name].summary([home[name] for home in homes if name in home])
    if len(plan.layers) <= LAYERS:
        values |= {f"layer.{name}.bits": layer.bits for name, layer in plan.layers.items()}
    return {key_of(key): text_of(value) for key, value in values.items()}


def mean_bits(plan: Plan, layer_weights: Mapping[str, int]) -> float:
    """Mean index bits over weights, or over layers where the weights are not known."""
    shares = {name: layer_weights.get(name, 0) if layer_weights else 1 for name in plan.layers}
    return sum(shares[name] * layer.bits for name, layer in plan.layers.items()) / (sum(shares.values()) or 1)


def figures(
    record: TrialRecord, layer_weights: Mapping[str, int], extra: Mapping[str, float], metric: str = ACCURACY
) -> dict[str, float]:
    """A trial's finite figures under flat names; ``metric``: what an error is 1 minus, in a word."""
    known = record.figures
    values: dict[str, float | None] = {
        "error": known.error,
        key_of(metric): None if known.error is None else 1 - known.error,
        "latency_ms": known.latency_ms,
        "latency_low_ms": known.latency_low_ms,
        "latency_high_ms": known.latency_high_ms,
        "size_bytes": known.size_bytes,
        "size_kib": None if known.size_bytes is None else known.size_bytes / 1024,
        "peak_memory_bytes": known.peak_memory_bytes,
        "divergence": known.divergence,
        "divergence_standard_error": known.divergence_standard_error,
        "mean_bits": mean_bits(record.plan, layer_weights),
        "epochs": record.curve[-1].epochs if record.curve else 0.0,
        "seconds": record.ended - record.started if record.ended and record.started else None,
        **{key_of(key): value for key, value in extra.items()},
    }
    return {key: float(v) for key, v in values.items() if v is not None and math.isfinite(v)}


def costs(values: Mapping[str, float]) -> dict[str, float]:
    """Of ``figures``: what depends on the kernel library, and not on training."""
    return {key: value for key, value in values.items() if key.startswith(("latency_", "size_", "peak_"))}


def environment() -> dict[str, str]:
    """Versions and the host, as tags."""
    versions = {f"version.{name}": _version(name) for name in PACKAGES}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    host = {
        "host.name": platform.node(),
        "host.cpu": models[0] if models else platform.processor() or platform.machine(),
        "host.cores": str(os.cpu_count()),
        "host.system": platform.platform(),
        "version.python": platform.python_version(),
    }
    return versions | host


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def key_of(text: str) -> str:
    """What MLflow takes as a name."""
    return re.sub(r"[^A-Za-z0-9_./: -]", "_", text)[:250]


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ",".join(text_of(item) for item in value)
    return "" if value is None else str(value)


def _recommended(front: Mapping[str, Any]) -> list[str]:
    found = front.get("recommended")
    return [f"Recommended: {found['hash'] or 'none'}, {found['why']}.", ""] if found else []


def note(front: Mapping[str, Any], picture: str | None = None, links: Mapping[str, str] | None = None) -> str:
    """The front as the run's description, in Markdown: picture, recommendation and table.

    Args:
        picture: its address, as seen from MLflow's page.
        links: further pages of MLflow's by what they show, likewise.
    """
    entries = [*front["references"], *front["points"]]
    lines = [
        f"**{len(front['points'])} candidates on the front** of {', '.join(front['objectives'])}. Open the artifact "
        "`report.html` to choose one.",
        "",
        *([", ".join(f"[{text}]({address})" for text, address in links.items()), ""] if links else []),
        *_recommended(front),
        *([f'<img src="{picture}">', ""] if picture else []),
        "| | error | latency | size | source |",
        "|---|---|---|---|---|",
    ]
    for point in entries[:ROWS]:
        error, latency, size = (point.get(key) for key in ("error", "latency_ms", "size_bytes"))
        name = re.sub(r"[^A-Za-z0-9 ._-]", "", str(point.get("hash") or point.get("name")))
        cells = [
            show_error(error, front.get("images"), point.get("error_standard_error"))
            if error is not None
            else "",
            show_latency(latency) if latency is not None else "",
            show_bytes(size) if size is not None else "",
            re.sub(r"[^A-Za-z0-9 ._-]", "", f"{point.get('source') or ''} {point.get('device') or ''}"),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if len(entries) > ROWS:
        lines.append(f"| and {len(entries) - ROWS} more in front_table.json | | | | |")
    return "\n".join(lines) + f"\n\nWritten {datetime.now():%Y-%m-%d %H:%M}."
