"""Several studies' fronts in one picture: an HTML file that needs nothing else and runs no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from foundation.show import show_bytes, show_interval, show_latency, show_percent
from pipeline.study.confidence import error_spread, show_error

WIDTH, HEIGHT, LEFT, BELOW, EDGE = 520, 340, 58, 40, 14  # of a panel, in pixels
COLOURS = (
    "#2563eb",
    "#dc7a16",
    "#15915a",
    "#b83280",
    "#6d5ae0",
    "#8a6d1d",
)  # seen in light and dark; marks differ too
MARKS = ("M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4H4V4H-4Z", "M0,-5L5,4H-5Z", "M0,-5L5,0L0,5L-5,0Z")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """:root { color-scheme: light dark; --ink: light-dark(#1c2230, #e7e9ee); --soft: light-dark(#5a6274, #a5acba);
--line: light-dark(#d5d9e2, #3a4150); --back: light-dark(#ffffff, #14171e); }
body { margin: 0 auto; max-width: 1120px; padding: 24px; background: var(--back); color: var(--ink);
font: 15px/1.5 system-ui, sans-serif; } figure { margin: 0; } h1 { font-size: 22px; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); gap: 20px; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); } .step { fill: none; stroke-width: 1.5; opacity: .55; } .span { stroke-width: 1; opacity: .5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: 4px 12px 4px 0; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; } thead th { color: var(--soft); }
td { white-space: nowrap; } tbody tr { border-top: 1px solid var(--line); } .note, .reference { color: var(--soft); }
td svg { width: 12px; height: 12px; }"""

ALONE = """text { fill: #5a6274; font: 11px system-ui, sans-serif; } .grid { stroke: #d5d9e2; }
.step { fill: none; stroke-width: 1.5; opacity: .55; } .span { stroke-width: 1; opacity: .5; }"""

Axis = tuple[str, str, Callable[[float], str]]
LATENCY: Axis = ("latency_ms", "latency", show_latency)
SIZE: Axis = ("size_bytes", "size", show_bytes)
Scale = Callable[[float], float]


def drawn(found: Mapping[str, Any], written: str) -> str:
    """The page.

    Args:
        found: what ``compared`` gives.
        written: when, as text.
    """
    fronts = found["studies"]
    panels = "".join(_panel(fronts, axis) for axis in (LATENCY, SIZE))
    told = [found["why_no_volume"] and f"no hypervolume: {found['why_no_volume']}", *found["notes"]]
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in told if text)
    title = escape(", ".join(str(front["study"]) for front in fronts))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - fronts</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="note">Errors on the images that guided each search; upright bars are one standard error, level ones the latency's
interval. Hollow marks are fp32 and int8. Written {escape(written)}.</p>
<div class="panels">{panels}</div>
{notes}
{_table(fronts)}
</main>
</body>
</html>
"""


def picture(front: Mapping[str, Any], study: str) -> str:
    """One front as an SVG file of its own, error over latency, or over size where no latency is known; empty where neither is."""
    fronts = [{**front, "study": study}]
    axis = next((axis for axis in (LATENCY, SIZE) if _placed(fronts[0], "points", axis[0])), None)
    if axis is None:
        return ""
    whole = _panel(fronts, axis).removeprefix("<figure>").removesuffix("</figure>")
    tag, _, inside = whole.partition(">")
    own = f'{tag} xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">'
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return f"{own}<style>{ALONE}</style>{back}{inside}\n"


def _panel(fronts: Sequence[Mapping[str, Any]], axis: Axis) -> str:
    key, name, show = axis
    entries = [
        one for front in fronts for one in _placed(front, "references", key) + _placed(front, "points", key)
    ]
    if not entries:
        return f'<p class="note">No {name} is known.</p>'
    errors: list[float] = [one["error"] for one in entries]
    margin = max(0.06 * (max(errors) - min(errors)), 0.004)
    low, high = max(0.0, min(errors) - margin), max(errors) + margin
    most: float = 1.06 * max(one[key] for one in entries)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - EDGE) * min(value / most, 1.0)

    def y(error: float) -> float:
        return EDGE + (HEIGHT - EDGE - BELOW) * (high - min(max(error, low), high)) / (high - low)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        up, value = y(low + share * (high - low)), share * most
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{up:.1f}" y2="{up:.1f}"/>')
        shown = show_percent(low + share * (high - low), digits=1)
        parts.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{shown}</text>')
        anchor = "end" if share == 1 else "middle"
        parts.append(
            f'<text x="{x(value):.1f}" y="{HEIGHT - 22}" text-anchor="{anchor}">{escape(show(value))}</text>'
        )
    parts.append(f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 6}" text-anchor="end">{name}</text>')
    for number, front in enumerate(fronts):
        parts += _front(front, number, key, x, y)
    label = escape(f"error over {name} of {', '.join(str(front['study']) for front in fronts)}")
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'


def _placed(front: Mapping[str, Any], which: str, key: str) -> list[Mapping[str, Any]]:
    """What of a front has a place in a panel."""
    return [one for one in front[which] if one["error"] is not None and one[key] is not None]


def _front(front: Mapping[str, Any], number: int, key: str, x: Scale, y: Scale) -> list[str]:
    colour, mark, images = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)], front.get("images")
    points = sorted(_placed(front, "points", key), key=lambda one: (one[key], one["error"]))
    path, best = "", None
    for one in points:  # the staircase of what no other dominates in these two alone
        if best is None or one["error"] < best:
            begin = f"M{x(one[key]):.1f},{y(one['error']):.1f}"
            path += begin if best is None else f"H{x(one[key]):.1f}V{y(one['error']):.1f}"
            best = one["error"]
    parts = [f'<path class="step" stroke="{colour}" d="{path}"/>'] if path else []
    for one in (*points, *_placed(front, "references", key)):
        across, up, own = x(one[key]), y(one["error"]), "hash" in one
        if own and (spread := error_spread(one["error"], images, one.get("error_standard_error"))):
            parts.append(_bar(colour, (across, across), (y(one["error"] - spread), y(one["error"] + spread))))
        if own and key == "latency_ms" and one["low"] is not None and one["high"] is not None:
            parts.append(_bar(colour, (x(one["low"]), x(one["high"])), (up, up)))
        title = escape(
            f"{front['study']} {one.get('hash') or one['name']}: {', '.join(_figures(one, images))}"
        )
        look = f'fill="{colour}"' if own else f'fill="none" stroke="{colour}" stroke-width="1.5"'
        place = f'transform="translate({across:.1f} {up:.1f})"'
        parts.append(f'<path d="{mark}" {look} {place}><title>{title}</title></path>')
    return parts


