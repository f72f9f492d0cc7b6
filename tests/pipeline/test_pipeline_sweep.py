"""Sweeps: what a file asks for, what is run and in which order, what is said of it, and what starts it on a schedule."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.command import Parser
from foundation.errors import UserError
from pipeline.review.better import improves
from pipeline.study.command_line import parse
from pipeline.sweep import check
from pipeline.sweeps.asked import Asked, read_sweep
from pipeline.sweeps.gates import best_of, judged
from pipeline.sweeps.page import render_sweep
from pipeline.sweeps.results import begin, changes, complete, read_results, row_of, table
from pipeline.sweeps.run import SearchEnd, overall, run_all
from pipeline.sweeps.schedule import When, cron, kuberay, systemd
from tests.system.own_folder import command_here

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


def written(folder: Path, text: str, name: str = "nightly.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


# ---- the file


def test_defaults_hold_for_every_search_and_lists_of_the_matrix_multiply(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "name: n\ndefaults: {budget: 7, target: a53, tracking-uri: 'sqlite:///m.db'}\nsearches:\n"
        "- {model: resnet20, epochs-per-trial: 0.5, weights: w/r.pt}\n"
        "- {model: vgg_tiny, budget: 3, matrix: {seed: [0, 1], bits: [[2, 8], [4]]}}\n",
    )
    sweep = read_sweep(file)
    assert [one.study for one in sweep.searches] == [
        "n-resnet20",
        *(f"n-vgg_tiny-seed-{seed}-bits-{bits}" for seed in (0, 1) for bits in ("2-8", "4")),
    ]
    first, *others = [one.settings for one in sweep.searches]
    assert (first.budget, first.target, first.epochs_per_trial) == (7, "a53", 0.5)
    assert first.weights == str(tmp_path / "w/r.pt") and first.out == tmp_path / "runs"
    assert first.tracking_uri == f"sqlite:///{tmp_path}/m.db"
    assert [(one.budget, one.seed, one.bits) for one in others] == [
        (3, 0, (2, 8)), (3, 0, (4,)), (3, 1, (2, 8)), (3, 1, (4,)),
    ]  # fmt: skip


def test_a_name_does_not_depend_on_the_order_of_searches(tmp_path: Path) -> None:
    one, other = "- {model: resnet20, matrix: {seed: [1, 0]}}\n", "- {model: vgg_tiny}\n"
    names = [
        {asked.study: asked.digest for asked in read_sweep(written(tmp_path, "searches:\n" + text)).searches}
        for text in (one + other, other + one.replace("1, 0", "0, 1"))
    ]
    assert names[0] == names[1]


def test_what_a_search_is_given_means_the_same_as_flags_and_as_a_file(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a b",
        "searches:\n- {model: vgg_tiny, bits: [2, 8], objectives: [size, error], dimensions: ['components=3,4', 'zero_share'], "
        "time-budget: 2h, max-size: 1.5MiB, mean: '.1,.2,.3', weights: ~/w.pt, learning-rate: 1.0e-3}\n",
    )
    asked = read_sweep(file).searches[0]
    by_flags = parse(asked.flags(), Parser(prog="test"))[0]
    config = written(tmp_path / "elsewhere", yaml.safe_dump(asked.config()), "c.yaml")
    by_file = parse(["--config", str(config)], Parser(prog="test"))[0]
    assert by_flags == by_file == asked.settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("searchs: []", ["unknown key searchs", "did you mean searches?", "give a list of at least one search"]),
        ("budget: 3\nsearches: [{model: vgg_tiny}]", ["unknown key budget", "belongs under defaults"]),
        ("matrix: {seed: [1]}\nsearches: [{}]", ["unknown key matrix", "belongs under defaults"]),
        ("searches: [{epoch-per-trial: 3}]", ["search 1: unknown setting epoch_per_trial", "did you mean epochs_per_trial"]),
        ("searches: [{budget: 0}, {bits: 5}]", ["2 problems", "search 1: budget: 0", "search 2: bits: 5", "2,3,4,8"]),
        ("name: ../up\nsearches: [{}]", ["name", "letters"]),
        ("name: a/b\nsearches: [{}]", ["name", "letters"]),
        ("searches: [{name: a/b}]", ["name: 'a/b'", "letters"]),
        ("searches: [{}, {}]", ["2 searches would be the one study nightly-vgg_tiny", "`name`"]),
        ("searches: [{matrix: {seed: [1, 1]}}]", ["2 searches would be the one study"]),
        ("searches: [{matrix: {seed: 3}}]", ["search 1: matrix: give"]),
        ("searches: [{matrix: {seed: []}}]", ["search 1: matrix: give"]),
        ("searches: [{matrix: {name: [a, b]}}]", ["not multiplied"]),
        ("searches: [{matrix: {sed: [1]}}]", ["unknown setting sed", "did you mean seed"]),
        ("searches: [3]", ["search 1: must hold"]),
        ("searches: {model: vgg_tiny}", ["give a list"]),
        ("defaults: [1]\nsearches: [{}]", ["defaults: must hold"]),
        ("searches: [{matrix: {seed: [" + ",".join(map(str, range(1001))) + "]}}]", ["more than 1000 searches"]),
        ("searches: [{tracking-uri: 'http://me:secret@host'}]", ["MLFLOW_TRACKING_PASSWORD"]),
        ("searches: [{allow-bad-fp32: 3}]", ["allow-bad-fp32: 3", "true or false"]),
        ("", ["give a list of at least one search"]),
        ("- a", ["not a list"]),
        ("searches: [", ["line 1"]),
        ("name: a\nname: b\nsearches: [{}]", ["line 2", "name stands there twice"]),
        ("a: &a [*a]", ["holds itself"]),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_explained_and_starts_nothing(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    done = command_here("sweep", written(tmp_path, text), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_unfold_to_billions_are_refused_at_once(tmp_path: Path, merged: bool) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        many = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + ("{<<: [" + many + "]}" if merged else f"[{many}]"))
    for name in ("sweep", "search"):
        file = written(tmp_path, "\n".join(lines))
        words = [file] if name == "sweep" else ["--config", file]
        done = command_here(name, *words, cwd=tmp_path)
        assert done.returncode == 2 and "aliases stand for more than" in done.stderr


def test_names_that_nothing_has_are_all_told_before_anything_starts(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "searches:\n- {model: resnt20}\n- {sampler: tpee, target: a77}\n- {name: c, weights: no/such.pt, data: 'npz:none.npz'}\n",
    )
    with pytest.raises(UserError) as refused:
        check(read_sweep(file), print)
    for word in (
        "resnt20",
        "resnet20",
        "tpee",
        "a77",
        str(tmp_path / "no/such.pt"),
        str(tmp_path / "none.npz"),
        "5 problems",
    ):
        assert word in str(refused.value)


# ---- running


class Told:
    """A place whose searches end as a list says, each after some looks; it keeps how many ran at a time."""

    def __init__(self, statuses: dict[str, int], looks: int = 2) -> None:
        self.statuses, self.looks, self.now, self.most, self.order = statuses, looks, 0, 0, list[str]()
        self.stopped: list[tuple[str, bool]] = []

    def start(self, asked: Asked) -> Any:
        place, study = self, asked.study
        place.now += 1
        place.most = max(place.most, place.now)
        place.order.append(study)

        class One:
            where, left, ended = "nowhere", place.looks, False

            def status(self) -> int | None:
                self.left -= 1
                if self.left > 0 and not self.ended:
                    return None
                place.now -= 1
                return 3 if self.ended else place.statuses[study]

            def stop(self, *, at_once: bool = False) -> None:
                place.stopped.append((study, at_once))
                self.ended = True

            def why(self) -> str:
                return "because"

        return One()


def asked_for(tmp_path: Path, count: int) -> tuple[Asked, ...]:
    seeds = ", ".join(map(str, range(count)))
    file = written(tmp_path, "name: s\nsearches:\n- {matrix: {seed: [" + seeds + "]}}\n")
    return read_sweep(file).searches


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_so_many_run_at_a_time_in_order_and_a_failure_does_not_stop_the_rest(
    tmp_path: Path, at_a_time: int
) -> None:
    searches = asked_for(tmp_path, 5)
    wanted = dict(zip([one.study for one in searches], (0, 2, 3, -9, 70)))
    place, said = Told(wanted), list[str]()
    found = list(run_all(searches, place, at_a_time, said.append))
    assert place.most == at_a_time and place.order == list(wanted)
    assert {one.study: one.status for one in found} == {**wanted, searches[3].study: 3}
    assert [one.word for one in found] == ["complete", "mistake", "incomplete", "incomplete", "fault"]
    assert found[0].why == "" and found[1].why == "because"
    assert any("left" in line for line in said) and "left" not in said[-1]


def test_an_interruption_ends_what_runs_in_good_order_and_starts_nothing_more(tmp_path: Path) -> None:
    searches = asked_for(tmp_path, 4)
    place = Told({one.study: 0 for one in searches}, looks=10**9)
    found: list[SearchEnd] = []

    def interrupt(text: str) -> None:
        if text.startswith("[2/4]"):
            threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        for outcome in run_all(searches, place, 2, interrupt):
            found.append(outcome)
    assert place.stopped == [(searches[0].study, False), (searches[1].study, False)]
    assert [one.status for one in found] == [3, 3] and len(place.order) == 2


@pytest.mark.parametrize(
    ("statuses", "status"),
    [([], 0), ([0, 0], 0), ([0, 1], 1), ([1, 3], 3), ([3, 2, 1], 2), ([0, 70], 2)],
)
def test_the_exit_status_is_that_of_the_worst(statuses: list[int], status: int) -> None:
    assert overall(statuses) == status


# ---- between runs


def point(name: str, error: float, latency: float, size: int, **more: Any) -> dict[str, Any]:
    figures = {
        "error": error,
        "latency_ms": latency,
        "low": 0.9 * latency,
        "high": 1.1 * latency,
        "size_bytes": size,
    }
    return {"hash": name, **figures, "source": "modelled", "device": "emulated a76", **more}


def front(*points: dict[str, Any], chosen: str | None = None) -> dict[str, Any]:
    fp32 = {**point("", 0.02, 9.0, 40000), "name": "fp32"}
    del fp32["hash"]
    return {
        "points": list(points),
        "references": [fp32],
        "images": 300,
        "recommended": {"hash": chosen, "why": "w"},
    }


def study(asked: Asked, *points: dict[str, Any], chosen: str | None = None) -> None:
    asked.settings.folder.mkdir(parents=True, exist_ok=True)
    for name in ("settings.yaml", "study.db"):
        (asked.settings.folder / name).touch()
    (asked.settings.folder / "front.json").write_text(json.dumps(front(*points, chosen=chosen)))


def results(searches: tuple[Asked, ...], statuses: list[int | None]) -> dict[str, Any]:
    rows = [
        row_of(one, "m-d-t", None if status is None else SearchEnd(one.study, status))
        for one, status in zip(searches, statuses)
    ]
    return {"rows": rows, "gates": {}, "ended": "now"}


def test_only_the_very_search_that_was_complete_is_skipped(tmp_path: Path) -> None:
    first, second = asked_for(tmp_path, 2)
    study(first)
    study(second)
    before = results((first, second), [0, 3])
    assert complete(first, before) and not complete(second, before) and not complete(first, {})
    more = written(tmp_path, "name: s\ndefaults: {budget: 99}\nsearches:\n- {matrix: {seed: [0]}}\n")
    assert not complete(read_sweep(more).searches[0], before)
    (first.settings.folder / "study.db").unlink()
    assert not complete(first, before)


def test_the_comparison_is_with_the_last_run_that_ended_not_with_one_that_was_killed(tmp_path: Path) -> None:
    sweep = read_sweep(written(tmp_path, "name: s\nsearches: [{}]\n"))
    sweep.folder.mkdir(parents=True)
    assert begin(sweep) == ({}, {})
    ended = results(sweep.searches, [0])
    (sweep.folder / "results.json").write_text(json.dumps(ended))
    assert begin(sweep)[1] == ended
    killed = {**results(sweep.searches, [None]), "ended": None}
    (sweep.folder / "results.json").write_text(json.dumps(killed))
    assert begin(sweep) == (killed, ended)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"rows": 3, "gates": {}}', '{"rows": [{}], "gates": {}}', "[" * 9999]
)
def test_a_damaged_memory_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    assert read_results(tmp_path / "results.json") == {}


def test_changes_are_told_candidate_by_candidate(tmp_path: Path) -> None:
    searches = asked_for(tmp_path, 3)
    a, b, c = (point(name, 0.03, latency, 9000) for name, latency in (("a", 1.0), ("b", 2.0), ("c", 0.5)))
    study(searches[0], a, b, chosen="a")
    last = results(searches[:2], [0, 3])
    assert changes(last, {}) == ["This is the first run of the sweep that came to its end."]
    assert changes(last, last) == ["Nothing has changed since the last run."]
    study(searches[0], a, c, chosen="c")
    now = results((searches[0], searches[2]), [0, 0])
    name = searches[0].study
    assert changes(now, last) == [
        f"{name}: 1 candidate joined the front.",
        f"{name}: 1 candidate left the front.",
        f"{name} recommends c (0.500 ms modelled, 8.8 KiB), before it was a (1.00 ms modelled, 8.8 KiB).",
        f"{searches[2].study} is new.",
        f"{searches[1].study} is no longer asked for.",
    ]
    study(searches[0], a, {**c, "latency_ms": 0.4}, chosen="c")
    again = results((searches[0], searches[2]), [3, 0])
    assert changes(again, now) == [
        f"{name} is incomplete; it was complete.",
        f"{name}: c costs 0.400 ms modelled, 8.8 KiB now; it was 0.500 ms modelled, 8.8 KiB.",
    ]


def test_the_table_has_every_study_and_says_what_ails_it(tmp_path: Path) -> None:
    searches = asked_for(tmp_path, 3)
    study(searches[0], point("a", 0.03, 1.0, 10000), chosen="a")
    found = results(searches, [0, 2, 0])
    found["rows"][1]["why"] = "no such data"
    text = table(found["rows"])
    lines = text.splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert re.search(
        r"s-vgg_tiny-seed-0 +complete +1 +2\.0 \+- 0\.8 % +3\.0 \+- 1\.0 % +1\.00 ms modelled +9\.8 KiB +4\.0x$",
        lines[1],
    )
    assert f"{searches[1].study}: no such data" in lines
    assert any("complete, but not to be read from here" in line for line in lines)


# ---- champions and gates


def tags(name: str, latency: float, size: int, **more: str) -> dict[str, str]:
    interval = f"{0.9 * latency} to {1.1 * latency}"
    known = {
        "candidate": name,
        "latency_ms": str(latency),
        "latency_interval_ms": interval,
        "size_bytes": str(size),
    }
    return {**known, "latency_source": "modelled", "device": "emulated a76", **more}


@pytest.mark.parametrize(
    ("champion", "better", "words"),
    [
        (None, True, "no champion yet"),
        (tags("x", 1.0, 1), False, "it is the champion"),
        (tags("c", 2.0, 1), True, "it is faster"),
        (tags("c", 0.5, 99999), False, "the champion is faster"),
        (tags("c", 1.05, 9001), True, "it is smaller"),
        (tags("c", 0.95, 9001), True, "it is smaller"),
        (tags("c", 1.05, 9000), False, "no smaller"),
        (tags("c", 0.95, 8999), False, "larger"),
        (tags("c", 2.0, 1, latency_source="measured", device="board"), False, "cannot be compared"),
        (tags("c", 2.0, 1, device="emulated a53"), False, "cannot be compared"),
        ({"candidate": "c"}, False, "cannot be compared"),
        ({**tags("c", 2.0, 1), "latency_ms": "soon"}, False, "cannot be compared"),
    ],
)  # fmt: skip
def test_a_candidate_is_better_by_time_then_size_and_only_where_figures_are_of_one_kind(
    champion: dict[str, str] | None, better: bool, words: str
) -> None:
    assert improves(point("x", 0.03, 1.0, 9000), champion)[0] is better
    assert words in improves(point("x", 0.03, 1.0, 9000), champion)[1]


class Gatekeeper:
    """Stands for ``pipeline.promote``."""

    def __init__(self, status: int, **answer: Any) -> None:
        self.status, self.answer, self.asked = status, answer, list[list[str]]()

    def __call__(self, words: list[str], log: Path) -> tuple[int, str]:
        self.asked.append(words)
        return self.status, f"running the program\n{json.dumps(self.answer)}\n"


GATES = [{"name": "accuracy", "passed": True, "text": "fine"}]


def row(name: str, *points: dict[str, Any], chosen: str | None = None, status: int = 0) -> dict[str, Any]:
    return {"study": name, "folder": f"/out/{name}", "status": status, "front": front(*points, chosen=chosen)}


def test_the_best_of_all_complete_studies_of_a_model_goes_to_the_gates() -> None:
    rows = [
        row("one", point("a", 0.03, 2.0, 9000), chosen="a"),
        row("two", point("b", 0.03, 1.0, 9000), point("z", 0.5, 0.1, 10), chosen="b"),
        row("three", point("c", 0.03, 0.1, 10), chosen="c", status=3),
    ]
    gate = Gatekeeper(0, gates=GATES)
    found = judged("m", rows, tags("old", 3.0, 9000), {}, ["--strict"], Path("log"), gate, move=False)
    assert gate.asked == [
        ["two", "--out", "/out", "--candidate", "b", "--strict", "--format", "json", "--check"]
    ]
    assert (found["candidate"], found["better"], found["status"], found["promoted"]) == ("b", True, 0, False)
    # What they answered stands, until candidate or flags are others.
    assert judged("m", rows, None, found, ["--strict"], Path("log"), gate, move=False)["gates"] == GATES
    assert len(gate.asked) == 1
    judged("m", rows, None, found, [], Path("log"), gate, move=False)
    assert len(gate.asked) == 2


@pytest.mark.parametrize(
    ("champion", "checks"),
    [(None, False), (tags("old", 3.0, 1), False), (tags("old", 0.1, 1), True), (tags("a", 2.0, 9000), None)],
)  # fmt: skip
def test_only_a_better_candidate_is_promoted_and_only_by_the_gates(
    champion: Any, checks: bool | None
) -> None:
    gate = Gatekeeper(0, promoted=True, gates=GATES)
    rows = [row("one", point("a", 0.03, 2.0, 9000), chosen="a")]
    judged("m", rows, champion, {}, [], Path("log"), gate, move=True)
    assert [("--check" in words) for words in gate.asked] == ([] if checks is None else [checks])


def test_a_check_that_passed_before_does_not_stand_for_a_promotion_but_a_refusal_stands() -> None:
    rows = [row("one", point("a", 0.03, 2.0, 9000), chosen="a")]
    would = judged("m", rows, None, {}, [], Path("log"), Gatekeeper(0, gates=GATES), move=False)
    gate = Gatekeeper(0, promoted=True, gates=GATES)
    assert (
        judged("m", rows, None, would, [], Path("log"), gate, move=True)["promoted"] and len(gate.asked) == 1
    )
    no = judged(
        "m", rows, None, {}, [], Path("log"), Gatekeeper(1, gates=[{**GATES[0], "passed": False}]), move=True
    )
    assert no["status"] == 1
    again = judged("m", rows, None, no, [], Path("log"), gate, move=True)
    assert again["status"] == 1 and len(gate.asked) == 1


def test_no_candidate_is_a_gates_no_and_an_unfinished_search_is_not() -> None:
    nothing = row("one", point("a", 0.9, 2.0, 9000))
    gate = Gatekeeper(0)
    assert judged("m", [nothing], None, {}, [], Path("log"), gate, move=True)["status"] == 1
    assert judged("m", [{**nothing, "status": 3}], None, {}, [], Path("log"), gate, move=True)["status"] == 0
    assert not gate.asked and best_of([nothing]) is None


def test_a_promotion_that_fails_is_told_with_its_last_line() -> None:
    rows = [row("one", point("a", 0.03, 2.0, 9000), chosen="a")]
    found = judged(
        "m", rows, None, {}, [], Path("log"), lambda words, log: (2, "x\nerror: no device\n"), move=False
    )
    assert found["status"] == 2 and "error: no device" in found["why"]


# ---- the page


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_escapes_whatever_stands_in_it_and_runs_nothing(tmp_path: Path) -> None:
    searches = asked_for(tmp_path, 2)
    study(searches[0], point(HOSTILE, 0.03, 1.0, 9000, device=HOSTILE), chosen=HOSTILE)
    found = results(searches, [0, 2])
    for one in found["rows"]:
        one.update(study=HOSTILE, why=HOSTILE, model=HOSTILE)
    gate = {"name": HOSTILE, "passed": False, "text": HOSTILE}
    champion = dict.fromkeys(("candidate", "latency_ms", "latency_source", "size_bytes"), HOSTILE)
    found["gates"] = {
        HOSTILE: {
            "champion": champion,
            "candidate": HOSTILE,
            "study": HOSTILE,
            "why": HOSTILE,
            "status": 1,
            "gates": [gate],
        }
    }
    page = render_sweep(HOSTILE, found, [HOSTILE], HOSTILE)
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in tags.seen}
    assert not any(name.startswith("on") for _, attributes in tags.seen for name in attributes)
    assert "default-src 'none'" in page and HOSTILE not in page


@pytest.mark.parametrize(
    "champion", [tags("old", 2.5, 12288), {"candidate": "old", "latency_ms": "fast"}, None]
)
def test_champion_and_candidate_stand_beside_each_other_with_what_they_cost(
    tmp_path: Path, champion: dict[str, str] | None
) -> None:
    """Two studies may have the same plan, each with figures of its own. What passed is folded, what did not stands open."""
    first, second = asked_for(tmp_path, 2)
    study(first, point("same", 0.03, 1.0, 9216), chosen="same")
    study(second, point("same", 0.03, 2.0, 10240), chosen="same")
    found = results((first, second), [0, 0])
    shut, refused = ({"name": "device", "passed": passed, "text": "told"} for passed in (True, False))
    for name, asked, gate in (("one", first, shut), ("two", second, refused)):
        found["gates"][name] = {
            "champion": champion,
            "candidate": "same",
            "study": asked.study,
            "why": "because",
            "status": int(gate is refused),
            "gates": [gate],
        }
    page = render_sweep("s", found, [], "now")
    one, two = (part.split("</tr>")[0] for part in page.split('<tr><th scope=row class="name">')[1:3])
    assert "1.00 ms modelled, 9.0 KiB" in one and "2.00 ms modelled, 10.0 KiB" in two
    assert ("2.50 ms modelled, 12.0 KiB" in one) is (champion is not None and "size_bytes" in champion)
    assert "<details><summary" in one and "1 of 1 gate passed" in one
    assert "<details open><summary" in two and "0 of 1 gate passed" in two


def test_studies_of_one_model_share_their_axes_and_others_do_not(tmp_path: Path) -> None:
    searches = asked_for(tmp_path, 3)
    for one, latency in zip(searches, (2.0, 4.0, 400.0)):
        study(one, point("a", 0.03, latency, 9000), chosen="a")
    found = results(searches, [0, 0, 0])
    found["rows"][2]["registered"] = "another"
    page = render_sweep("s", found, [], "now").split('<div class="fronts">')[1]
    at = [float(x) for x in re.findall(r'<circle class="point" cx="([\d.]+)"', page)]
    left = 52
    assert (at[1] - left) == pytest.approx(2 * (at[0] - left), abs=0.2)
    assert at[2] > at[1]


# ---- schedules


@pytest.fixture
def hostile_place(tmp_path: Path) -> Iterator[Path]:
    yield written(tmp_path / "a b %h $HOME \"q\" 'p' \\n", "name: Night.ly_1\nsearches: [{}]\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_units(hostile_place: Path, tmp_path: Path) -> None:
    text = systemd(read_sweep(hostile_place), ["--limit", "5"], When.of("02:30", "thu,Mon"))
    parts = re.split(r"^# .*/(sweep-\S+)$\n", text, flags=re.M)[1:]
    units = tmp_path / "units"
    units.mkdir()
    for name, unit in zip(parts[::2], parts[1::2]):
        (units / name).write_text(unit)
    names = sorted(file.name for file in units.iterdir())
    assert names == ["sweep-Night.ly_1.service", "sweep-Night.ly_1.timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir()))],
        capture_output=True, text=True, env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "sweep-" in line]
    assert done.returncode == 0 and not ours, done.stderr
    broken = units / "sweep-Night.ly_1.service"
    broken.write_text(broken.read_text().replace("Type=oneshot", "Type=sometimes"))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(broken)], capture_output=True, text=True
    )
    assert "sometimes" in told.stderr or "Type" in told.stderr
    calendar = subprocess.run(
        ["systemd-analyze", "calendar", "Mon,Thu *-*-* 02:30:00"], capture_output=True, text=True
    )
    assert "OnCalendar=Mon,Thu *-*-* 02:30:00" in text and calendar.returncode == 0


def test_a_shell_started_by_cron_gets_the_words_that_were_meant(hostile_place: Path, tmp_path: Path) -> None:
    sweep = read_sweep(hostile_place)
    line = cron(sweep, ["--strict"], When.of("2:05", "sun"))
    assert line.startswith("5 2 * * 7 ") and line.count("\n") == 1
    # cron turns an unescaped % into a new line, and \% into %; the rest goes to sh.
    assert not re.search(r"(?<!\\)%", line)
    command = line.split(" ", 5)[5].replace("\\%", "%").replace(sys.executable, "printf '%s\\n'", 1)
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert (sweep.folder / "cron.log").read_text().splitlines() == [
        "-m",
        "pipeline.sweep",
        str(hostile_place),
        "--strict",
    ]


RAY_JOB = {
    "entrypoint",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "backoffLimit",
    "rayClusterSpec",
}
CONTAINER = {"name", "image", "resources", "volumeMounts"}


def test_the_manifest_is_a_ray_cron_job_of_kuberay_1_6(tmp_path: Path) -> None:
    """By raycronjob_types.go, rayjob_types.go and raycluster_types.go of KubeRay 1.6 (in 1.7 timeZone joins, nothing leaves)."""
    sweep = read_sweep(written(tmp_path, "name: Night.ly_1\nsearches: [{}]\n"))
    manifest = yaml.safe_load(
        kuberay(sweep, ["--strict"], When.of("02:30", None), "registry/image:1", "studies")
    )
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCronJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", manifest["metadata"]["name"])
    spec = manifest["spec"]
    assert spec.keys() <= {"schedule", "jobTemplate", "suspend"} and spec["schedule"] == "30 2 * * *"
    job = spec["jobTemplate"]  # a RayJobSpec itself, without a spec of its own
    assert job.keys() == RAY_JOB and isinstance(job["ttlSecondsAfterFinished"], int)
    assert job["entrypoint"] == f"python -m pipeline.sweep {sweep.file} --strict"
    cluster = job["rayClusterSpec"]
    assert cluster.keys() == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    group = cluster["workerGroupSpecs"][0]
    assert group.keys() == {
        "groupName",
        "replicas",
        "minReplicas",
        "maxReplicas",
        "rayStartParams",
        "template",
    }
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        pod = template["spec"]
        (container,) = pod["containers"]
        assert container.keys() == CONTAINER and container["image"] == "registry/image:1"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
        assert any(sweep.folder.is_relative_to(place) for place in mounts.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--print", "systemd", "--at", "25:00"], "--at 25:00: give a time"),
        (["--print", "cron", "--on", "someday"], "'Someday' is no day"),
        (["--print", "k8s"], "--image"),
        (["--at-a-time", "0"], "at least 1"),
        (["--print", "at"], "invalid choice"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    file = written(tmp_path, "searches: [{}]\n")
    done = command_here("sweep", file, *words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and not done.stdout


def test_what_is_printed_repeats_the_flags_that_were_typed(tmp_path: Path) -> None:
    written(tmp_path / "in", "searches: [{}]\n")
    flags = ["--strict", "--limit", "7", "--promote-if-better", "--at-a-time", "2"]
    done = command_here("sweep", "in/nightly.yaml", "--print", "systemd", *flags, cwd=tmp_path)
    assert done.returncode == 0 and not (tmp_path / "in" / "runs").exists()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
    assert str(tmp_path / "in/nightly.yaml") in line
    assert all(flag in line.split() for flag in flags)


def test_waiting_is_for_searches_that_a_killed_sweep_left_to_end(tmp_path: Path) -> None:
    from pipeline.study.lock import lock
    from pipeline.sweeps.here import Here

    (asked,) = asked_for(tmp_path, 1)
    asked.settings.folder.mkdir(parents=True)
    held, said = lock(asked.settings.folder), list[str]()
    threading.Timer(0.7, held.close).start()
    began = time.monotonic()
    Here(tmp_path / "sweep", said.append)._wait_for(asked)
    assert len(said) == 1 and "another process" in said[0] and time.monotonic() - began >= 0.5
