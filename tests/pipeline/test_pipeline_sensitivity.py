"""``python -m pipeline.sensitivity`` as a person types it, what it ranks, and what it keeps."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline import sensitivity
from pipeline.candidate.sensitivity import sensitivity_of
from pipeline.datasets.images import ArrayImages, normalize
from pipeline.detection.divergence import drawn_boxes
from pipeline.networks.registry import load_model
from pipeline.report.data import ReportData
from pipeline.report.page import render
from pipeline.review.progress import Progress
from pipeline.study.sensitivity import read_sensitivity
from pipeline.study.settings import Settings
from pipeline.training.task import Classification
from quantizers.calibration.fisher import diagonal_fisher
from quantizers.network import harden, quantize
from search_spaces.layers import layers_of
from search_spaces.sensitivity import Harm, Sensitivity
from search_spaces.space import Space
from tests.own_cache import own_cache

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
LOSS = """
import torch
def loss(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs["logits"], labels)
def wrong(outputs, labels):
    return outputs["logits"]
def broken(outputs, labels):
    return outputs["nothing"]

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())
        self.head = torch.nn.Linear(8 * 14 * 14, 10)
    def forward(self, x):
        return {"logits": self.head(self.body(x)), "extra": [x]}

def net(classes):
    return Net()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as other people have one: images, weights, a module, and a cache of its own."""
    folder = tmp_path_factory.mktemp("some where")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(60) % 10
    np.savez(folder / "few.npz", x_train=pixels, y_train=labels, x_val=pixels[:20], y_val=labels[:20])
    torch.save(load_model("vgg_tiny", classes=10, image_size=16).state_dict(), folder / "vgg.pt")
    (folder / "theirs.py").write_text(LOSS)
    made: dict[str, object] = {}
    exec(LOSS, made)
    torch.save(made["net"](10).state_dict(), folder / "net.pt")  # type: ignore[operator]
    return folder


def typed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    """What the command prints, typed in a folder."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache(place))
    assert sensitivity.main([*words]) == 0
    return capsys.readouterr().out


WORDS = ("--data", "npz:few.npz", "--weights", "./vgg.pt", "--bits", "2,8", "--images", "12")


def test_as_it_is_typed_from_another_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CACHE_HOME": own_cache(place)}
    command = [sys.executable, "-m", "pipeline.sensitivity", *WORDS, "--format", "csv"]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True, env={**os.environ, **where})
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    # 8 bits, 2 numbers of components with 6 shares of zeros, and indices coded in 1 and 1.5 bits
    assert len(rows) == len(layers) * 15
    assert layers[0] == "features.0" and layers[-1] == "classifier"
    for row in rows:
        added = float(row["quantization"]) + 3 * float(row["pruning"])
        assert float(row["error_added"]) == pytest.approx(added)
        if row["bits"] == "8":
            assert float(row["bytes_saved"]) == float(row["ms_saved"]) == 0 and row["zero_share"] == ""
        else:
            assert 0 < float(row["bytes_saved"]) < float(row["weights"])
    kept = list((place / "cache").rglob("sensitivity/*.json"))
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    text = typed(place, monkeypatch, capsys, *WORDS)
    assert kept[0].stat().st_mtime_ns == stamp  # from the cache
    table = [line.split() for line in text.splitlines()[1 : 1 + len(layers)]]
    assert sorted(line[0] for line in table) == sorted(layers)
    at_two = [float(line[3]) for line in table]
    assert at_two == sorted(at_two, reverse=True) and at_two[0] > 0
    kept[0].write_text(kept[0].read_text()[:-30])  # half a file is made anew
    again = json.loads(typed(place, monkeypatch, capsys, *WORDS, "--format", "json"))
    assert again["images"] == 12 and again["unit"] == "nats" and len(again["rows"]) == len(rows)
    assert kept[0].stat().st_mtime_ns != stamp
    assert [row["error_added"] for row in again["rows"]] == [float(row["error_added"]) for row in rows]


