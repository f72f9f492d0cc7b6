"""The model card of a promoted version: what a person reads in MLflow before using it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.plan import Plan
from foundation.show import show_bytes, show_interval, show_latency, show_percent, show_points
from pipeline.training.settings import ACCURACY

LONGEST = 4900  # characters; a registry in a database keeps 5000
LAYERS = 40  # rows of the plan at most


def card(
    manifest: Mapping[str, Any],
    plan: Plan,
    figures: Mapping[str, Any],
    gates: Sequence[Mapping[str, Any]],
    *,
    name: str,
    study: str,
    source_run: str | None,
    code: str,
    image: Sequence[int],
    outputs: int,
) -> str:
    """Markdown.

    Args:
        manifest: the candidate's.
        figures: those of the promotion, each with its source.
        gates: each ``name``, ``passed`` and ``text``.
        name: under which it is registered.
        source_run: MLflow's run of the trial that it comes from, where that is known.
        code: the version of this project that compiled it.
        image: height, width and channels of an input.
        outputs: numbers that an image gives.
    """
    accuracy, latency = figures["accuracy"], figures["latency"]
    metric = accuracy.get("metric", ACCURACY)
    fp32 = manifest.get("references", {}).get("fp32", {}).get("size", {}).get("value")
    size = figures["size"]["value"]
    smaller = f", {fp32 / size:.1f} times smaller than fp32" if fp32 and size else ""
    data = manifest["data"]
    halves = ", ".join(
        f"{half} {part['count']}" for half, part in data.get("splits", {}).items() if "count" in part
    )
    rows = [
        (metric, f"{show_percent(accuracy['value'])} on {accuracy['images']} images it was never chosen on; fp32 "
                     f"{show_percent(accuracy['fp32'])}"),
        (f"{metric} lost", f"{show_points(accuracy['loss'])} points, 95 % interval {show_points(accuracy['loss_low'])} to "
                          f"{show_points(accuracy['loss_high'])}; evidence {accuracy['evidence']}"),
        ("latency", f"{show_latency(latency['value'], latency['source'])} "
                    f"({show_interval(latency['low'], latency['high'])}) on {latency['device']}"),
        ("size", f"{show_bytes(size)} ({size} bytes){smaller}"),
        ("peak memory", show_bytes(figures["peak_memory"]["value"])),
        ("network", f"{manifest['model']} for {manifest['target']}, {len(manifest['classes'])} classes"),
        ("data", f"{data.get('name') or data.get('spec')} ({halves or 'no splits'})"),
        ("input", f"uint8 [N, {', '.join(map(str, image))}], raw pixels"),
        ("output", f"float32 [N, {outputs}]"),
        ("study", study),
        ("source run", source_run or "not in this MLflow"),
        ("code", code),
    ]  # fmt: skip
    head = [f"### {_plain(manifest['hash'])} of {_plain(manifest['model'])}", "", "| | |", "|---|---|"]
    head += [f"| {title} | {_plain(text)} |" for title, text in rows]
    use = [
        "",
        "```python",
        f'network = mlflow.pyfunc.load_model("models:/{name}@champion")',
        "scores = network.predict(images)",
        "```",
    ]
    passed = ["", "**Gates**", "", *(f"- {_plain(gate['name'])}: {_plain(gate['text'])}" for gate in gates)]
    return _within([*head, *use, *passed], _layers(plan))


def _layers(plan: Plan) -> list[str]:
    """The plan, a layer in a row; what all layers have alike is a column too."""
    names = list(dict.fromkeys(name for layer in plan.layers.values() for name in layer.values))
    settings = ", ".join(f"{key} {value}" for key, value in plan.values.items())
    told = f"**Plan** (quantizer {plan.quantizer}{', ' + settings if settings else ''}; whole in plan.json)"
    rows = [
        "",
        _plain(told),
        "",
        f"| layer | {' | '.join(map(_plain, names))} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for name, layer in list(plan.layers.items())[:LAYERS]:
        rows.append(f"| {_plain(name)} | {' | '.join(_plain(layer.values.get(key, '')) for key in names)} |")
    if len(plan.layers) > LAYERS:
        rows.append(f"| and {len(plan.layers) - LAYERS} more |{' |' * len(names)}")
    return rows


def _within(fixed: Sequence[str], rest: Sequence[str]) -> str:
    """As many whole lines as a registry keeps; the plan's rows go first."""
    kept = list(fixed)
    for line in rest:
        if sum(map(len, kept)) + len(kept) + len(line) > LONGEST:
            break
        kept.append(line)
    return "\n".join(kept)[:LONGEST]


def _plain(text: object) -> str:
    """In a cell of a table, whatever it holds: MLflow shows Markdown and some HTML."""
    return re.sub(r"[|<>`\s]+", " ", str(text)).strip()
