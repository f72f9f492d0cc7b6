"""``python -m pipeline.quantize`` as a person types it: another folder, relative paths, repeated, with what does not fit."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.command import main_guard
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import load_candidate
from pipeline.candidate.workspace import Workspace
from pipeline.detection.coco import coco
from pipeline.detection.data import load_boxes
from pipeline.detection.dataset import detection_data
from pipeline.evaluate import main as evaluate
from pipeline.networks.registry import load_model
from pipeline.quantize import main as quantize
from pipeline.report.page import render
from pipeline.report.stored import read_study
from pipeline.search import main as search
from pipeline.study.settings import Settings
from quantizers.network import layer_names
from tests.system.browser import CHROMIUM, Browser
from tests.system.own_folder import command_here

pytestmark = pytest.mark.emulated


def run(*words: str, at: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.quantize", *words]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        command, cwd=at, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": root}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A network of 3 bits with 60 % zeros, made from elsewhere into a relative folder."""
    place = tmp_path_factory.mktemp("some where")
    done = run("--bits", "3", "--zero-share", "0.6", "--images", "64", "--out", "./small net", at=place)
    return place, done


def test_one_candidate_folder_like_a_search_s(
    made: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    place, done = made
    assert done.returncode == 0, done.stderr
    (manifest,) = (place / "small net").rglob("manifest.json")
    candidate = load_candidate(manifest.parent)
    candidate.verify()
    layers = candidate.plan.layers
    assert [layer.bits for layer in layers.values()].count(8) == 2
    books = candidate.hardened().codebooks
    for name, layer in layers.items():
        if layer.bits == 3:
            assert books[name].zeros == pytest.approx(0.6, abs=0.5 / books[name].indices.size + 1e-9)
    assert all(f"\n{name} " in done.stdout for name in ("fp32", "int8", manifest.parent.name, "evaluate"))
    assert candidate.figures.error is not None and candidate.figures.error < 0.1
    assert evaluate([str(manifest.parent), "--split", "search", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == pytest.approx(1 - candidate.figures.error)
    # Where it answers otherwise than fp32, as the candidates of a search tell it.
    assert "answers.json" in candidate.manifest["files"]
    beside = json.loads((manifest.parent / "answers.json").read_text())
    table = np.array(beside["confusion"])
    assert table.sum() == beside["images"] == found["images"] and len(beside["classes"]) == len(table) == 10
    assert beside["changed"] == table.sum() - np.trace(table)
    assert len(beside["differing"]) == 12 and all(0 <= one["label"] < 10 for one in beside["differing"])


def test_again_shows_the_same_and_another_plan_is_refused(
    made: tuple[Path, subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, done = made
    monkeypatch.chdir(place)
    flags = ["--bits", "3", "--zero-share", "0.6", "--images", "64", "--out", "small net"]
    before = {file: file.read_bytes() for file in (place / "small net").rglob("*") if file.is_file()}
    assert quantize(flags) == 0
    again = capsys.readouterr().out.splitlines()
    assert again == [line for line in done.stdout.splitlines() if not line.startswith("rebuilt")]
    assert before == {file: file.read_bytes() for file in (place / "small net").rglob("*") if file.is_file()}
    assert main_guard(lambda: quantize(["--bits", "4", "--out", "small net"])) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in (place / "small net").rglob("*") if file.is_file()}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_the_report_shows_the_one_network_with_or_without_labels(
    made: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = made[0] / "small net"
    done = command_here("report.__main__", Path(made[0].name, "small net"), cwd=made[0].parent)
    (candidate,) = (folder / "candidates").iterdir()
    assert done.returncode == 0 and f"\n{candidate.name} " in done.stdout, done.stderr
    data = read_study(folder)[1]
    unlabelled = [replace(record, figures=replace(record.figures, error=None)) for record in data.records]
    references = [replace(one, figures=replace(one.figures, error=None)) for one in data.references]
    (tmp_path / "unlabelled.html").write_text(
        render(replace(data, records=unlabelled, references=references, images=None))
    )
    with Browser(tmp_path / "profile", 1280, 900) as browser:
        for file in (folder / "report.html", tmp_path / "unlabelled.html"):
            browser.open(file.as_uri())
            browser.wait("document.documentElement.dataset.ready === 'true'")
            seen = browser.evaluate("""({
                titles: [...document.querySelectorAll("h2")].map((h) => h.innerText),
                rows: [...document.querySelectorAll("#trials tbody th, #trials tbody td:first-child")].map((c) => c.innerText),
                layers: document.querySelectorAll("#layers .row").length,
                lines: document.querySelectorAll("#chart-weights path.component").length,
                operations: document.querySelectorAll("#operations-rows tr").length,
                classes: document.querySelectorAll("#confusion tbody tr").length,
                images: document.querySelectorAll("#differing img").length,
                points: document.querySelectorAll("#chart-latency .point").length,
                text: document.body.innerText})""")
            assert seen["titles"] == ["Beside fp32 and int8", f"Candidate {candidate.name}", "All figures"]
            assert seen["rows"] == ["fp32", "int8", candidate.name]
            assert seen["layers"] == len(load_candidate(candidate).plan.layers) and seen["lines"] == 8
            assert seen["operations"] > seen["layers"] and (seen["classes"], seen["images"]) == (10, 12)
            labelled = file.parent == folder
            assert seen["points"] == (3 if labelled else 0)
            assert ("Without labels there is no error" in seen["text"]) is not labelled
            assert ("Error" in seen["text"], "Agreement with fp32" in seen["text"]) == (
                labelled,
                not labelled,
            )
            assert "One network, by one plan." in seen["text"] and "front yet" not in seen["text"]
            assert not any(word in seen["text"] for word in ("trial", "NaN", "undefined", "null"))
        assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]


def test_a_report_of_what_is_no_network_or_no_search_is_refused(
    made: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = made[0] / "small net"
    (tmp_path / "begun").mkdir()
    shutil.copy(folder / "quantize.json", tmp_path / "begun")
    (candidate,) = (folder / "candidates").iterdir()
    for words, said in (
        (("begun",), "the network in begun is not finished; the same pipeline.quantize goes on with it"),
        ((candidate,), "is one candidate; give the folder that its folder candidates lies in"),
        ((folder, "--watch"), "--watch follows a search"),
        ((tmp_path,), "holds no study"),
    ):
        done = command_here("report.__main__", *words, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bits", "5"), "bits 5"),
        (("--bits", "3", "--components", "9"), "components 9"),
        (("--bits", "4", "--components", "0"), "components 0"),
        (("--bits", "8", "--zero-share", "0.5"), "--zero-share 0.5"),
        (("--plan", "absent.json", "--components", "3"), "--components 3"),
        (("--zero-share", "1.5"), "zero_share 1.5"),
        (("--coded-bits", "4"), "coded_bits 4.0: give a number above 0 and below 4"),
        (("--coded-bits", "nan"), "coded_bits nan"),
        (("--coded-bits", "2", "--zero-share", "0.5"), "exclude each other"),
        (("--bits", "8", "--coded-bits", "2"), "--coded-bits 2.0: layers of 8 bits have none"),
        (("--images", "1"), "--images 1"),
        (("--model", "no_such"), "unknown model 'no_such'"),
        (("--plan", "absent.json"), "absent.json"),
        (("--target", "z80"), "unknown target 'z80'"),
        (("--out", "/dev/null/here"), "--out /dev/null/here"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_guard(lambda: quantize(list(words))) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err and not printed.out
    assert not list(tmp_path.iterdir())


def test_a_network_that_guesses_is_refused_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_model("vgg_tiny", classes=10).state_dict(), tmp_path / "untrained.pt")
    monkeypatch.chdir(tmp_path)
    words = ["--weights", "untrained.pt", "--images", "32", "--out", "small"]
    assert main_guard(lambda: quantize(words)) == 2
    said = capsys.readouterr().err
    flag = "--allow-bad-fp32"
    assert "likely causes" in said and f"{flag} goes on all the same" in said
    assert main_guard(lambda: quantize([*words, flag])) == 0
    assert "candidate" in capsys.readouterr().out


def test_evenly_spaced_values_of_few_coded_bits_are_nearer_in_a_smaller_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def made(*words: str) -> tuple[float, int]:
        assert quantize([*words, "--out", words[-1], "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return found["divergence"], found["points"][0]["size_bytes"]

    clusters, coded = made("--bits", "2"), made("--bits", "4", "--coded-bits", "1.8")
    assert coded[0] < clusters[0] and coded[1] < clusters[1]


def test_a_plan_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = layer_names(load_model("vgg_tiny", classes=10))
    plan = Plan.uniform(names, LayerPlan(2, 3), quantizer="differentiable_kmeans")
    (tmp_path / "plan.json").write_text(plan.to_json())
    monkeypatch.chdir(tmp_path)
    assert quantize(["--plan", "plan.json", "--images", "64", "--out", "a", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["plan"] == plan.hash and result["agreement"] > 0.8
    assert load_candidate(Path(result["candidate"])).plan == plan


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main_guard(lambda: quantize(["--out", str(tmp_path)])) == 2
    said = capsys.readouterr().err
    assert "holds other things" in said and "no --weights" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


IDLE = """
from torch import nn
from stripes import images
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.idle, self.end = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, classes)
    def forward(self, x):
        return self.end(self.stem(x).relu().mean((2, 3)))
def net(num_classes):
    return Net(num_classes)
net.image_size, net.normalization = 16, ((0.5,) * 3, (0.25,) * 3)
"""


def test_a_layer_that_is_never_called_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "extending")
    (tmp_path / "idle_layer.py").write_text(IDLE)
    words = ["--model", "idle_layer:net", "--data", "idle_layer:images", "--modules", ".", "--images", "32"]
    assert quantize([*words, "--out", "a", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(load_candidate(Path(result["candidate"])).plan.layers) == {"stem", "end"}


def test_a_plan_that_changes_weights_by_itself_is_kept_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parents[2] / "examples" / "extending"
    monkeypatch.syspath_prepend(str(examples))
    monkeypatch.chdir(tmp_path)
    names = layer_names(load_model("vgg_tiny", classes=10))
    ends = {names[0], names[-1]}
    layers = {
        name: LayerPlan(8) if name in ends else LayerPlan(4, 16, values={"kept_inputs:KeptInputs": 0.75})
        for name in names
    }
    (tmp_path / "plan.json").write_text(Plan(layers).to_json())
    words = [
        "--plan",
        "plan.json",
        "--modules",
        str(examples),
        "--images",
        "128",
        "--out",
        "a",
        "--format",
        "json",
    ]
    assert quantize(words) == 0
    result = json.loads(capsys.readouterr().out)
    for name, book in load_candidate(Path(result["candidate"])).hardened().codebooks.items():
        unused = (book.integers == 0).all(axis=(0, *range(2, book.integers.ndim))).mean()
        assert name in ends or unused >= 0.24
    assert result["agreement"] > 0.8


# ---- images without labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of someone's network for the digits, and a folder of those as files, as people leave them."""
    place = tmp_path_factory.mktemp("theirs")
    found = Workspace.open(Settings())
    state = {f"module.{key}": value for key, value in found.model.state_dict().items()}
    torch.save({"state_dict": state}, place / "net.pth")
    pixels = found.data.train.batch(torch.arange(90)).numpy()
    for number, one in enumerate(pixels):
        folder = place / "photos" / ("flat" if number % 3 else "deep/er one")
        folder.mkdir(parents=True, exist_ok=True)
        image, grey = Image.fromarray(one), Image.fromarray(one[..., 0])
        (
            image,
            image.convert("RGBA"),
            grey,
            image.convert("P"),
            Image.fromarray(one[..., 0].astype("uint16") * 257),
        )[number % 5].save(folder / f"{number}.png")
    (place / "photos" / "notes.txt").write_text("not an image")
    (place / "photos" / "copy.png").write_bytes((place / "photos" / "flat" / "1.png").read_bytes())
    return place


def unlabelled_words(place: Path) -> list[str]:
    return ["--images-from", "photos", "--weights", "net.pth", "--model", "vgg_tiny", "--image-size", "16"]


def test_images_without_labels_rebuild_and_others_show_how_alike_the_answers_are(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    words = [*unlabelled_words(trained), "--bits", "4", "--out", "out"]
    assert quantize(words) == 0
    printed = capsys.readouterr()
    assert "rebuilt from 45 images" in printed.err
    assert re.search(r"agreement with fp32, .* on 45 images that rebuilt nothing", printed.out)
    rows = {line.split()[0]: line for line in printed.out.splitlines() if " nats" in line}
    (manifest,) = (trained / "out").rglob("manifest.json")
    assert set(rows) == {"int8", manifest.parent.name}
    assert "error" not in {line.split()[0] for line in printed.out.splitlines() if line.strip()}
    candidate = load_candidate(manifest.parent)
    assert candidate.figures.error is None and len(candidate.manifest["classes"]) == 10
    beside = json.loads((manifest.parent / "answers.json").read_text())
    assert np.shape(beside["confusion"]) == (10, 10) and np.sum(beside["confusion"]) == beside["images"] == 23
    assert {one["label"] for one in beside["differing"]} == {None}
    splits = candidate.manifest["data"]["splits"]
    kept = {*splits["search"]["images"], *splits["report"]["images"]}
    assert len(kept) == 45 == splits["train"]["count"] and len({"copy.png", "flat/1.png"} & kept) <= 1
    assert main_guard(lambda: evaluate([str(manifest.parent)])) == 2
    assert "has no labels" in capsys.readouterr().err
    assert evaluate([str(manifest.parent), "--data", "digits", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.8
    assert quantize(words) == 0  # shown again, the same
    assert capsys.readouterr().out == printed.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images-from", "photos"], "no labels to train with: give trained --weights"),
        (
            ["--images-from", "photos", "--data", "digits"],
            "--data digits: --images-from names the images already",
        ),
        (["--images-from", "absent", "--weights", "net.pth"], "there is no folder"),
        (["--images-from", "few", "--weights", "net.pth"], "1 different images"),
    ],
)
def test_what_cannot_be_done_without_labels_is_refused(
    trained: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(trained)
    (trained / "few").mkdir(exist_ok=True)
    for number in range(5):  # the same image five times
        (trained / "few" / f"{number}.png").write_bytes((trained / "photos" / "flat" / "1.png").read_bytes())
    assert main_guard(lambda: quantize([*words, "--out", "never"])) == 2
    assert said in capsys.readouterr().err and not (trained / "never").exists()


def test_only_quantize_takes_images_without_labels(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"unlabelled:{trained / 'photos'}"
    weights = str(trained / "net.pth")
    words = ["--data", data, "--weights", weights, "--model", "vgg_tiny", "--out", str(tmp_path)]
    assert main_guard(lambda: search([*words, "--dry-run"])) == 2
    assert "has no labels; python -m pipeline.quantize" in capsys.readouterr().err


# ---- cut off


def test_what_was_killed_goes_on_layer_by_layer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    words = [*unlabelled_words(trained), "--bits", "3"]
    whole, cut, other = tmp_path / "whole", tmp_path / "cut", tmp_path / "other"
    assert quantize([*words, "--out", str(whole)]) == 0
    script = (
        "import os, sys\n"
        "from pipeline.candidate.rebuilding import LayerFiles\n"
        "put = LayerFiles.put\n"
        "def dies(self, name, state):\n"
        "    put(self, name, state)\n"
        "    if self.count() == 5: os.kill(os.getpid(), 9)\n"
        "LayerFiles.put = dies\n"
        "from pipeline.quantize import main\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(
        [sys.executable, "-c", script, *words, "--out", str(cut)], env=environment, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr
    assert len(list((cut / "rebuilding").iterdir())) == 5
    shutil.copytree(cut, other)
    capsys.readouterr()
    # One of the five is damaged: it is done again.
    sorted((cut / "rebuilding").iterdir())[0].write_bytes(b"cut off")
    assert quantize([*words, "--out", str(cut)]) == 0
    assert "going on with what was cut off: 5 layers and batch-norms are done" in capsys.readouterr().err
    (one,), (same,) = (sorted(out.glob("candidates/*/weights.blob")) for out in (whole, cut))
    assert one.read_bytes() == same.read_bytes() and not (cut / "rebuilding").exists()
    # With other images it is another result: nothing of the first is taken.
    assert quantize([*words, "--images", "20", "--out", str(other)]) == 0
    assert "was begun with images 256, now it is 20: everything anew" in capsys.readouterr().err
    (fresh,) = other.glob("candidates/*/weights.blob")
    assert fresh.read_bytes() != one.read_bytes()


# ---- detectors


@pytest.fixture(scope="module")
def boxes(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of COCO's images as COCO's own files, with its category numbers, which have gaps, and a crowd."""
    place = tmp_path_factory.mktemp("coco of theirs")
    (place / "annotations").mkdir()
    for name, split, count in (("train128", "train2017", 6), ("val_a64", "val2017", 8)):
        content = np.load(shared / "data" / "coco" / f"{name}.npz")
        offset, found = content["offset"], content["boxes"]
        (place / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            stream = content["jpeg"][offset[i] : offset[i + 1]].tobytes()
            (place / split / f"{i:012d}.jpg").write_bytes(stream)
            width, height = Image.open(io.BytesIO(stream)).size
            images.append({"id": 1000 + i, "file_name": f"{i:012d}.jpg", "width": width, "height": height})
            for _, category, x, y, w, h in found[found[:, 0] == i].tolist():
                box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
                one = {"image_id": 1000 + i, "category_id": 3 * int(category) + 1, "bbox": box, "iscrowd": 0}
                annotations.append(one)
        annotations.append({"image_id": 1000, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1})
        categories = [{"id": 3 * k + 1, "name": f"thing {k}"} for k in range(80)][::-1]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (place / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    return place


def test_coco_s_own_files_say_the_same_as_the_npz(boxes: Path, shared: Path) -> None:
    _, val = coco(str(boxes), (352, 352))
    packed = load_boxes(shared / "data" / "coco" / "val_a64.npz", 352)
    assert torch.equal(val.images.batch(range(8)), packed.pixels[:8])
    wanted = packed.boxes[packed.boxes[:, 0] < 8]
    assert np.allclose(val.boxes, wanted, atol=1e-6) and val.classes[:2] == ("thing 0", "thing 1")
    part = val.subset([7, 0])
    assert torch.equal(part.images.batch([0]), val.images.batch([7]))
    assert np.allclose(part.boxes[part.boxes[:, 0] == 0, 1:], wanted[wanted[:, 0] == 7, 1:], atol=1e-6)
    assert np.allclose(part.boxes[part.boxes[:, 0] == 1, 1:], wanted[wanted[:, 0] == 0, 1:], atol=1e-6)


def test_a_folder_without_boxes_is_seen_by_a_detector_as_images_with_boxes_are(boxes: Path) -> None:
    _, val = coco(str(boxes), (96, 96))
    plain = detection_data(f"unlabelled:{boxes / 'val2017'}", (96, 96))
    assert not plain.labelled and not plain.classes
    parts = (plain.train, plain.search, plain.report)
    assert [len(part) for part in parts] == [4, 2, 2]
    numbers = {name: index for index, name in enumerate(val.images.names())}
    for part in parts:
        wanted = val.images.batch([numbers[name] for name in part.names()])
        assert torch.equal(part.batch(range(len(part))), wanted)


def test_a_detector_becomes_a_candidate_that_evaluates(
    boxes: Path,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(boxes.parent)
    weights = str(shared / "data" / "weights" / "fastestdet_coco.pth")
    words = [
        "--model",
        "fastestdet",
        "--weights",
        weights,
        "--data",
        f"coco:{boxes.name}",
        "--image-size",
        "96",
    ]
    assert quantize([*words, "--bits", "4", "--out", str(tmp_path / "a"), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = Path(result["candidate"])
    candidate = load_candidate(folder)
    eight = {name for name, layer in candidate.plan.layers.items() if layer.bits == 8}
    heads = {f"detect_head.{branch}_layers.conv5x5.3" for branch in ("obj", "reg", "cls")}
    assert eight == {"backbone.first_conv.0", *heads}
    assert candidate.manifest["metric"] == result["metric"] == "AP50"
    assert candidate.figures.error is not None and candidate.manifest["data"]["preprocessing"] is None
    for row in ("int8", candidate.plan.hash):
        assert 0 < result["compared"][row]["agreement"] <= 1 and result["compared"][row]["images"] == 4
    assert result["compared"]["int8"]["divergence"] < result["divergence"]
    found = []
    for on in ("torch", "arm", "reference"):
        assert evaluate([str(folder), "--on", on, "--limit", "2", "--format", "json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["average_precision"] == found[2]["average_precision"]
    assert found[0]["average_precision"] == pytest.approx(found[2]["average_precision"], abs=0.1)
    assert found[0]["boxes"] == found[1]["boxes"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "digits"], "a detector takes coco:DIR"),
        (["--data", "coco:absent"], "there is no folder"),
        (["--data", "coco:empty"], "0 files of train images (none) instead of one"),
        (["--data", "coco:broken"], "is not of COCO's form"),
        (["--data", "coco:lost"], "names a.jpg, which lies in none of"),
    ],
)
def test_what_a_detector_cannot_use_is_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    one = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
        "annotations": [],
        "categories": [],
    }
    for name, content in (("empty", None), ("broken", "{"), ("lost", json.dumps(one))):
        (tmp_path / name / "annotations").mkdir(parents=True)
        if content is not None:
            (tmp_path / name / "annotations" / "instances_train2017.json").write_text(content)
    (tmp_path / "w.pth").write_bytes(b"")
    assert (
        main_guard(lambda: quantize(["--model", "fastestdet", "--weights", "w.pth", *words, "--out", "a"]))
        == 2
    )
    assert said in capsys.readouterr().err and not (tmp_path / "a").exists()
