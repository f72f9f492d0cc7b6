"""A trial that inherits, as a search makes it but without Ray: what candidates keep for it, killed in between, and where there is
nothing to be had. (As it is typed: test_system_extending.py.)"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.bench import Bench
from pipeline.candidate.devices import Devices
from pipeline.candidate.folder import candidate_path, load_candidate
from pipeline.candidate.stages import CandidateRun
from pipeline.cluster.pool import devices_at_hand
from pipeline.study.records import TrialRecord
from pipeline.study.settings import Settings
from tests.system.small_task import write_small_task

PLAN = Plan.uniform(("0", "4", "9"), LayerPlan(2, 2))
NEAR = PLAN.replace(layers={**PLAN.layers, "9": LayerPlan(2, 3)})


@pytest.fixture(scope="module")
def devices() -> Iterator[Devices]:
    with devices_at_hand("a76") as devices:
        yield devices


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("inheritance")
    write_small_task(folder)
    settings = Settings(
        name="study", out=folder, model="mine:network", data=f"npz:{folder}/images.npz", modules=folder,
        weights=str(folder / "network.pt"), epochs_per_trial=0.5, rungs=1, batch_size=32, inherit_weights="on",
    )  # fmt: skip
    return Bench(settings)


def finished(run: CandidateRun) -> TrialRecord:
    for place, stage in enumerate(run.stages):
        run.reach(place, stage)
    return run.finish()


@pytest.fixture(scope="module")
def incumbent(bench: Bench, devices: Devices) -> Path:
    """The folder of a candidate that finished."""
    record = finished(CandidateRun(bench, PLAN, 0, devices))
    assert [rung.stage for rung in record.curve] == ["rebuilt", "held", "free"]
    return candidate_path(bench.settings.folder, PLAN)


def test_killed_before_and_after_it_inherits_a_trial_ends_alike(
    bench: Bench, devices: Devices, incumbent: Path, tmp_path: Path
) -> None:
    assert torch.load(incumbent / "latent.pt", weights_only=True)
    assert load_candidate(incumbent).manifest["files"]["latent.pt"] == sha256(incumbent / "latent.pt")
    place, found = candidate_path(bench.settings.folder, NEAR), []
    for killed_after in (None, 2, 3):
        run = CandidateRun(bench, NEAR, 1, devices, inherits=incumbent.name)
        if killed_after is not None:
            for number, stage in enumerate(run.stages[:killed_after]):
                run.reach(number, stage)
            gone = killed_after == 3 and incumbent.rename(tmp_path / "gone")  # is not needed any more
            run = CandidateRun(bench, NEAR, 1, devices, inherits=incumbent.name)
            assert len(run.curve) == killed_after and not run.damaged
            if gone:
                gone.rename(incumbent)
        record = finished(run)
        curve = tuple(dataclasses.replace(rung, seconds=0.0) for rung in record.curve)
        found.append(
            (curve, record.figures, {file: sha256(place / file) for file in ("network.pt", "latent.pt")})
        )
        shutil.rmtree(place)
    assert [rung.stage for rung in found[0][0]] == ["rebuilt", "held", "inherited", "free"]
    assert found[0] == found[1] == found[2]


def test_where_there_is_nothing_to_inherit_a_trial_goes_on_as_without(
    bench: Bench, devices: Devices, incumbent: Path
) -> None:
    quiet = Bench(dataclasses.replace(bench.settings, inherit_weights="off"), bench.workspace, bench.program)
    plain = CandidateRun(quiet, NEAR, 1, devices)
    without = finished(plain)
    place = candidate_path(bench.settings.folder, NEAR)
    assert "latent.pt" not in {file.name for file in place.iterdir()}
    shutil.rmtree(place)
    run = CandidateRun(bench, NEAR, 1, devices, inherits="0123456789ab")
    assert run.damaged == ("no weights to inherit: there is no candidate 0123456789ab any more",)
    record = finished(run)
    assert [rung.divergence for rung in record.curve] == [rung.divergence for rung in without.curve]
