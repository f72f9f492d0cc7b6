"""The report's HTML: text and tables here, what is drawn by scripts from the same values, the looks in page.css."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from foundation.files import json_text
from foundation.show import counted, show_percent, show_points
from pipeline.candidate.describe import text_of
from pipeline.report.data import ReportData, payload
from pipeline.report.rows import ROWS_AT_ONCE, table_of_trials
from pipeline.review.gates import RULE, points_of
from pipeline.study.records import Figures, Reference
from pipeline.training.settings import word_of

FOLDER = Path(__file__).parent
# Scripts and styles of this file only, and no request to anywhere: the browser itself enforces it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
LIVE_POLICY = (
    f"{POLICY}; connect-src 'self'"  # while it is served, it asks its own server whether there is news
)
SCRIPTS = (
    "charts",
    "front",
    "choice",
    "candidate",
    "operations",
    "answers",
    "search",
    "page",
)  # in this order
LIVE = '<p class="live" id="live" role="status"><span class="dot"></span><span id="live-text">Live: follows the search</span></p>'
HINT = (
    '<p class="hint">Hover over a point, or go there with the Tab key, to read it; click it, or press Enter, to pin it: its '
    "layers are shown below. Where points overlap, further clicks go through them.</p>"
)


CHARTS = """<ul class="legend" id="legend"></ul>
<div class="pair">
<figure><figcaption>Error and latency</figcaption><div class="chart" id="chart-latency"></div></figure>
<figure><figcaption>Error and size</figcaption><div class="chart" id="chart-size"></div></figure>
</div>"""
UNLABELLED = (
    '<p class="note">Without labels there is no error to draw; how alike it answers is told below.</p>'
)


def render(data: ReportData, *, live: bool = False) -> str:
    """The page as one self-contained HTML document.

    Args:
        live: it is served while the search runs, and asks its server for the page as it is by then.
    """
    values = payload(data)
    values["rowsAtOnce"] = ROWS_AT_ONCE
    script = json_text(values, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        script = script.replace(character, f"\\u{ord(character):04x}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{LIVE_POLICY if live else POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(data.study)} - {_kind(data).lower()}</title>
<link rel="icon" href="data:,">
<style>{(FOLDER / "page.css").read_text()}</style>
</head>
<body>
<main>
{LIVE if live else ""}
{_header(data)}
<noscript><p class="note">The charts need JavaScript; the table of trials below is complete without it.</p>
<style>#trials tr[hidden] {{ display: table-row; }}</style></noscript>
{_front(data)}
{_candidate(data)}
{_progress(data) if data.searched else ""}
{_sensitivity(data)}
{_importance(data)}
{table_of_trials(data, values)}
{_settings(data)}
</main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{script}</script>
<script>{_script(live=live)}</script>
</body>
</html>
"""


def _script(*, live: bool) -> str:
    """The page's scripts as one, in a scope of their own; what draws is split by what it draws. It is a function,
    called again for values that came later, with what a person had chosen by then (``kept``)."""
    parts = "".join((FOLDER / f"{name}.js").read_text() for name in SCRIPTS)
    start = (FOLDER / f"{'live' if live else 'start'}.js").read_text()
    return f'"use strict";\n(() => {{\nfunction page(kept, signal) {{\n{parts}}}\n{start}}})();\n'


def _kind(data: ReportData) -> str:
    return "Search report" if data.searched else "Compressed network"


def _header(data: ReportData) -> str:
    counts = Counter(record.status for record in data.records)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none yet"
    facts = [("Model", data.model), ("Data", data.data)]
    if data.searched:
        facts.append(("Trials", f"{len(data.records)} ({told})"))
    if data.created:
        facts.append(("Written", data.created))
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f"""<header>
<p class="eyebrow">{_kind(data)}</p>
<h1>{escape(data.study)}</h1>
<p class="lead">{_headline(data)}</p>
{_recommended(data)}
<dl class="facts">{shown}</dl>
<div class="cards" id="cards"></div>
</header>"""


