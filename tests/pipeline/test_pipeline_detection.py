"""Detection: average precision of known cases, boxes of known outputs, the published detector and its program."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.emulate.emulator import run as run_program
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import ArrayImages, normalize
from pipeline.detection.beside import agreement, compared_boxes
from pipeline.detection.data import BlueGreenRed, listed, load_boxes, padded
from pipeline.detection.decode import Detections, boxes_of_cells, decode
from pipeline.detection.divergence import divergence
from pipeline.detection.quality import average_precision, mean_precision
from pipeline.detection.task import Detection
from pipeline.networks.registry import find_network, load_model
from pipeline.training.cotuning import Cotuning
from pipeline.training.judges import Judges
from pipeline.training.settings import TrainSettings
from quantizers.network import harden, layer_names, quantize


@pytest.mark.parametrize(
    ("right", "present", "wanted"),
    [
        ("", 3, 0.0),
        ("1", 1, 1.0),
        ("01", 1, 0.5),
        ("1", 2, 51 / 101),  # recalls 0 to 0.5 are reached
        ("101", 2, (51 + 50 * 2 / 3) / 101),
        ("0101", 2, 0.5),  # the later, better precision counts for the earlier recall
        ("111", 3, 1.0),
        ("000", 2, 0.0),
    ],
)
def test_the_mean_of_known_curves(right: str, present: int, wanted: float) -> None:
    found = mean_precision(np.array([letter == "1" for letter in right], bool), present)
    assert found == pytest.approx(wanted)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of left, top, right, bottom, score, class; best first."""
    table = torch.tensor(rows).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def wanted(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def test_average_precision_of_known_detections() -> None:
    truth = wanted((0, 3, 0.25, 0.25, 0.5, 0.5), (1, 3, 0.5, 0.5, 0.2, 0.2), (1, 7, 0.5, 0.5, 1, 1))
    left, small = (0.0, 0.0, 0.5, 0.5), (0.4, 0.4, 0.6, 0.6)
    perfect = [
        detections((*left, 0.9, 3)),
        detections((0.0, 0.0, 1.0, 1.0, 0.8, 7), (*small, 0.1, 3)),
    ]
    assert average_precision(perfect, truth) == 1
    # a class that is never found counts as nothing, one that is not there does not count
    assert average_precision([perfect[0], detections((*small, 0.1, 3), (*small, 0.1, 5))], truth) == 0.5
    # a second detection of the same object is wrong; ranked between the two right ones it costs (50 * 1 / 3) / 101
    twice = [detections((*left, 0.9, 3), (*left, 0.5, 3)), perfect[1]]
    assert average_precision(twice, truth) == pytest.approx((1 + (51 + 50 * 2 / 3) / 101) / 2)
    # another image's object is no match
    assert average_precision([perfect[1], perfect[0]], truth) == 0
    with pytest.raises(ValueError, match="without boxes"):
        average_precision(perfect, wanted())


@pytest.mark.parametrize(("shift", "right"), [(0.0, 1.0), (0.33, 1.0), (0.34, 0.0)])
def test_half_an_overlap_decides(shift: float, right: float) -> None:
    """Two unit squares, one shifted by s, overlap by (1 - s) / (1 + s): a half at a third."""
    found = [detections((shift, 0.0, 1 + shift, 1.0, 0.9, 0))]
    assert average_precision(found, wanted((0, 0, 0.5, 0.5, 1, 1))) == right


def test_agreement_of_known_detections() -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    one = detections((*box, 0.9, 3))
    assert agreement(one, one) == 1
    assert agreement(one, detections((*box, 0.9, 4))) == 0
    assert agreement(one, detections((*box, 0.9, 3), (*box, 0.8, 4))) == pytest.approx(2 / 3)
    assert agreement(one, detections((*box, 0.9, 3), (*box, 0.1, 4))) == 1  # too doubtful to count
    assert agreement(detections(), detections()) == 1
    assert agreement(one, detections()) == 0


def test_networks_that_are_to_be_one_differ_where_one_alone_is_sure_of_a_box() -> None:
    sure, doubtful = detections((0.0, 0.0, 0.5, 0.5, 0.9, 3)), detections((0.0, 0.0, 0.5, 0.5, 0.31, 3))
    found = compared_boxes([(sure, sure), (sure, doubtful), (sure, detections()), (detections(), doubtful)])
    assert (found.images, found.differing) == (4, 1) and found.agreement == 0.5
    assert "3 of 4 images have the same boxes with scores of 50 % and more" in str(found)


def test_boxes_of_a_known_output() -> None:
    raw = torch.full((1, 5 + 4, 2, 3), -20.0)
    raw[0, 1:5] = 0  # centre at the cell's corner, half as large as the image
    raw[0, 0, 1, 2] = 20.0
    raw[0, 1, 1, 2], raw[0, 2, 1, 2] = np.arctanh(0.5), np.arctanh(-0.5)
    raw[0, 3, 1, 2] = np.log(3)  # sigmoid 0.75
    raw[0, 5:, 1, 2] = torch.tensor([0.0, 0.0, 0.0, np.log(5.0)])
    (found,) = decode(raw, least=0.01)
    assert found.classes.tolist() == [3]
    assert found.scores[0].item() == pytest.approx((5 / 8) ** 0.4)
    x, y = 2.5 / 3, 0.5 / 2
    assert found.boxes[0].tolist() == pytest.approx([x - 0.375, y - 0.25, x + 0.375, y + 0.25])
    boxes, scores, _ = boxes_of_cells(raw)
    assert boxes.shape == (1, 6, 4) and scores.argmax() == 5  # row by row


def test_overlapping_boxes_of_one_class_are_suppressed() -> None:
    raw = torch.zeros(1, 5 + 2, 1, 3)
    raw[0, 3:5] = 20.0  # as large as the image, so that all overlap
    raw[0, 0, 0] = torch.tensor([1.0, 2.0, 0.0])
    raw[0, 5, 0] = torch.tensor([3.0, 3.0, -3.0])
    (found,) = decode(raw)
    assert found.classes.tolist() == [0, 1]
    assert found.scores[0] > found.scores[1]


def jpeg(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 24), color).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def save(path: Path, **changed: object) -> Path:
    streams = [jpeg((250, 10, 120)), jpeg((0, 0, 0))]
    arrays: dict[str, object] = {
        "jpeg": np.frombuffer(b"".join(streams), np.uint8),
        "offset": np.cumsum([0, *map(len, streams)]),
        "boxes": wanted((1, 79, 0.5, 0.5, 0.1, 0.1)),
    }
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})  # type: ignore[arg-type]
    return path


