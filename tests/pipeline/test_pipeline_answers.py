"""Where a candidate answers otherwise than fp32, counted by hand; and what is read of folders that lack it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deploy_arm.costs.choose import cheapest, costs_of, models_of
from deploy_arm.costs.model import Work
from pipeline.candidate.answers import SCENE_SIDE, SHOWN, SIDE, compare_answers
from pipeline.candidate.reviewed import read_review
from pipeline.datasets.images import ArrayImages
from pipeline.detection.beside import boxes_beside
from pipeline.detection.data import BlueGreenRed
from pipeline.detection.decode import Detections
from pipeline.detection.task import Detection
from pipeline.training.judges import Judge


class Fixed(nn.Module):
    """Answers by the brightness of the image; ``turned`` adds one to the class of bright ones."""

    def __init__(self, classes: int, *, turned: bool) -> None:
        super().__init__()
        self.classes, self.turned = classes, turned
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = (x[:, 0, 0, 0] * 255).round().long()
        answer = (level + (level >= 7).long() * self.turned) % self.classes
        return 4.0 * nn.functional.one_hot(answer, self.classes).float() + self.place


def judge(classes: int, side: int = 8) -> Judge:
    pixels = np.repeat(np.arange(10, dtype=np.uint8), side * side * 3).reshape(10, side, side, 3)
    images = ArrayImages(torch.from_numpy(pixels), torch.arange(10) % classes, (side, side))
    return Judge(Fixed(classes, turned=False), images, torch.arange(10), (0.0,) * 3, (1.0,) * 3, 4)


def test_answers_are_counted_by_fp32s_and_the_candidates_class() -> None:
    names = [f"c{k}" for k in range(10)]
    found = json.loads(json.dumps(compare_answers(judge(10), Fixed(10, turned=True), names)))
    assert (found["images"], found["changed"], found["classes"]) == (10, 3, names)
    expected = np.eye(10, dtype=int)
    for before, after in ((7, 8), (8, 9), (9, 0)):
        expected[before, before], expected[before, after] = 0, 1
    assert found["confusion"] == expected.tolist()
    assert {one["index"] for one in found["differing"][:3]} == {7, 8, 9} and len(found["differing"]) == 10
    first = found["differing"][0]
    assert (first["fp32"], first["given"]) == (first["index"], (first["index"] + 1) % 10)
    share = np.exp(4) / (np.exp(4) + 9)
    assert first["fp32_share"] == pytest.approx(share) and first["label"] == first["index"]
    picture = Image.open(io.BytesIO(base64.b64decode(first["png"].removeprefix("data:image/png;base64,"))))
    assert np.asarray(picture)[0, 0].tolist() == [first["index"]] * 3  # the very image, losslessly


def test_many_classes_have_no_table_and_large_images_become_small() -> None:
    found = compare_answers(judge(30, 100), Fixed(30, turned=True), [f"c{k}" for k in range(30)])
    assert found["confusion"] == [] and found["changed"] == 3
    assert set(found["classes"]) >= {7, 8, 9, 10} and len(found["differing"]) <= SHOWN
    picture = Image.open(io.BytesIO(base64.b64decode(found["differing"][0]["png"].partition(",")[2])))
    assert picture.size == (SIDE, SIDE)


def seen(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    """Class, score and box of each, the best first."""
    kinds, scores, boxes = zip(*rows)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(kinds))


def test_of_boxes_what_one_network_alone_detects_is_told_apart() -> None:
    left, right, top = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.2)
    fp32 = seen((3, 0.9, left), (5, 0.7, right), (3, 0.6, top), (7, 0.45, top))
    given = seen((5, 0.8, (0.55, 0.0, 1.0, 1.0)), (3, 0.35, left), (4, 0.6, top), (3, 0.2, top))
    found = boxes_beside(fp32, given)
    assert [[row[0], row[1], row[6]] for row in found["both"]] == [
        [3, pytest.approx(0.9), pytest.approx(0.35)],  # less sure of it is no difference
        [5, pytest.approx(0.7), pytest.approx(0.8)],
    ]
    assert found["both"][1][2:6] == [0.5, 0, 1, 1] and found["both"][1][7:] == [0.55, 0, 1, 1]
    # At one place two classes are two boxes; what nobody is sure of is left out; what the other hardly sees is lost.
    assert found["fp32"] == [[3, pytest.approx(0.6), 0, 0, 1, pytest.approx(0.2)]]
    assert found["given"] == [[4, pytest.approx(0.6), 0, 0, 1, pytest.approx(0.2)]]


class OneBox(nn.Module):
    """Sees in each image a box as large as the image, the surer the brighter the image's blue; ``lost``: no surer than that."""

    def __init__(self, lost: float = 1.0) -> None:
        super().__init__()
        self.lost, self.place = lost, nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = torch.full((len(x), 5 + 2, 2, 2), -20.0)
        raw[:, 0, 1, 1] = torch.logit(x[:, 0, 0, 0].clamp(0.001, min(self.lost, 0.999)))
        raw[:, 3:5] = raw[:, 6] = 20.0
        return raw + self.place


