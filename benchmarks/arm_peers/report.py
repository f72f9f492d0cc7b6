"""The comparison as a table, a CSV file with every condition, and a bar chart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape

from benchmarks.arm_peers.figures import COLUMNS, OURS, Figure, Outcome

WIDTH, LABEL, BAR, GAP, FONT = 900, 330, 16, 6, 12
COLOURS = {OURS: "#1b7f5c"}
OTHER_COLOUR = "#7d8597"


def csv_text(figures: Sequence[Figure]) -> str:
    """All columns of all figures, floats with six significant digits; None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for figure in figures:
        writer.writerow(
            {
                name: f"{value:.6g}" if isinstance(value, float) else value
                for name, value in figure.record().items()
            }
        )
    return file.getvalue()


def read_csv(text: str) -> list[Figure]:
    """The figures of ``csv_text``.

    Raises:
        ValueError: other columns, or a field that is not of its type.
    """
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"the columns are {reader.fieldnames}")
    kinds = {name: str(kind) for name, kind in Figure.__annotations__.items()}
    figures = []
    for row in reader:
        values: dict[str, object] = {}
        for name, value in row.items():
            if kinds[name].startswith("float"):
                values[name] = None if value == "" else float(value)
            else:
                values[name] = int(value) if kinds[name] == "int" else value
        figures.append(Figure(**values))  # type: ignore[arg-type]
    return figures


def merged(earlier: Sequence[Figure], latest: Sequence[Figure], *, by_row: bool = False) -> list[Figure]:
    """The latest figures after those of networks and cores that they leave out; sorted by network, then core. ``by_row``: after
    those of runtimes and configurations that they leave out."""

    def place(figure: Figure) -> tuple[str, ...]:
        row = (figure.runtime, figure.configuration) if by_row else ()
        return (figure.model, figure.core, *row)

    replaced = {place(figure) for figure in latest}
    kept = [figure for figure in earlier if place(figure) not in replaced]
    return sorted([*kept, *latest], key=lambda figure: (figure.model, figure.core))


def groups(figures: Sequence[Figure]) -> dict[tuple[str, str], list[Figure]]:
    """Figures by network and core, in order of appearance."""
    found: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        found.setdefault((figure.model, figure.core), []).append(figure)
    return found


def table(figures: Sequence[Figure]) -> str:
    """What a person reads: one block per network and core."""
    lines = []
    for (model, core), members in groups(figures).items():
        first = members[0]
        lines.append(
            f"{model} on {core} ({first.cycle_model}, {first.clock_ghz:g} GHz), {first.source}, 1 thread, "
            f"{first.multiplications / 1e6:.0f} M multiplications, {first.weights}"
        )
        lines.append(
            f"  {'':<52}{'ms':>8}{'interval':>18}{'cycles/mult':>13}{'instr/mult':>12}{'correlation':>13}{'top-1 agrees':>14}"
        )
        for figure in members:
            name = f"{figure.runtime} {figure.configuration}" + (
                "" if figure.runtime == OURS else f" ({figure.version})"
            )
            interval = f"{figure.low_ms:.2f}..{figure.high_ms:.2f}"
            agrees = (
                "-"
                if figure.top1_agreement is None
                else f"{figure.top1_agreement:.0%} of {figure.checked_images}"
            )
            correlation = "-" if figure.correlation is None else f"{figure.correlation:.4f}"
            lines.append(
                f"  {name:<52}{figure.latency_ms:>8.2f}{interval:>18}{figure.cycles_per_multiplication:>13.4f}"
                f"{figure.instructions / figure.multiplications:>12.3f}{correlation:>13}{agrees:>14}"
            )
        lines.append("")
    return "\n".join(lines)


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """The ratios that are aimed at; a target without figures says so."""
    lines = ["modelled cycles of the peer over ours:"]
    for outcome in outcomes:
        target = outcome.target
        reached = "not compared" if outcome.reached is None else f"{outcome.reached:.2f}x"
        verdict = {None: "", True: "met", False: "not met"}[outcome.met]
        lines.append(
            f"  {target.model:<13}{target.core:<4} {target.ours:<36} over {outcome.peer:<28} "
            f"wanted {target.wanted:.2f}x  reached {reached}  {verdict}".rstrip()
        )
    return "\n".join(lines) + "\n"


def chart(figures: Sequence[Figure]) -> str:
    """An SVG of horizontal bars, one group per network and core; whiskers are the model's interval."""
    parts: list[str] = []
    y = 30
    for (model, core), members in groups(figures).items():
        parts.append(text(8, y, f"{model} on {core}, modelled ms for one image, 1 thread", "bold"))
        y += 12
        scale = (WIDTH - LABEL - 90) / max(figure.high_ms for figure in members)
        for figure in members:
            x, middle = LABEL, y + BAR / 2
            length, low, high = (
                value * scale for value in (figure.latency_ms, figure.low_ms, figure.high_ms)
            )
            colour = COLOURS.get(figure.runtime, OTHER_COLOUR)
            name = f"{figure.runtime} {figure.configuration}"
            parts.append(text(x - 6, y + 12, name, anchor="end"))
            parts.append(f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
            parts.append(
                f'<path d="M{x + low:.1f} {middle}H{x + high:.1f}M{x + high:.1f} {y + 4}v8" stroke="#222"/>'
            )
            parts.append(text(x + max(length, high) + 6, y + 12, f"{figure.latency_ms:.2f}"))
            y += BAR + GAP
        y += 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="{FONT}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', *parts, "</svg>", ""])


def text(x: float, y: float, content: str, weight: str = "normal", anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{weight}" text-anchor="{anchor}">{escape(content)}</text>'
