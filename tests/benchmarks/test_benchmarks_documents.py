"""The figures of README.md and docs/ are those of the files of results: tables as made from them, sentences value by value."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import documents, search_efficiency
from benchmarks.documents import OURS, ROOT, peers, rows, speedup, times
from benchmarks.trial_differences import Summary, summaries
from deploy_arm.target.cores import CORES
from pipeline.training.early import STEPS, hopeless
from pipeline.training.stages import LONG, MANY_ZEROS
from search_spaces.samplers import programme

README = (ROOT / "README.md").read_text()
GOOD = README[README.index("## How good it is") : README.index("## The house")]
PICTURE = README[README.index("The picture is") : README.index("## How it works")]
TEXTS = {
    "README.md": PICTURE + GOOD,
    **{
        name: (ROOT / name).read_text()
        for name in (
            *documents.DOCUMENTS,
            "docs/detection.md",
            "docs/quantizers.md",
        )  # the last two have no table
        if name != "README.md"
    },
}


def cycles(model: str, core: str, runtime: str, configuration: str) -> float:
    """Modelled megacycles."""
    (found,) = (
        float(row["cycles"]) / 1e6
        for row in peers()
        if (row["model"], row["core"], row["runtime"], row["configuration"])
        == (model, core, runtime, configuration)
    )
    return found


def per_multiplication(runtime: str, configuration: str) -> str:
    return f"{cycles('resnet18', 'a76', runtime, configuration) / 1814.073:.3f}"


def in_a_minute(bits: str, coded: str) -> Summary:
    """Of whole trials of ResNet-20, ours."""
    cell = ("resnet20", bits, "", "60", coded)
    (found,) = (
        each for each in summaries(rows("trial_accuracy.csv")) if (each.cell, each.method) == (cell, "ours")
    )
    return found


def minute(bits: str, coded: str = "") -> tuple[str, str]:
    """Points that are lost, with their standard error."""
    found = in_a_minute(bits, coded)
    return f"{-found.points:.2f}", f"{found.points_error:.2f}"


def half_zero() -> tuple[str, str]:
    """Bytes and divergence of four bits with half of the weights zero, rebuilt."""
    cell = ("resnet20", "4", "0.5", "60", "")
    (found,) = (each for each in summaries(rows("trial_accuracy.csv")) if each.cell == cell)
    return f"{found.bytes:,.0f}", f"{found.divergence:.3f}"


def typed(column: str, bits: str, coded: str) -> str:
    """A share of Tiny Darknet's answers as the command of one network gives it, the mean over seeds, in percent."""
    found = [row for row in rows("quantized.csv") if (row["bits"], row["coded_bits"]) == (bits, coded)]
    assert [row["seed"] for row in found] == ["0", "1", "2"]
    return f"{100 * statistics.mean(float(row[column]) for row in found):.1f}"


def nats(bits: str, coded: str = "") -> float:
    return in_a_minute(bits, coded).divergence


def kept(bits: int, zeros: str = "natural") -> tuple[str, str]:
    (row,) = (
        row
        for row in rows("kept_candidates.csv")
        if (row["network"], row["bits"], row["zero_share"]) == ("resnet20", str(bits), zeros)
    )
    return f"{-float(row['points']):.1f}", f"{float(row['standard_error']):.1f}"


def upper(model: str, setting: str) -> str:
    """The interval's upper end over the point, with caches simulated."""
    (row,) = (
        row
        for row in rows("arm_kernels.csv")
        if (row["label"], row["model"], row["setting"], row["core"]) == ("fused", model, setting, "a76")
    )
    return f"{float(row['high_cycles_per_mac']) / float(row['cycles_per_mac']):.1f}"


def against(method: str, *, networks: str = "resnet") -> list[float]:
    """Points at 2 bits of the headline's rows."""
    return [
        float(row["points"])
        for row in rows("cotuning_differences.csv")
        if documents.comparable(row) and (row["bits"], row["against"]) == ("2", method) and row["network"].startswith(networks)
    ]  # fmt: skip


def agreement(method: str, bits: int) -> str:
    shares = [
        float(row["agreement"])
        for row in rows("calibration_tiny_darknet.csv")
        if (row["method"], row["bits"]) == (method, str(bits))
    ]
    return f"{100 * sum(shares) / len(shares):.0f}"


def rebuilt(network: str, table: str, setting: str, column: str) -> float:
    """Of post-training, the first seed's."""
    (value,) = (
        row[column]
        for row in rows("post_training.csv")
        if (row["network"], row["table"], row["setting"], row["seed"]) == (network, table, setting, "0")
    )
    return float(value)


def kept_answers(table: str, setting: str, digits: int = 1) -> str:
    return f"{100 * rebuilt('tiny_darknet', table, setting, 'agreement'):.{digits}f}"


def closer(network: str, table: str, setting: str = "usual, 128 positions") -> tuple[str, str]:
    difference, error = (
        rebuilt(network, table, setting, name) for name in ("difference", "difference_error")
    )
    return f"{-difference:.3f}", f"{error:.3f}"


def detection(setting: str, column: str) -> str:
    (value,) = (row[column] for row in rows("detection.csv") if row["setting"] == setting)
    return f"{float(value):.1f}"


