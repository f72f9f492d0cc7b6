"""The tables of whole trials, of their parts, and of what was compared with them."""

from __future__ import annotations

import statistics

from benchmarks.markdown import NAMES, TABLES, TableRow, rows, table
from benchmarks.trial_differences import summaries
from benchmarks.trial_parts import PARTS


@TABLES.register("zeros_methods")
def _zeros_methods() -> str:
    """What is left of right answers and bytes where zeros are asked for, method by method; means over seeds, and the seeds."""
    runs = rows("trial_zeros_methods.csv")
    body = []
    grouped: dict[tuple[str, ...], list[TableRow]] = {}
    for row in runs:
        names = ("zero_share", "kept_blocks", "bits", "asked_steps", "method", "shrink")
        grouped.setdefault(tuple(row[name] for name in names), []).append(row)
    for key in sorted(grouped, key=lambda key: (key[0] or "1", int(key[3]))):
        found = grouped[key]
        points = [100 * float(r["difference"]) for r in found]
        by_seed = f" ({', '.join(f'{each:.1f}' for each in points)})"
        zeros, blocks, bits, steps, method, shrink = key
        share = (
            f"{100 * float(zeros):.0f} %"
            if zeros
            else f"{bits} bits, {100 * float(blocks):.0f} % of the blocks"
        )
        body.append([
            f"{share}, {steps} steps", method + (f", {shrink}" if shrink else ""),
            f"{statistics.mean(points):.2f}{by_seed}",
            f"{statistics.mean(float(r['divergence']) for r in found):.3f}",
            # Blocks are stored as the kernel has them that a core chooses, and here none did.
            *("" if blocks else f"{round(statistics.mean(int(r[name]) for r in found)):,}" for name in ("bytes", "packed_bytes")),
        ])  # fmt: skip
    return table(["zeros", "method", "points (seeds)", "divergence", "bytes", "packed"], body)


@TABLES.register("rebuilding")
def _rebuilding() -> str:
    """What each choice of rebuilding comes to, by bits side by side."""
    found = {(row["choice"], row["bits"]): row for row in rows("rebuilding.csv")}
    widths = sorted({bits for _, bits in found}, key=int)
    body = []
    for choice in dict.fromkeys(choice for choice, _ in found):
        each = [found[choice, bits] for bits in widths]
        cells = [
            text
            for row in each
            for text in (
                f"{float(row['points']):+.2f} ± {float(row['points_standard_error']):.2f}",
                f"{float(row['divergence']):.3f} ± {float(row['divergence_standard_error']):.3f}",
            )
        ]
        body.append([choice, *cells, f"{statistics.mean(float(row['seconds']) for row in each):.0f}"])
    heads = [text for bits in widths for text in (f"{bits} bits, points to fp32", "divergence")]
    return table(["choice", *heads, "seconds"], body)


@TABLES.register("shrinking_from_scratch")
def _shrinking_from_scratch() -> str:
    """Errors of networks that became sparse while they were trained from random weights, by method."""
    grouped: dict[str, list[TableRow]] = {}
    for row in rows("shrinking_from_scratch.csv"):
        grouped.setdefault(row["method"], []).append(row)
    body = []
    for method, found in grouped.items():
        errors = [100 * float(row["error"]) for row in found]
        by_seed = ", ".join(f"{each:.1f}" for each in errors)
        zeros = statistics.mean(float(row["zeros"]) for row in found)
        body.append([method, f"{100 * zeros:.0f} %", f"{statistics.mean(errors):.1f} % ({by_seed})"])
    return table(["from random weights", "zeros", "error (seeds)"], body)


@TABLES.register("trials")
def _trials() -> str:
    body = []
    for each in summaries(rows("trial_accuracy.csv")):
        network, bits, zeros, seconds, coded, *also = each.cell
        cell = (
            ("" if network == "resnet20" else f"{NAMES[network]}, ")
            + f"{bits} bits"
            + (f" coded in {coded}" if coded else "")
            + (f", {100 * float(zeros):.0f} % zeros" if zeros else "")
            + "".join(f", {each}" for each in (f"{float(seconds):g} s", *also))
        )
        behind = f"{each.behind:+.2f} ± {each.behind_error:.2f}" if each.behind_error else ""
        points = f"{each.points:+.2f} ± {each.points_error:.2f}"
        body.append([
            cell, each.method, points, behind, f"{each.divergence:.3f}", f"{each.bytes:,.0f}", str(each.seeds),
        ])  # fmt: skip
    return table(["cell", "method", "points to fp32", "to ours", "divergence", "bytes", "seeds"], body)


@TABLES.register("trials_by_bytes")
def _trials_by_bytes() -> str:
    """ResNet-20's networks of a minute or less, smallest file first, where nobody asks for zeros; without those that another
    makes needless, with a smaller file and answers closer to fp32's, but for ours."""
    found = [
        each
        for each in summaries(rows("trial_accuracy.csv"))
        if each.cell[0] == "resnet20" and not each.cell[2] and float(each.cell[3]) <= 60 and each.bytes
    ]
    body = []
    for each in sorted(found, key=lambda each: each.bytes):
        better = [
            other for other in found if other.bytes <= each.bytes and other.divergence < each.divergence
        ]
        if each.method != "ours" and better:
            continue
        bits, coded = each.cell[1], each.cell[4]
        body.append([
            f"{each.bytes:,.0f}", each.method, f"{bits} bits" + (f" coded in {coded}" if coded else ""),
            f"{each.divergence:.3f}", f"{each.points:+.2f} ± {each.points_error:.2f}", "" if better else "yes",
        ])  # fmt: skip
    return table(
        ["bytes", "method", "indices", "divergence", "points to fp32", "none smaller and closer"], body
    )


@TABLES.register("trial_parts")
def _trial_parts() -> str:
    """ResNet-20's trials at 2 bits with one thing changed, in the order of ``PARTS``, where both halves are there."""
    usual = {"network": "resnet20", "bits": "2", "zero_share": "", "asked_steps": "100"}
    halves: dict[str, dict[str, TableRow]] = {}
    for row in rows("trial_parts.csv"):
        if all(row[name] == value for name, value in usual.items()):
            halves.setdefault(row["part"], {})[row["seed"]] = row
    body = [
        [part, *(_both(found, *which) for which in (("difference", 100, "+.2f"), ("divergence", 1, ".3f")))]
        for part in PARTS
        if len(found := [halves[part][seed] for seed in ("0", "1") if seed in halves.get(part, ())]) == 2
    ]
    return table(["a trial", "points to fp32", "divergence"], body)


def _both(found: list[TableRow], name: str, unit: float, form: str) -> str:
    """The mean over two halves of images with its standard error."""
    mean = statistics.mean(unit * float(row[name]) for row in found)
    squares = [(unit * float(row[f"{name}_standard_error"])) ** 2 for row in found]
    return f"{mean:{form}} ± {sum(squares) ** 0.5 / len(squares):{form.strip('+')}}"