def _recommended(data: ReportData) -> str:
    """What ``pipeline.promote`` takes, and by which rule; the terminal says the same."""
    found = data.recommended
    if found is None or not data.records:
        return ""
    name = f"<code>{escape(found.hash)}</code>, " if found.hash else "none, for "
    return f'<p class="small recommended"><b>Recommended</b> {name}{escape(found.why)}. <b>By the rule:</b> {escape(RULE)}.</p>'


def _headline(data: ReportData) -> str:
    """The study in a sentence: what the front gains over fp32 at next to no loss."""
    if not data.records:
        return "No trial has ended yet. This page fills as the search goes on."
    fp32 = next((r.figures for r in data.references if r.name == "fp32"), None)
    front = [r.figures for r in data.records if r.hash in set(data.front)]
    if data.labelled:
        front = [figures for figures in front if figures.error is not None]
    if not front:
        return "No candidate has reached the front yet."
    count = len({r.hash for r in data.records if r.hash in set(data.front)})
    start = f"{count} {'candidate' if count == 1 else 'candidates'} on the front of {' × '.join(data.objectives)}."
    if not data.searched:
        start = "One network, by one plan."
    if fp32 is None or (data.labelled and fp32.error is None):
        return start
    bound = data.accuracy_drop
    near = front
    if fp32.error is not None:
        near = [f for f in front if f.error is not None and f.error <= fp32.error + bound / 100 + 1e-9]
    if not near:
        more = show_points(min(f.error for f in front if f.error is not None) - (fp32.error or 0.0))
        if data.metric is not None:
            whose = "The best one's" if data.searched else "Its"
            return f"{start} {whose} {escape(word_of(data.metric))} is {more} points below fp32's."
        return f"{start} {'The most accurate' if data.searched else 'It'} makes {more} points more errors than fp32."
    gains = [_smaller(near, fp32), *(_faster(near, reference) for reference in data.references)]
    told = [text for text in gains if text]
    where = f"Within {points_of(bound)} of fp32: " if data.labelled else ""
    return f"{start} {where}{', '.join(told)}." if told else start


def _smaller(near: Sequence[Figures], fp32: Figures) -> str:
    sizes = [f.size_bytes for f in near if f.size_bytes]
    if not sizes or not fp32.size_bytes:
        return ""
    return f"{_up_to(sizes)}<b>{fp32.size_bytes / min(sizes):.1f}× smaller</b> than fp32"


def _up_to(figures: Sequence[float]) -> str:
    """Before the best of several; nothing before the only one."""
    return "up to " if len(figures) > 1 else ""


def _faster(near: Sequence[Figures], reference: Reference) -> str:
    """Only figures of one kind are divided by each other."""
    other = reference.figures
    same = [
        f.latency_ms for f in near if f.latency_ms and (f.source, f.device) == (other.source, other.device)
    ]
    if not same or not other.latency_ms or other.latency_ms <= min(same):
        return ""
    kind = f"{escape(other.source or 'of unknown source')}, {escape(other.device or 'unnamed device')}"
    return f"{_up_to(same)}<b>{other.latency_ms / min(same):.1f}× faster</b> than {escape(reference.name)} ({kind})"


def _front(data: ReportData) -> str:
    return f"""<section id="front">
<h2>{"The front" if data.searched else "Beside fp32 and int8"}</h2>
{HINT if data.front and data.labelled else ""}
<div class="tools" id="tools" hidden>
<label id="lost-label" for="lost">At most <output id="lost-text" for="lost"></output> lost against fp32
<input type="range" id="lost" min="0" max="100" step="1" value="100"></label>
<span class="step"><button type="button" id="unbrush" hidden>All points again</button></span>
<span class="small" id="chosen" role="status"></span>
</div>
{CHARTS if data.labelled else UNLABELLED}
<p class="small" id="undrawn"></p>
<div class="origin">{_origin(data)}</div>
</section>"""


