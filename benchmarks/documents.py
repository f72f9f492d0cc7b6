"""The tables of README.md and docs/, made from the CSV files under ``benchmarks/results``.

    python -m benchmarks.documents

A table stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``; the command writes it anew wherever the marks are. What
stands around a table is written by hand, and a test compares its figures with the same files.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Sequence

import benchmarks.trial_tables  # noqa: F401  registers its tables
from benchmarks.markdown import NAMES, RESULTS, ROOT, TABLES, TableRow, rows, table
from benchmarks.structures_front import compared
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically

DOCUMENTS = ("README.md", "docs/accuracy.md", "docs/cluster.md", "docs/search.md", "docs/speed.md")
BLOCK = re.compile(r"(<!-- table ([a-z0-9_]+) -->\n\n).*?(\n<!-- end \2 -->)", re.DOTALL)
# Ratios so near to one are said to be equal: the model is no more exact against real chips (``benchmarks.silicon``).
EQUAL = 1.15
METHODS = {
    "ours": "mixtures", "dkm": "differentiable k-means", "lsq": "learned steps", "ewgs": "element-wise gradient scaling",
    "paper": "mixtures' published form",
}  # fmt: skip
KINDS = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8 s8s8", "int8 u8s8", "int8 fp32", "int8 fp16")}
CORES = {"a76": "A76-class", "x1": "X1-class", "x2": "X2-class (i8mm)"}
OURS = {
    "4 bits": "4-bit, 8-bit activations",
    "2 bits, 80 % zeros": "2-bit, 80 % zeros, 7-bit activations",
    "2 bits, 90 % zeros": "2-bit, 90 % zeros, 7-bit activations",
}


def peers() -> list[TableRow]:
    """The comparison with other runtimes, whole networks."""
    (path,) = (each for each in RESULTS.glob("arm_peers_*_nocaches_1thread.csv"))
    return rows(path.name)


def times(ratio: float) -> str:
    """How many times as fast, to one decimal; ``equal`` where the model cannot tell."""
    return "equal" if 1 / EQUAL < ratio < EQUAL else f"{ratio:.1f}"


def speedup(model: str, core: str, ours: str, kind: str) -> tuple[float, str]:
    """The fastest peer of a kind: its cycles over ours, and its runtime's name."""
    here = [row for row in peers() if (row["model"], row["core"]) == (model, core)]
    own = next(
        float(row["cycles"])
        for row in here
        if row["runtime"] == "ours" and row["configuration"] == OURS[ours]
    )
    others = [row for row in here if row["runtime"] != "ours" and row["configuration"] in KINDS[kind]]
    fastest = min(others, key=lambda row: float(row["cycles"]))
    return float(fastest["cycles"]) / own, fastest["runtime"]


def speeds(wanted: Iterable[tuple[str, str, str]]) -> str:
    """Speed-ups over the fastest peer of each kind."""
    body = []
    for model, ours, core in wanted:
        cells = []
        for kind in KINDS:
            ratio, runtime = speedup(model, core, ours, kind)
            cells.append(f"{times(ratio)} ({runtime})")
        body.append([f"{NAMES[model]}, {ours}", CORES[core], *cells])
    return table(["", "core", *(f"fastest {kind}" for kind in KINDS)], body)


@TABLES.register("speed_all")
def _speed_all() -> str:
    found = dict.fromkeys((row["model"], row["core"]) for row in peers() if row["runtime"] == "ours")
    return speeds((model, ours, core) for model, core in found for ours in OURS)


def length(epochs: str) -> str:
    """Of training."""
    return "1 epoch" if float(epochs) == 1 else f"{float(epochs):g} epochs"


def signed(value: str, error: str | None = None) -> str:
    """Points with their sign and standard error."""
    points = f"{float(value):+.1f}".replace("-0.0", "+0.0")
    return points + ("" if error is None else f" ± {float(error):.1f}")