def _bar(colour: str, across: tuple[float, float], up: tuple[float, float]) -> str:
    (x1, x2), (y1, y2) = across, up
    return f'<line class="span" stroke="{colour}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _figures(one: Mapping[str, Any], images: int | None) -> tuple[str, ...]:
    return (
        show_error(one["error"], images, one.get("error_standard_error")),
        show_latency(one["latency_ms"], one["source"]),
        show_interval(one["low"], one["high"]),
        show_bytes(one["size_bytes"]),
    )


def _table(fronts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, front in enumerate(fronts):
        mark = f'<path d="{MARKS[number % len(MARKS)]}" fill="{COLOURS[number % len(COLOURS)]}"/>'
        study = f'<td><svg viewBox="-6 -6 12 12" aria-hidden="true">{mark}</svg> {escape(str(front["study"]))}</td>'
        for one in (*front["references"], *front["points"]):
            name = one.get("hash") or one["name"]
            chosen = " recommended" if name == front["recommended"]["hash"] else ""
            kind = "" if "hash" in one else ' class="reference"'
            cells = "".join(f"<td>{escape(text)}</td>" for text in _figures(one, front.get("images")))
            rows.append(f"<tr{kind}>{study}<td><code>{escape(name)}</code>{chosen}</td>{cells}<td></td></tr>")
        if front["hypervolume"] is not None:
            empty = "<td></td>" * 4
            rows.append(f"<tr>{study}<td>the whole front</td>{empty}<td>{front['hypervolume']:.4f}</td></tr>")
    titles = ("study", "candidate", "error", "latency", "interval", "size", "hypervolume")
    head = "".join(f"<th scope=col>{title}</th>" for title in titles)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