def detectors() -> tuple[str, ...]:
    """Of the detector's front, what its page tells."""
    found = {row["name"]: row for row in rows("front_fastestdet_coco.csv")}
    fp32, small, four, mixed, two = (
        found[name] for name in ("fp32", "3ffc98320a06", "8345e208321c", "9c347c6a0842", "accb0f4d37cf")
    )
    fewer = [f"{int(fp32['size_bytes']) / int(row['size_bytes']):.1f}" for row in (small, four, mixed)]
    lost = [f"{float(row[key]):.1f}" for row in (four, mixed) for key in ("lost", "lost_standard_error")]
    score = [f"{float(row['report_score']):.1f}" for row in (fp32, small, two)]
    times = [float(row["latency_ms"]) for row in found.values() if row["name"] not in ("fp32", "int8")]
    latency = [f"{value:.1f}" for value in (min(times), max(times), float(fp32["latency_ms"]))]
    return (*score[:2], fewer[0], fewer[1], *lost[:2], fewer[2], *lost[2:], score[2], *latency)


def pictured() -> tuple[str, ...]:
    """Of the default search's front, what README.md tells: the recommended program's, and the smallest's of those that answer
    97 % rightly."""
    found = {row["name"]: row for row in rows("front_vgg_tiny_digits.csv")}
    able = [row for row in found.values() if float(row["search_score"]) >= 97]
    chosen, smallest = found["ade719418f3a"], min(able, key=lambda row: int(row["size_bytes"]))

    def ahead_of(reference: str, row: dict[str, str], column: str) -> str:
        return f"{float(found[reference][column]) / float(row[column]):.1f}"

    def right(row: dict[str, str]) -> str:
        return f"{float(row['search_score']):.1f}"

    def lost(row: dict[str, str]) -> tuple[str, str]:
        return f"{float(row['lost']):.1f}", f"{float(row['lost_standard_error']):.1f}"

    return (
        ahead_of("int8", chosen, "size_bytes"), ahead_of("fp32", chosen, "size_bytes"), ahead_of("int8", chosen, "latency_ms"),
        right(chosen), right(found["fp32"]), *lost(chosen),
        *(ahead_of("int8", smallest, column) for column in ("size_bytes", "latency_ms")), right(smallest), *lost(smallest),
    )  # fmt: skip


def ended_early() -> tuple[str, str, str]:
    """The worst of the recorded trials, what is hopeless, and how many entered the front of all before them."""
    found = [
        tuple(float(row[name]) for name in ("error", "latency_ms", "size_bytes"))
        for row in rows("recorded_trials.csv")
    ]
    front: list[tuple[float, ...]] = []
    entered = 0
    for point in found:
        if not any(all(a <= b for a, b in zip(other, point, strict=True)) for other in front):
            front, entered = [*front, point], entered + 1
    worst, classes = max(error for error, *_ in found), 10
    assert not any(hopeless(error, 0.083, 1 / classes) for error, *_ in found)
    return f"{100 * (1 - worst):.0f}", f"{100 * 2 / classes:.0f}", str(entered)


def heights(core: str, sampler: str, searched_for: str = "") -> list[float]:
    """Of the lowest plans that a sampler found, on a core, by seed, in points; searched for this core or for another."""
    found = [
        row
        for row in rows("search_cores.csv")
        if row["sampler"] == sampler and row["core"] == (searched_for or core)
    ]
    return [100 * float(row[f"height_on_{core}"]) for row in found]


def walks() -> tuple[str, ...]:
    """Trials, and mean heights of the walk, of TPE and of the programme on both cores."""
    (trials,) = {row["trials"] for row in rows("search_cores.csv")}
    samplers, cores = ("metropolis", "tpe", "programme"), ("a76", "x1")
    means = [statistics.mean(heights(core, sampler)) for sampler in samplers for core in cores]
    return (trials, *(f"{mean:.2f}" for mean in means))


def below_tpe() -> tuple[str, ...]:
    """In how many seeds the walk is, on either core."""
    pairs = [[*zip(heights(core, "metropolis"), heights(core, "tpe"), strict=True)] for core in ("a76", "x1")]
    assert [sum(walk > tpe for walk, tpe in each) for each in pairs] == [0, 1]
    return tuple(str(sum(walk < tpe for walk, tpe in each)) for each in pairs)


def own_plans() -> tuple[str, ...]:
    """By how much a core's own plans of the walk are lower there than those for the other."""
    both = (("a76", "x1"), ("x1", "a76"))
    gains = [
        statistics.mean(heights(core, "metropolis", other)) - statistics.mean(heights(core, "metropolis"))
        for core, other in both
    ]
    return tuple(f"{gain:.2f}" for gain in gains)


def inherited() -> tuple[str, ...]:
    """Neighbours, steps before and of each, points lost by inherited weights with their standard error, images, divergences."""
    found = rows("inherited_weights.csv")
    ((before, steps, images),) = {(row["incumbent_steps"], row["steps"], row["images"]) for row in found}
    gains = [100 * float(row["gain"]) for row in found]
    divergences = [[float(row[f"{how}_divergence"]) for row in found] for how in ("inherited", "rebuilt")]
    assert all(one > other for one, other in zip(*divergences, strict=True))
    assert -0.5 < statistics.mean(gains) < 0
    deviation = statistics.stdev(gains) / len(gains) ** 0.5
    return (
        str(len(found)), before, steps, f"{-statistics.mean(gains):.2f}", f"{deviation:.2f}", f"{int(images):,}",
        *(f"{statistics.mean(each):.3f}" for each in divergences),
    )  # fmt: skip


def transferred() -> tuple[str, ...]:
    """First plans that two studies share; shares of the hypervolume at their ends, with an earlier study and without."""
    by = {like: [row for row in rows("transfer.csv") if row["like"] == like] for like in ("True", "False")}
    plans = [[row["plan"] for row in found] for found in by.values()]
    alike = sum(one == other for one, other in zip(*plans, strict=True))
    assert plans[0][:alike] == plans[1][:alike] and alike == len(plans[0]) - 1
    return (str(alike), *(f"{float(found[-1]['share']):.2f}" for found in by.values()))