def comparable(row: TableRow) -> bool:
    """Rows of the headline: float32, 8-bit activations, no target of zeros."""
    return (row["arithmetic"], row["activation_bits"], row["zero_share"]) == ("float32", "8", "natural")


@TABLES.register("differences")
def _differences() -> str:
    """At 2 bits, one line a network and length of training."""
    found: dict[tuple[str, ...], dict[str, TableRow]] = {}
    for row in rows("cotuning_differences.csv"):
        if comparable(row) and row["bits"] == "2" and row["against"] in ("lsq", "dkm"):
            found.setdefault((row["network"], row["epochs"], row["fp32_top1"]), {})[row["against"]] = row
    body = [
        [
            f"{NAMES[network]} ({100 * float(fp32):.1f}), {length(epochs)}",
            *(_against(methods.get(name)) for name in ("lsq", "dkm")),
        ]
        for (network, epochs, fp32), methods in sorted(found.items(), key=lambda item: item[0])
    ]
    return table(["2 bits (fp32, report half): mixtures less ...", METHODS["lsq"], METHODS["dkm"]], body)


def _against(row: TableRow | None) -> str:
    if row is None:
        return ""
    seeds = ", ".join(f"{float(each):+.1f}" for each in row["by_seed"].split())
    return f"{signed(row['points'], row['standard_error'])} ({seeds})"


@TABLES.register("differences_all")
def _differences_all() -> str:
    body = [
        [
            NAMES[row["network"]], row["bits"], row["activation_bits"], f"{float(row['epochs']):g}",
            f"{100 * float(row['fp32_top1']):.2f}", METHODS[row["against"]], signed(row["points"], row["standard_error"]),
            row["by_seed"].replace(" ", ", "), "paired" if row["paired_seeds"] != "0" else "bound",
        ]
        for row in rows("cotuning_differences.csv")
        if row["arithmetic"] == "float32" and row["zero_share"] == "natural"
    ]  # fmt: skip
    head = [
        "network", "bits", "activations", "epochs", "fp32 (report half)", "mixtures less ...", "points", "seed by seed",
        "standard error",
    ]  # fmt: skip
    return table(head, body)


@TABLES.register("kept")
def _kept() -> str:
    body = [
        [
            f"{NAMES[row['network']]}, {row['bits']} bits"
            + ("" if row["zero_share"] == "natural" else f", {100 * float(row['zero_share']):.0f} % zeros")
            + f", {length(row['epochs'])}",
            f"{100 * float(row['fp32_top1']):.1f}",
            f"{100 * float(row['top1']):.1f}",
            signed(row["points"], row["standard_error"]),
            f"{int(row['bytes']):,}",
        ]
        for row in rows("kept_candidates.csv")
    ]
    return table(["", "fp32", "compressed", "difference", "bytes"], body)


@TABLES.register("top1")
def _top1() -> str:
    """Means over seeds on both halves, float32."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows("cotuning_accuracy.csv"):
        if row["bfloat16"] == "True" or float(row["distillation"]) != 1 or row["method"] not in METHODS:
            continue
        place = tuple(
            row[name]
            for name in ("network", "fp32_report_top1", "bits", "activation_bits", "zero_share", "epochs")
        )
        share = (float(row["search_top1"]) + float(row["report_top1"])) / 2
        found.setdefault(place, {}).setdefault(row["method"], []).append(share)
    body = [
        [
            NAMES[network], f"{100 * float(fp32):.1f}", bits, activations or "float",
            f"{100 * float(zeros):.0f} %" if zeros else "", f"{float(epochs):g}",
            *(_mean(methods.get(name, [])) for name in METHODS),
        ]
        for (network, fp32, bits, activations, zeros, epochs), methods in sorted(found.items())
    ]  # fmt: skip
    head = ["network", "fp32 (report half)", "bits", "activations", "zeros", "epochs", *METHODS.values()]
    return table(head, body)


def _mean(shares: Sequence[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f} ({len(shares)})" if shares else ""


@TABLES.register("silicon")
def _silicon() -> str:
    body = [
        [
            row["chip"], f"{NAMES[row['network']]} {row['precision']}", row["core"], f"{float(row['published']):g}",
            f"{float(row['modelled']):.1f}", f"{float(row['ratio']):.2f}",
        ]
        for row in rows("silicon.csv")
        if row["threads"] == "1"
    ]  # fmt: skip
    return table(["chip", "ncnn", "core", "published, megacycles", "modelled", "chip / model"], body)


@TABLES.register("search")
def _search() -> str:
    """What share of a near-exact front's hypervolume samplers have by so many trials."""
    marks, runs = ("5", "8", "12", "30", "100"), rows("search_efficiency.csv")
    body = []
    for sampler in dict.fromkeys(row["sampler"] for row in runs):
        found = [row for row in runs if row["sampler"] == sampler]
        cells = [sampler, str(len(found))]
        for mark in marks:
            shares = [float(row[f"share_{mark}"]) for row in found if row[f"share_{mark}"]]
            if shares:
                low, middle, high = statistics.quantiles(shares, n=4, method="inclusive")
                cells.append(f"{middle:.2f}" + (f" ({low:.2f} to {high:.2f})" if high - low >= 0.005 else ""))
            else:
                cells.append("")
        body.append(cells)
    return table(["sampler", "seeds", *(f"{mark} trials" for mark in marks)], body)


