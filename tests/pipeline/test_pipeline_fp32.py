"""The fp32 network before a search: how its images are normalized, how good it is, and what is said where it only guesses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.search
import pipeline.train
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.fp32 import Answered, answered, judged, refuse_chance
from pipeline.candidate.identity import identity
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.normalization import IMAGENET
from pipeline.networks.registry import find_network
from pipeline.study.command_line import parse
from pipeline.study.settings import Settings

CLASSES = 5
LEVELS = torch.tensor([20.0, 70.0, 120.0, 170.0, 220.0])
NETWORKS = """
import torch
from torch import nn
LEVELS = torch.tensor([20.0, 70.0, 120.0, 170.0, 220.0])
def levels(num_classes, order=(0, 1, 2, 3, 4), blue=False):
    '''Knows the brightness (of one channel) of five levels, of pixels in 0..255: the nearest level wins.'''
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 5))
    with torch.no_grad():
        network[0].weight.view(-1).copy_(torch.tensor([0.0, 0.0, 1.0] if blue else [1 / 3] * 3))
        level = LEVELS[list(order)]
        network[3].weight.copy_(2 * level[:, None] / 255)
        network[3].bias.copy_(-level.square() / 255)
    return network
def declared(num_classes): return levels(num_classes)
declared.normalization = (0, 1 / 255)
def reordered(num_classes): return levels(num_classes, (2, 0, 3, 4, 1))
reordered.normalization = (0, 1 / 255)
def constant(num_classes):
    network = levels(num_classes)
    nn.init.zeros_(network[3].weight)
    return network