def cifar_front() -> tuple[str, ...]:
    """Of a whole search on CIFAR-10: the plans that are not uniform and that no uniform one dominates, and the best of them."""
    found = {row["name"]: row for row in rows("front_resnet20_cifar10.csv")}
    uniform = {row["uniform"]: row for row in found.values() if row["uniform"]}

    def place(row: dict[str, str]) -> tuple[float, ...]:
        return (-float(row["report_score"]), *(float(row[name]) for name in ("latency_ms", "size_bytes")))

    def beaten(row: dict[str, str]) -> bool:
        return any(
            all(a <= b for a, b in zip(place(one), place(row), strict=True)) for one in uniform.values()
        )

    others = [row for row in found.values() if not row["uniform"] and row["name"] not in ("fp32", "int8")]
    assert len(others) == len([row for row in others if not beaten(row)])
    near = [row for row in others if float(row["lost"]) < 2]
    assert len(near) == 2 and float(near[1]["latency_ms"]) / float(
        uniform["2"]["latency_ms"]
    ) == pytest.approx(0.9, abs=0.02)
    far = min(float(row["lost"]) for row in others if row not in near)

    def told(row: dict[str, str]) -> tuple[str, ...]:
        loss = (f"{float(row[name]):.1f}" for name in ("lost", "lost_standard_error"))
        return *loss, f"{int(row['size_bytes']):,}", f"{float(row['latency_ms']):.3f}"

    return (
        f"{0.06 * 50_000 // 128:.0f}", "2,500", str(len(others)), *told(near[0]), *told(near[1]), *told(uniform["2"]),
        *told(uniform["4"])[2:], f"{far:.0f}",
    )  # fmt: skip


def threads(model: str, count: int) -> str:
    (value,) = (
        row["speedup"]
        for row in rows("arm_threads.csv")
        if (row["model"], row["setting"], row["core"], row["threads"]) == (model, "4bit", "a76", str(count))
    )
    return f"{float(value):.2f}"


def on_chip(chip: str, threads: str = "1", column: str = "ratio") -> tuple[float, float]:
    """The least and the largest value of a chip's rows, or of all chips of a core."""
    found = [
        float(row[column])
        for row in rows("silicon.csv")
        if chip in (row["chip"], row["core"]) and row["threads"] == threads
    ]
    return min(found), max(found)


def span(values: tuple[float, float], digits: int = 2) -> tuple[str, str]:
    return f"{values[0]:.{digits}f}", f"{values[1]:.{digits}f}"


def flat() -> tuple[str]:
    """The upper end over the point where caches are not simulated: the same for all."""
    (ratio,) = {f"{float(row['high_cycles']) / float(row['cycles']):.1f}" for row in peers()}
    return (ratio,)


def share_error() -> tuple[str]:
    """In points, of the mixtures' agreement at 4 bits."""
    share, images = (
        float(agreement("ours", 4)) / 100,
        int(rows("calibration_tiny_darknet.csv")[0]["judged_images"]),
    )
    return (f"{100 * (share * (1 - share) / images) ** 0.5:.0f}",)


def step(row: str, threads: str) -> str:
    (value,) = (
        each["wall_ratio"]
        for each in rows("cotuning_step.csv")
        if (each["row"], each["threads"]) == (row, threads)
    )
    return f"{float(value):.2f}"


def surrogate() -> tuple[str, ...]:
    """How well the recorded trials are foreseen."""
    (row,) = rows("search_efficiency_surrogate.csv")
    points = (f"{100 * float(row[name]):.2f}" for name in ("off_median", "off_mean"))
    return (row["trials"], *points, row["rank"], row["proxy_rank"])


def searched(sampler: str, trials: int, measure: str = "share") -> str:
    """The median share of a near-exact front's hypervolume after so many trials."""
    runs = [row for row in rows("search_efficiency.csv") if row["sampler"] == sampler]
    return f"{statistics.median(float(row[f'{measure}_{trials}']) for row in runs):.2f}"


DRIVERS = "of the driver's processor"


def orchestration(what: str, workers: int) -> float:
    (row,) = (r for r in rows("orchestration.csv") if (r["what"], r["workers"]) == (what, str(workers)))
    return float(row["seconds"])


def ahead() -> tuple[str, str]:
    """From how many trials on the programme's median share is the largest, and the largest p of that."""
    beside = [row for row in rows("search_efficiency_tests.csv") if row["measure"] == "share"]
    behind = [int(row["trials"]) for row in beside if float(row["programme"]) <= float(row["median"])]
    tested = [row for row in beside if int(row["trials"]) > max(behind)]
    return min((row["trials"] for row in tested), key=int), f"{max(float(row['p']) for row in tested):.4f}"


def fronts_differ() -> tuple[str]:
    (row,) = rows("search_efficiency_surrogate.csv")
    return (f"{100 * float(row['fronts_differ_share']):.2f}",)


def soft() -> tuple[str, str, str]:
    row = rows("soft_assign.csv")[-1]
    assert (row["weights"], row["components"]) == ("2359296", "16")
    return (
        f"{float(row['time_ratio']):.0f}",
        f"{float(row['table_bytes_per_weight']):.0f}",
        f"{float(row['straight_bytes_per_weight']):.0f}",
    )


def lost_at_once(method: str) -> tuple[str, str]:
    """Points that whole trials of a minute lose at 2 bits: with norms that were estimated anew, and as they are."""
    return lost(method, "trial_accuracy_reestimated.csv"), lost(method, "trial_accuracy_matched.csv")


