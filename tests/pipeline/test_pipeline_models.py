"""Networks by name, their published weights, and what is said about mistakes."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foundation.errors import UserError
from pipeline.datasets.images import normalize
from pipeline.networks.branches import learning
from pipeline.networks.registry import MODELS, find_network, load_model, model_names
from pipeline.networks.weights import read_weights

CHECKPOINTS = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet56": "resnet56-4bfd9763.th",
}
# Top-1 over all 5000 images of this half of the test set, as published with the checkpoints' data.
TOP1 = {"resnet20": 91.54, "resnet32": 92.50, "resnet56": 93.44}


def accuracy(network: nn.Module, name: str, images: np.ndarray, labels: np.ndarray) -> float:
    with torch.inference_mode():
        predicted = torch.cat(
            [
                network(normalize(part, *find_network(name).normalization)).argmax(1)
                for part in torch.from_numpy(images).split(125)
            ]
        )
    return 100 * float((predicted.numpy() == labels).mean())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_cifar_checkpoint_loads_and_classifies(
    name: str, shared: Path, cifar10: dict[str, np.ndarray]
) -> None:
    path = shared / "data" / "weights" / CHECKPOINTS[name]
    network = load_model(name, classes=10, weights=path)
    stored = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    own = network.state_dict()
    assert {f"module.{key}" for key in own if not key.endswith("num_batches_tracked")} == set(stored)
    assert all(torch.equal(own[key.removeprefix("module.")], value) for key, value in stored.items())
    found = accuracy(network, name, cifar10["x_val"][:500], cifar10["y_val"][:500])
    assert abs(found - TOP1[name]) < 3.0  # two and a half standard errors of 500 images


def test_tiny_darknet_classifies_imagenet(shared: Path) -> None:
    path = shared / "data" / "weights" / "tiny_darknet_imagenet.pt"
    network = load_model("tiny_darknet", classes=1000, weights=path)
    assert find_network("tiny_darknet").image_size == 224
    stored = np.load(shared / "data" / "imagenet" / "ccdev_a.npz")
    streams, offset = stored["jpeg"], stored["offset"]
    pick = np.arange(0, 456, 6)
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(streams[offset[i] : offset[i + 1]].tobytes())))[16:240, 16:240]
            for i in pick
        ]
    )
    found = accuracy(network, "tiny_darknet", images, stored["label"][pick])
    assert 48 < found < 78  # 63.16 on all 456; the standard error of 76 images is 5.5


@pytest.mark.parametrize("name", MODELS)
def test_every_registered_model_runs(name: str) -> None:
    size = min(find_network(name).image_size, 64)
    network = load_model(name, classes=7, image_size=size)
    assert not network.training
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, size, size))
    shape = (2, 5 + 7, size // 16, size // 16) if find_network(name).detects else (2, 7)
    assert logits.shape == shape and logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_every_registered_model_can_be_traced(name: str) -> None:
    size = min(find_network(name).image_size, 64)
    network = load_model(name, classes=3, image_size=size)
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(torch.fx.symbolic_trace(network)(images), network(images))


@pytest.mark.parametrize(
    "name,size",
    [("resnet18", 32), ("mobilenet_v2", 32), ("googlenet", 64), ("inception_v3", 96), ("vit_b_32", 32)],
)
def test_torchvision_networks(name: str, size: int) -> None:
    network = load_model(name, classes=5, image_size=size).train()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size))
    assert isinstance(logits, torch.Tensor) and logits.shape == (2, 5)


def test_names_and_sizes() -> None:
    assert {"resnet18", "resnet50", "vgg11", "mobilenet_v2", "resnet20"} <= set(model_names())
    assert [find_network(name).image_size for name in ("resnet20", "resnet50", "inception_v3")] == [
        32,
        224,
        299,
    ]
    assert find_network("tiny_darknet").normalization == ((0, 0, 0), (1, 1, 1))
    assert (
        find_network("resnet20").normalization
        == find_network("resnet50").normalization
        == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )


def test_googlenet_normalization_is_what_its_published_weights_expect() -> None:
    """torchvision's own way from ImageNet-normalized pixels is the same as normalizing with 0.5."""
    from torchvision.models import GoogLeNet

    reference = GoogLeNet(aux_logits=False, transform_input=True, init_weights=False)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = reference._transform_input(normalize(pixels, *find_network("resnet50").normalization))
    torch.testing.assert_close(normalize(pixels, *find_network("googlenet").normalization), expected)


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_model("resnet8", classes=10).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = load_model("resnet8", classes=10).state_dict()
    other = load_model("resnet8", classes=10, seed=5).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


FACTORY = """
from torch import nn
def tiny(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
tiny.normalization = ((0.1, 0.2, 0.3), (1, 2, 3))
tiny.image_size = 12
def fixed(): return nn.Linear(2, 2)
def wrong(): return 3
"""


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_factory_module.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    network = load_model("some_factory_module:tiny", classes=6)
    assert network(torch.randn(1, 3, 12, 12)).shape == (1, 6)
    assert find_network("some_factory_module:tiny").image_size == 12
    assert find_network("some_factory_module:tiny").normalization == ((0.1, 0.2, 0.3), (1, 2, 3))
    assert isinstance(load_model("some_factory_module:fixed", classes=6), nn.Linear)
    with pytest.raises(UserError, match=r"gave an int; it must give a torch\.nn\.Module"):
        load_model("some_factory_module:wrong", classes=6)
    with pytest.raises(UserError, match="has no 'absent'"):
        find_network("some_factory_module:absent")