def test_images_come_stretched_in_blue_green_red(tmp_path: Path) -> None:
    found = load_boxes(save(tmp_path / "a.npz"), 32)
    assert found.pixels.shape == (2, 32, 32, 3) and found.pixels.dtype == torch.uint8
    assert (found.pixels[0].float().mean((0, 1)) - torch.tensor([120.0, 10.0, 250.0])).abs().max() < 4
    assert found.boxes.shape == (1, 6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": None}, "boxes"),
        ({"boxes": np.zeros((2, 5))}, r"\[m, 6\]"),
        ({"boxes": wanted((2, 0, 0.5, 0.5, 0.1, 0.1))}, "not there"),
        ({"boxes": wanted((0, 0, np.nan, 0.5, 0.1, 0.1))}, "finite"),
        ({"offset": np.array([0, 10**9])}, "offset"),
        ({"offset": np.array([5, 3])}, "offset"),
        ({"jpeg": np.zeros(2000, np.uint8)}, "image 0"),
        ({"boxes": np.array([None])}, "npz"),  # pickled
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_boxes(save(tmp_path / "a.npz", **changed), 32)
    with pytest.raises(UserError, match="no such file"):
        load_boxes(tmp_path / "none.npz", 32)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="npz"):
        load_boxes(tmp_path / "text.npz", 32)


def test_the_published_detector_detects_and_its_program_is_exact(shared: Path, tmp_path: Path) -> None:
    mean, std = find_network("fastestdet").normalization
    model = load_model("fastestdet", classes=80, weights=shared / "data" / "weights" / "fastestdet_coco.pth")
    assert sum(parameter.numel() for parameter in model.parameters()) == 244_490
    images = load_boxes(shared / "data" / "coco" / "val_a64.npz", 352)
    x = normalize(images.pixels, mean, std)
    with torch.inference_mode():
        seen = decode(torch.cat([model(part) for part in x.split(16)]))
    assert (
        abs(100 * average_precision(seen, images.boxes) - 36.2) < 0.3
    )  # measured before by another definition

    plan = Plan.uniform(layer_names(model), LayerPlan(8))
    graph = compile_graph(harden(quantize(model, plan, x[8:24])), (3, 352, 352), mean, std)
    pixels = images.pixels[:2].numpy()
    outputs = run(graph, pixels)
    raw = torch.from_numpy(outputs).unflatten(1, (22, 22, 85)).permute(0, 3, 1, 2)
    alike = [agreement(one, other) for one, other in zip(decode(raw), seen[:2], strict=True)]
    assert sum(alike) / 2 > 0.6
    path = tmp_path / "weights.blob"
    path.write_bytes(write_blob(graph))
    found = run_program(build_program("a76"), path, pixels[:1], target="a76")
    assert np.array_equal(found.view(np.uint32), outputs[:1].view(np.uint32))