def lost(method: str, file: str) -> str:
    return f"{-100 * statistics.mean(float(row['difference']) for row in minutes(method, file)):.2f}"


def minutes(method: str, file: str) -> list[dict[str, str]]:
    """The cells that stand in both files."""
    both = {(r["method"], r["rate"], r["seed"]) for r in rows("trial_accuracy_reestimated.csv")}
    found = [r for r in rows(file) if (r["bits"], r["seconds"], r["zero_share"]) == ("2", "60", "")]
    return [r for r in found if r["method"] == method and (method, r["rate"], r["seed"]) in both]


def nearer() -> tuple[str, str]:
    """By how many nats the methods came nearer to fp32, at least and at most."""
    old, new = "trial_accuracy_reestimated.csv", "trial_accuracy_matched.csv"
    methods = sorted({row["method"] for row in rows(old)})
    found = [
        statistics.mean(float(r["divergence"]) for r in minutes(m, old))
        - statistics.mean(float(r["divergence"]) for r in minutes(m, new))
        for m in methods
    ]
    return f"{min(found):.3f}", f"{max(found):.3f}"


def moved() -> tuple[str]:
    """Points between the two versions of what is rebuilt alone, of the seed for which that is more."""
    old, new = (minutes("ours", f"trial_accuracy{end}.csv") for end in ("_reestimated", "_matched"))
    assert {row["kept"] for row in (*old, *new)} == {"rebuilt"}
    apart = [
        100 * abs(float(a["difference"]) - float(b["difference"])) for a, b in zip(old, new, strict=True)
    ]
    return (f"{max(apart):.1f}",)


def learned_steps() -> tuple[str, str]:
    found = against("lsq")
    return f"{min(found):.1f}", f"{max(found):.1f}"


# A sentence's fragment with its values left out, and what they are.
def rounded(way: str, bits: int) -> tuple[str, str]:
    """Points that a RepVGG loses by rounding its weights, and their standard error, of the first draw of calibration images."""
    row = split_row(way, bits)
    return f"{-100 * float(row['difference']):.1f}", f"{100 * float(row['difference_standard_error']):.1f}"


def split_row(way: str, bits: int) -> dict[str, str]:
    (found,) = (
        row
        for row in rows("coarse_fine.csv")
        if (row["way"], row["bits"], row["seed"]) == (way, str(bits), "0")
    )
    return found


def split_times() -> tuple[str, str]:
    ratios = [float(row["ratio"]) for row in rows("coarse_fine_layers.csv")]
    return f"{min(ratios):.2f}", f"{max(ratios):.2f}"