def _origin(data: ReportData) -> str:
    """How each figure came about; a modelled one is never shown as if it had been measured."""
    kinds = Counter(
        (r.figures.source, r.figures.device) for r in data.records if r.figures.latency_ms is not None
    )
    lines = [_of_errors(data)] if data.labelled else []
    for (source, device), count in kinds.most_common():
        kind = source if source in ("measured", "modelled") else "unknown"
        how = {
            "measured": "wall time of one image on one thread of a real ARM CPU; the bar is its confidence interval",
            "modelled": "no ARM CPU was used, a model gave the times (of an emulated device: instructions counted, cycles by a "
            "pipeline and cache model); the bar is the model's interval",
        }.get(kind, "its source was not recorded")
        lines.append(
            f'<li><b>Latency</b> <span class="tag {kind}">{escape(kind)}</span> {how}. '
            f"<code>{escape(device or 'unnamed device')}</code>, {counted(count, 'trial' if data.searched else 'network')}.</li>"
        )
    lines.append(
        "<li><b>Size</b> bytes of the blob that the program loads: packed indices, codebooks, scales, biases, tables.</li>"
    )
    lines += [f"<li>{escape(note)}</li>" for note in data.notes]
    return f"<ul>{''.join(lines)}</ul>"


def _of_errors(data: ReportData) -> str:
    what = "share of wrong answers" if data.metric is None else f"1 minus {escape(data.metric)}"
    half = (
        "the half of the validation images that guides the search"
        if data.searched
        else "one half of the validation images"
    )
    spread = (
        f" ({data.images} images), ± its standard error (the upright bar of the point that is read)"
        if data.images
        else ""
    )
    after = (
        "It is optimistic for the chosen ones: <code>evaluate</code> and <code>promote</code> use the other half."
        if data.searched
        else "<code>evaluate</code> uses the other half."
    )
    return f"<li><b>Error</b> {what} of the hard-quantized network, as of fp32, in PyTorch on {half}{spread}. {after}</li>"


def _candidate(data: ReportData) -> str:
    alone = "" if data.searched else " hidden"
    return f"""<section id="candidate" hidden>
<div class="head"><h2>Candidate <code id="candidate-hash"></code></h2>
<div class="step"{alone}><label for="other">beside</label> <select id="other"></select>
<button type="button" id="previous">&larr; smaller</button>
<button type="button" id="next">larger &rarr;</button></div></div>
<div class="figures" id="candidate-figures"></div>
<div id="beside" hidden><h3>Beside <code id="beside-hash"></code></h3>
<div class="scroll" tabindex="0" role="region" aria-label="Two candidates"><table id="beside-table"></table></div></div>
<p class="small" id="candidate-plan"></p>
<div class="pair wide">
<figure><figcaption>Layers <span class="small">click one to see its weights</span></figcaption>
<div class="layers" id="layers"></div></figure>
<figure><figcaption><label for="layer">Weights of</label> <select id="layer"></select></figcaption>
<div class="chart" id="chart-weights"></div><p class="small" id="weights-text"></p></figure>
</div>
<div class="pair">
<figure id="operations" hidden><figcaption>Where the time goes <span class="small" id="operations-source"></span></figcaption>
<div class="scroll short" tabindex="0" role="region" aria-label="Operations"><table>
<thead><tr><th scope="col">Operation</th><th scope="col">Computed by</th>
<th scope="col" class="number">Time</th><th scope="col">Why</th></tr></thead>
<tbody id="operations-rows"></tbody></table></div></figure>
<figure id="answers" hidden><figcaption>Answers beside fp32's <span class="small" id="answers-text"></span></figcaption>
<div class="scroll short" tabindex="0" role="region" aria-label="Answers beside fp32's"><table id="confusion"></table></div>
<ul class="legend" id="answers-legend"></ul>
<div class="differing" id="differing"></div></figure>
</div>
</section>"""


def _progress(data: ReportData) -> str:
    return f"""<section id="progress">
<h2>The search</h2>
<div class="pair">
<figure><figcaption><label for="over">Hypervolume over</label> <select id="over">
<option value="trials">trials</option>
<option value="epochs">epochs of training</option><option value="minutes">minutes</option></select>
<span class="small">{_box(data)}</span></figcaption>
<div class="chart" id="chart-history"></div></figure>
<figure><figcaption>Trials in order</figcaption><div class="strip" id="strip"></div>
<ul class="legend" id="strip-legend"></ul></figure>
</div>
<figure class="alone"><figcaption>When trials ran <span class="small" id="timeline-text"></span></figcaption>
<div class="chart" id="chart-timeline"></div></figure>
</section>"""


