"""Checkpoints and factories as other people make them, and what is said of those that are broken."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from foundation.command import main_guard
from foundation.errors import UserError
from pipeline.datasets.registry import load_data
from pipeline.networks.registry import find_network, load_model
from pipeline.networks.weights import fit_weights, read_weights
from pipeline.train import main as train

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return load_model("resnet8", classes=10, seed=3).state_dict()


def other(state: State) -> State:
    """Weights that are told apart from ``state``."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def averaged(state: State) -> State:
    network = load_model("resnet8", classes=10)
    network.load_state_dict(state)
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True).state_dict()


CHECKPOINTS: dict[str, Callable[[State], object]] = {
    "Lightning": lambda s: {
        "state_dict": {**under("model.", s), "criterion.weight": torch.ones(10), "accuracy.total": torch.ones(())},
        "epoch": 3, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1},
    },
    "Lightning around DataParallel": lambda s: {"state_dict": under("net.module.", s)},
    "Lightning with an average": lambda s: {"state_dict": {**under("model.", other(s)), **under("model_ema.", s)}},
    "torchvision's references": lambda s: {
        "model": other(s), "model_ema": averaged(s), "optimizer": {"state": {}}, "args": {"lr": 0.1}, "epoch": 9,
    },
    "timm": lambda s: {"state_dict": other(s), "state_dict_ema": s, "arch": "resnet8"},
    "ema_state_dict": lambda s: {"model": other(s), "ema_state_dict": under("module.", s)},
    "an average's settings alone": lambda s: {"ema": {"decay": 0.99}, "net": s, "acc": 91.2},
    "a library's average": lambda s: {"model": other(s), "ema": {"module": s, "updates": 5}, "step": 3},
    "DeepSpeed": lambda s: {"module": under("module.", s), "global_steps": 7},
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}  # fmt: skip


class Wrapped(nn.Module):
    """A network that calls its part as DataParallel does."""

    def __init__(self) -> None:
        super().__init__()
        self.module = load_model("resnet8", classes=10)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_that_is_the_networks_own_is_kept(state: State, tmp_path: Path, prefix: str) -> None:
    torch.save({**under(f"{prefix}module.", state)}, tmp_path / "own.pt")
    network = Wrapped()
    fit_weights(network, read_weights(tmp_path / "own.pt"), "w")
    loaded = network.module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_other_people(kind: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    torch.save(CHECKPOINTS[kind](state), path)
    loaded = load_model("resnet8", classes=10, weights=path).state_dict()
    for key in state:
        torch.testing.assert_close(loaded[key].float(), state[key].float(), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(state: State, tmp_path: Path, name: str, prefix: str) -> None:
    save_file(under(prefix, state), tmp_path / name)
    loaded = load_model("resnet8", classes=10, weights=tmp_path / name).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_two_networks_in_one_checkpoint_are_not_guessed_between(state: State, tmp_path: Path) -> None:
    torch.save({**under("student.", state), **under("teacher.", other(state))}, tmp_path / "both.pt")
    with pytest.raises(UserError, match=r"holds 2 such networks, under student\., teacher\."):
        load_model("resnet8", classes=10, weights=tmp_path / "both.pt")


def test_a_part_behind_a_prefix_must_be_whole(state: State, tmp_path: Path) -> None:
    part = {k: v for k, v in under("model.", state).items() if not k.startswith("model.layer3")}
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(UserError, match="do not fit: missing"):
        load_model("resnet8", classes=10, weights=tmp_path / "part.pt")


def test_heads_that_only_serve_training_are_left_out_of_a_file_too(tmp_path: Path) -> None:
    network = load_model("googlenet", classes=4, image_size=64)
    torch.save({**network.state_dict(), "aux1.conv.conv.weight": torch.ones(1)}, tmp_path / "google.pt")
    load_model("googlenet", classes=4, image_size=64, weights=tmp_path / "google.pt")


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("layer1.0.conv1.weight", float("nan"), r"layer1\.0\.conv1\.weight holds NaN"),
        ("linear.bias", float("inf"), r"linear\.bias holds infinity"),
        ("bn1.running_mean", float("nan"), r"bn1\.running_mean holds NaN"),
        ("bn1.running_var", -1e-3, r"bn1\.running_var holds a negative variance"),
    ],
)
def test_broken_values_are_refused_by_name(
    state: State, tmp_path: Path, key: str, value: float, message: str
) -> None:
    broken = {k: v.clone() for k, v in state.items()}
    broken[key].view(-1)[0] = value
    torch.save(broken, tmp_path / "broken.pt")
    with pytest.raises(UserError, match=rf"broken\.pt for resnet8.*{message}"):
        load_model("resnet8", classes=10, weights=tmp_path / "broken.pt")


def test_values_beyond_float32_and_other_kinds_of_tensors_are_refused(state: State, tmp_path: Path) -> None:
    huge = {k: v.double() for k, v in state.items()}
    huge["linear.bias"] = torch.full((10,), 1e300, dtype=torch.float64)
    with pytest.raises(UserError, match=r"linear\.bias holds infinity"):
        fit_weights(load_model("resnet8", classes=10), huge, "w")
    integers = (state["linear.weight"] * 100).to(torch.int8)
    for wrong in (state["linear.weight"].to_sparse(), state["linear.weight"].to(torch.complex64), integers):
        with pytest.raises(UserError, match=r"of another kind: linear\.weight"):
            fit_weights(load_model("resnet8", classes=10), {**state, "linear.weight": wrong}, "w")