CLAIMS: list[tuple[str, str, Callable[[], tuple[str, ...]]]] = [
    ("README.md", "is {} times smaller than 8 bits make it ({} times smaller than fp32) and {} times faster (modelled); of the "
     "300 images that guided the search it answers {} % rightly (fp32 {}), and on 299 others it loses {} ± {} points. The "
     "smallest that answers 97 % rightly is {} times smaller and {} times faster than 8 bits; there the same figures are {} % "
     "and {} ± {} points.",
     pictured),
    ("README.md", "ahead of learned steps by {} to {} points on residual networks", learned_steps),
    ("README.md", "ResNet-18 with 2 bits and 80 % zeros is {} times as fast on an A76-class core and {} times on an "
     "X2-class one; with 4 bits, {} and {} times",
     lambda: tuple(times(speedup("resnet18", core, plan, "int8")[0])
                   for plan in ("2 bits, 80 % zeros", "4 bits") for core in ("a76", "x2"))),
    ("README.md", "hardly larger than at 2 bits loses {} ± {} points after a minute in place of {} ± {}",
     lambda: (*minute("4", "1.8"), *minute("2"))),
    ("docs/accuracy.md", "half of the weights zero, the network takes {} bytes and lies {} nats from fp32", half_zero),
    ("docs/accuracy.md", "in hardly more bytes than at 2 bits they lose {} ± {} points in place of {} ± {}, at {} times the "
     "divergence, in fewer than at 3 bits {} ± {} in place of {} ± {} at {} times the divergence",
     lambda: (*minute("4", "1.8"), *minute("2"), f"{nats('4', '1.8') / nats('2'):.2f}", *minute("4", "2.6"), *minute("3"),
              f"{nats('4', '2.6') / nats('3'):.2f}")),
    ("README.md", "80 % zeros cost {} ± {} points on ResNet-20", lambda: kept(2, "0.8")),
    ("docs/accuracy.md", "ahead of learned steps by {} to {} points on residual networks", learned_steps),
    ("docs/accuracy.md", "lost {} points in the published form then, and {} [with that alone changed",
     lambda: lost_at_once("paper")),
    ("docs/accuracy.md", "element-wise scaling that trains at once {} and {}", lambda: lost_at_once("ewgs")),
    ("docs/accuracy.md", "ours still moved by up to {} points", moved),
    ("docs/accuracy.md", "Every method came nearer to fp32, by {} to {} nats", nearer),
    ("docs/accuracy.md", "keeps {} % of its answers at 4 bits and {} % at 3 (int8: {} %)",
     lambda: (agreement("ours", 4), agreement("ours", 3), agreement("int8", 8))),
    ("docs/accuracy.md", "and {} % at 4 bits where they are solved, as `pipeline.quantize` does (int8 there: {} %; one such "
     "share is known to {} points or so)",
     lambda: (kept_answers("parts", "usual, 128 positions", 0), kept_answers("int8", "calibrated", 0),
              f"{100 * rebuilt('tiny_darknet', 'parts', 'usual', 'agreement_error'):.0f}")),
    ("docs/speed.md", "What 80 % zeros cost in accuracy: {} ± {} points on ResNet-20, where 2 bits alone cost {} ± {}",
     lambda: (*kept(2, "0.8"), *kept(2))),
    ("docs/speed.md", "ResNet-18 takes {} megacycles with them and {} dense at 4 bits",
     lambda: tuple(f"{cycles('resnet18', 'x2', 'ours', OURS[name]):.1f}" for name in ("2 bits, 80 % zeros", "4 bits"))),
    ("docs/speed.md", "{} megacycles for ResNet-18, where ncnn needs {} in fp32 and {} in fp16",
     lambda: tuple(f"{cycles('resnet18', 'a76', *way):.0f}" for way in (("ours", "fp32"), ("ncnn", "fp32"), ("ncnn", "fp16")))),
    ("docs/speed.md", "with simulated caches {} times the point for dense ResNet-18, {} with 80 % zeros, {} for MobileNetV2",
     lambda: (upper("resnet18", "4bit"), upper("resnet18", "2bit-80"), upper("mobilenet_v2", "4bit"))),
    ("docs/speed.md", "Four threads are {} times as fast by the model", lambda: (threads("resnet18", 4),)),
    ("docs/speed.md", "a Snapdragon 855+ takes {} to {} times the modelled time, a Raspberry Pi 5 {} to {} times",
     lambda: (*span(on_chip("Snapdragon 855+")), *span(on_chip("Raspberry Pi 5")))),
    ("docs/speed.md", "real ones take {} to {} times as long", lambda: span(on_chip("a72"), 1)),
    ("docs/speed.md", "A Cortex-X4 takes {} to {} times what", lambda: span(on_chip("Cortex-X4"))),
    ("docs/accuracy.md", "fitted layer by layer in {} %, adaptive rounding {} %, k-means {} %, int8 {} %; with 3 bits {} %, "
     "{} % and {} %",
     lambda: (*(agreement(name, 4) for name in ("ours", "adaround", "kmeans")), agreement("int8", 8),
              *(agreement(name, 3) for name in ("ours", "adaround", "kmeans")))),
    ("docs/accuracy.md", "keeps {} % of the answers instead of {} % and its divergence falls by {} ± {} nats (int8 as calibrated "
     "keeps {} %)",
     lambda: (kept_answers("parts", "usual, 128 positions"), kept_answers("parts", "usual"),
              *closer("tiny_darknet", "parts"), kept_answers("int8", "calibrated"))),
    ("docs/accuracy.md", "keeps {} % of the answers at 4 bits; at 3 bits {} %, and {} % in fewer bytes, coded in `2.5`; coded in "
     "`3.2`, which lies between the two in bytes, {} %; at 8 bits, rebuilt too, {} %. The "
     "int8 network that it prints beside them is calibrated alone and keeps {} %.",
     lambda: (*(typed("agreement", *way) for way in (("4", ""), ("3", ""), ("4", "2.5"), ("4", "3.2"), ("8", ""))),
              typed("int8_agreement", "4", ""))),
    ("docs/accuracy.md", "int8 then keeps {} % on Tiny Darknet, closer by {} ± {} nats",
     lambda: (kept_answers("int8", "norms"), *closer("tiny_darknet", "int8", "norms"))),
    ("docs/accuracy.md", "comes closer by {} ± {} nats at 2 bits, and by {} ± {} with 80 % zeros",
     lambda: (*closer("resnet20", "parts"), *closer("resnet20", "zeros"))),
    ("docs/accuracy.md", "helps 80 % zeros (closer by {} ± {} nats together with the places)",
     lambda: closer("resnet20", "zeros", "behind the ReLU, 6 turns, 128 positions")),
    ("docs/accuracy.md", "One such share has a standard error of about {} points", share_error),
    ("docs/accuracy.md", "AP50 {} as its ARM program and {} at fp32 on 64 validation "
     "images of COCO, {} and {} on 128 training images",
     lambda: (detection("8bit", "program_val_ap50"), detection("fp32", "val_ap50"), detection("8bit", "train_ap50"),
              detection("fp32", "train_ap50"))),
    ("docs/accuracy.md", "At 4 bits it finds {} as it is quantized, {} after refitting, and {} rebuilt layer by layer, as "
     "`search` and `quantize` do it; at 3 bits {}, at 2 bits {}",
     lambda: tuple(detection(name, "val_ap50") for name in ("4bit", "4bit-refitted", *(f"{b}bit-rebuilt" for b in (4, 3, 2))))),
    ("docs/quantizers.md", "On a `repvgg_cifar` that is {} % right at fp32",
     lambda: (f"{100 - 100 * float(split_row('largest', 4)['fp32_error']):.1f}",)),
    ("docs/quantizers.md", "plain 4-bit weights lose {} points and plain 5-bit ones {}; with the split these lose {} ± {} and "
     "{} ± {}, and 8 bits without it {} ± {}. A layer takes {} to {} times",
     lambda: (rounded("largest", 4)[0], rounded("largest", 5)[0], *rounded("largest, split", 4),
              *rounded("largest, split", 5), *rounded("largest", 8), *split_times())),
    ("docs/quantizers.md", "As they start they lose {} ± {} points, with a split middle tap {} ± {}; rebuilt from a "
     "few images they lose nothing that {} images could show, in {} bytes, where the split takes {} and 8 bits {}.",
     lambda: (*rounded("mixture", 4), *rounded("mixture, split", 4), split_row("largest", 4)["images"],
              *(f"{int(split_row(*cell)['a76_bytes']):,}" for cell in
                (("mixture, rebuilt", 4), ("least error, split, rebuilt", 4), ("largest", 8))))),
    ("docs/detection.md", "AP50 is {} at fp32 and {} in {} times fewer bytes; {} times fewer lose {} ± {} points, {} times "
     "{} ± {}, and with 2 bits in all layers {} is left. Bits hardly change the modelled latency ({} to {} ms; fp32 {})",
     detectors),
    ("docs/cluster.md", "In a search that holds 500 trials that is {} seconds of a processor with 2 trials at a time and {} "
     "with 50, which is {} % of a trial of 60 seconds",
     lambda: (f"{orchestration('a trial, all parts', 2):.2f}", f"{orchestration('a trial, all parts', 50):.2f}",
              f"{100 * orchestration('of a 60-second trial', 50):.1f}")),
    ("docs/cluster.md", "With 200 such trials at a time (simulated) the driver alone would be {} processors: let trials be "
     "longer there. A study of 10,000 trials opens in {} seconds, and proposes its next plan in {}",
     lambda: (f"{orchestration(DRIVERS, 200):.1f}", f"{orchestration('open', 0):.1f}",
              f"{orchestration('the first plan', 0):.1f}")),
    ("docs/search.md", "After {} steps of training", lambda: (str(STEPS),)),
    ("docs/search.md", "the worst is right in {} % of the images, where twice as good as guessing is {} %: of the {} that "
     "entered the front when they came, none", ended_early),
    ("docs/search.md", "({} steps of training after a trial's layers are rebuilt), one seed, latencies modelled for an A76, "
     "judged on {} images by which nothing was chosen: beside the uniform plans of 8, 4 and 2 bits stand {} others, none of "
     "which a uniform one dominates there. Within two points of fp32 lie "
     "two of them: one loses {} ± {} points in {} bytes and {} ms, the other {} ± {} in {} bytes and {} ms, where uniform 2 "
     "bits lose {} ± {} in {} bytes and {} ms. Uniform 4 bits lose nothing that these images could show, in {} bytes and {} ms. "
     "So down to 4 bits there is nothing to search for; beyond, mixed plans are a tenth faster at the same bytes and errors, and "
     "what is faster still costs {} points and more.", cifar_front),
    ("docs/search.md", "after {} trials on the surrogates above, ten seeds, it stands at {} points for an A76-class core and {} "
     "for an X1-class one (means), `tpe` at {} and {}, `programme` at {} and {}", walks),
    ("docs/search.md", "It is below `tpe` in {} seeds for the one core and in {} for the other", below_tpe),
    ("docs/search.md", "the walk's plans for it are {} points lower than its plans for the other, in the mean of the seeds; on "
     "an X1-class one {};", own_plans),
    ("docs/search.md", "In {} neighbours of a ResNet-20 at 2 bits ({} steps of training), each trained for {} steps from either "
     "start, inherited weights gave {} ± {} points fewer right answers ({} images by which nothing was chosen) and a larger "
     "divergence in all of them ({} against {} nats in the mean;", inherited),
    ("docs/search.md", "came to the same first {} plans, and the fifth of each lies beside the other: with the study {} of the "
     "hypervolume that both found together, without it {}", transferred),
    ("docs/search.md", "the surrogate is of {} trials. Of those that it has not seen it is off by {} points (median; {} on "
     "average), with a rank correlation of {}; that of the harms alone is {}", surrogate),
    ("docs/search.md", "after 100 trials with at most 5 ({} of the front, and {})",
     lambda: (searched("programme", 5), searched("random-bare", 100))),
    ("docs/search.md", "`tpe` has after 100 with at most 8 ({}, and {})",
     lambda: (searched("programme", 8), searched("tpe", 100))),
    ("docs/search.md", "at least 0.7 of the front after 12 trials and 0.8 after 30 ({} and {})",
     lambda: (searched("programme", 12), searched("programme", 30))),
    ("docs/search.md", "looked for gains among plans with up to 10 points more wrong answers than fp32, of a volume that counts "
     "up to {} %. Now it looks {} points far", lambda: (f"{100 * search_efficiency.WORST:.0f}", f"{100 * programme.WORST:.0f}")),
    ("docs/search.md", "of the hypervolume of up to {} points more errors than the least alone it has {} after 12 trials and "
     "{} after 30, where `tpe` has {} and {}",
     lambda: (f"{100 * search_efficiency.USEFUL:.0f}", *(searched(name, trials, "useful") for name in ("programme", "tpe")
              for trials in (12, 30)))),
    ("docs/search.md", "From {} trials on `programme` is ahead of each of the others in these shares (Mann and Whitney's test: "
     "p at most {};",
     ahead),
    ("docs/search.md", "Two evolutions on the first surrogate differ by {} % of the hypervolume", fronts_differ),
    ("docs/speed.md", "upper ends lie at {} times the point for all runtimes in that table", flat),
    ("docs/speed.md", "`equal` is within {} %", lambda: (f"{100 * (documents.EQUAL - 1):.0f}",)),
    ("docs/speed.md", "up to {} times the point for ResNet-18 at 4 bits, {} times with 80 % zeros and {} times for MobileNetV2",
     lambda: (upper("resnet18", "4bit"), upper("resnet18", "2bit-80"), upper("mobilenet_v2", "4bit"))),
    ("docs/speed.md", "{} modelled cycles per multiplication on ResNet-18, where direct float arithmetic cannot go below 0.125, "
     "ONNX Runtime needs {}, and ncnn, by Winograd's filtering, {} in fp32 and {} in fp16",
     lambda: (per_multiplication("ours", "fp32"), per_multiplication("ONNX Runtime", "fp32"),
              per_multiplication("ncnn", "fp32"), per_multiplication("ncnn", "fp16"))),
    ("docs/speed.md", "at most {} % slower than the best choice",
     lambda: (f"{max(float(row['regret_percent']) for row in rows('kernel_costs.csv')):.1f}",)),
    ("docs/speed.md", "four threads make ResNet-18 at 4 bits {} times as fast", lambda: (threads("resnet18", 4),)),
    ("docs/speed.md", "ncnn on a Raspberry Pi 5 gains {} to {} times",
     lambda: span(on_chip("Raspberry Pi 5", "4", "speedup"), 1)),
    ("docs/speed.md", "A step of co-tuning costs {} times the fp32 step on one thread, {} times while components are held, {} "
     "times where both have the fp32 network as a teacher, as trials do; on two threads {}, {} and {} times",
     lambda: tuple(step(row, threads) for threads in ("1", "2")
                   for row in ("cotuning", "components held", "cotuning with teacher"))),
    ("docs/speed.md", "is {} times faster than by the formulas on an N x K array and takes {} bytes a weight "
     "instead of {}", soft),
]  # fmt: skip
# Numbers that are no results: names, settings and counts of the experiments themselves.
SETTINGS = re.compile(
    r"SHA-256|ResNet-\d+|resnet\d+[-\w.]*|MobileNetV2|CIFAR-?10|FastestDet|A76|X[12]|Raspberry Pi [45]|Snapdragon 855\+|RK3\d+S?|"
    r"Cortex-[AX]\d+|fp16|fp32|float32|[Ii]nt8|bfloat16|i8mm|AP50|\b[2348](?: and [348])?[ -]bits?\b|\b5000\b|\b228\b|"
    r"[78]0 % zeros|0\.125|batch 128|2 CPU|2\.36 million|16 components|at 3\b|64 validation|128 training|2 bits"
)