def test_what_was_asked_for_beside_bits_has_a_table_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*WORDS, "--dimensions", "taps=all,plus,4", "kept_blocks=1,0.5")
    rows = list(csv.DictReader(io.StringIO(typed(place, monkeypatch, capsys, *words, "--format", "csv"))))
    text = typed(place, monkeypatch, capsys, *words)
    blocks, taps = (
        [line.split() for line in part.splitlines() if not line.startswith("error added")]
        for part in text.split("\n\n")[1:]
    )
    assert blocks[0] == ["kept_blocks", "50", "%"] and taps[0] == ["taps", "plus", "best", "4"]
    shown = {line[0]: line[1:] for line in taps if line[0].startswith("features")}
    assert shown and "features.0" not in shown  # whose three channels are no whole eight
    by = {
        (row["layer"], row["bits"], row["taps"], row["kept_blocks"]): row
        for row in rows
        if not row["components"]
    }
    for layer, (plus, saved, _, four, _, _) in shown.items():
        whole, shaped, best = (by[layer, "8", value, ""] for value in ("", "plus", "4"))
        assert plus == f"{float(shaped['error_added']):.2g}" and four == f"{float(best['error_added']):.2g}"
        assert int(saved) == round(100 * (1 - float(shaped["ms"]) / float(whole["ms"]))) > 20


def test_what_saves_bytes_alone_says_how_many(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*WORDS, "--dimensions", "coded_bits=natural,1.5")
    rows = list(csv.DictReader(io.StringIO(typed(place, monkeypatch, capsys, *words, "--format", "csv"))))
    text = typed(place, monkeypatch, capsys, *words)
    assert "and the bytes that it saves of the layer's" in text
    nothing = typed(place, monkeypatch, capsys, *WORDS, "--dimensions", "coded_bits=natural")
    assert "coded_bits" not in nothing  # there is nothing to show
    by = {
        (row["layer"], row["bits"], row["components"], row["coded_bits"]): row
        for row in rows
        if not row["zero_share"]
    }
    table = [line.split() for line in text.split("\n\n")[1].splitlines() if line.startswith("features")]
    assert table
    for layer, added, saved, _ in table:
        whole, coded = (by[layer, "2", "4", value] for value in ("", "1.5"))
        assert added == f"{float(coded['error_added']):.2g}"
        assert int(saved) == round(100 * (1 - float(coded["bytes"]) / float(whole["bytes"]))) > 10