@pytest.mark.parametrize(
    "name,close", [("resnet21", "resnet20"), ("mobilnet_v2", "mobilenet_v2"), ("ResNet50", "resnet50")]
)
def test_unknown_name_suggests_close_ones(name: str, close: str) -> None:
    with pytest.raises(UserError, match=f"unknown model '{name}'.*Did you mean.*'{close}'"):
        find_network(name)


@pytest.mark.parametrize("name", ["net.onnx", "/models/Net.ONNX", "models/net.onnx"])
def test_a_network_in_onnx_is_refused_with_what_to_give(name: str) -> None:
    with pytest.raises(
        UserError, match=f"--model {name}: networks are not read from ONNX.*package.module:function"
    ):
        find_network(name)


def test_unknown_module_is_a_user_error() -> None:
    with pytest.raises(UserError, match="there is no module 'no_such_package'"):
        load_model("no_such_package.models:thing", classes=3)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": {"state_dict": s}}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_wrapped_state_dicts(tmp_path: Path, wrap: Callable[[Any], Any], prefix: str) -> None:
    state = load_model("resnet8", classes=10, seed=3).state_dict()
    path = tmp_path / "weights.pt"
    torch.save(wrap({prefix + key: value for key, value in state.items()}), path)
    loaded = load_model("resnet8", classes=10, weights=path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_mismatches_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = load_model("resnet8", classes=10).state_dict()
    torch.save(state, path)
    with pytest.raises(UserError, match=r"linear\.weight is 10x64 instead of 100x64.*number of classes"):
        load_model("resnet8", classes=100, weights=path)
    torch.save({**state, "conv1.weight": torch.zeros(8, 3, 3, 3)}, path)
    # No word of classes.
    with pytest.raises(UserError, match=r"conv1\.weight is 8x3x3x3 instead of 16x3x3x3$"):
        load_model("resnet8", classes=10, weights=path)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"missing: layer1\.1\.conv1\.weight.* more"):
        load_model("resnet20", classes=10, weights=path)
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"unexpected: extra\.weight"):
        load_model("resnet8", classes=10, weights=path)


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        path = tmp_path / "weights.pt"
        save({"state_dict": Harmful(tmp_path / "harm")}, path)
        with pytest.raises(UserError, match="refused"):
            read_weights(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off"])
def test_damaged_files_are_user_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights .*weights\.pt"):
        read_weights(path)


def test_files_without_a_state_dict_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for value in ({"epoch": 3}, torch.zeros(3), {}, [1, 2]):
        torch.save(value, path)
        with pytest.raises(UserError, match="holds no state dict"):
            read_weights(path)
    with pytest.raises(UserError, match="there is no such file"):
        read_weights(tmp_path / "absent.pt")


def test_torchvision_weights_names() -> None:
    with pytest.raises(
        UserError, match="neither a file nor weights of torchvision's resnet18; allowed are: IMAGENET1K_V1"
    ):
        load_model("resnet18", classes=1000, weights="IMAGENET1K_V9", image_size=32)


def test_without_timm_its_networks_are_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"'timm:resnet18' is one of timm, which cannot be imported .* pip install timm"
    ):
        find_network("timm:resnet18")


def test_a_network_of_timm_has_its_own_size_and_normalization() -> None:
    timm = pytest.importorskip("timm")
    found = find_network("timm:mobilenetv3_small_050")
    config = timm.models.get_pretrained_cfg("mobilenetv3_small_050")
    assert (found.image_size, found.normalization) == (config.input_size[-1], (config.mean, config.std))
    network = load_model(found, classes=7, image_size=32)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(UserError, match="did you mean timm:resnet18"):
        find_network("timm:resnet1")


@torch.no_grad()
def branches_that_learned(network: nn.Module) -> nn.Module:
    """A RepVGG as its training leaves it: branches of its own with statistics of their own."""
    torch.manual_seed(0)
    branched = learning(network)
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return branched.eval()


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_branches_that_learned_are_fused_when_they_are_loaded(tmp_path: Path, prefix: str) -> None:
    branched, path = branches_that_learned(load_model("repvgg_cifar", classes=10)), tmp_path / "weights.pt"
    torch.save({prefix + key: value for key, value in branched.state_dict().items()}, path)
    network, images = load_model("repvgg_cifar", classes=10, weights=path), torch.randn(2, 3, 32, 32)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.inference_mode():
        wanted = branched(images)
        assert float((network(images) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    torch.save(network.state_dict(), path)  # fused, they are weights as others
    again = load_model("repvgg_cifar", classes=10, weights=path)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_branches_learn_where_there_are_no_weights(tmp_path: Path) -> None:
    from pipeline.datasets.base import halved
    from pipeline.datasets.images import ArrayImages
    from pipeline.training.pretraining import pretrain
    from pipeline.training.settings import TrainSettings

    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    images = ArrayImages(pixels, torch.arange(16) % 2, None)
    data = halved("data", ["a", "b"], images, images, "none")
    model, half = load_model("repvgg_cifar", classes=2), ((0.5,) * 3, (0.5,) * 3)
    settings = TrainSettings(epochs=1, batch_size=8, distillation=0)
    made, kept = (
        pretrain(model, data, *half, name="repvgg_cifar", cache=tmp_path, settings=settings) for _ in range(2)
    )
    assert kept.cached and any("bn3" in key for key in read_weights(kept.path))
    assert made.network.state_dict().keys() == model.state_dict().keys()
    for key, value in made.network.state_dict().items():
        assert torch.equal(value, kept.network.state_dict()[key]) and not torch.equal(
            value, model.state_dict()[key]
        )