def prose(name: str) -> str:
    """A document without its tables, code and links, in one line."""
    text = documents.BLOCK.sub("", TEXTS[name])
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return " ".join(text.split())


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_tables_are_as_made_from_the_results(name: str) -> None:
    path = ROOT / name
    assert documents.BLOCK.search(path.read_text()), name
    assert documents.written(path.read_text()) == path.read_text()


@pytest.mark.parametrize(("name", "fragment", "values"), CLAIMS, ids=[claim[1][:50] for claim in CLAIMS])
def test_a_sentence_has_the_figures_of_the_results(
    name: str, fragment: str, values: Callable[[], tuple[str, ...]]
) -> None:
    assert fragment.format(*values()) in " ".join(TEXTS[name].split())


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_no_figure_stands_in_a_sentence_that_nothing_compares(name: str) -> None:
    text = prose(name)
    for document, fragment, values in CLAIMS:
        if document == name:
            text = text.replace(" ".join(re.sub(r"`[^`]*`", " ", fragment.format(*values())).split()), " ")
    assert re.findall(r"[^ ]* ?\d[\d.,]*[^ ]*", SETTINGS.sub(" ", text)) == []


def test_what_many_zeros_cost_by_where_training_begins_is_as_measured() -> None:
    page, found = (ROOT / "docs/trial.md").read_text(), rows("trial_zeros.csv")
    for row in found:
        points = (
            f"{100 * float(row['difference']):+.2f} ± {100 * float(row['difference_standard_error']):.2f}"
        )
        cells = (
            f"{100 * float(row['zero_share']):.0f} %",
            row["from"],
            row["rate"] or "-",
            row["steps"],
            points,
        )
        assert f"| {' | '.join(cells)} | {float(row['divergence']):.3f} |" in page
    assert f"at least {100 * MANY_ZEROS:.0f} %" in page and f"takes {LONG} steps" in page
    # Where training begins anew by default: it came out better in as many processor seconds, rebuilding counted.
    for zeros in ("0.7", "0.8"):
        long = [row for row in found if row["zero_share"] == zeros and int(row["steps"]) > LONG]
        anew, on = (
            [row for row in long if (row["from"] == "from rebuilt weights") is it] for it in (False, True)
        )
        assert max(float(row["divergence"]) for row in anew) < min(float(row["divergence"]) for row in on)