def test_a_loss_of_one_s_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "theirs:net", "--weights", "net.pt", "--data", "npz:few.npz", "--bits", "2,8"]
    words += ["--images", "8", "--format", "json"]
    rows = json.loads(typed(place, monkeypatch, capsys, *words, "--loss", "theirs:loss"))["rows"]
    assert {row["layer"] for row in rows} == {"body.0", "head"} and "ms" not in rows[0]
    assert all(row["error_added"] > 0 for row in rows if row["bits"] == 2)
    for name, message in (("wrong", "must give one number"), ("broken", "KeyError: 'nothing'")):
        with pytest.raises(UserError, match=message):
            sensitivity.main([*words, "--loss", f"theirs:{name}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "1"], "--images 1: give 2 or more"),
        (["--bits", "5"], "allowed are 2,3,4,8"),
        (["--model", "fastestdet"], "give trained --weights"),
        (["--model", "fastestdet", "--weights", "vgg.pt"], "takes coco:DIR"),
        (["--loss", "theirs:loss"], "give its --weights"),
        (["--loss", "theirs:no", "--weights", "vgg.pt"], "has no 'no'"),
        (["--quantizer", "magic"], "magic"),
        (["--dimensions", "colour"], "colour"),
    ],
)
def test_mistakes_are_a_line(
    place: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        sensitivity.main(words)


def test_it_ranks_plans_as_the_networks_they_become(tmp_path: Path) -> None:
    """Against quantized networks themselves: the divergence of their answers from fp32's."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 10)
    ).eval()
    images = ArrayImages(torch.randint(0, 256, (80, 16, 16, 3), dtype=torch.uint8), torch.zeros(80))
    space = Space(layers_of(network, (3, 16, 16)), zero_share=(None, 0.5, 0.9))
    found = sensitivity_of(network, images, MEAN, STD, space, cache=tmp_path)
    x = normalize(images.batch(range(80)), MEAN, STD)
    layers = (
        LayerPlan(8),
        LayerPlan(4, 16),
        LayerPlan(3, 5),
        LayerPlan(2, 4),
        LayerPlan(2, 3, zero_share=0.9),
    )
    plans = [Plan(dict(zip(space.layers, (a, b, c)))) for a, b, c in zip(layers, layers[2:], layers[1:])]
    plans += [Plan.uniform(space.layers, layer) for layer in layers]
    told = [found(plan) for plan in plans]
    task = Classification()
    real = [task.divergence(harden(quantize(network, plan, x)).network, network, [x]) for plan in plans]
    ranks = [np.argsort(np.argsort(values)) for values in (told, real)]
    assert np.corrcoef(ranks)[0, 1] > 0.85, list(zip(told, real))


def test_another_network_or_other_images_are_looked_at_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)).eval()
    images = ArrayImages(torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8), torch.zeros(6))
    others = ArrayImages(torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8), torch.zeros(6))
    space = Space(layers_of(network, (3, 8, 8)), bits=(2, 8))

    def looked(*given: object) -> Sensitivity:
        told: list[str] = []
        found = sensitivity_of(*given, told.append, cache=tmp_path)  # type: ignore[arg-type]
        anew.append(bool(told))
        return found

    anew: list[bool] = []
    first = looked(network, images, MEAN, STD, space)
    assert looked(network, images, MEAN, STD, space) == first
    looked(network, others, MEAN, STD, space)
    looked(network, images, MEAN, (0.2, 0.25, 0.25), space)
    looked(network, images, MEAN, STD, Space(space.places, bits=(4, 8)))
    with torch.no_grad():
        next(network[2].parameters()).add_(1.0)
    looked(network, images, MEAN, STD, space)
    assert anew == [True, False, True, True, True, True]
    assert first.images == 6 and len(list(tmp_path.iterdir())) == 5


def test_a_detector_and_its_images_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed}.jpg")
    model = load_model("fastestdet", classes=80, image_size=64)
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        model="fastestdet", data=f"unlabelled:{tmp_path / 'photos'}", weights="detector.pth", image_size=64
    )
    with Progress(1) as progress:
        subject = sensitivity.opened(settings, None, 4, progress)
    assert len(subject.images) >= 2 and subject.score is not None
    names = [layer.name for layer in layers_of(subject.model, (3, 64, 64))]
    x = normalize(subject.images.batch(range(2)), subject.mean, subject.std)
    fisher = diagonal_fisher(subject.model, names, [x], subject.score)
    assert all(float(found.sum()) > 0 for found in fisher.values())


def test_a_detector_is_judged_by_its_own_boxes() -> None:
    """A network whose weights are its output, of which every term's information is known."""
    network = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False))
    found = diagonal_fisher(network, ["0"], [torch.ones(2, 1, 1, 1)] * 3000, drawn_boxes())["0"].flatten()
    raw = network[0].weight.detach().flatten()
    chance, classes = raw[0].sigmoid(), raw[5:].softmax(0)
    boxes = torch.cat([1 - raw[1:3].tanh().square(), raw[3:5].sigmoid() * (1 - raw[3:5].sigmoid())])
    wanted = torch.cat(
        [(chance * (1 - chance))[None], chance * boxes.square(), chance * classes * (1 - classes)]
    )
    assert torch.allclose(found, wanted, rtol=0.12)


def test_the_report_shows_it_and_a_hostile_name_stays_text(tmp_path: Path) -> None:
    name = "</td><script>alert(1)</script>"
    found = Sensitivity(
        {
            name: {LayerPlan(8): Harm(0, 0), LayerPlan(2, 4): Harm(0.5, 0.1)},
            "b": {LayerPlan(8): Harm(0.1, 0)},
        },
        images=9,
    )
    (tmp_path / "sensitivity.json").write_text(found.to_json())
    assert read_sensitivity(tmp_path) == found and read_sensitivity(tmp_path / "none") is None
    page = render(ReportData("study", "model", "data", sensitivity=read_sensitivity(tmp_path)))
    section = page.split('<section id="sensitivity">')[1].split("</section>")[0]
    assert "<script" not in section and "&lt;/td&gt;&lt;script&gt;" in section
    assert "0.8</td>" in section and ">-</td>" in section and "9 training images" in section
    assert '<section id="sensitivity">' not in render(ReportData("study", "model", "data"))
