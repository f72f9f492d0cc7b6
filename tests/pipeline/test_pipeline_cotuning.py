"""Co-tuning one plan: rungs, exact resume, what is evaluated, several workers, the command."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import ArrayImages, normalize
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.train import main
from pipeline.training.cotuning import Cotuning
from pipeline.training.early import given_up
from pipeline.training.evaluation import error_of
from pipeline.training.judges import Judges
from pipeline.training.loop import Diverged, Portion
from pipeline.training.pretraining import pretrain
from pipeline.training.rung import Rung, best_of
from pipeline.training.settings import TrainSettings, pretraining_settings
from pipeline.training.stages import LONG, MANY_ZEROS, Stage, begins_anew, stages
from quantizers.network import hard_state, layer_names, load_hard

MEAN, STD = find_network("resnet8").normalization
SETTINGS = TrainSettings(epochs=1, batch_size=64, images_per_epoch=320, seed=3)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 8)


@pytest.fixture(scope="module")
def trained(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    model = load_model("resnet8", classes=10, image_size=8)
    settings = dataclasses.replace(pretraining_settings(len(digits.train)), epochs=8)
    folder = tmp_path_factory.mktemp("cache")
    return pretrain(model, digits, MEAN, STD, name="resnet8", cache=folder, settings=settings).network


def mixed_plan(model: nn.Module) -> Plan:
    """Every kind of layer: int8 first and last, mixtures of several widths, one with a target of zeros."""
    kinds = [LayerPlan(3, 7), LayerPlan(2, 4), LayerPlan(4, 16, zero_share=0.6), LayerPlan(2, 3)]
    names = layer_names(model)
    layers = {name: kinds[i % len(kinds)] for i, name in enumerate(names)}
    return Plan({**layers, names[0]: LayerPlan(8), names[-1]: LayerPlan(8)})


def saved_and_loaded(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (first != first and second != second)


def harsh_plan(model: nn.Module) -> Plan:
    """Three values in every layer."""
    return Plan.uniform(layer_names(model), LayerPlan(2, 3))


def surprise(run: Cotuning) -> float:
    """Mean cross-entropy of the hardened network on the search half: finer than its error."""
    images = run.data.search
    with torch.inference_mode():
        logits = run.hardened().network(normalize(images.batch(range(len(images))), MEAN, STD))
    return float(nn.functional.cross_entropy(logits, images.labels))


def test_cotuning_recovers_what_quantization_lost(digits: ImageData, trained: nn.Module) -> None:
    model = copy.deepcopy(trained)
    settings = dataclasses.replace(SETTINGS, epochs=2, images_per_epoch=None)
    run = Cotuning(trained, harsh_plan(trained), digits, settings, MEAN, STD)
    error, start = run.judgement().error, surprise(run)
    last = run.train_until(2)
    assert last.epochs == 2 and last.loss > 0 and last.seconds > 0
    assert last.error < max(error, 0.05) and surprise(run) < 0.8 * start
    assert same(model.state_dict(), trained.state_dict())  # the given network is left alone


def test_what_is_evaluated_is_what_is_handed_over(digits: ImageData, trained: nn.Module) -> None:
    run = Cotuning(trained, mixed_plan(trained), digits, SETTINGS, MEAN, STD)
    last = run.train_until(1)
    hardened = run.hardened()
    assert error_of(hardened.network, digits.search, MEAN, STD) == last.error
    for name, codebook in hardened.codebooks.items():
        weight = hardened.network.get_submodule(name).weight
        assert np.array_equal(weight.detach().numpy(), codebook.dequantize())
        target = run.plan.layers[name].zero_share
        assert target is None or abs(codebook.zeros - target) < 0.01


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_resumed_at_a_rung_equals_the_uninterrupted_one(
    digits: ImageData, trained: nn.Module, fresh: bool
) -> None:
    plan = mixed_plan(trained)
    whole = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
    rungs = [whole.train_until(0.4), whole.train_until(1)]
    first = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
    early = first.train_until(0.4)
    state = saved_and_loaded(first.state_dict())
    torch.manual_seed(999)
    if fresh:
        second = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD, state=state)
    else:
        second = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
        second.load_state_dict(state)
    late = second.train_until(1)
    for a, b in zip(rungs, (early, late), strict=True):
        assert (a.epochs, a.error, a.loss) == (b.epochs, b.error, b.loss)
    one, other = whole.state_dict(), second.state_dict()
    one.pop("seconds"), other.pop("seconds")
    assert same(one, other)
    assert same(hard_state(whole.hardened()), hard_state(second.hardened()))


def test_evaluating_does_not_touch_training(digits: ImageData, trained: nn.Module) -> None:
    plan = mixed_plan(trained)
    plain = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
    plain.train_until(1)
    often = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
    for share in (0.2, 0.4, 0.6, 0.8, 1):
        often.train_until(share)
    assert same(plain.state_dict()["network"], often.state_dict()["network"])
    assert same(plain.state_dict()["optimizer"], often.state_dict()["optimizer"])


def test_the_hard_state_stands_alone(digits: ImageData, trained: nn.Module) -> None:
    plan = mixed_plan(trained)
    run = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD)
    rung = run.train_until(0.4)
    state = saved_and_loaded(hard_state(run.hardened()))
    blank = load_model("resnet8", classes=10, image_size=8, seed=1)
    assert error_of(load_hard(blank, plan, state).network, digits.search, MEAN, STD) == rung.error


def test_channels_of_very_different_sizes_share_a_codebook(digits: ImageData, trained: nn.Module) -> None:
    uneven = copy.deepcopy(trained)
    sizes = torch.logspace(-2, 2, 16)  # the batch-norms undo them: the answers stay
    with torch.no_grad():
        for conv, norm in zip(*(modules(uneven, kind) for kind in (nn.Conv2d, nn.BatchNorm2d)), strict=True):
            size = sizes[torch.arange(len(conv.weight)) % len(sizes)]
            conv.weight.mul_(size.view(-1, 1, 1, 1))
            spread = (norm.running_var + norm.eps).sqrt()
            norm.running_mean.mul_(size)
            norm.running_var.mul_(size.square())
            norm.weight.mul_((norm.running_var + norm.eps).sqrt() / spread / size)
    assert error_of(uneven, digits.search, MEAN, STD) == error_of(trained, digits.search, MEAN, STD)
    plan = Plan.uniform(layer_names(uneven), LayerPlan(4, 16))
    settings = dataclasses.replace(SETTINGS, even_channels=True)
    without = Cotuning(uneven, plan, digits, SETTINGS, MEAN, STD)
    run = Cotuning(uneven, plan, digits, settings, MEAN, STD)
    assert surprise(run) < 0.1 * surprise(without) and run.judgement().error < without.judgement().error
    rung = run.train_until(0.4)
    blank = load_model("resnet8", classes=10, image_size=8, seed=1)
    loaded = load_hard(blank, plan, saved_and_loaded(hard_state(run.hardened())))
    assert error_of(loaded.network, digits.search, MEAN, STD) == rung.error


def modules(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def test_a_checkpoint_of_another_run_is_refused(digits: ImageData, trained: nn.Module) -> None:
    plan = mixed_plan(trained)
    state = Cotuning(trained, plan, digits, SETTINGS, MEAN, STD).state_dict()
    other = Plan({**plan.layers, "linear": LayerPlan(4, 16)})
    for arguments in ((other, SETTINGS), (plan, dataclasses.replace(SETTINGS, seed=4))):
        with pytest.raises(ValueError, match="belongs to another run"):
            Cotuning(trained, arguments[0], digits, arguments[1], MEAN, STD, state=state)


def test_a_plan_that_does_not_fit_is_a_user_error(digits: ImageData, trained: nn.Module) -> None:
    with pytest.raises(UserError, match="absent"):
        Cotuning(trained, Plan({"absent": LayerPlan(8)}), digits, SETTINGS, MEAN, STD)


def test_bfloat16_learns(digits: ImageData, trained: nn.Module) -> None:
    settings = dataclasses.replace(SETTINGS, bfloat16=True)
    run = Cotuning(trained, harsh_plan(trained), digits, settings, MEAN, STD)
    start = surprise(run)
    run.train_until(1)
    assert surprise(run) < start
    assert all(value.dtype != torch.bfloat16 for value in run.network.state_dict().values())


# --- the stages of a trial

STAGED = dataclasses.replace(SETTINGS, rebuild_images=128, small_images=32, held_steps=5)


def test_from_stage_to_stage_and_the_best_is_kept(digits: ImageData, trained: nn.Module) -> None:
    run = Cotuning(trained, harsh_plan(trained), digits, STAGED, MEAN, STD)
    unbuilt = surprise(run)
    curve, shown = [], []
    for stage in stages(1.0, 4):
        curve.append(run.reach(stage, lambda done, total: shown.append((done, total))))
        if stage.name == "rebuilt":
            assert run.step == 0 and surprise(run) < 0.8 * unbuilt
    layers = len(layer_names(trained))
    assert shown == 2 * [(done, layers) for done in range(1, layers + 1)]
    assert [rung.stage for rung in curve] == ["small", "rebuilt", "held", "free"]
    assert run.step == 5 + run.steps_per_epoch
    small, _, held, free = curve
    assert small.moved is None and held.moved == held.flipped == 0 and free.moved is not None
    assert all(rung.divergence > 0 and rung.divergence_standard_error > 0 for rung in curve)
    best = curve[best_of(tuple(curve))]
    run.settle()
    hardened = run.hardened().network
    assert run.judges.rung(hardened).divergence == pytest.approx(best.divergence, abs=1e-6)
    assert run.judgement().error == error_of(hardened, digits.search, MEAN, STD)


def test_where_nothing_can_be_held_no_step_is_taken(digits: ImageData, trained: nn.Module) -> None:
    plan = Plan(dict.fromkeys(layer_names(trained), LayerPlan(8)))
    run = Cotuning(trained, plan, digits, STAGED, MEAN, STD)
    rebuilt, held = run.reach(Stage("rebuilt")), run.reach(Stage("held"))
    assert run.step == 0 and held.divergence == rebuilt.divergence and held.loss == rebuilt.loss > 0
    run.reach(Stage("free", 1.0))
    assert run.step == run.steps_per_epoch


@pytest.mark.parametrize(
    "place", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_trial_cut_off_after_a_stage_ends_as_the_uninterrupted_one(
    digits: ImageData, trained: nn.Module, place: int
) -> None:
    plan, found = mixed_plan(trained), stages(1.0, 5)[1:]  # with two stretches of free training
    whole = Cotuning(trained, plan, digits, STAGED, MEAN, STD)
    rungs = [whole.reach(stage) for stage in found]
    first = Cotuning(trained, plan, digits, STAGED, MEAN, STD)
    for stage in found[:place]:
        first.reach(stage)
    second = Cotuning(trained, plan, digits, STAGED, MEAN, STD, state=saved_and_loaded(first.state_dict()))
    late = [second.reach(stage) for stage in found[place:]]
    untimed = [dataclasses.replace(rung, seconds=0.0) for rung in (*rungs[place:], *late)]
    assert untimed[: len(late)] == untimed[len(late) :]
    for run in (whole, second):
        run.settle()
    assert same(hard_state(whole.hardened()), hard_state(second.hardened()))


def test_a_trial_cut_off_in_the_middle_of_a_stage_ends_as_the_uninterrupted_one(
    digits: ImageData, trained: nn.Module, fault: Callable[[str, str], None]
) -> None:
    """Wherever that is: among held weights, among free ones, just before a look at the levels or just after."""
    plan, found = mixed_plan(trained), stages(1.0, 3)
    whole, kept = Cotuning(trained, plan, digits, STAGED, MEAN, STD), {}
    whole.between = lambda: kept.update({whole.step: saved_and_loaded(whole.state_dict())})
    rungs = [whole.reach(stage) for stage in found]
    untimed = [dataclasses.replace(rung, seconds=0.0) for rung in rungs]
    whole.settle()
    assert len(kept) == whole.step > 5
    for step in (2, 5, 6, max(kept) - 1, max(kept)):
        reached = 1 if step <= 5 else 2  # five steps are those of the held stage
        run = Cotuning(trained, plan, digits, STAGED, MEAN, STD, state=kept[step])
        late = [dataclasses.replace(run.reach(stage), seconds=0.0) for stage in found[reached:]]
        assert late == untimed[reached:], step
        run.settle()
        assert same(hard_state(whole.hardened()), hard_state(run.hardened())), step
    fault(
        "a trial's process killed in the middle of a rung",
        "it went on from what was kept there, and ended bit for bit alike",
    )


def test_the_first_network_is_kept_where_training_spoils_it(digits: ImageData, trained: nn.Module) -> None:
    wild = dataclasses.replace(STAGED, learning_rate=2.0, held_rate=1.0, gradient_clip=None)
    run = Cotuning(trained, harsh_plan(trained), digits, wild, MEAN, STD)
    for stage in stages(1.0, 3):
        run.reach(stage)
    again = Cotuning(trained, harsh_plan(trained), digits, wild, MEAN, STD)
    rebuilt = again.reach(stages(1.0, 3)[0])
    run.settle()
    found = run.judges.rung(run.hardened().network).divergence
    assert found == pytest.approx(rebuilt.divergence, abs=1e-6)
    assert same(hard_state(run.hardened()), hard_state(again.hardened()))


@pytest.mark.parametrize("saved", [False, True])
def test_training_that_fails_for_good_costs_nothing_of_what_was_reached(
    digits: ImageData, trained: nn.Module, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stages(1.0, 3)

    def broken(self: Cotuning, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.called(images).sum() * float("nan")

    run = Cotuning(trained, harsh_plan(trained), digits, STAGED, MEAN, STD)
    rebuilt = run.reach(found[0])
    reached = hard_state(run.hardened())
    monkeypatch.setattr(Cotuning, "loss", broken)
    held = run.reach(found[1])
    assert run.diverged is not None and "the loss is nan at step 1" in run.diverged
    if saved:
        state = saved_and_loaded(run.state_dict())
        run = Cotuning(trained, harsh_plan(trained), digits, STAGED, MEAN, STD, state=state)
    step = run.step
    free = run.reach(found[2])
    assert run.step == step and run.diverged is not None
    assert rebuilt.divergence == held.divergence == free.divergence
    run.settle()
    assert same(hard_state(run.hardened()), reached)
    directly = Cotuning(trained, harsh_plan(trained), digits, STAGED, MEAN, STD)
    with pytest.raises(Diverged):
        directly.train_until(1.0)


def test_a_network_that_only_guesses_is_trained_no_further(
    digits: ImageData, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.cotuning.STEPS", 3)
    ruinous = dataclasses.replace(STAGED, learning_rate=1.0, warm_up=0.0, gradient_clip=None)
    end = Stage("free", 1.0)

    def run(
        settings: TrainSettings, *, rebuilt: bool = False, may_give_up: bool = True
    ) -> tuple[Cotuning, list[Rung]]:
        found = Cotuning(trained, harsh_plan(trained), digits, settings, MEAN, STD)
        first = [found.reach(Stage("rebuilt"))] if rebuilt else []
        monkeypatch.setattr(
            found, "_check", found._pending.clear
        )  # it would be noticed first that the loss blew up
        return found, [*first, found.reach(end, may_give_up=may_give_up)]

    useless, curve = run(ruinous)
    assert useless.step == 3 and given_up(curve, useless.judges.rung.fp32_error, 0.1)
    asked_for, _ = run(ruinous, may_give_up=False)
    assert asked_for.step == asked_for.steps_per_epoch, "what a person trains goes to its end"
    kept, curve = run(ruinous, rebuilt=True)
    assert kept.step == kept.steps_per_epoch and not given_up(curve, kept.judges.rung.fp32_error, 0.1)
    fine, _ = run(STAGED)
    assert fine.step == fine.steps_per_epoch


def test_zeros_that_are_asked_for_are_there_at_every_end(digits: ImageData, trained: nn.Module) -> None:
    plan = Plan.uniform(layer_names(trained), LayerPlan(3, 7, zero_share=0.7))
    run = Cotuning(trained, plan, digits, STAGED, MEAN, STD)
    for stage in stages(1.0, 3):
        run.reach(stage)
        zeros = [book.zeros for book in run.hardened().codebooks.values() if book.indices.size > 500]
        assert all(abs(share - 0.7) < 0.01 for share in zeros), (stage, zeros)


def test_where_most_weights_are_to_be_zero_long_training_starts_from_those_of_fp32(
    digits: ImageData, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from those that rebuilding has made zero; and wherever it is cut off, it ends as it would have."""
    monkeypatch.setattr("pipeline.training.stages.LONG", 4)
    rebuilt, held, free = stages(1.0, 3)
    plan = Plan.uniform(layer_names(trained), LayerPlan(2, 4, zero_share=0.8))
    run = Cotuning(trained, plan, digits, STAGED, MEAN, STD)
    fresh = copy.deepcopy(run.network.state_dict())
    kept = []
    for stage in (rebuilt, held):
        run.reach(stage)
        assert not same(run.network.state_dict(), fresh)
        kept.append(saved_and_loaded(run.state_dict()))
    run.between = lambda: kept.append(saved_and_loaded(run.state_dict())) if len(kept) == 2 else None
    with monkeypatch.context() as patch:
        begun: list[dict[str, Any]] = []
        patch.setattr(
            run, "begin", lambda: (begun.append(copy.deepcopy(run.network.state_dict())), Cotuning.begin(run))
        )
        end = dataclasses.replace(run.reach(free), seconds=0.0)
    assert same(begun[0], fresh)
    for state in kept[1:]:
        again = Cotuning(trained, plan, digits, STAGED, MEAN, STD, state=state)
        assert dataclasses.replace(again.reach(free), seconds=0.0) == end
        assert same(again.network.state_dict(), run.network.state_dict())
    assert all(
        abs(book.zeros - 0.8) < 0.01 for book in run.hardened().codebooks.values() if book.indices.size > 500
    )