def test_who_leads_in_whole_trials_is_as_said() -> None:
    found = {(each.cell, each.method): each for each in summaries(rows("trial_accuracy.csv"))}
    ahead = {key: -each.behind / each.behind_error for key, each in found.items() if each.behind_error}
    # Of the cells without zeros, by a standard error: nobody else, in no other.
    assert {key for key, by in ahead.items() if by < -1 and not key[0][2]} == {
        (("resnet32", "2", "", "60", ""), "ewgs-rebuilt"), (("resnet56", "2", "", "120", ""), "dkm-rebuilt"),
    }  # fmt: skip
    means = {cell: by for (cell, method), by in ahead.items() if method == "dkm-rebuilt"}
    told = {
        ("resnet56", "2", "120"): -1, ("resnet56", "3", "120"): 2.7, ("resnet20", "2", "600"): 4.9,
    }  # fmt: skip
    for (network, bits, _, seconds, _), by in means.items():
        said = told.get((network, bits, seconds))
        assert abs(by) < 1.7 if said is None else abs(by - said) < 0.4
    ten = ("resnet20", "2", "", "600", "")
    assert found[ten, "ours"].divergence < found[ten, "dkm-rebuilt"].divergence
    ours = {
        cell[1:]: each for (cell, method), each in found.items() if (cell[0], method) == ("resnet20", "ours")
    }
    even, three, steps = (ours["4", "", "60", coded] for coded in ("1.8", "2.6", "2.8"))
    assert even.bytes < 1.03 * ours["2", "", "60", ""].bytes and three.bytes < ours["3", "", "60", ""].bytes
    learned = found[("resnet20", "4", "", "60", ""), "lsq-rebuilt"]
    assert abs(learned.divergence / steps.divergence - 1) < 0.1
    assert abs(learned.points - steps.points) < steps.points_error
    for many in (("resnet20", "2", "0.7", "60", ""), ("resnet32", "2", "0.8", "60", "")):
        at_once = found[many, "ours-directly"]
        assert at_once.divergence < found[many, "ours"].divergence
        assert at_once.behind > (
            2.5 * at_once.behind_error if many[0] == "resnet32" else -at_once.behind_error
        )
    assert 1 < ahead[("mobilenet_v2_cifar", "4", "", "120", ""), "adaround"] < 2
    assert (
        ahead[("resnet20", "3", "", "60", ""), "adaround"]
        < 1
        < ahead[("resnet32", "3", "", "60", ""), "adaround"]
    )
    for network in ("resnet20", "resnet32"):
        minute = (network, "3", "", "60", "")
        assert found[minute, "adaround"].divergence > 1.5 * found[minute, "ours"].divergence
    for (cell, method), by in ahead.items():
        network, bits, _, seconds, _ = cell
        if network == "mobilenet_v2_cifar" and method in ("ewgs-rebuilt", "lsq-rebuilt"):
            assert by > 1.5 and found[cell, method].divergence > 1.25 * found[cell, "ours"].divergence
        elif method == "ewgs-rebuilt" and network == "resnet32" and bits != "2":
            assert by > 1.7
        elif method == "ewgs-rebuilt" and bits == "2":
            assert abs(by) < 1.5
        if method == "ewgs-rebuilt":
            assert 0 < 1 - found[cell, method].bytes / found[cell, "ours"].bytes < 0.13
    two = ("resnet32", "2", "", "60", "")
    assert found[two, "ewgs-rebuilt"].divergence > found[two, "ours"].divergence
    assert all(
        means[network, bits, "", "60", ""] > 1
        for network, bits in (("resnet20", "4"), ("resnet32", "3"), ("resnet32", "4"))
    )
    assert means["resnet56", "4", "", "120", ""] > 1


