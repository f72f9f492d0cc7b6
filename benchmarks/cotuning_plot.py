"""Draws the accuracy table: error against honest bytes, one line per method.

    python -m benchmarks.cotuning_plot                  benchmarks/results/cotuning_accuracy.csv to .svg beside it

One panel for each network (as it was trained in fp32), length of training, number of activation bits, kind of teaching and
arithmetic that has trained rows at more than one size. A point is the mean over seeds, its whisker goes from the best to the
worst seed; untrained methods stand in every panel of their network. Rows with a target for zeros are left out: their bytes are
those of the natural ones.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.arm_peers.report import text
from benchmarks.cotuning_accuracy import METHODS, UNTRAINED
from benchmarks.cotuning_table import CONDITIONS
from benchmarks.rows import read
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.show import ticks

TABLE = Path("benchmarks/results/cotuning_accuracy.csv")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 300, 60, 20, 46, 40
COLUMNS = 2
COLOURS = dict(
    zip(
        METHODS,
        ("#1b7f5c", "#7fbf9f", "#b5542c", "#3b6fb6", "#8a5bb0", "#c29a1d", "#7d8597", "#222222"),
        strict=True,
    )
)


class Panel(NamedTuple):
    """What its rows have in common."""

    network: str
    epochs: str
    activation_bits: str
    distillation: str
    distillation_temperature: str
    bfloat16: str
    fp32_report_top1: str

    def title(self) -> str:
        activations = f"{self.activation_bits}-bit" if self.activation_bits else "float"
        arithmetic = "bfloat16" if self.bfloat16 == "True" else "float32"
        return f"{self.network}, {self.epochs} epochs in {arithmetic}, {activations} activations"

    def subtitle(self) -> str:
        share, temperature = float(self.distillation), self.distillation_temperature
        return f"error on the report half, %; {share:.0%} taught by fp32, at {temperature}"


class PlotPoint(NamedTuple):
    """Bytes and errors in percent: mean, least, greatest over seeds."""

    bytes: int
    error: float
    low: float
    high: float


Lines = dict[str, list[PlotPoint]]


def panels(rows: Iterable[Mapping[str, str]]) -> dict[Panel, Lines]:
    """Points by panel and method, by rising size."""
    errors: dict[Panel, dict[tuple[str, int], list[float]]] = {}
    always: list[Mapping[str, str]] = []
    for row in rows:
        if row["zero_share"]:
            continue
        if row["method"] in UNTRAINED:
            always.append(row)
            continue
        panel = Panel(*(row[name] for name in Panel._fields))
        at = (row["method"], int(row["bytes"]))
        errors.setdefault(panel, {}).setdefault(at, []).append(100 * (1 - float(row["report_top1"])))
    found = {}
    for panel, members in sorted(errors.items()):
        if len({size for _, size in members}) < 2:
            continue
        for row in always:
            if (row["network"], row["activation_bits"]) == (panel.network, panel.activation_bits):
                members.setdefault((row["method"], int(row["bytes"])), []).append(
                    100 * (1 - float(row["report_top1"]))
                )
        lines: Lines = {}
        for (method, size), values in sorted(members.items(), key=lambda item: item[0][1]):
            point = PlotPoint(size, sum(values) / len(values), min(values), max(values))
            lines.setdefault(method, []).append(point)
        found[panel] = {method: lines[method] for method in METHODS if method in lines}
    return found


def draw(panel: Panel, lines: Lines, fp32_error: float, x0: float, y0: float) -> list[str]:
    """SVG of one panel with its upper left corner at ``x0, y0``.

    Sizes lie on a logarithmic scale. Errors end at the worst of the trained methods; a point beyond is drawn at the edge with
    its figure.
    """
    points = [point for line in lines.values() for point in line]
    sizes = [point.bytes for point in points]
    least = min([fp32_error, *(point.low for point in points)])
    trained = [point.high for method, line in lines.items() if method not in UNTRAINED for point in line]
    most = max(trained)
    low, high = least - 0.05 * (most - least), most + 0.05 * (most - least)
    first, last = math.log(0.9 * min(sizes)), math.log(1.1 * max(sizes))

    def x(size: float) -> float:
        return x0 + LEFT + (math.log(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(error: float) -> float:
        return y0 + TOP + (high - min(error, high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    left, right, floor = x0 + LEFT, x0 + WIDTH - RIGHT, y0 + HEIGHT - BOTTOM
    parts = [
        text(x0 + LEFT, y0 + 18, panel.title(), "bold"),
        text(x0 + LEFT, y0 + 34, panel.subtitle()),
    ]
    for value in ticks(low, high):
        parts.append(f'<path d="M{left:.0f} {y(value):.1f}H{right:.0f}" stroke="#ddd"/>')
        parts.append(text(left - 6, y(value) + 4, f"{value:g}", anchor="end"))
    free = -math.inf
    for size in sorted(set(sizes)):
        if x(size) < free:  # its label would lie on the one before
            continue
        free = x(size) + 50
        parts.append(f'<path d="M{x(size):.1f} {floor:.0f}v5" stroke="#222"/>')
        parts.append(text(x(size), floor + 18, f"{size / 1024:.0f} KiB", anchor="middle"))
    parts.append(
        f'<path d="M{left:.0f} {y(fp32_error):.1f}H{right:.0f}" stroke="#222" stroke-dasharray="4 3"/>'
    )
    parts.append(text(left + 4, y(fp32_error) - 4, f"fp32 {fp32_error:.2f}"))
    for method, line in lines.items():
        colour = COLOURS[method]
        path = "L".join(f"{x(point.bytes):.1f} {y(point.error):.1f}" for point in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for point in line:
            parts.append(
                f'<path d="M{x(point.bytes):.1f} {y(point.low):.1f}V{y(point.high):.1f}" stroke="{colour}"/>'
                f'<circle cx="{x(point.bytes):.1f}" cy="{y(point.error):.1f}" r="3" fill="{colour}"/>'
            )
            if point.error > high:
                parts.append(text(x(point.bytes) + 6, y(point.error) + 12, f"{method} {point.error:.1f}"))
    return parts


def chart(rows: Sequence[Mapping[str, str]]) -> str:
    """The whole picture.

    Raises:
        UserError: no panel has points at two sizes.
    """
    found = panels(rows)
    if not found:
        raise UserError("the table has no network with trained rows at two sizes; run more of it first")
    fp32 = {row["network"]: 100 * (1 - float(row["fp32_report_top1"])) for row in rows}
    parts: list[str] = []
    for number, (panel, lines) in enumerate(found.items()):
        x0, y0 = number % COLUMNS * WIDTH, 30 + number // COLUMNS * HEIGHT
        parts += draw(panel, lines, fp32[panel.network], x0, y0)
    place = 20.0
    for method in METHODS:
        if any(method in lines for lines in found.values()):
            parts.append(f'<circle cx="{place:.0f}" cy="16" r="4" fill="{COLOURS[method]}"/>')
            parts.append(text(place + 9, 20, method))
            place += 24 + 8 * len(method)
    width, height = COLUMNS * WIDTH, 30 + -(-len(found) // COLUMNS) * HEIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.cotuning_plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    args = parser.parse_args(argv)
    rows = read(args.table, CONDITIONS)
    if not rows:
        raise UserError(f"{args.table} has no rows; run python -m benchmarks.cotuning_accuracy first")
    target = args.table.with_suffix(".svg")
    write_atomically(target, chart(rows))
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
