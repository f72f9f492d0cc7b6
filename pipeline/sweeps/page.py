"""``sweep.html``: the fronts of all studies side by side, what changed, and each model's champion; one file without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from foundation.show import counted, show_bytes, show_latency, show_percent, show_tick, ticks
from pipeline.report.page import FOLDER as LOOKS
from pipeline.sweeps.gates import verdict
from pipeline.sweeps.results import TITLES, columns, recommended

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WIDTH, HEIGHT, LEFT, BELOW, EDGE = 340, 230, 52, 36, 16  # of a chart, in pixels
STYLE = """.fronts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; margin-top: 14px; }
.fronts figcaption { overflow-wrap: anywhere; } .fronts svg { width: 100%; height: auto; }
.axis { stroke: var(--line); } .grid { stroke: var(--grid); } svg text { fill: var(--muted); font: 11px var(--sans); }
.point { fill: var(--accent); } .chosen { fill: none; stroke: var(--pin); stroke-width: 2; } .ref-fp32 { fill: var(--fp32); }
.ref-int8 { fill: var(--int8); } .span { stroke: var(--other); } td.why, th.name { white-space: normal; overflow-wrap: anywhere; }
.scroll { max-height: none; } .scroll thead th { padding: 9px 9px 8px; } ul.said { padding-left: 20px; margin: 10px 0 0; }
tbody td, tbody th { border-top: 1px solid var(--grid); vertical-align: top; } tbody th { padding: 5px 9px; text-align: left; }
th.name { min-width: 130px; } th.name a { color: var(--accent); } td.why { min-width: 280px; } .no { color: var(--bad); }
td details { border: 0; padding: 0; margin-top: 4px; } summary { cursor: pointer; } .legend svg { overflow: visible; }"""
LEGEND = (("point", "candidate"), ("chosen", "recommended"), ("ref-fp32", "fp32"), ("ref-int8", "int8"))


def render_sweep(name: str, results: Mapping[str, Any], said: Sequence[str], written: str) -> str:
    """The page as one HTML document.

    Args:
        said: what changed, a sentence each.
        written: when, as text.
    """
    rows = results["rows"]
    done = sum(row["status"] == 0 for row in rows)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(name)} - sweep</title>
<link rel="icon" href="data:,">
<style>{(LOOKS / "page.css").read_text()}
{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">Sweep</p>
<h1>{escape(name)}</h1>
<p class="lead">{done} of {len(rows)} searches complete. Written {escape(written)}.</p>
</header>
<section><h2>What changed</h2><ul class="said">{"".join(f"<li>{escape(text)}</li>" for text in said)}</ul></section>
{_champions(results["gates"], rows)}
<section id="fronts"><h2>Fronts</h2>
<p class="hint">Error on the images that guided each search, over latency; bars are the intervals of latencies. Studies of one
model, data set and target share their axes.</p>
{_legend()}
<div class="fronts">{"".join(_charts(rows))}</div></section>
{_table(rows)}
</main>
</body>
</html>
"""


def _legend() -> str:
    marks = ""
    for kind, text in LEGEND:
        circle = f'<circle class="{kind}" cx="6" cy="6" r="{6 if kind == "chosen" else 4}"/>'
        marks += f'<li><svg width="12" height="12">{circle}</svg>{text}</li>'
    return f'<ul class="legend">{marks}</ul>'


