"""Weights that a trial inherits: what they are, that they are taken where they help alone, and where they come from."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import Compiled, Origin, load_candidate, replace_compiled, write_candidate
from pipeline.candidate.inheritance import read_incumbent
from pipeline.cluster.node import Keeper
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import normalize
from pipeline.datasets.registry import load_data
from pipeline.study.records import Figures
from pipeline.study.storage import LocalStorage
from pipeline.training.cotuning import Cotuning
from pipeline.training.incumbent import Incumbent, state_of
from pipeline.training.judges import Judges
from pipeline.training.rung import Rung, best_of
from pipeline.training.settings import TrainSettings
from pipeline.training.stages import LONG, Stage, stages, with_inherited
from quantizers.network import hard_state

MEAN, STD = (0.5,) * 3, (0.25,) * 3
CONV, LINEAR = "3", "8"
PLAN = Plan.uniform(("0", CONV, LINEAR), LayerPlan(2, 4))
NEAR = PLAN.replace(layers={**PLAN.layers, LINEAR: LayerPlan(8)})
SETTINGS = TrainSettings(
    epochs=1, batch_size=32, images_per_epoch=160, seed=3, rebuild_images=32, held_steps=3, kept_images=16,
    rung_images=100, batch_norm_images=64,
)  # fmt: skip
STAGES = with_inherited(stages(SETTINGS.epochs, 3))
QUICK = STAGES[1:]  # without rebuilding, which hardly leaves anything to inherit where a task is so small


class Task(NamedTuple):
    model: nn.Module
    data: ImageData
    judges: Judges

    def run(self, plan: Plan, settings: TrainSettings = SETTINGS, **rest: Any) -> Cotuning:
        return Cotuning(self.model, plan, self.data, settings, MEAN, STD, judges=self.judges, **rest)


@pytest.fixture(scope="module")
def task() -> Task:
    """A network of three layers that has learned digits for some seconds."""
    data = load_data("digits", 8)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    x, y = normalize(data.train.batch(range(len(data.train))), MEAN, STD), data.train.labels
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    return Task(model, data, Judges.of(model, data, SETTINGS, MEAN, STD))


@pytest.fixture(scope="module")
def incumbent(task: Task) -> Incumbent:
    """Rebuilt from many images, then trained."""
    run = task.run(PLAN, dataclasses.replace(SETTINGS, rebuild_images=512))
    for stage in stages(SETTINGS.epochs, 3):
        run.reach(stage)
    run.settle()
    return Incumbent(PLAN, state_of(run.network))


def untimed(curve: list[Rung]) -> list[Rung]:
    return [dataclasses.replace(rung, seconds=0.0) for rung in curve]


def reloaded(state: Any) -> Any:
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_layers_of_the_same_choice_start_from_what_the_incumbent_has_trained(
    task: Task, incumbent: Incumbent
) -> None:
    run = task.run(NEAR, incumbent=incumbent)
    held = run.reach(QUICK[0])
    before = state_of(run.network)
    inherited = run.reach(QUICK[1])
    assert inherited.divergence < held.divergence
    assert run.step == 3 and (inherited.stage, inherited.where) == ("inherited", "with inherited weights")
    for name, value in run.network.named_parameters():
        assert torch.equal(value, (before if name.startswith(f"{LINEAR}.") else incumbent.state)[name]), name
    free = run.reach(QUICK[2])
    run.settle()
    kept = run.judges.rung(run.hardened().network).divergence
    best = (inherited, free)[best_of((inherited, free))]
    assert kept == best.divergence  # what is kept is what was judged


def test_changed_layers_keep_their_own_state_and_their_namesakes_do_not() -> None:
    plan = Plan.uniform(("conv1", "conv10"), LayerPlan(2, 3))
    near = plan.replace(layers={**plan.layers, "conv1": LayerPlan(2, 4)})
    own = {name: torch.zeros(1) for name in ("conv1.weight", "conv10.weight", "norm.bias")}
    given = Incumbent(plan, {name: torch.ones(1) for name in own}).given_to(near, own)
    assert {name: float(value) for name, value in given.items()} == {
        "conv1.weight": 0.0, "conv10.weight": 1.0, "norm.bias": 1.0,
    }  # fmt: skip


def test_weights_that_are_farther_from_fp32_change_nothing(task: Task, incumbent: Incumbent) -> None:
    noise = {
        name: torch.randn_like(value) if name.endswith("original") else value
        for name, value in incumbent.state.items()
    }
    plain, run = task.run(NEAR), task.run(NEAR, incumbent=Incumbent(PLAN, noise))
    without = [plain.reach(stage) for stage in stages(SETTINGS.epochs, 3)]
    curve = [run.reach(stage) for stage in STAGES]
    assert curve[2].divergence > curve[1].divergence
    assert untimed([*curve[:2], *curve[3:]]) == untimed(without)
    for each in (plain, run):
        each.settle()
    assert same(hard_state(plain.hardened()), hard_state(run.hardened()))


def test_another_number_of_activation_bits_shares_no_layer(task: Task, incumbent: Incumbent) -> None:
    run = task.run(NEAR.replace(activation_bits=7), incumbent=incumbent)
    held = run.reach(QUICK[0])
    assert run.reach(QUICK[1]).divergence == held.divergence


def test_a_trial_that_inherits_ends_alike_wherever_it_was_cut_off(task: Task, incumbent: Incumbent) -> None:
    whole, kept = task.run(NEAR, incumbent=incumbent), {}
    whole.between = lambda: kept.update({whole.step: reloaded(whole.state_dict())})
    rungs = []
    for place, stage in enumerate(QUICK):
        rungs.append(whole.reach(stage))
        kept[-place] = reloaded(whole.state_dict())
    whole.settle()
    for step, reached in ((0, 1), (-1, 2), (5, 2)):  # before it inherits, after that, and while it trains on
        run = task.run(NEAR, state=kept[step], incumbent=incumbent if reached == 1 else None)
        assert untimed([run.reach(stage) for stage in QUICK[reached:]]) == untimed(rungs[reached:]), step
        run.settle()
        assert same(hard_state(whole.hardened()), hard_state(run.hardened())), step


@pytest.mark.parametrize("quantizer", ["gaussian_mixture", "ecq"])
def test_zeros_that_grew_in_training_are_inherited(task: Task, quantizer: str) -> None:
    """Free training of many zeros begins from fp32's weights: such layers know another share from their start."""
    several = 4 if quantizer == "gaussian_mixture" else None
    layers = dict.fromkeys(PLAN.layers, LayerPlan(2, several, zero_share=0.8))
    plan = Plan(layers, quantizer=quantizer)
    near = plan.replace(layers={**layers, LINEAR: LayerPlan(3, several, zero_share=0.8)})
    long = dataclasses.replace(SETTINGS, epochs=LONG / 5)
    first = task.run(plan, long)
    first.train_until(long.epochs)
    run = task.run(near, long, incumbent=Incumbent(plan, state_of(first.network)))
    for stage in STAGES[:2]:
        run.reach(stage)
    run._best = None  # so that what it inherits is the best, which it needs not be
    run.reach(STAGES[2])
    if quantizer == "gaussian_mixture":  # whose free training goes on from there, not from fp32's weights
        run.reach(Stage("free", 0.2))
    else:
        run.settle()
    assert run.hardened().codebooks[CONV].zeros == pytest.approx(0.8, abs=0.01)


