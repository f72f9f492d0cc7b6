"""What networks answer: every form that means (N, classes) works everywhere, every other is refused in one line everywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import pipeline.search
import pipeline.train
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir.reference import run
from foundation.command import main_guard
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import CandidateFolder
from pipeline.datasets.images import ArrayImages
from pipeline.evaluate import answering, outputs_on
from pipeline.training.evaluation import error_of, predictions
from pipeline.training.outputs import answers, as_logits, check_outputs
from quantizers.network import harden, layer_names, quantize
from search_spaces.layers import layers_of

CLASSES = 5
HALF = ([0.5] * 3, [0.25] * 3)


class Net(nn.Module):
    """Answers in the way that ``kind`` says."""

    def __init__(self, kind: str, classes: int = CLASSES) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(1 if kind == "one_channel" else 3, 16, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = (
            nn.Conv2d(16, classes, 1)
            if kind in ("nc11", "map")
            else nn.Linear(16, classes + {"few": -1, "many": 1}.get(kind, 0))
        )

    def forward(self, x: torch.Tensor) -> Any:
        features = torch.relu(self.conv(x))
        if self.kind == "map":
            return self.last(features)
        pooled = self.pool(features)
        if self.kind == "nc11":
            return self.last(pooled)
        y = self.last(pooled.squeeze() if self.kind == "squeeze" else pooled.flatten(1))
        if self.kind == "raises_in_training" and self.training:
            raise ValueError("auxiliary labels are needed")
        ways = {
            "dict": lambda: {"out": y, "loss": None},
            "tuple": lambda: (y,),
            "list": lambda: [y, y],
            "aux": lambda: (y, y) if self.training else y,
            "class": lambda: y.argmax(1),
            "nan": lambda: y * float("nan"),
            "nothing": lambda: None,
        }
        return ways[self.kind]() if self.kind in ways else y


GOOD = ("plain", "nc11", "squeeze")
BAD = {
    "dict": r"output is a dict of 'out', 'loss'; it must be one tensor of shape \(N, 5\), such as its 'out'",
    "tuple": r"output is a tuple of 1; it must be one tensor of shape \(N, 5\)",
    "list": r"output is a list of 2; it must be one tensor of shape \(N, 5\)",
    "aux": r"output is a tuple of 2; .*\(in training mode\)",
    "few": r"gives 4 values for an image, and the data set has 5 classes; it must be one tensor of shape \(N, 5\)",
    "many": "gives 6 values for an image, and the data set has 5 classes",
    "map": r"output has shape \(3, 5, 8, 8\) for 3 images; it must be one tensor of shape \(N, 5\)",
    "class": r"output is of torch\.int64",
    "nan": "answers NaN",
    "nothing": "output is a NoneType",
    "one_channel": r"fails in evaluation mode on images \(N, 3, 16, 16\).*layer conv takes 1 channel, and images have 3",
    "raises_in_training": r"fails in training mode .*auxiliary labels are needed \(.*test_pipeline_outputs\.py, line",
}


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data whose halves leave a last batch of one, and a plan; this module's networks as factories."""
    chance = np.random.default_rng(0)
    arrays = {
        f"x_{s}": chance.integers(0, 256, (n, 16, 16, 3), np.uint8) for s, n in (("train", 33), ("val", 514))
    }
    labels = {f"y_{s}": np.arange(len(arrays[f"x_{s}"])) % CLASSES for s in ("train", "val")}
    np.savez(tmp_path / "data.npz", **arrays, **labels)
    (tmp_path / "plan.json").write_text(Plan.uniform(["conv", "last"], LayerPlan(8)).to_json())
    here = SimpleNamespace(
        **{kind: lambda num_classes, kind=kind: Net(kind, num_classes) for kind in (*GOOD, *BAD)}
    )
    monkeypatch.setitem(sys.modules, "networks_of_all_kinds", cast(Any, here))
    torch.manual_seed(0)
    for kind in (*GOOD, *BAD):
        torch.save(Net(kind).state_dict(), tmp_path / f"{kind}.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(what: str, kind: str) -> list[str]:
    argv = ["--model", f"networks_of_all_kinds:{kind}", "--data", "npz:data.npz", "--weights", f"{kind}.pt"]
    train = ["--plan", "plan.json", "--epochs", "1", "--batch-size", "8"]
    return [*argv, *(train if what == "train" else []), *(["--dry-run"] if what == "dry run" else [])]


COMMANDS = {"dry run": pipeline.search.main, "search": pipeline.search.main, "train": pipeline.train.main}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("what", COMMANDS)
def test_what_is_no_logits_is_refused_in_one_line(
    what: str, kind: str, typed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(typed.iterdir())
    assert main_guard(lambda: COMMANDS[what](command(what, kind))) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    with pytest.raises(UserError, match=BAD[kind]):
        COMMANDS[what](command(what, kind))
    assert sorted(typed.iterdir()) == before


@pytest.mark.parametrize("kind", GOOD)
def test_what_means_logits_trains_and_is_estimated(kind: str, typed: Path) -> None:
    assert main_guard(lambda: pipeline.search.main(command("dry run", kind))) == 0
    assert main_guard(lambda: pipeline.train.main(command("train", kind))) == 0
    metrics = json.loads((typed / "trained" / "metrics.json").read_text())
    assert 0 < metrics["fp32_error"] < 1 and metrics["curve"][-1]["loss"] < 1


@pytest.mark.parametrize("kind", GOOD)
def test_a_last_batch_of_one_is_answered_as_any_other(kind: str) -> None:
    torch.manual_seed(0)
    network, pixels = Net(kind).eval(), torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8)
    images = ArrayImages(pixels, torch.arange(9) % CLASSES)
    whole = predictions(network, images, *HALF, batch=9)
    assert torch.equal(predictions(network, images, *HALF, batch=4), whole)
    assert torch.equal(predictions(network, images, *HALF, batch=1), whole)
    assert error_of(network, images, *HALF, batch=4) == float((whole != images.labels).double().mean())


@pytest.mark.parametrize("kind", GOOD)
def test_every_way_to_evaluate_answers_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, pixels = Net(kind).eval(), torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8)
    plan = Plan.uniform(layer_names(network), LayerPlan(8))
    hardened = harden(quantize(network, plan, torch.randn(8, 3, 16, 16)))
    reference = run(compile_graph(hardened, (3, 16, 16), *HALF), pixels.numpy()).reshape(9, -1)
    assert reference.shape == (9, CLASSES)
    candidate = SimpleNamespace(
        hardened=lambda: hardened,
        manifest={"model": "resnet8", "classes": list("abcde")},
        mean=HALF[0],
        std=HALF[1],
    )
    monkeypatch.setattr("pipeline.evaluate.BATCH", 4)
    given = outputs_on(cast(CandidateFolder, candidate), ArrayImages(pixels, torch.zeros(9)))
    assert (given.numpy().argmax(1) == reference.argmax(1)).mean() > 0.8  # they round differently
    assert layers_of(network, (3, 16, 16))[0].macs == 64 * 16 * 27


def test_a_candidate_whose_factory_changed_is_refused_by_evaluate() -> None:
    network = SimpleNamespace(network=Net("dict").eval())
    candidate = SimpleNamespace(
        hardened=lambda: network,
        manifest={"model": "resnet8", "classes": list("abcde")},
        mean=HALF[0],
        std=HALF[1],
    )
    with (
        answering(cast(CandidateFolder, candidate), "torch") as answer,
        pytest.raises(UserError, match="output is a dict"),
    ):
        answer(np.zeros((2, 16, 16, 3), np.uint8))


def test_the_check_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    network.append(nn.Linear(4, 3))
    before, drawn = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    check_outputs(network, (3, 8, 8), 3)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not network[1].training and torch.equal(torch.get_rng_state(), drawn)


def test_a_batch_of_one_that_is_no_batch() -> None:
    assert as_logits(torch.zeros(4, 3, 1, 1), 4).shape == (4, 3)
    with pytest.raises(UserError, match=r"shape \(3,\) for 1 images"):
        as_logits(torch.zeros(3), 1, 3)
    assert answers(Net("squeeze").eval(), torch.zeros(1, 3, 16, 16), CLASSES).shape == (1, CLASSES)
