"""A real study of an earlier version (``old_study.tar.xz``: two candidates of digits, their programs built by zig): it is still
evaluated and promoted as it is, and resumed with the kernel library of today, also after a kill."""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundation.files import sha256
from pipeline import search
from pipeline.candidate.folder import CandidateFolder, load_candidate
from pipeline.cluster import pool
from pipeline.study.study import read_records
from tests.system.own_folder import Done, command, command_here

OLD = "b450f4d54ef9"  # its kernel library


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    with tarfile.open(Path(__file__).with_name("old_study.tar.xz")) as archive:
        archive.extractall(out, filter="data")
    return out / "old"


def candidates(study: Path) -> list[CandidateFolder]:
    return [load_candidate(study / "candidates" / record.hash) for record in read_records(study)]


def typed(study: Path, name: str, *words: object) -> Done:
    """As a person types it, beside the output folder."""
    return command(name, *words, cwd=study.parent.parent)


def typed_here(study: Path, name: str, *words: object) -> Done:
    return command_here(name, *words, cwd=study.parent.parent)


def test_an_old_study_is_evaluated_and_promoted_as_it_is(study: Path) -> None:
    place = f"{study.parent.name}/old/candidates/{candidates(study)[-1].folder.name}"
    answers = []
    for on in ("arm", "reference"):
        file = study.parent / on
        done = typed_here(study, "evaluate", place, "--on", on, "--limit", 20, "--predictions", file)
        assert done.returncode == 0, done.stderr
        answers.append(file.read_text())
    assert answers[0] == answers[1]
    flags = ("--out", study.parent.name, "--allow-modelled", "--limit", "20", "--format", "json")
    done = typed(study, "promote", "old", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {sha256(candidate.program)[:12] for candidate in candidates(study)} == {OLD}


def test_another_kernel_library_recompiles_and_a_kill_loses_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start dies while the second candidate is profiled."""
    before, old = read_records(study), candidates(study)

    class Dying(pool.LocalDevice):
        profiled = 0

        def profile(self, *arguments: Any, **rest: Any) -> Any:
            self.profiled += 1
            if self.profiled == 4:  # fp32, int8, the first candidate
                raise KeyboardInterrupt
            return super().profile(*arguments, **rest)

    @contextlib.contextmanager
    def dying(target: str, **kind: Any) -> Iterator[pool.LocalDevice]:
        yield Dying(target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool, "devices_at_hand", dying)
        search.main(["--name", "old", "--out", str(study.parent)])
    assert read_records(study) == before, "the study changes when all of its candidates have"
    libraries = [sha256(candidate.program)[:12] for candidate in candidates(study)]
    assert libraries[0] != OLD == libraries[1]

    done = typed_here(study, "search", "--name", "old", "--out", study.parent.name, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert (
        "kernel library changed since the study began: 2 candidates are compiled and profiled anew"
        in done.stderr
    )
    after, new = read_records(study), candidates(study)
    assert {sha256(candidate.program)[:12] for candidate in new} == {libraries[0]}
    for was, now, former, candidate in zip(before, after, old, new, strict=True):
        assert now == replace(was, figures=now.figures) and now.figures == candidate.figures
        assert now.figures.error == was.figures.error
        assert now.figures.latency_ms != was.figures.latency_ms, "profiled with another program"
        trained = ("plan.json", "network.pt", "layers.json")
        assert all(candidate.manifest["files"][f] == former.manifest["files"][f] for f in trained)
    front = json.loads((study / "front.json").read_text())
    assert front == {key: json.loads(done.stdout)[key] for key in front}
    known = {record.hash: record.figures for record in after}
    assert all(point["latency_ms"] == known[point["hash"]].latency_ms for point in front["points"])
    int8 = new[0].manifest["references"]["int8"]["latency"]["value"]
    assert int8 == next(r["latency_ms"] for r in front["references"] if r["name"] == "int8")
    assert re.search(rf"the study as it was: .*study-{OLD}\.db", done.stderr)

    again = typed_here(study, "search", "--name", "old", "--out", study.parent.name)
    assert again.returncode == 0 and "kernel library" not in again.stderr
    assert read_records(study) == after
