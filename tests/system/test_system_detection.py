"""A trained detector on the whole way by the commands as typed: searched, evaluated, promoted."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import front
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import load_candidate
from pipeline.detection.dataset import detection_data
from pipeline.detection.decode import cells_of, decode
from pipeline.detection.task import Detection
from pipeline.evaluate import answering
from pipeline.networks.registry import find_network, load_model
from pipeline.training.judges import Judges
from pipeline.training.settings import TrainSettings
from quantizers.network import layer_names, load_hard
from tests.system.own_folder import command, command_here

SMALL = (
    "--model", "fastestdet", "--weights", "det.pth", "--data", "coco:boxes", "--batch-size", 4, "--epochs-per-trial", 1,
    "--rungs", 2, "--max-concurrent", 1, "--bits", "8", "--budget", 1, "--name", "det",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of someone's with weights, and a few of COCO's images with their boxes."""
    place = tmp_path_factory.mktemp("some boxes")
    shutil.copy(shared / "data" / "weights" / "fastestdet_coco.pth", place / "det.pth")
    (place / "boxes").mkdir()
    for name, count in (("train128", 12), ("val_a64", 12)):
        content = np.load(shared / "data" / "coco" / f"{name}.npz")
        offset, boxes = content["offset"][: count + 1], content["boxes"]
        kept = {"jpeg": content["jpeg"][: offset[-1]], "offset": offset, "boxes": boxes[boxes[:, 0] < count]}
        np.savez(place / "boxes" / f"{name}.npz", **kept)
    (place / "pictures").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(place / "pictures" / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def searched(place: Path) -> str:
    """What the search printed; it was typed in that folder."""
    done = command("search", *SMALL, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^fp32: AP50 [\d.]+ \+- [\d.]+ % on 6 images that guide the search$", done.stderr, re.M
    ), done.stderr
    return done.stdout


def printed(text: str, word: str) -> list[str]:
    """The command that a search's last lines have behind a word, for ``command_here``."""
    [line] = [line for line in text.splitlines() if line.startswith(word)]
    words = shlex.split(line.removeprefix(word))
    return [words[words.index("-m") + 1].removeprefix("pipeline."), *words[words.index("-m") + 2 :]]


def test_a_search_ends_with_a_front_of_average_precision(place: Path, searched: str) -> None:
    front = json.loads((place / "runs" / "det" / "front.json").read_text())
    assert front["metric"] == "AP50" and front["points"] and front["images"] == 6
    assert {row["name"]: row["error"] for row in front["references"]}["fp32"] < 0.9
    for point in front["points"]:
        candidate = load_candidate(place / "runs" / "det" / point["candidate"])
        assert candidate.manifest["metric"] == "AP50"
        assert 0 <= point["error"] < 1 and point["divergence"] > 0 and point["error_standard_error"] >= 0
        beside = json.loads((candidate.folder / "answers.json").read_text())  # what the report draws
        assert beside["images"] == 6 and 0.5 < beside["agreement"] < 1 and "confusion" not in beside
        assert all(one["jpeg"].startswith("data:image/jpeg;base64,") for one in beside["differing"])
    assert "error: 1 - AP50, on the 6 images" in searched and "points of AP50" in searched


def test_a_trial_is_no_worse_than_its_rebuilt_network(place: Path, searched: str) -> None:
    from pipeline.study.study import read_records

    for record in read_records(place / "runs" / "det"):
        assert record.status == "finished" and record.curve[0].stage == "rebuilt"
        kept = min(rung.divergence or 0.0 for rung in record.curve)
        assert record.figures.divergence == pytest.approx(kept, rel=1e-4)


def test_what_it_prints_is_typed_elsewhere(place: Path, searched: str, tmp_path: Path) -> None:
    name, *words = printed(searched, "evaluate")
    told = command_here(name, *words, cwd=tmp_path)
    assert told.returncode == 0 and re.match(r"AP50 [\d.]+ .*% on 6 images of report", told.stdout), (
        told.stderr
    )
    on = {}
    for how in ("torch", "reference"):
        again = command_here(
            name, words[0], "--on", how, "--split", "search", "--format", "json", cwd=tmp_path
        )
        on[how] = json.loads(again.stdout)
    assert on["torch"]["average_precision"] == pytest.approx(on["reference"]["average_precision"], abs=0.1)
    assert on["torch"]["boxes"] == on["reference"]["boxes"] > 8
    pytest.importorskip("onnxruntime")
    done = command_here(
        "export", words[0], "--format", "onnx", "--limit", 2, "--out", "det.onnx", cwd=tmp_path
    )
    assert done.returncode == 0 and "2 of 2 images have the same boxes" in done.stdout, done.stderr
    assert (tmp_path / "det.onnx").stat().st_size > 100_000
    best = load_candidate(Path(words[0])).figures.error
    assert best is not None and on["torch"]["average_precision"] == pytest.approx(1 - best)


def test_a_candidate_is_promoted_with_a_bundle_that_says_how_boxes_are_read(
    place: Path, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *words = printed(searched, "promote")
    words += ["--max-accuracy-drop", "100", "--bundle", "bundle", "--format", "json"]
    done = command_here(name, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["promoted"] and result["figures"]["accuracy"]["metric"] == "AP50"
    assert any("AP50 of the program is" in gate["text"] for gate in result["gates"])
    bundle = tmp_path / "bundle"
    assert (
        not (bundle / "classify").exists() and "five most probable" not in (bundle / "README.md").read_text()
    )
    assert len((bundle / "labels.txt").read_text().split()) == 80

    # The Python that its README shows, the ARM library's answers given by the integer reference.
    made = (bundle / "README.md").read_text().splitlines()[0].rsplit(maxsplit=1)[1]
    candidate = load_candidate(place / "runs" / "det" / "candidates" / made)

    class Network:
        def __init__(self, blob: str) -> None:
            assert Path(blob).is_file()

        def __enter__(self) -> Network:
            return self

        def __exit__(self, *_: object) -> None: ...

        def run(self, pixels: np.ndarray) -> np.ndarray:
            with answering(candidate, "reference") as answer:
                return answer(pixels[None])[0]

    content = np.load(place / "boxes" / "val_a64.npz")
    (bundle / "photo.jpg").write_bytes(content["jpeg"][: content["offset"][1]].tobytes())
    monkeypatch.setitem(sys.modules, "network", cast(Any, SimpleNamespace(Network=Network)))
    monkeypatch.syspath_prepend(str(bundle))
    monkeypatch.chdir(bundle)
    shown = (bundle / "README.md").read_text().split("In Python")[1].split("Of boxes")[0].splitlines()
    found: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in shown if line.startswith("    ")), found)
    raw = cells_of(torch.from_numpy(found["raw"]).reshape(1, -1), 80, candidate.image_size)
    [wanted] = decode(raw)
    at = np.unravel_index(found["score"].argmax(), found["score"].shape)
    x, y, w, h = (found[key][at] for key in "xywh")
    assert found["score"][at] == pytest.approx(wanted.scores[0].item(), rel=1e-4)
    assert found["kind"][at] == wanted.classes[0]
    assert wanted.boxes[0].tolist() == pytest.approx(
        [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-4, abs=1e-5
    )


def test_the_front_is_a_table_with_what_the_other_images_say(
    place: Path, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert front.main(["runs/det", "--out", str(tmp_path / "front.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    points = json.loads((place / "runs" / "det" / "front.json").read_text())["points"]
    assert [row["name"] for row in rows] == ["fp32", "int8", *(point["hash"] for point in points)]
    assert rows[0]["lost"] == "" and all(row["metric"] == "AP50" for row in rows)
    for row, point in zip(rows[2:], points, strict=True):
        assert float(row["search_score"]) == pytest.approx(100 * (1 - point["error"]), abs=0.01)
        lost = float(rows[0]["report_score"]) - float(row["report_score"])
        assert float(row["lost"]) == pytest.approx(lost, abs=0.02) and float(row["lost_standard_error"]) > 0
        assert int(row["size_bytes"]) == point["size_bytes"] and str(place) not in row["conditions"]


def as_json(place: Path, folder: Path) -> None:
    """The same images and boxes as COCO's own files have them."""
    for name, part in (("train128", "train2017"), ("val_a64", "val2017")):
        content, images, found = np.load(place / "boxes" / f"{name}.npz"), [], []
        (folder / part).mkdir(parents=True)
        for number, (start, end) in enumerate(pairwise(content["offset"])):
            file = folder / part / f"{number:03}.jpg"
            file.write_bytes(content["jpeg"][start:end].tobytes())
            width, height = Image.open(file).size
            images.append({"id": number, "file_name": file.name, "width": width, "height": height})
            for _, kind, x, y, w, h in content["boxes"][content["boxes"][:, 0] == number].tolist():
                corner = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
                found.append({"image_id": number, "category_id": int(kind), "bbox": corner})
        kinds = [{"id": kind, "name": f"kind {kind}"} for kind in range(80)]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{part}.json").write_text(
            json.dumps({"images": images, "annotations": found, "categories": kinds})
        )


def test_one_plan_is_cotuned_and_judged_alike_from_either_form_of_the_data(place: Path) -> None:
    as_json(place, place / "coco")
    model = load_model("fastestdet", classes=80, weights=place / "det.pth")
    plan = Plan.uniform(layer_names(model), LayerPlan(4, 16))
    (place / "plan.json").write_text(plan.to_json())
    small = ("--image-size", 224)
    base = ("--model", "fastestdet", "--weights", "det.pth", "--plan", "plan.json", "--batch-size", 6, *small)
    words = ("--data", "coco:coco", "--epochs", 1, "--held-steps", 1, "--out", "tuned")
    done = command_here("train", *base, *words, cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads((place / "tuned" / "metrics.json").read_text())
    assert re.search(r"^fp32: AP50 [\d.]+ \+- [\d.]+ % on 6 images that guide$", done.stderr, re.M)
    assert f"1 - AP50 {found['error']:.4f} on the search half" in done.stdout
    assert [rung["stage"] for rung in found["curve"]] == ["rebuilt", "held", "free"]
    assert found["metric"] == "AP50" and 0 < found["fp32_error"] < 1
    assert found["settings"]["learning_rate"] == 0.001, "that of detectors"
    assert found["divergence"] == pytest.approx(min(rung["divergence"] for rung in found["curve"]))
    assert found["classes"][0] == "kind 0"
    # What was kept is what the figures are of, and either form of the data has the same images and boxes.
    hardened = load_hard(model, plan, torch.load(place / "tuned" / "network.pt", weights_only=True))
    for form in ("boxes", "coco"):
        spec = detection_data(f"coco:{place / form}", (224, 224))
        judges = Judges.of(
            model, spec.of_classes(found["classes"]), TrainSettings(), *find_network("fastestdet").normalization,
            task=Detection(80, (224, 224)),
        )  # fmt: skip
        told = judges.search(hardened.network)
        assert told.error == pytest.approx(found["error"], abs=1e-6 if form == "coco" else 0.02), form
        assert told.divergence == pytest.approx(found["divergence"], rel=1e-6 if form == "coco" else 0.02), (
            form
        )
        assert judges.search.fp32_error == pytest.approx(found["fp32_error"], abs=0.02), form
    mistakes = (
        (["--distillation", 0.5], "learns from the fp32 network alone"),
        (["--data", "digits"], "a detector takes coco:DIR"),
        (["--learning-rate", -1], "--learning-rate -1.0: give a value above 0"),
    )
    for words_, said in mistakes:
        refused = command_here("train", *base, "--data", "coco:boxes", *words_, cwd=place)
        assert refused.returncode == 2 and said in refused.stderr and refused.stderr.count("\n") == 1, (
            refused.stderr
        )
    without = command_here(
        "train", "--model", "fastestdet", "--data", "coco:boxes", "--plan", "plan.json", cwd=place
    )
    assert without.returncode == 2 and "give trained --weights" in without.stderr


def test_another_metric_and_a_study_of_other_boxes_are_refused(place: Path, searched: str) -> None:
    own = command_here("search", *SMALL, "--metric", "judged:balanced", cwd=place)
    assert own.returncode == 2 and "a detector is judged by AP50" in own.stderr
    no_boxes = command_here("search", *SMALL, "--data", "unlabelled:pictures", cwd=place)
    assert no_boxes.returncode == 2 and "has no boxes to judge by" in no_boxes.stderr
    classifier = command_here("search", "--metric", "AP50", "--dry-run", cwd=place)
    assert (
        classifier.returncode == 2 and "judges detectors, and vgg_tiny is a classifier" in classifier.stderr
    )
    file = place / "boxes" / "val_a64.npz"
    before = file.read_bytes()
    changed = dict(np.load(file))
    changed["boxes"][:, 4] /= 2
    np.savez(file, **changed)
    try:
        again = command_here("search", "--name", "det", cwd=place)
    finally:
        file.write_bytes(before)
    assert again.returncode == 2 and "checksum of the search images" in again.stderr, again.stderr
