"""The training loop: schedule, exact resume, divergence, several workers, pretraining."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foundation.errors import UserError
from pipeline.datasets.base import ImageData, halves
from pipeline.datasets.images import ArrayImages, Indices
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.training.evaluation import (
    PIXELS,
    error_of,
    few_batches,
    fixed_sample,
    limited,
    predictions,
    reestimate_batch_norm,
)
from pipeline.training.loop import Diverged, Loop, Portion, one_cycle
from pipeline.training.pretraining import pretrain, pretrained_file
from pipeline.training.settings import TrainSettings, pretraining_settings

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CPU = torch.device("cpu")


def blobs(count: int = 64, classes: int = 4, size: int = 8) -> ImageData:
    """Noise around one colour a class: learnable by anything."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    colours = rng.integers(40, 216, (classes, 3))
    pixels = np.clip(colours[labels][:, None, None] + rng.normal(0, 30, (count, size, size, 3)), 0, 255)
    images = ArrayImages(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))
    third = count // 4
    train, search, report = [
        images.subset(range(a, b)) for a, b in ((2 * third, count), (0, third), (third, 2 * third))
    ]
    return ImageData("blobs", tuple("abcdefgh"[:classes]), (size, size), train, search, report, "crop_flip")


class Small(nn.Module):
    def __init__(self, norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(torch.relu(self.bn1(self.conv1(x)))).relu()
        return self.linear(self.dropout(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


def loop(network: nn.Module, settings: TrainSettings, data: ImageData | None = None, **rest: Any) -> Loop:
    groups = [{"params": list(network.parameters()), "weight_decay": settings.weight_decay}]
    return Loop(network, data or blobs(), settings, MEAN, STD, groups, device=CPU, **rest)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second or (first != first and second != second)


SETTINGS = TrainSettings(epochs=3, batch_size=8, learning_rate=0.05, seed=7)


def test_learns_and_counts_steps() -> None:
    network = Small(norm=True)
    seen: list[tuple[int, int, float]] = []
    run = loop(network, SETTINGS, progress=lambda *what: seen.append(what))
    assert run.steps_per_epoch == 4 and run.total_steps == 12
    run.run_until(0.25)
    assert run.step == 1
    run.run_until(3)
    assert [row[:2] for row in seen] == [(step, 12) for step in range(1, 13)]


def test_learns() -> None:
    network = Small(norm=True)
    settings = dataclasses.replace(SETTINGS, epochs=20, learning_rate=0.1)
    run = loop(network, settings)
    run.run_until(1)
    first = run.take_loss()
    run.run_until(20)
    assert run.take_loss() < 0.8 * first
    assert error_of(network, run.data.search, MEAN, STD) < 0.3


def test_an_epoch_takes_every_image_once_and_limits_are_kept() -> None:
    data = blobs()
    run = loop(Small(norm=False), dataclasses.replace(SETTINGS, augment="none"), data)
    wanted = {row.tobytes() for row in data.train.batch(range(len(data.train))).numpy()}
    for epoch in range(2):
        orders = [run.batch(epoch * 4 + step) for step in range(4)]
        pixels = torch.cat([images for images, _ in orders]).permute(0, 2, 3, 1)
        restored = ((pixels * 0.25 + 0.5) * 255).round().to(torch.uint8)
        assert {row.numpy().tobytes() for row in restored} == wanted
    limited = loop(Small(norm=False), dataclasses.replace(SETTINGS, images_per_epoch=20))
    assert limited.steps_per_epoch == 2
    assert not torch.equal(limited.batch(0)[0], limited.batch(2)[0])


@given(st.floats(0, 0.9), st.floats(0, 1))
def test_one_cycle(warm_up: float, share: float) -> None:
    value = one_cycle(share, warm_up)
    assert 0 <= value <= 1
    assert math.isclose(one_cycle(warm_up, warm_up), 1) and one_cycle(1, warm_up) < 1e-12
    later = min(1.0, share + 0.05)
    if later <= warm_up:
        assert one_cycle(later, warm_up) >= value
    if share >= warm_up:
        assert one_cycle(later, warm_up) <= value


@pytest.mark.parametrize("stop", [0.25, 1.0, 1.75])
def test_a_resumed_run_equals_the_uninterrupted_one(stop: float) -> None:
    whole = loop(Small(norm=True, dropout=0.3), SETTINGS)
    whole.run_until(3)
    first = loop(Small(norm=True, dropout=0.3), SETTINGS)
    first.run_until(stop)
    state = saved_and_loaded(first.state_dict())
    torch.manual_seed(12345)  # another process has another random state
    second = loop(Small(norm=True, dropout=0.3), SETTINGS)
    second.load_state_dict(state)
    second.run_until(3)
    a, b = whole.state_dict(), second.state_dict()
    a.pop("seconds"), b.pop("seconds")
    assert equal(a, b)
    other = loop(Small(norm=True, dropout=0.3), dataclasses.replace(SETTINGS, seed=8))
    other.run_until(3)
    assert not equal(other.state_dict()["network"], a["network"])


def test_training_leaves_the_random_state_alone() -> None:
    run = loop(Small(norm=True, dropout=0.3), SETTINGS)
    before = torch.get_rng_state()
    run.run_until(1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training(value: float) -> None:
    class Broken(Loop):
        def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = super().loss(images, labels)
            return loss * value if self.step == 5 else loss

    network = Small(norm=False)
    groups = [{"params": list(network.parameters())}]
    run = Broken(network, blobs(), SETTINGS, MEAN, STD, groups, device=CPU)
    with pytest.raises(Diverged, match=f"the loss is {value} at step 6 of 12"):
        run.run_until(3)


def test_a_loss_that_explodes_ends_training() -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=300.0, gradient_clip=None, epochs=20)
    with pytest.raises(Diverged, match=r"the loss (is|blew up).* at step \d+ of 80"):
        loop(Small(norm=False), settings).run_until(20)


def test_gradient_clip() -> None:
    network = Small(norm=False)
    run = loop(network, dataclasses.replace(SETTINGS, gradient_clip=1e-3, weight_decay=0.0, momentum=0.0))
    before = copy.deepcopy(network.state_dict())
    run.run_until(0.25)
    moved = math.sqrt(sum(float(((v - before[k]) ** 2).sum()) for k, v in network.state_dict().items()))
    assert math.isclose(moved, 0.05 / 25 * 1e-3, rel_tol=1e-2)


# --- evaluation


def test_error_of_is_the_share_of_wrong_answers_and_changes_nothing() -> None:
    network = Small(norm=True).train()
    data = blobs()
    before = copy.deepcopy(network.state_dict())
    answers = predictions(network, data.search, MEAN, STD, batch=5)
    error = error_of(network, data.search, MEAN, STD, batch=16)
    assert error == float((answers != data.search.labels).float().mean())
    assert network.training and equal(before, network.state_dict())
    assert torch.equal(predictions(network, data.search, MEAN, STD, 3, torch.tensor([4, 1])), answers[[4, 1]])


def test_batch_norm_is_reestimated_as_plain_averages() -> None:
    network = Small(norm=True).eval()
    data = blobs()
    reestimate_batch_norm(network, data.train, 20, MEAN, STD, batch=8)
    chosen = fixed_sample(len(data.train), 16)  # two whole batches
    means, variances = [], []
    for part in chosen.split(8):
        x = (data.train.batch(part).permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
        y = nn.functional.conv2d(x, network.conv1.weight.double(), network.conv1.bias.double(), padding=1)
        means.append(y.mean((0, 2, 3)))
        variances.append(y.var((0, 2, 3)))
    norm = network.bn1
    torch.testing.assert_close(norm.running_mean.double(), torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        norm.running_var.double(), torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5
    )
    assert norm.momentum == 0.1 and not norm.training and not network.training


def test_reestimating_with_the_trainings_augmentation_keeps_a_real_networks_accuracy(
    shared: Path, cifar10_npz: Path
) -> None:
    network = load_model("resnet20", classes=10, weights=shared / "data/weights/resnet20-12fca82f.th")
    mean, std = find_network("resnet20").normalization
    data = load_data(f"npz:{cifar10_npz}")
    before = error_of(network, data.search, mean, std)
    reestimate_batch_norm(network, data.train, 1024, mean, std, 256, data.augment)
    assert error_of(network, data.search, mean, std) <= before + 0.015  # plain images cost 0.03


# --- several workers


def _worker(rank: int, world: int, place: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world
    )
    run = loop(
        Small(norm=False), dataclasses.replace(SETTINGS, augment="none"),
        portion=Portion(rank, world, DistributedDataParallel),
    )  # fmt: skip
    run.run_until(0.25)
    gradients = {name: parameter.grad for name, parameter in run.network.named_parameters()}
    run.run_until(2)
    torch.save((gradients, run.network.state_dict(), run.last_loss), f"{place}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_take_the_same_steps_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        _worker, args=(2, str(tmp_path)), nprocs=2
    )
    (gradients, weights, loss), second = (
        torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)
    )
    assert equal(weights, second[1]) and loss == second[2]
    single = loop(Small(norm=False), dataclasses.replace(SETTINGS, augment="none"))
    single.run_until(0.25)
    for name, parameter in single.network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    single.run_until(2)
    for name, value in single.network.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)
    assert math.isclose(loss, single.last_loss, rel_tol=1e-3)


def test_workers_share_a_batch_without_overlap() -> None:
    settings = dataclasses.replace(SETTINGS, augment="none")
    whole, _ = loop(Small(norm=False), settings).batch(3)
    parts = [loop(Small(norm=False), settings, portion=Portion(rank, 4)).batch(3)[0] for rank in range(4)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
    with pytest.raises(UserError, match="batch size 8 cannot be shared by 3 workers"):
        loop(Small(norm=False), settings, portion=Portion(0, 3))


# --- pretraining


def test_pretraining_is_cached_by_what_it_depends_on(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=1)
    model, data = Small(norm=True), blobs()
    before = copy.deepcopy(model.state_dict())
    steps: list[int] = []
    options: dict[str, Any] = {"name": "package.module:small", "cache": tmp_path / "cache"}
    first = pretrain(
        model, data, MEAN, STD, settings=settings, progress=lambda *what: steps.append(what[0]), **options
    )
    assert not first.cached and steps == [1, 2, 3, 4] and equal(before, model.state_dict())
    again = pretrain(
        model, data, MEAN, STD, settings=settings, progress=lambda *what: steps.append(what[0]), **options
    )
    assert again.cached and len(steps) == 4 and again.path == first.path and again.error == first.error
    assert equal(first.network.state_dict(), again.network.state_dict())
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.path.name]
    for change in (
        {"settings": dataclasses.replace(settings, seed=1)},
        {"settings": settings, "data": blobs(72)},
        {"settings": settings, "std": (0.3, 0.3, 0.3)},
    ):
        arguments: dict[str, Any] = {"data": data, "mean": MEAN, "std": STD, **options, **change}
        assert pretrain(model, **arguments).path != first.path
    first.path.write_bytes(b"cut off")
    with pytest.raises(UserError, match=str(first.path)):
        pretrain(model, data, MEAN, STD, settings=settings, **options)


class Numbers(ArrayImages):
    """Of each image its number, in one pixel."""

    def batch(self, indices: Indices) -> torch.Tensor:
        return torch.as_tensor(indices)[:, None, None, None].expand(-1, 1, 1, 3)


@pytest.mark.parametrize(
    ("count", "side"), [(257, 8), (1024, 160), (1024, 32), (256, 125), (3, 8), (1, 8), (65, 1000)]
)
def test_few_batches_are_as_large_as_allowed_and_alike(count: int, side: int) -> None:
    """A last batch of one image is more than a network can do that squeezes its outputs."""
    images = Numbers(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count), (side, side))
    parts = few_batches(images, torch.arange(count), (0.0,) * 3, (1 / 255,) * 3)
    sizes = [len(part) for part in parts]
    assert torch.cat(parts)[:, 0, 0, 0].round().tolist() == list(range(count))
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= max(3, min(256, PIXELS // side**2))
    assert min(sizes) > 1 or count == 1


def test_a_part_of_images_has_rare_classes_as_often_as_all() -> None:
    labels = torch.tensor([0] * 900 + [1] * 60 + [2] * 40)
    images = ArrayImages(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels)
    half = images.subset(halves(labels)[1])
    part = limited(half, 100)
    assert len(part) == 100 and set(part.names()) < set(half.names())
    assert [half.names().index(name) for name in part.names()] == sorted(
        half.names().index(name) for name in part.names()
    )
    shares = torch.bincount(part.labels, minlength=3) / 100
    assert abs(shares[0] - 0.9) < 0.1 and shares[0] < 1
    assert limited(half, None) is limited(half, 500) is limited(half, 900) is half


def test_pretraining_that_fails_says_what_to_give(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, gradient_clip=None)
    with pytest.raises(
        UserError,
        match=r"small cannot be trained here .* rate of 1e\+30: the loss .* give trained weights",
    ):
        pretrain(Small(norm=False), blobs(), MEAN, STD, settings=settings, name="small", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_that_changed_are_learned_anew(tmp_path: Path) -> None:
    """Files of the same name and size, as every bitmap's."""
    chance, places = np.random.default_rng(0), []
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            for number in range(8):
                place = tmp_path / "set" / split / label / f"{number}.bmp"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).save(place)
                places.append(place)

    def where() -> Path:
        data = load_data(f"imagefolder:{tmp_path / 'set'}", 8)
        return pretrained_file(Small(norm=True), data, MEAN, STD, "small", SETTINGS, tmp_path)

    before, again = where(), where()
    Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).save(places[0])
    assert before == again != where()


def test_digits_are_learned_from_nothing(tmp_path: Path) -> None:
    """The default of the whole program; shortened here, the full length is better still."""
    data = load_data("digits")
    model = load_model("resnet8", classes=10, image_size=data.image_size)
    settings = dataclasses.replace(pretraining_settings(len(data.train)), epochs=4)
    trained = pretrain(
        model, data, *find_network("resnet8").normalization, name="resnet8", cache=tmp_path, settings=settings
    )
    assert trained.error < 0.06
    assert error_of(trained.network, data.report, *find_network("resnet8").normalization) < 0.06


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": math.nan}, {"distillation": 2}, {"warm_up": 1.0}],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        TrainSettings(**change)
