"""A front is published with all its candidates' files, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foundation.errors import UserError
from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from pipeline.report.publish import check_folders, write_front
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.settings import Settings

FILES = ("network.pt", "weights.blob")


def record(number: int) -> TrialRecord:
    known = Figures(0.1 + number / 100, 3.0 - number, 0.5, 4.0, "modelled", "a76", 1000 - number, 5000)
    return TrialRecord(number, Plan({"conv": LayerPlan(4, 3 + number, zero_share=0.5)}), "finished", known)


def complete(folder: Path, hash: str) -> Path:
    """A candidate folder whose manifest names what lies in it."""
    made = folder / "candidates" / hash
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_text(f"{name} of {hash}")
    manifest = {"format": 1, "hash": hash, "files": {name: sha256(made / name) for name in FILES}}
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made


def test_whatever_is_missing_of_a_candidate_is_named(tmp_path: Path) -> None:
    front = [record(number) for number in range(5)]
    sound, without_file, without_manifest, changed, without_folder = front
    complete(tmp_path, sound.hash)
    (complete(tmp_path, without_file.hash) / "network.pt").unlink()
    (complete(tmp_path, without_manifest.hash) / "manifest.json").unlink()
    (complete(tmp_path, changed.hash) / "weights.blob").write_text("something else")
    check_folders(tmp_path, [sound])
    with pytest.raises(UserError) as caught:
        check_folders(tmp_path, front)
    told = str(caught.value)
    assert "\n" not in told and "4 of the 5 candidates" in told
    candidates = tmp_path / "candidates"
    assert (
        f"{without_file.hash} (trial 1): {candidates / without_file.hash / 'network.pt'} is missing" in told
    )
    assert (
        f"{candidates / without_manifest.hash} is not a candidate folder (no readable manifest.json)" in told
    )
    assert f"{candidates / changed.hash / 'weights.blob'} is not the file its manifest names" in told
    assert f"(trial 4): there is no folder {candidates / without_folder.hash}" in told
    assert sound.hash not in told


def test_a_front_without_its_files_is_not_published(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path, name="study")
    settings.folder.mkdir()
    (settings.folder / "front.json").write_text("an earlier front")
    study: Any = SimpleNamespace(records=lambda: [record(0)], objectives=("error", "latency", "size"))
    with pytest.raises(UserError, match="1 of the 1 candidates"):
        write_front(settings, study, [], {})
    assert [path.name for path in settings.folder.iterdir()] == ["front.json"]
    assert (settings.folder / "front.json").read_text() == "an earlier front"