def test_teaching_by_the_fp32_outputs_brings_them_closer() -> None:
    mean, std = find_network("fastestdet").normalization
    model = load_model("fastestdet", classes=3)
    pixels = torch.randint(
        0, 256, (8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = normalize(pixels, mean, std)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # of random weights: norms that know the values that reach them
    with torch.no_grad():
        model.train()(x)
        goal = model.eval()(x)
    assert divergence(goal, goal).item() == pytest.approx(0, abs=1e-6)
    settings = TrainSettings(
        epochs=12,
        batch_size=8,
        learning_rate=0.01,
        calibration_images=8,
        batch_norm_images=8,
        evaluation_batch=8,
    )
    one_box = padded(np.array([[0, 0, 0.5, 0.5, 0.2, 0.2]], np.float32), 8)
    images = BlueGreenRed(ArrayImages(pixels.flip(3), torch.zeros(8)), one_box)
    data = ImageData("", ("a", "b", "c"), (64, 64), images, images, images, "none")
    judges = Judges.of(model, data, settings, mean, std, task=Detection(3, (64, 64)))
    plan = Plan.uniform(layer_names(model), LayerPlan(4, 16))
    run = Cotuning(model, plan, data, settings, mean, std, judges=judges)
    with torch.no_grad():
        for module in run.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias += 0.3  # far more than rounding does, so that learning shows
        before = divergence(run.hardened().network(x), goal).item()
        run.train_until(12)
        after = divergence(run.hardened().network(x), goal).item()
    assert 0 < after < 0.8 * before


def test_boxes_as_labels_are_those_boxes() -> None:
    boxes = np.array(
        [[0, 2, 0.5, 0.5, 0.2, 0.1], [2, 0, 0.1, 0.2, 0.3, 0.4], [0, 1, 0.6, 0.5, 0.2, 0.1]], np.float32
    )
    labels = padded(boxes, 4)
    assert labels.shape == (4, 2, 5) and (labels[[1, 3], :, 0] == -1).all()
    assert sorted(map(tuple, listed(labels).tolist())) == sorted(map(tuple, boxes.tolist()))
    images = BlueGreenRed(ArrayImages(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.zeros(4)), labels)
    part = images.subset([2, 0])
    assert sorted(listed(part.labels)[:, 1].tolist()) == [0, 1, 2]
    assert images.content() != images.with_labels(labels + 0.1).content()
    assert padded(boxes[:0], 3).shape == (3, 1, 5) and not len(listed(padded(boxes[:0], 3)))


def test_a_detector_is_judged_by_average_precision_with_its_standard_error() -> None:
    torch.manual_seed(0)
    raw = torch.randn(40, 5 + 3, 4, 4) * 3
    task = Detection(3, (64, 64))
    boxes = np.array(
        [
            (image, kind, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1])
            for image, seen in enumerate(decode(raw))
            for box, kind in list(zip(seen.boxes.tolist(), seen.classes.tolist()))[:3]
        ],
        np.float32,
    )
    labels = padded(boxes, 40)
    noisy = raw + torch.randn(raw.shape, generator=torch.Generator().manual_seed(1))
    scores = task.scores(noisy, labels)
    wanted = average_precision(decode(noisy), boxes)
    assert 0 < wanted < 1 and float(scores.mean()) == pytest.approx(wanted)
    assert 0.005 < float(scores.std()) / 40**0.5 < 0.2
    own = task.scores(raw, labels)
    apart = float((own - scores).std()) / 40**0.5
    assert 0 < apart < 0.2 and task.guessed(raw, labels) < wanted
    assert task.agreements(raw, raw).tolist() == [1.0] * 40
    assert float(task.divergences(raw, raw).abs().max()) == pytest.approx(0, abs=1e-4)
    cells = raw.permute(0, 2, 3, 1).flatten(1)  # as a program answers
    assert torch.equal(task.of_program(cells), raw)