@pytest.fixture
def candidate(task: Task, incumbent: Incumbent, tmp_path: Path) -> Path:
    """The incumbent's folder in a study."""
    run = task.run(PLAN)
    run.network.load_state_dict(incumbent.state)
    origin = Origin("mine:network", "a76", tuple("0123456789"), (8, 8), MEAN, STD, {"spec": "digits"})
    place = tmp_path / "study" / "candidates" / PLAN.hash
    compiled = Compiled(None, b"blob", Figures(0.1))
    write_candidate(place, origin, PLAN, run.hardened(), compiled, latent=state_of(run.network))
    return place


def test_what_a_candidate_keeps_is_read_where_it_lies_and_from_other_nodes(
    candidate: Path, incumbent: Incumbent, tmp_path: Path
) -> None:
    assert "latent.pt" in load_candidate(candidate).manifest["files"]
    study, elsewhere = candidate.parents[1], tmp_path / "elsewhere" / candidate.name
    for place, storage in ((candidate, LocalStorage(study)), (elsewhere, Keeper(study))):
        found = read_incumbent(place, storage)
        assert isinstance(found, Incumbent) and found.plan == PLAN
        assert same(dict(found.state), dict(incumbent.state))
    assert not elsewhere.exists(), "nothing of it stays on a node that does not keep the study"
    content = (candidate / "latent.pt").read_bytes()
    replace_compiled(load_candidate(candidate), Compiled(None, b"of another library", Figures(0.1)))
    assert (candidate / "latent.pt").read_bytes() == content and load_candidate(candidate).plan == PLAN


def test_why_there_is_nothing_to_inherit_is_told(candidate: Path) -> None:
    study, file = LocalStorage(candidate.parents[1]), candidate / "latent.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "latent.pt is not the file its manifest names" in str(read_incumbent(candidate, study))
    file.unlink()
    assert "latent.pt is missing" in str(read_incumbent(candidate, study))
    shutil.rmtree(candidate)
    assert read_incumbent(candidate, study) == f"there is no candidate {candidate.name} any more"