def test_when_free_training_begins_anew() -> None:
    assert begins_anew(MANY_ZEROS, LONG, 2) and begins_anew(0.9, 10 * LONG, 2.4)
    assert not begins_anew(MANY_ZEROS - 0.01, 10 * LONG, 2) and not begins_anew(0.9, LONG - 1, 2)
    assert not begins_anew(0.9, 10 * LONG, 3)


def test_what_is_kept_teaches_nothing(digits: ImageData, trained: nn.Module) -> None:
    run = Cotuning(trained, harsh_plan(trained), digits, STAGED, MEAN, STD)
    judges = run.judges
    assert len(judges.kept) == len(digits.train) // 10 and len(run.data.train) == len(judges.taught)
    assert not set(judges.kept.tolist()) & set(judges.taught.tolist())
    assert sorted([*judges.kept.tolist(), *judges.taught.tolist()]) == list(range(len(digits.train)))


def test_a_judgement_is_the_mean_over_images(digits: ImageData, trained: nn.Module) -> None:
    other = copy.deepcopy(trained)
    with torch.no_grad():
        other.linear.weight.mul_(0.5)
    x = normalize(digits.search.batch(range(len(digits.search))), MEAN, STD)
    with torch.inference_mode():
        wanted, given = (net.eval()(x).double().log_softmax(1) for net in (trained, other))
    off = (wanted.exp() * (wanted - given)).sum(1)
    found = Judges.of(trained, digits, SETTINGS, MEAN, STD).search(other)
    assert found.error == error_of(other, digits.search, MEAN, STD)
    assert found.divergence == pytest.approx(float(off.mean()), rel=1e-4)
    assert found.standard_error == pytest.approx(float(off.std() / len(off) ** 0.5), rel=1e-4)