def _champions(gates: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    if not gates:
        return ""
    points = {
        (row["study"], point["hash"]): point
        for row in rows
        for point in (row["front"] or {}).get("points", ())
    }
    body = "".join(
        _champion(name, one, points.get((one.get("study"), one["candidate"]), {}))
        for name, one in gates.items()
    )
    head = "".join(
        f"<th scope=col>{title}</th>"
        for title in ("Model", "Champion", "Candidate", "Would it take its place?")
    )
    return f"""<section id="champions"><h2>Champions</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"""


def _champion(name: str, one: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """A row; ``point`` is the candidate's of its front."""
    champion = one["champion"] or {}
    source = champion.get("latency_source")
    costs = _costs(_number(champion.get("latency_ms")), source, _number(champion.get("size_bytes")))
    own = _costs(point.get("latency_ms"), point.get("source"), point.get("size_bytes"))
    study = one.get("study") or ""
    mark = ' class="no"' if one["status"] else ""
    answer, why = verdict(one), str(one["why"])
    told = f"<b{mark}>{escape(answer)}</b>; {escape(why)}" if answer else f"<b{mark}>{escape(why)}</b>"
    return (
        f'<tr><th scope=row class="name">{escape(name)}</th>{_cell(champion.get("candidate"), costs)}'
        f'{_cell(one["candidate"], own, study)}<td class="why">{told}{_gates(one["gates"])}</td></tr>'
    )


def _cell(candidate: Any, *below: str) -> str:
    lines = "".join(f'<span class="below">{escape(text)}</span>' for text in below if text)
    return f"<td><code>{escape(str(candidate or 'none'))}</code>{lines}</td>"


def _costs(latency: float | None, source: str | None, size: float | None) -> str:
    return ", ".join(
        text for text in (latency and show_latency(latency, source), size and show_bytes(size)) if text
    )


def _number(tag: Any) -> float | None:
    """What the registry keeps as text; None where it is no number, as of a version that another program made."""
    try:
        found = float(tag)
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) else None


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    """What every gate said, folded where all let the candidate pass."""
    if not gates:
        return ""
    passed = sum(bool(gate["passed"]) for gate in gates)
    told = "".join(
        f"<li{'' if gate['passed'] else ' class=no'}><b>{escape(str(gate['name']))}</b> {escape(str(gate['text']))}</li>"
        for gate in gates
    )
    shown = "" if passed == len(gates) else " open"
    return (
        f'<details{shown}><summary class="small">{passed} of {counted(len(gates), "gate")} passed</summary>'
        f'<ul class="said small">{told}</ul></details>'
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    told = any(row["why"] for row in rows)
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in (*TITLES, *["why"] * told))
    body = "".join(_row(row, told=told) for row in rows)
    return f"""<section id="studies"><h2>Studies</h2>
<p class="hint">Figures of each study's recommended candidate.</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"""


def _row(row: Mapping[str, Any], *, told: bool) -> str:
    name, *cells = columns(row)
    report = Path(row["folder"]) / "report.html"
    link = f'<a href="{escape(report.as_uri())}">{escape(name)}</a>' if row["front"] else escape(name)
    shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    why = f'<td class="why">{escape(row["why"])}</td>' if told else ""
    return f'<tr><th scope=row class="name">{link}</th>{shown}{why}</tr>'


def _charts(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    together: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        together.setdefault(row["registered"], []).append(row)
    for row in rows:
        limits = _limits(together[row["registered"]])
        caption = (
            f"<figcaption>{escape(row['study'])} <span class=small>{escape(row['word'])}</span></figcaption>"
        )
        drawn = (
            _chart(row["front"], limits) if row["front"] and limits else '<p class="note">No front yet.</p>'
        )
        yield f"<figure>{caption}{drawn}</figure>"


def _drawn(front: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """What has a place in a chart: points, then references."""
    entries = [*(front or {}).get("points", ()), *(front or {}).get("references", ())]
    return [one for one in entries if one.get("error") is not None and one.get("latency_ms") is not None]


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """(the largest latency, the smallest and the largest error)."""
    entries = [one for row in rows for one in _drawn(row["front"])]
    if not entries:
        return None
    errors = [one["error"] for one in entries]
    margin = max(0.05 * (max(errors) - min(errors)), 0.002)
    return (
        1.06 * max(one["latency_ms"] for one in entries),
        max(0.0, min(errors) - margin),
        max(errors) + margin,
    )


def _chart(front: Mapping[str, Any], limits: tuple[float, float, float]) -> str:
    most, low, high = limits

    def x(latency: float) -> float:
        return LEFT + (WIDTH - LEFT - EDGE) * min(latency / most, 1)

    def y(error: float) -> float:
        return EDGE + (HEIGHT - EDGE - BELOW) * (high - error) / (high - low)

    parts = []
    for error in ticks(low, high, 5):
        line = f"{y(error):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{line}" y2="{line}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(error) + 4:.1f}" text-anchor="end">{show_tick(100 * error)} %</text>'
        )
    for latency in ticks(0, most, 5):
        parts.append(
            f'<text x="{x(latency):.1f}" y="{HEIGHT - 16}" text-anchor="middle">{show_tick(latency)}</text>'
        )
    parts.append(f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 3}" text-anchor="end">latency, ms</text>')
    chosen = (recommended(front) or {}).get("hash")
    for one in reversed(_drawn(front)):  # candidates above the references
        at, up = x(one["latency_ms"]), y(one["error"])
        name = str(one.get("hash") or one.get("name"))
        costs = f"{show_latency(one['latency_ms'], one['source'])}, {show_bytes(one['size_bytes'])}"
        title = f"{name}: error {show_percent(one['error'])}, {costs}"
        kind = "point" if one.get("hash") else "ref-fp32" if name == "fp32" else "ref-int8"
        if one.get("low") is not None and one.get("high") is not None:
            parts.append(
                f'<line class="span" x1="{x(one["low"]):.1f}" x2="{x(one["high"]):.1f}" y1="{up:.1f}" y2="{up:.1f}"/>'
            )
        parts.append(
            f'<circle class="{kind}" cx="{at:.1f}" cy="{up:.1f}" r="4"><title>{escape(title)}</title></circle>'
        )
        if one.get("hash") and name == chosen:
            parts.append(f'<circle class="chosen" cx="{at:.1f}" cy="{up:.1f}" r="8"/>')
    label = f"{len(front['points'])} candidates: error over latency"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