@TABLES.register("live")
def _live() -> str:
    """Likewise of searches with real trials, of all that they found together."""
    return _shares("search_live_digits.csv", ("3", "5", "8", "12"))


@TABLES.register("live_taps")
def _live_taps() -> str:
    """Likewise of searches that choose shapes of windows too, beside those that do not."""
    return _shares("search_live_taps.csv", ("5", "8", "12", "20"))


def _shares(name: str, marks: Sequence[str]) -> str:
    runs = rows(name)
    body = []
    for run in dict.fromkeys(row["run"] for row in runs):
        found = [row for row in runs if row["run"] == run]
        cells = [f"{statistics.mean(float(row[f'share_{mark}']) for row in found):.2f}" for mark in marks]
        body.append([run, str(len(found)), *cells])
    return table(["sampler", "seeds", *(f"{mark} trials" for mark in marks)], body)


@TABLES.register("live_halving")
def _live_halving() -> str:
    """Searches with real trials, each as it is, with halving, and without the filter before training."""
    body = []
    runs = rows("search_live_halving.csv")
    for run in dict.fromkeys(row["run"] for row in runs):
        found = [row for row in runs if row["run"] == run]
        means = {
            name: statistics.mean(float(row[name]) for row in found)
            for name in ("share_12", "share", "epochs", "finished", "stopped", "dominated")
        }
        body.append([
            run, str(len(found)), f"{means['share_12']:.2f}", f"{means['share']:.2f}",
            *(f"{means[name]:.1f}" for name in ("epochs", "finished", "stopped", "dominated")),
        ])  # fmt: skip
    return table(
        ["search", "seeds", "12 trials", "at the end", "epochs", "finished", "stopped", "not trained"], body
    )


TRIED, TRAINED = 60, 400  # steps of the plans that were trained, briefly and longer


@TABLES.register("structures")
def _structures() -> str:
    """What is left of time and right answers, plan by plan; answers where the plan was trained."""
    found = [row for row in rows("structures.csv") if (row["network"], row["seed"]) == ("resnet20", "0")]
    lost = {_structure(row): row for row in found if row["error"] and int(row["steps"]) == TRIED}
    body = []
    for row in found:
        if row["start"] == "untrained":
            judged = lost.get(_structure(row))
            shares = () if judged is None else (judged["difference"], judged["difference_standard_error"])
            points = signed(*(str(100 * float(share)) for share in shares)) if shares else ""
            size = f"{int(row['a76_bytes']):,}"
            body.append(
                [_structure(row), f"{float(row['a76_ms']):.2f}", f"{float(row['x2_ms']):.3f}", size, points]
            )
    return table(["layers between", "A76-class", "X2-class (i8mm)", "bytes", "points"], body)