def _box(data: ReportData) -> str:
    """What the hypervolume is a share of."""
    fp32 = next((r.figures for r in data.references if r.name == "fp32"), Figures(None))
    known = {"error": "1", "latency": "fp32's" if fp32.latency_ms else "1.1 times the slowest trial's"}
    known["size"] = "fp32's" if fp32.size_bytes else "1.1 times the largest trial's"
    return "share of the box from zero to " + ", ".join(f"{name} {known[name]}" for name in data.objectives)


def _sensitivity(data: ReportData) -> str:
    """Which layer hurts, the worst first: what the best choice of each bit-width adds by itself."""
    found = data.sensitivity
    if found is None or not found.harms:
        return ""
    best = {name: found.gentlest(name) for name in found.harms}
    widths = sorted({bits for plans in best.values() for bits in plans}, reverse=True)
    added = {
        name: {bits: found.of(name, plan) for bits, plan in plans.items()} for name, plans in best.items()
    }
    worst = max((value for row in added.values() for value in row.values()), default=0.0) or 1.0
    head = "".join(f"<th scope=col class=number>{bits} bits</th>" for bits in widths)

    def cell(value: float | None) -> str:
        if value is None:
            return "<td class=number>-</td>"
        # The square root, so that layers of a tenth of the harm are still seen.
        return (
            f'<td class="number harm" style="--harm:{100 * (value / worst) ** 0.5:.0f}%">{_nats(value)}</td>'
        )

    rows = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code></th><td class=number>{data.layers.get(name, 0):,}</td>"
        f"{''.join(cell(row.get(bits)) for bits in widths)}</tr>"
        for name, row in sorted(added.items(), key=lambda item: -max(item[1].values()))
    )
    return f"""<section id="sensitivity">
<h2>Which layer hurts</h2>
<p class="small">What each layer adds to the divergence from fp32, in nats, if it alone is stored in so many bits, before any
training: by the Fisher information of {found.images} training images, without labels.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Which layer hurts">
<table><thead><tr><th scope=col>Layer</th><th scope=col class=number>Weights</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>
</section>"""


def _nats(value: float) -> str:
    """Two digits; large ones whole."""
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _importance(data: ReportData) -> str:
    """Which layers' choices mattered in the trials, the most important first."""
    if not data.importance:
        return ""
    layers = {layer: 0.0 for shares in data.importance.values() for layer in shares}
    for layer in layers:
        layers[layer] = max(shares.get(layer, 0.0) for shares in data.importance.values())
    largest = max(layers.values()) or 1.0
    head = "".join(f"<th scope=col class=number>{escape(name)}</th>" for name in data.importance)

    def cell(share: float) -> str:
        return f'<td class="number harm" style="--harm:{100 * share / largest:.0f}%">{show_percent(share, digits=0)}</td>'

    rows = "".join(
        f"<tr><th scope=row><code>{escape(name)}</code></th>"
        f"{''.join(cell(shares.get(name, 0.0)) for shares in data.importance.values())}</tr>"
        for name in sorted(layers, key=lambda name: -layers[name])
    )
    return f"""<section id="importance">
<h2>What mattered in the trials</h2>
<p class="small">Each layer's share of what sets the best quarter of the finished trials apart from all of them, by objective
(PED-ANOVA, arXiv:2304.10255). Plans that the search made alike on purpose share what they have in common.</p>
<div class="scroll" tabindex="0" role="region" aria-label="What mattered in the trials">
<table><thead><tr><th scope=col>Layer</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>
</section>"""


def _settings(data: ReportData) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(text_of(value)) or '-'}</td></tr>"
        for key, value in data.settings.items()
    )
    if not rows:
        return ""
    return f"<section><details><summary>Settings</summary><table class=settings>{rows}</table></details></section>"