"""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chance = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 50), ("val", 200)):
        labels = np.arange(count) % CLASSES
        noise = chance.integers(-5, 6, (count, 8, 8, 3))
        arrays[f"x_{split}"] = (LEVELS.numpy()[labels][:, None, None, None] + noise).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(tmp_path / "levels.npz", **arrays)
    (tmp_path / "networks_of_levels.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from networks_of_levels import levels

    torch.save(levels(5).state_dict(), "levels.pt")
    return tmp_path


def workspace(name: str, **rest: object) -> Workspace:
    """As a search opens it, with the weights that the factory gives."""
    settings = Settings(model=f"networks_of_levels:{name}", data="npz:levels.npz", **rest)
    return Workspace.open(settings, trained=False)


# --- counting


def test_guessing_is_told_from_knowing() -> None:
    labels = torch.arange(1000) % 10
    chance = torch.Generator().manual_seed(0)
    guesses = torch.randint(0, 10, (1000,), generator=chance)
    assert answered(guesses, labels).at_chance
    assert not answered(
        torch.where(torch.rand(1000, generator=chance) < 0.1, labels, guesses), labels
    ).at_chance
    found = answered(labels, labels)
    assert (found.right, found.accuracy) == (1000, 1.0) and not found.at_chance
    assert 0 < found.standard_error < 0.001  # not that it is known to be perfect


def test_always_the_same_answer_is_guessing_however_common_its_class_is() -> None:
    labels = (torch.arange(1000) % 20 == 0).long()  # 95 % of one class
    assert answered(torch.zeros(1000, dtype=torch.int64), labels).at_chance
    half = labels * (torch.arange(1000) % 40 == 0)  # finds half of the rare ones, and is 97.5 % right
    assert not answered(half, labels).at_chance


def test_it_is_shown_with_its_standard_error() -> None:
    assert str(Answered(2500, 2500, 2285, 0.1)) == "91.4 +- 0.6 % right on 2,500 images that guide the search"
    assert "256 of 2,500 images" in str(Answered(256, 2500, 200, 0.1))


# --- causes


def test_a_network_that_sees_other_pixels_than_it_learned_from(typed: Path) -> None:
    found, why = judged(workspace("levels"))
    assert found.images == 100 and found.at_chance and why is not None
    for cause in (
        r"networks_of_levels:levels is right on 20.00 % of 100 images, where guessing is on 20.00 %",
        "the weights",
        "the normalization (mean 0.485,0.456,0.406, std 0.229,0.224,0.225; --mean and --std change it)",
        "the order of the classes (here 0, 1, 2, ...)",
        "with --mean 0 --std 0.00392157 it is right on 100.00 %",
        "--allow-bad-fp32 goes on",
    ):
        assert cause in why
    assert "\n" not in why
    with pytest.raises(UserError, match="--allow-bad-fp32"):
        refuse_chance(workspace("levels"), allow=False)
    assert refuse_chance(workspace("levels"), allow=True) == found


def test_a_network_whose_classes_are_in_another_order(typed: Path) -> None:
    _, why = judged(workspace("reordered"))
    assert why is not None and "with its classes in another order it is right on 100.00 %" in why


def test_a_network_that_answers_one_class_has_no_such_excuse(typed: Path) -> None:
    _, why = judged(workspace("constant"))
    assert why is not None and "another order" not in why and "with --mean" not in why


def test_a_good_network_is_not_refused(typed: Path) -> None:
    found, why = judged(workspace("declared"))
    assert found.accuracy == 1 and why is None
    hurried, why = judged(workspace("declared"), seconds=0)
    assert (hurried.images, hurried.total, why) == (64, 100, None)


def test_real_weights_are_as_good_as_published(shared: Path, cifar10_npz: Path) -> None:
    weights = shared / "data" / "weights" / "resnet20-12fca82f.th"
    settings = Settings(model="resnet20", data=f"npz:{cifar10_npz}", weights=str(weights))
    found, why = judged(Workspace.open(settings))
    assert why is None and abs(found.accuracy - 0.9154) < 3 * found.standard_error


# --- what is typed


COMMAND = ["--model", "networks_of_levels:levels", "--data", "npz:levels.npz", "--weights", "levels.pt"]


def test_the_search_is_refused_before_anything_is_written(
    typed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(target: str) -> Path:
        raise UserError("the fp32 network was let through")

    for module in ("bench", "folder", "references"):  # imported meanwhile, they would keep what is put there
        importlib.import_module(f"pipeline.candidate.{module}")
    monkeypatch.setattr("deploy_arm.runtime.program.build_program", reached)
    assert main_guard(lambda: pipeline.search.main(COMMAND)) == 2
    said = capsys.readouterr().err
    assert "guessing is on 20.00 %" in said and "let through" not in said
    assert not (typed / "runs").exists()
    for more in (["--allow-bad-fp32"], ["--mean", "0", "--std", "0.00392157"]):
        assert main_guard(lambda more=more: pipeline.search.main([*COMMAND, *more])) == 2
        assert "error: the fp32 network was let through" in capsys.readouterr().err


def test_the_dry_run_shows_normalization_and_fp32(typed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_guard(lambda: pipeline.search.main([*COMMAND, "--dry-run"])) == 0
    said = capsys.readouterr().out
    assert (
        "mean 0.485,0.456,0.406, std 0.229,0.224,0.225 (ImageNet's, since networks_of_levels:levels declares none)"
        in said
    )
    assert "fp32: 20.0 +- 4.0 % right on 100 images" in said and "a search would be refused" in said
    assert main_guard(lambda: pipeline.search.main([*COMMAND, "--dry-run", "--allow-bad-fp32"])) == 0
    said = capsys.readouterr().out
    assert "let through by --allow-bad-fp32: " in said and "would be refused" not in said
    right = [*COMMAND, "--dry-run", "--mean", "0", "--std", "0.00392157", "--format", "json"]
    assert main_guard(lambda: pipeline.search.main(right)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fp32"]["accuracy"] == 1 and "(--mean and --std given)" in result["text"]
    assert result["settings"]["mean"] == [0, 0, 0]


def test_training_takes_the_same_flags_and_shows_the_same(
    typed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (typed / "plan.json").write_text(Plan.uniform(["0", "3"], LayerPlan(8)).to_json())
    flags = [
        "--mean",
        "0",
        "--std",
        "0.00392157",
        "--plan",
        "plan.json",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    assert main_guard(lambda: pipeline.train.main([*COMMAND, *flags])) == 0
    assert "fp32: 100.00 +- 0.00 % right on 100 images" in capsys.readouterr().err
    metrics = json.loads((typed / "trained" / "metrics.json").read_text())
    assert (
        metrics["normalization"] == {"mean": [0.0] * 3, "std": [0.00392157] * 3}
        and metrics["fp32_error"] == 0
    )


def test_where_a_normalization_comes_from_is_said(typed: Path) -> None:
    assert (
        find_network("networks_of_levels:declared").normalized()[2]
        == "declared by networks_of_levels:declared"
    )
    assert find_network("resnet20").normalized() == (*IMAGENET, "that of resnet20")
    mean, std, source = find_network("resnet20").normalized(std=(1.0, 1.0, 1.0))
    assert (mean, std, source) == (IMAGENET[0], (1, 1, 1), "--std given, the other that of resnet20")


def test_a_study_is_not_resumed_with_another_normalization(typed: Path) -> None:
    program = typed / "levels.pt"
    before, other = workspace("declared"), workspace("declared", std=(1.0, 1.0, 1.0))
    assert identity(before.settings, before, program)["std"] == [1 / 255] * 3
    assert identity(other.settings, other, program)["std"] == [1.0] * 3


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--mean", "123.675,116.28,103.53"],
            r"--mean 123\.675,116\.28,103\.53: these are means of pixels in 0\.\.255: divide",
        ),
        (["--std", "0"], "deviations must be above 0"),
        (["--std", "nan"], "give three numbers separated by commas, or one"),
        (["--mean", "0.5,0.5"], "give three numbers separated by commas, or one"),
        (["--mean", "imagenet"], "give three numbers separated by commas, or one"),
    ],
)
def test_mistaken_statistics(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(flags, Parser(prog="test"))


def test_statistics_in_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("mean: [0.1, 0.2, 0.3]\nstd: 0.5\n")
    settings, _ = parse(["--config", str(tmp_path / "s.yaml")], Parser(prog="test"))
    assert (settings.mean, settings.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert Settings.from_dict(settings.as_dict()) == settings