def test_images_with_boxes_are_those_on_which_the_most_is_seen_by_one_alone() -> None:
    pixels = torch.zeros(10, 320, 320, 3, dtype=torch.uint8)
    pixels[..., 2] = torch.arange(10)[:, None, None] * 25
    images = BlueGreenRed(ArrayImages(pixels, torch.zeros(10), (320, 320)))
    task = Detection(2, (320, 320))
    judge = Judge(OneBox(), images, torch.arange(1, 10), (0.0,) * 3, (1.0,) * 3, 4, task)
    same = compare_answers(judge, OneBox(), ["cat", "dog"])
    assert same["agreement"] == 1 and same["differing"] == [] and same["images"] == 9
    found = json.loads(json.dumps(compare_answers(judge, OneBox(lost=0.1), ["cat", "dog"])))
    assert [one["index"] for one in found["differing"]] == [9, 8, 7, 6] and found["classes"] == {"1": "dog"}
    assert 0 < found["agreement"] < 1 and "confusion" not in found and "changed" not in found
    best = found["differing"][0]
    assert (best["both"], best["given"], best["undrawn"]) == ([], [], 0)
    assert [row[0] for row in best["fp32"]] == [1] and best["fp32"][0][1] == pytest.approx(
        (225 / 255) ** 0.6, abs=1e-3
    )
    picture = Image.open(io.BytesIO(base64.b64decode(best["jpeg"].removeprefix("data:image/jpeg;base64,"))))
    assert (
        picture.size == (SCENE_SIDE, SCENE_SIDE)
        and sum(len(one["jpeg"]) for one in found["differing"]) < 100_000
    )
    red, green, blue = picture.convert("RGB").getpixel((9, 9))  # type: ignore[misc]
    assert (
        blue > 200 and red < 20 and green < 20
    )  # as a person sees it, not as the network takes its channels


def test_the_chosen_kernel_is_the_one_that_is_foreseen_to_cost_least() -> None:
    models = models_of("a76")
    work = Work((16, 16, 32), (16, 16, 32), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2, 900, 96, narrow=True)
    costs = costs_of(work, models)
    assert len(costs) > 1 and costs[cheapest(work, models)] == min(costs.values())


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"profile": 3}', '{"profile": {"layers": [{"ms": "x"}]}}']
)
def test_a_folder_without_a_profile_has_an_empty_review(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    found = read_review(tmp_path)
    assert (list(found.operations), dict(found.answers)) == ([], {})


def test_operations_are_read_with_what_was_foreseen(tmp_path: Path) -> None:
    row = {
        "operation": 3,
        "kind": "convolution",
        "kernel": "dense",
        "layer": "conv",
        "ms": 1,
        "low_ms": 0.5,
        "high_ms": 2,
    }
    profile = {"source": "modelled", "device": "emulated a76", "layers": [row]}
    record = {"profile": profile, "foreseen": {"3": {"dense": 5.0, "level-grouped": 9.0}}}
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    assert read_review(tmp_path).as_dict()["operations"] == [
        ["conv", "convolution", "dense", 1.0, 0.5, 2.0, None, {"dense": 5.0, "level-grouped": 9.0}]
    ]
