"""What the dry run counts, and that timing the parts leaves nothing behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.candidate.workspace import Workspace
from pipeline.review.estimate import PUBLISHING, estimate, expected_steps
from pipeline.review.timing import TrialCost, pretraining_seconds
from pipeline.study.halving import Rungs
from pipeline.study.settings import Settings
from pipeline.training.pretraining import pretrained_file
from pipeline.training.settings import pretraining_settings
from pipeline.training.stages import places, stages
from quantizers.network import layer_names
from search_spaces.space import Space
from tests.own_cache import own_cache


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache(tmp_path))
    generator = np.random.default_rng(0)
    arrays = {
        f"x_{split}": generator.integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
        for split in ("train", "val")
    }
    np.savez(tmp_path / "data.npz", **arrays, y_train=np.arange(32) % 2, y_val=np.arange(32) % 2)
    settings = Settings(
        model="vgg_tiny", data=f"npz:{tmp_path / 'data.npz'}", batch_size=8, epochs_per_trial=1, budget=6
    )
    return Workspace.open(settings, trained=False)


def test_every_part_is_counted_and_nothing_is_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {key: value.clone() for key, value in workspace.model.state_dict().items()}
    threads, folder = torch.get_num_threads(), sorted(Path(workspace.settings.data[4:]).parent.iterdir())
    space = Space(tuple(layer_names(workspace.model)))
    found = estimate(workspace, space)
    parts = ["pretraining_seconds", "start_seconds", "trial_seconds", "device_seconds_per_trial"]
    assert all(found[part] > 0 for part in parts)
    whole = found["pretraining_seconds"] + found["start_seconds"] + PUBLISHING
    assert found["total_seconds"] > whole + found["trial_seconds"]
    more = dataclasses.replace(
        workspace, settings=dataclasses.replace(workspace.settings, epochs_per_trial=5000)
    )
    assert estimate(more, space)["trial_seconds"] > found["trial_seconds"]
    assert all(torch.equal(value, workspace.model.state_dict()[key]) for key, value in before.items())
    assert torch.get_num_threads() == threads
    kept = [path for path in Path(workspace.settings.data[4:]).parent.iterdir() if path not in folder]
    assert all(path.name == "cache" and not list(path.rglob("*.pt")) for path in kept)


def test_training_first_costs_nothing_where_it_is_done(workspace: Workspace) -> None:
    assert pretraining_seconds(workspace) > 0
    recipe = pretraining_settings(len(workspace.data.train))
    mean, std = workspace.mean, workspace.std
    file = pretrained_file(workspace.model, workspace.data, mean, std, "vgg_tiny", recipe)
    file.parent.mkdir(parents=True)
    file.touch()
    assert pretraining_seconds(workspace) == 0


def test_of_many_trials_a_third_goes_on() -> None:
    found = stages(3.0, 3)
    rungs = Rungs(places(found), at_least=4)
    assert expected_steps(rungs, found, 4, steps_per_epoch=10, held_steps=24) == (54, 3)  # so few all go on
    steps, reached = expected_steps(rungs, found, 1000, steps_per_epoch=10, held_steps=24)
    assert 24 / 3 + 30 / 9 < steps < 24 * 0.36 + 30 * 0.15 and 1 + 4 / 9 < reached < 1.5


def test_a_trial_is_the_sum_of_its_parts() -> None:
    assert TrialCost(1, 0.5, 2, 3, 4).seconds(steps=10, rungs=2) == 1 + 5 + 4 + 6 + 4