@TABLES.register("peers_and_points")
def _peers_and_points() -> str:
    """How much faster plans make ResNet-18 than ONNX Runtime in fp32, beside what they cost ResNet-20 in right answers."""
    of_18 = {_structure(row): row for row in rows("structures.csv") if row["network"] == "resnet18"}
    of_20 = {
        _structure(row): row
        for row in rows("structures.csv")
        if (row["network"], row["start"], row["seed"]) == ("resnet20", "directly", "0")
        and int(row["steps"]) == TRAINED
    }
    runtime = {
        row["core"]: float(row["latency_ms"])
        for row in peers()
        if (row["model"], row["runtime"], row["configuration"]) == ("resnet18", "ONNX Runtime", "fp32")
    }
    body = []
    for plan, row in sorted(of_18.items(), key=lambda each: -float(each[1]["a76_ms"])):
        judged = of_20.get(plan)
        points = "" if judged is None else signed(
            *(str(100 * float(judged[name])) for name in ("difference", "difference_standard_error"))
        )  # fmt: skip
        body.append(
            [plan, *(f"{runtime[core] / float(row[f'{core}_ms']):.2f}" for core in ("a76", "x2")), points]
        )
    return table(["layers between", "A76-class", "X2-class (i8mm)", "points, ResNet-20"], body)


@TABLES.register("faults")
def _faults() -> str:
    """What was killed, filled, damaged or silenced, and what was found afterwards, by the tests that did it."""
    body = [
        [row["fault"], row["found"], row["lost"]]
        for row in sorted(rows("faults.csv"), key=lambda row: row["fault"].lower())
    ]
    return table(["what was done", "what was found afterwards", "lost"], body)


def _structure(row: TableRow) -> str:
    named = {
        "zero_share": "zeros anywhere",
        "kept_blocks": "of the blocks",
        "kept_channels": "of inner channels",
    }
    parts = [f"{100 * float(row[name]):.0f} % {what}" for name, what in named.items() if row[name]]
    if row["taps"]:
        parts += [f"best {row['taps']} taps" if row["taps"].isdigit() else f"taps: {row['taps']}"]
    return ", ".join([f"{row['bits']} bits", *parts])


@TABLES.register("structures_front")
def _structures_front() -> str:
    """The fronts of a search that may choose structures, beside one that may not."""
    body = [
        [
            CORES[core], f"{100 * each.error:.1f} %", f"{each.latency_ms:.3f}", f"{100 * each.other_error:.1f} %",
            f"{each.other_ms:.3f}", f"{each.times:.2f}",
        ]
        for core in ("a76", "x2")
        for each in compared(rows("structures_front.csv"), core)
    ]  # fmt: skip
    return table(["core", "error, with structures", "ms", "without", "ms", "times as fast"], body)


@TABLES.register("structures_post_training")
def _structures_post_training() -> str:
    """Structures that nothing was trained for, on a network that is rebuilt alone."""
    body = [
        [
            _structure(row), f"{float(row['a76_ms']):.2f}", f"{float(row['x2_ms']):.2f}", f"{int(row['a76_bytes']):,}",
            f"{100 * float(row['agreement']):.0f} ± {100 * float(row['agreement_error']):.0f} %",
            f"{float(row['divergence']):.2f} ± {float(row['divergence_error']):.2f}",
        ]
        for row in rows("structures_post_training.csv")
    ]  # fmt: skip
    return table(["layers between", "A76-class", "X2-class (i8mm)", "bytes", "as fp32", "divergence"], body)


def written(text: str) -> str:
    """A document with its tables made anew.

    Raises:
        UserError: marks of a table that there is not.
    """
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    parser = Parser(
        prog="python -m benchmarks.documents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    for name in DOCUMENTS:
        path = ROOT / name
        if not path.is_file():
            raise UserError(f"{path} is missing: run in a checkout of the project")
        before = path.read_text()
        after = written(before)
        if after != before:
            write_atomically(path, after)
            print(f"written: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