def test_rungs_are_judged_by_as_many_of_a_rare_class_as_there_are(
    digits: ImageData, trained: nn.Module
) -> None:
    """In a half the classes take turns, so its first images have as many of the rarest as of the most frequent one."""
    labels = digits.search.labels
    few = torch.cat(
        [(labels == 7).nonzero().flatten()[:12], (labels == 1).nonzero().flatten().repeat(8)[:228]]
    )
    in_turns = torch.cat([few[torch.arange(24) % 2 * 12 + torch.arange(24) // 2], few[24:]])
    data = dataclasses.replace(digits, search=digits.search.subset(in_turns))
    settings = dataclasses.replace(SETTINGS, rung_images=120)
    judges = Judges.of(trained, data, settings, MEAN, STD)
    other = copy.deepcopy(trained)
    with torch.no_grad():  # answers 1 whatever it sees
        other.linear.weight.zero_()
        other.linear.bias.copy_(torch.arange(10) == 1)
    assert len(judges.rung) == 120
    rare = float((data.search.labels == 7).double().mean())
    assert judges.rung(other).error == pytest.approx(rare, abs=0.045) and rare < 0.06


# --- several workers


class Plain(nn.Module):
    """Without batch-norm, whose statistics each worker takes from its own images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


def _together(rank: int, world: int, wrap: Any = None) -> Cotuning:
    rng = np.random.default_rng(0)
    labels = torch.arange(60) % 4
    pixels = (
        torch.from_numpy(rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8))
        // (labels + 1)[:, None, None, None].byte()
    )
    images = ArrayImages(pixels, labels)
    train, search, report = [images.subset(range(a, b)) for a, b in ((0, 40), (40, 51), (51, 60))]
    data = ImageData("noise", tuple("abcd"), (8, 8), train, search, report, "none")
    model = Plain()
    plan = Plan({"conv": LayerPlan(2, 4), "linear": LayerPlan(8)})
    settings = TrainSettings(epochs=2, batch_size=10, held_steps=4)
    return Cotuning(model, plan, data, settings, MEAN, STD, portion=Portion(rank, world, wrap))


def _worker(rank: int, world: int, place: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world
    )
    run = _together(rank, world, DistributedDataParallel)
    run.reach(Stage("held"))
    rung = run.reach(Stage("free", 2))
    torch.save((rung.error, rung.loss, run.network.state_dict()), f"{place}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_cotune_as_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        _worker, args=(2, str(tmp_path)), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2))
    assert same(first, second)
    single = _together(0, 1)
    single.reach(Stage("held"))
    rung = single.reach(Stage("free", 2))
    assert abs(first[1] - rung.loss) < 1e-3 and abs(first[0] - rung.error) < 0.1
    for name, value in single.network.state_dict().items():
        torch.testing.assert_close(first[2][name], value, rtol=1e-2, atol=1e-4)


# --- the command


def test_the_command_needs_neither_ray_nor_optuna_nor_mlflow(tmp_path: Path, trained: nn.Module) -> None:
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "plan.json").write_text(mixed_plan(trained).to_json())
    script = (
        "import sys\n"
        "for name in ('ray', 'optuna', 'mlflow'): sys.modules[name] = None\n"  # importing them fails
        "from foundation.command import main_guard\n"
        "from pipeline.train import main\n"
        "sys.exit(main_guard(lambda: main(sys.argv[1:])))\n"
    )
    arguments = [
        "--model",
        "resnet8",
        "--weights",
        "weights.pt",
        "--plan",
        "plan.json",
        "--image-size",
        "8",
        "--epochs",
        "1.5",
    ]
    arguments += ["--images-per-epoch", "256", "--out", "result"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, text=True, capture_output=True, timeout=120,
        env={"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    metrics = json.loads((tmp_path / "result" / "metrics.json").read_text())
    assert [(rung["stage"], rung["epochs"]) for rung in metrics["curve"]] == [
        ("rebuilt", 0),
        ("held", 0),
        ("free", 1),
        ("free", 1.5),
    ]
    assert f"{metrics['error']:.4f}" in ended.stdout
    state = torch.load(tmp_path / "result" / "network.pt", weights_only=True)
    plan = Plan.from_json(json.dumps(metrics["plan"]))
    hardened = load_hard(load_model("resnet8", classes=10, image_size=8), plan, state)
    assert error_of(hardened.network, load_data("digits", 8).search, MEAN, STD) == metrics["error"]
    assert plan.hash == metrics["hash"] and metrics["split"]["report"]["count"] == 299


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--plan", "absent.json"], r"cannot read the plan in \S*absent\.json"),
        (["--plan", "plan.json", "--model", "resnet9"], "unknown model 'resnet9'"),
        (["--plan", "plan.json", "--data", "nothing"], "unknown data set 'nothing'"),
        (["--plan", "plan.json", "--epochs", "-1"], "epochs -1"),
        (["--plan", "plan.json", "--device", "tpu"], "device 'tpu'"),
        (["--plan", "plan.json", "--weights", "absent.pt"], "there is no such file"),
        ([], "--plan"),
    ],
)
def test_mistakes_at_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(Plan({"conv1": LayerPlan(8)}).to_json())
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_mistake_ends_with_status_2_and_one_message(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.train", "--plan", str(tmp_path / "absent.json")],
        cwd=Path(__file__).resolve().parents[2], text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: cannot read the plan") and ended.stderr.count("\n") == 1
