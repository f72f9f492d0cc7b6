"""A metric of one's own, named as it is typed: what it says of candidates, beside accuracy, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.factories import look_in
from pipeline.candidate.folder import load_candidate
from pipeline.datasets.images import ArrayImages
from pipeline.evaluate import outputs_on
from pipeline.networks.registry import load_model
from pipeline.study.confidence import Paired, PairedScores, paired
from pipeline.training.judges import Judge
from pipeline.training.task import Classification, OwnMetric, spread_over
from tests.system.own_folder import command_here

OWN = """
import torch

def top3(outputs, labels):
    return (outputs.topk(3, 1).indices == labels[:, None]).any(1)

def balanced(outputs, labels):
    right = (outputs.argmax(1) == labels).double()
    return float(torch.stack([right[labels == one].mean() for one in labels.unique()]).mean())

def confidence(outputs, labels):
    return outputs.softmax(1)[torch.arange(len(labels)), labels]

def percent(outputs, labels):
    return 100.0 * (outputs.argmax(1) == labels)

def by_class(outputs, labels):
    return outputs.softmax(1).mean(0)

def undefined(outputs, labels):
    return float("nan")

def words(outputs, labels):
    return "good"

def needs_more(outputs, labels):
    return outputs.logits

LEVEL = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of someone's with a module of metrics and a candidate that was made by one of them."""
    place = tmp_path_factory.mktemp("my metrics")
    (place / "judged.py").write_text(OWN)
    words = (
        "--bits",
        2,
        "--zero-share",
        0.9,
        "--images",
        16,
        "--metric",
        "judged:balanced",
        "--out",
        "small",
    )
    done = command_here("quantize", *words, "--format", "json", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "made.json").write_text(done.stdout)
    assert "% balanced on" not in done.stdout and "% right on" in done.stderr
    return place


def evaluated(place: Path, *words: object) -> dict[str, Any]:
    (manifest,) = (place / "small").rglob("manifest.json")
    at = manifest.parent.relative_to(place)
    done = command_here("evaluate", at, "--split", "search", *words, "--format", "json", cwd=place)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.emulated
def test_a_candidate_is_made_and_judged_by_it(place: Path) -> None:
    (manifest,) = (place / "small").rglob("manifest.json")
    candidate, made = load_candidate(manifest.parent), json.loads((place / "made.json").read_text())
    from pipeline.datasets.registry import load_data

    data = load_data("digits", candidate.image_size).search
    outputs = outputs_on(candidate, data)
    look_in(place)
    import judged  # type: ignore[import-not-found]

    assert made["metric"] == candidate.manifest["metric"] == "judged:balanced"
    [point] = made["points"]
    assert point["error"] == pytest.approx(1 - judged.balanced(outputs, data.labels))
    assert 0 < point["error_standard_error"] < 0.1
    assert all(0 < row["error"] < 1 for row in made["references"])

    assert evaluated(place)["goodness"] == pytest.approx(1 - point["error"])  # what it was made by
    right = evaluated(place, "--metric", "accuracy")
    assert right["accuracy"] == float((outputs.argmax(1) == data.labels).double().mean())
    three = evaluated(place, "--metric", "judged:top3")
    assert three["goodness"] == float(judged.top3(outputs, data.labels).double().mean()) > right["accuracy"]
    scores = judged.confidence(outputs, data.labels)
    sure = evaluated(place, "--metric", "judged:confidence")
    assert sure["goodness"] == pytest.approx(float(scores.mean()), abs=1e-6)
    assert sure["standard_error"] == pytest.approx(float(scores.std()) / len(scores) ** 0.5, abs=1e-6)