def test_level_with_k_means_on_residual_networks_and_a_point_behind_on_mobilenet() -> None:
    assert all(abs(points) < 0.5 for points in against("dkm"))
    assert all(-1.5 < points < -0.5 for points in against("dkm", networks="mobilenet"))
    assert all(points > 0.5 for points in against("lsq"))


def test_a_split_is_worth_it_beside_plain_levels_and_not_beside_rebuilt_mixtures() -> None:
    """Of every draw of calibration images."""
    for row in rows("coarse_fine.csv"):
        points, error = 100 * float(row["difference"]), 100 * float(row["difference_standard_error"])
        if row["way"] in ("largest", "least error") and row["bits"] in ("4", "5"):
            assert points < -10
        if row["way"] in ("largest, split", "least error, split") and row["bits"] in ("4", "5"):
            assert points > -1
        if row["way"] == "mixture, rebuilt":
            assert abs(points) < 2 * error


def test_what_the_model_cannot_tell_apart_is_equal() -> None:
    assert [times(ratio) for ratio in (0.8, 0.9, 1.0, 1.11, 1.149, 1.16, 3.36)] == [
        "0.8",
        *["equal"] * 4,
        "1.2",
        "3.4",
    ]
    ratio, runtime = speedup("resnet18", "a76", "4 bits", "fp16")
    assert runtime == "ncnn" and ratio == pytest.approx(66.4261 / 63.4346, rel=1e-3)


def test_plans_whose_speed_is_shown_are_marked_as_cost_only_in_the_table() -> None:
    shown = [row for row in peers() if row["runtime"] == "ours" and row["configuration"] in OURS.values()]
    assert shown and all(row["settings"].endswith("cost only") for row in shown)


def test_kept_networks_are_of_rows_of_the_accuracy_table() -> None:
    """Each is one seed as it came: nothing says that it is the best of its seeds."""
    table = {
        (
            row["network"],
            row["bits"],
            row["zero_share"] or "natural",
            float(row["epochs"]),
            row["seed"],
            row["bytes"],
        )
        for row in rows("cotuning_accuracy.csv")
        if row["method"] == "ours"
    }
    for row in rows("kept_candidates.csv"):
        place = (
            row["network"],
            row["bits"],
            row["zero_share"],
            float(row["epochs"]),
            row["seed"],
            row["bytes"],
        )
        assert place in table, row["candidate"]
        assert (Path(documents.RESULTS) / "candidates" / row["candidate"] / "manifest.json").is_file()


def test_what_a_core_says_of_itself_is_what_the_chips_say() -> None:
    pi, phone, old = on_chip("Raspberry Pi 5"), on_chip("Snapdragon 855+"), on_chip("a72")
    assert "a Raspberry Pi 5 takes {} to {} times as long".format(*span(pi, 1)) in CORES["a76"].stands_for
    assert "Snapdragon 855+" in CORES["a76"].stands_for and 0.9 < phone[0] <= phone[1] < 1.15
    assert "takes {} to {} times the modelled time".format(*span(old, 1)) in CORES["a72"].approximate
    assert "Cortex-X4 is about a tenth slower" in CORES["x2"].stands_for
    assert all(ratio == pytest.approx(1.1, abs=0.05) for ratio in on_chip("Cortex-X4"))
