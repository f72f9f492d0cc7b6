"""What a seed reproduces, as docs/search.md says it: a plan that is trained again, and a whole search in another folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.bench import Bench
from pipeline.candidate.stages import CandidateRun
from pipeline.cluster.pool import devices_at_hand
from pipeline.study.records import TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import read_records
from tests.system.own_folder import command
from tests.system.small_task import FLAGS, write_small_task

# So coarse that co-tuning is better than what rebuilding alone makes, which does not depend on the seed.
PLAN = Plan.uniform(("0", "4", "9"), LayerPlan(2, 2, zero_share=0.8))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same network and images."""
    here, elsewhere = tmp_path / "here", tmp_path / "somewhere" / "else"
    here.mkdir()
    write_small_task(here)
    shutil.copytree(here, elsewhere)
    return here, elsewhere


def untimed(record: TrialRecord) -> TrialRecord:
    """All but when it ran, where, and for how long."""
    curve = tuple(replace(rung, seconds=0.0) for rung in record.curve)
    return replace(record, curve=curve, started=None, ended=None, work=())


def checksums(candidate: Path) -> dict[str, str]:
    """Of all that a candidate's folder holds but its manifest, which names the folder of the images."""
    return {file.name: sha256(file) for file in candidate.iterdir() if file.name != "manifest.json"}


def trial(folder: Path, seed: int) -> tuple[TrialRecord, dict[str, str]]:
    """One trial of the plan, as a search makes it but without Ray; and its candidate's checksums."""
    settings = Settings(
        name=f"seed-{seed}", out=folder, model="mine:network", data=f"npz:{folder}/images.npz", modules=folder,
        weights=str(folder / "network.pt"), seed=seed, epochs_per_trial=0.5, rungs=1, batch_size=32,
    )  # fmt: skip
    with devices_at_hand(settings.target) as devices:
        run = CandidateRun(Bench(settings), PLAN, 0, devices)
        run.profile()
        for place, stage in enumerate(settings.stages):
            run.reach(place, stage)
        record = run.finish()
    return untimed(record), checksums(settings.folder / "candidates" / PLAN.hash)


def test_one_seed_trains_one_network(folders: tuple[Path, Path]) -> None:
    here, elsewhere = folders
    (first, files), (other, others) = trial(here, 3), trial(here, 4)
    again, same = trial(elsewhere, 3)
    assert again == first and same == files
    assert other.curve != first.curve
    assert all(others[name] != files[name] for name in ("network.pt", "weights.blob"))


def outcome(folder: Path) -> dict[str, Any]:
    """What a search in the folder came to, but for times and for where it lies."""
    study = folder / "runs" / "study"
    candidates = sorted((study / "candidates").iterdir())
    manifests = [json.loads((candidate / "manifest.json").read_text()) for candidate in candidates]
    return {
        "trials": [untimed(record) for record in read_records(study)],
        "files": {candidate.name: checksums(candidate) for candidate in candidates},
        "figures": [manifest["figures"] for manifest in manifests],
        "front": json.loads((study / "front.json").read_text()),
    }


@pytest.mark.slow
def test_one_seed_has_one_outcome_of_a_whole_search(folders: tuple[Path, Path]) -> None:
    """Three uniform plans, and one that the sampler proposes by what those came to."""
    asked = (*FLAGS, "--bits", "2,4,8", "--budget", 4, "--rungs", 1, "--seed", 3, "--max-concurrent", 1)
    for folder in folders:
        done = command("search", *asked, cwd=folder)
        assert done.returncode == 0, done.stderr
    found, again = map(outcome, folders)
    assert [record.status for record in found["trials"]] == ["finished"] * 4 and len(found["files"]) == 4
    for what in found:
        assert again[what] == found[what], what