@pytest.mark.emulated
def test_what_is_printed_names_it_and_another_one_is_refused(place: Path) -> None:
    (manifest,) = (place / "small").rglob("manifest.json")
    told = command_here("evaluate", manifest.parent, "--limit", 50, cwd=place)
    assert "% balanced (judged:balanced) on 50 images of report" in told.stdout
    same = ("--bits", 2, "--zero-share", 0.9, "--images", 16, "--out", "small", "--metric")
    again = command_here("quantize", *same, "judged:balanced", cwd=place)
    assert again.returncode == 0 and "error: 1 - judged:balanced, on the" in again.stdout, again.stderr
    other = command_here("quantize", *same, "judged:top3", cwd=place)
    assert other.returncode == 2
    assert "metric 'judged:balanced', now it is 'judged:top3'" in other.stderr


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("accurate", "--metric accurate: give package.module:function, or accuracy"),
        ("judged:top5", "module 'judged' has no 'top5'"),
        ("absent:top5", "there is no module 'absent' here"),
        ("judged:LEVEL", "is an int, not a function"),
        ("judged:percent", "--metric judged:percent gives 100; for outputs of shape (300, 10) give a tensor (300,)"),
        ("judged:by_class", "--metric judged:by_class gives a tensor of shape (10,); for"),
        ("judged:undefined", "--metric judged:undefined gives nan; for"),
        ("judged:words", "--metric judged:words gives a str; for"),
        ("judged:needs_more", "--metric judged:needs_more failed: "),
    ],
)  # fmt: skip
def test_one_that_does_not_judge_is_refused_before_anything_is_trained(
    metric: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "judged.py").write_text(OWN)
    done = command_here("search", "--metric", metric, "--dry-run", "--out", "runs", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_check_finds_it_with_all_else_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "judged.py").write_text(OWN)
    torch.save(load_model("vgg_tiny", classes=10, image_size=8).state_dict(), tmp_path / "random.pt")
    done = command_here("check", "--metric", "judged:percent", "--weights", "random.pt", cwd=tmp_path)
    assert done.returncode == 1 and "--metric judged:percent gives" in done.stdout, done.stderr
    assert "where guessing is on" in done.stdout


class Drawn(nn.Module):
    """Answers that depend on the mean of an image; ``far`` from those of another."""

    def __init__(self, far: float) -> None:
        super().__init__()
        self.far = nn.Parameter(torch.tensor(far))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, self.far - mean, mean * 0 + self.far / 3], 1)


def of_all(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).double().mean()


def softly(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.softmax(1)[torch.arange(len(labels)), labels]


def softly_of_all(outputs: Tensor, labels: Tensor) -> float:
    return float(softly(outputs, labels).mean())


def test_one_number_for_all_images_is_as_sure_as_a_score_for_each() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3000, 2, 2, 3), dtype=torch.uint8, generator=generator)
    images = ArrayImages(pixels, torch.randint(0, 3, (3000,), generator=generator))
    first, other = Drawn(1.0), Drawn(1.1)
    found = {}
    for function in (softly, softly_of_all):
        judge = Judge(
            first, images, torch.arange(3000), (0.0,) * 3, (1.0,) * 3, 512, OwnMetric("m:f", function)
        )
        judgement = judge(other)
        assert judgement.error_standard_error is not None
        scores = judge.task.scores(judge.answers(other)[1], images.labels)
        beside = paired(scores, judge.fp32_scores)
        assert isinstance(beside, PairedScores)
        found[function] = (judgement.error, judgement.error_standard_error, beside)
    (error, spread, each), (same, alike, whole) = found[softly], found[softly_of_all]
    assert same == pytest.approx(error) and alike == pytest.approx(spread, rel=0.4)
    assert whole.loss == pytest.approx(each.loss, rel=1e-3)
    assert whole.standard_error == pytest.approx(each.standard_error, rel=0.5)
    assert (
        each.standard_error < spread / 2
    )  # of the same images: what they share says nothing of the difference


def test_a_single_number_of_right_and_wrong_is_nearly_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = (
        torch.randn(640, 3, generator=generator),
        torch.randint(0, 3, (640,), generator=generator),
    )
    right = Classification().scores(outputs, labels)
    spread = spread_over(right.mean(), lambda kept: right[kept].mean(), 640)
    assert float(spread.mean()) == pytest.approx(float(right.mean()))
    assert float(spread.std()) == pytest.approx(float(right.std()), rel=0.35)
    assert paired(right, right) == Paired(640, int(right.sum()), 0, 0)


def test_how_many_images_settle_a_difference_of_scores() -> None:
    few = PairedScores(100, 0.90, 0.905, 0.01)
    assert few.verdict(0.01) == "open"
    wanted = few.images_to_settle(0.01)
    assert wanted is not None
    more = PairedScores(wanted, 0.90, 0.905, 0.01 * (100 / wanted) ** 0.5)
    assert more.verdict(0.01) == "within"
    assert PairedScores(100, 0.5, 0.51, 0.01).images_to_settle(0.51 - 0.5) is None