NOT_WEIGHTS = {
    "empty": (b"", "is empty"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
    "a text": (b"epoch 1 loss 2.3\nepoch 2 loss 2.1\n", "is a text file"),
    "a long text in another alphabet": ("ü" * 2000).encode() + b"\n",
    "a page": (b"\n<!DOCTYPE html>\n<html><title>Not Found</title></html>", "web page"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1099231\n",
        "pointer of Git LFS",
    ),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "unpack"),
    "zeros": (bytes(4096), "not from torch.save|not a file of torch.save"),
}


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_a_file_is_instead_is_said_in_one_line(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = NOT_WEIGHTS[kind]
    content, message = entry if isinstance(entry, tuple) else (entry, "is a text file")
    if kind == "zeros" and name.endswith("safetensors"):
        message = "not a file of safetensors"
    (tmp_path / name).write_bytes(content)
    (tmp_path / "plan.json").write_text('{"layers":{"conv1":{"bits":8}}}')
    argv = ["--model", "resnet8", "--weights", str(tmp_path / name), "--plan", str(tmp_path / "plan.json")]
    assert main_guard(lambda: train([*argv, "--out", str(tmp_path / "out")])) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and name in lines[0]
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_a_torchscript_archive_is_called_so(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="a TorchScript archive; save the state dict alone"):
        read_weights(tmp_path / "script.pt")


def mangled(content: bytes, chance: random.Random) -> bytes:
    """The beginning of a file, or the file with some bytes changed, or mere bytes."""
    kind = chance.randrange(3)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chance.choice((1, 8, 64))):
            changed[chance.randrange(min(len(changed), chance.choice((64, 10**9))))] = chance.randrange(256)
        return bytes(changed)
    return chance.randbytes(chance.randrange(300))


def test_any_bytes_as_weights_are_read_or_refused(tmp_path: Path) -> None:
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()
    stream, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": small}, stream)
    torch.save(small, legacy, _use_new_zipfile_serialization=False)
    chance, refused = random.Random(0), 0
    for number in range(600):
        content = (stream.getvalue(), legacy.getvalue(), save(small))[number % 3]
        path = tmp_path / ("weights.safetensors" if number % 2 else "weights.pt")
        path.write_bytes(mangled(content, chance))
        try:
            state = read_weights(path)
        except UserError as error:
            assert "\n" not in str(error) and path.name in str(error)
            refused += 1
        else:
            assert all(isinstance(value, Tensor) for value in state.values())
    assert refused > 300


FACTORIES = """
import torch
from torch import nn
def good(num_classes=10, **rest):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
def keywords(**options): return good(options["num_classes"])
def raises(num_classes): raise RuntimeError("the hub\\nis down")
def exits(): raise SystemExit("no GPU")
def lacking(width, depth, num_classes): return good()
def nothing(num_classes): pass
def pair(num_classes): return good(), 224
def scripted(num_classes): return torch.jit.script(good())
def meta(num_classes):
    with torch.device("meta"): return good()
def double(num_classes): return good(num_classes).double()
def nan(num_classes):
    network = good(num_classes)
    nn.init.constant_(network[0].weight, float("nan"))
    return network
instance = good()
def scaled(num_classes): return good(num_classes)
scaled.normalization = (0.5,)
def sized(num_classes): return good(num_classes)
sized.image_size = "224"
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "foreign_factories.py").write_text(FACTORIES)
    (tmp_path / "foreign_needs.py").write_text("import no_such_dependency\n")
    (tmp_path / "foreign_broken.py").write_text("def f(:\n")
    (tmp_path / "foreign_noisy.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "foreign_factories:"


@pytest.mark.parametrize("name", ["good", "keywords", "double"])
def test_factories_that_work(factories: str, name: str) -> None:
    network = load_model(factories + name, classes=7)
    assert network(torch.zeros(2, 3, 12, 12)).shape == (2, 7)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "name,message",
    [
        ("foreign_factories:raises", r"failed: RuntimeError: the hub \(.*foreign_factories\.py, line 7\)"),
        ("foreign_factories:exits", "failed: SystemExit: no GPU"),
        ("foreign_factories:lacking", "needs 'width', 'depth'; it is called with those of num_classes"),
        ("foreign_factories:nothing", "gave a NoneType; it must give a torch.nn.Module"),
        ("foreign_factories:pair", "gave a tuple; it must give a torch.nn.Module"),
        ("foreign_factories:scripted", "TorchScript"),
        ("foreign_factories:meta", "without values"),
        ("foreign_factories:nan", r"starts with are broken: 0\.weight holds NaN"),
        ("foreign_factories:instance", "is a Sequential, not a function"),
        ("foreign_factories:absent", "has no 'absent'; name one of its own: "),
        (
            "foreign_needs:net",
            "importing module 'foreign_needs' failed: ModuleNotFoundError: No module named",
        ),
        ("foreign_broken:net", r"failed: SyntaxError: .*foreign_broken\.py, line 1"),
        ("foreign_noisy:net", r"failed: ZeroDivisionError: .*foreign_noisy\.py, line 1"),
        ("foreign_absent.inner:net", "there is no module 'foreign_absent' here"),
    ],
)
def test_factories_that_do_not(factories: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_model(name, classes=7)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        load_data(name)


def test_what_a_factory_declares_is_checked(factories: str) -> None:
    with pytest.raises(UserError, match=r"normalization = \(0\.5,\); it must be \(means, deviations\)"):
        find_network(f"{factories}scaled")
    with pytest.raises(UserError, match="image_size = '224'"):
        find_network(f"{factories}sized")


def test_a_name_that_no_file_can_have_is_no_file() -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="there is no such file"):
            load_model("resnet8", classes=10, weights=name)
