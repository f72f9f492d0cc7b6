"""The report's table: every trial, complete without any script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from foundation.show import show_bytes, show_interval, show_latency, show_seconds
from pipeline.candidate.describe import text_of
from pipeline.report.data import ReportData
from pipeline.study.confidence import show_error

COLUMNS = (
    ("number", "#", True),
    ("hash", "Candidate", False),
    ("status", "Status", False),
    ("error", "Error", True),
    ("latency", "Latency", True),
    ("size", "Size", True),
    ("bits", "Bits", True),
    ("epochs", "Epochs", True),
    ("seconds", "Time", True),
    ("reason", "Reason", False),
)
OF_ONE = ("hash", "error", "latency", "size", "bits")  # of these, where nothing was searched

ROWS_AT_ONCE = 250  # of the table, until more are asked for: thousands take the browser a second to lay out


def table_of_trials(data: ReportData, values: Mapping[str, Any]) -> str:
    """The section as HTML, of what ``payload`` made of the data; references first."""
    fp32 = next((r["error"] for r in values["references"] if r["name"] == "fp32"), None)
    rows = [{**r, "hash": r["name"], "status": "reference", "front": False} for r in values["references"]]
    rows += values["trials"]
    columns = [column for column in COLUMNS if data.searched or column[0] in OF_ONE]
    columns = [column for column in columns if data.labelled or column[0] != "error"]
    heading = "Every trial" if data.searched else "All figures"
    head = "".join(
        f'<th scope="col" data-key="{key}"{" class=number" if number else ""} aria-sort="none">'
        f'<button type="button">{escape(title)}</button></th>'
        for key, title, number in columns
    )
    body = "".join(
        _row(row, columns, fp32, data.images, hidden=place >= ROWS_AT_ONCE) for place, row in enumerate(rows)
    )
    empty = "" if data.records else '<p class="note">No trial yet.</p>'
    return f"""<section id="trials">
<h2>{heading}</h2>
<div class="chips" id="chips"></div>
<div class="scroll" tabindex="0" role="region" aria-label="{heading}">
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p class="step"><button type="button" id="all-rows" hidden></button></p>
{empty}
</section>"""


def _row(
    row: dict[str, Any],
    columns: Sequence[tuple[str, str, bool]],
    fp32: float | None,
    images: int | None,
    *,
    hidden: bool = False,
) -> str:
    error, latency, size = row["error"], row["latency"], row["size"]
    drop = None if error is None or fp32 is None or row["hash"] == "fp32" else 100 * (error - fp32)
    low, high, seconds = row["low"], row["high"], row.get("seconds")
    interval = "" if low is None or high is None else f'<span class="below">{show_interval(low, high)}</span>'
    beside = "" if drop is None else f'<span class="below">{drop:+.{row["decimals"]}f} vs fp32</span>'
    device = escape(row["device"] or "unnamed device")
    source = f'<span title="{device}">{escape(row["source"] or "unknown")}</span>'
    status = "front" if row["front"] else row["status"]
    reason = row.get("reason") or ""
    cells: dict[str, tuple[Any, str]] = {
        "number": (row.get("number"), text_of(row.get("number"))),
        "hash": (row["hash"], f"<code>{escape(row['hash'])}</code>"),
        "status": (status, f'<span class="pill {escape(status)}">{escape(status)}</span>'),
        "error": (
            error,
            ""
            if error is None
            else show_error(error, images, row.get("deviation")).replace("+-", "±") + beside,
        ),
        "latency": (latency, "" if latency is None else f"{show_latency(latency)} {source}{interval}"),
        "size": (size, "" if size is None else show_bytes(size)),
        "bits": (row.get("bits"), "" if row.get("bits") is None else f"{row['bits']:.2f}"),
        "epochs": (row.get("epochs"), _epochs(row.get("epochs"))),
        "seconds": (seconds, "" if seconds is None else show_seconds(seconds)),
        "reason": (reason, f"<span>{escape(reason)}</span>"),
    }
    shown = "".join(
        f'<td{" class=number" if number else ""} data-value="{escape(text_of(cells[key][0]))}">{cells[key][1]}</td>'
        for key, _, number in columns
    )
    pinned = "" if status == "reference" else f' data-hash="{escape(row["hash"])}" tabindex="0"'
    return f'<tr data-status="{escape(status)}"{pinned}{" hidden" if hidden else ""}>{shown}</tr>'


def _epochs(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value < 1 else f"{value:.3g}"
