"""The networks that can be compressed, by name, and their trained weights.

A name is one of ``MODELS``, a torchvision classification network, or ``package.module:function``. The function is called
with ``num_classes`` and ``image_size`` where it accepts them; it may carry the attributes ``normalization`` (mean and
standard deviation of each channel, pixels in 0..1) and ``image_size``, else those of ImageNet are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from foundation.errors import UserError
from foundation.factories import article, call_factory, find_factory, is_factory
from foundation.foreign_files import is_file
from foundation.registry import Registry
from pipeline.datasets.normalization import CENTRED, IMAGENET, UNIT, Normalization, Statistics, checked
from pipeline.networks.cifar import CifarResNet, VggSmall, VggTiny, mobilenet_v2_cifar
from pipeline.networks.darknet import TinyDarknet
from pipeline.networks.fastestdet import FastestDet
from pipeline.networks.weights import check_values, fetch_weights, fit_weights, read_weights

# The published weights of these two expect pixels in -1..1.
TORCHVISION_NORMALIZATION = {"googlenet": CENTRED, "inception_v3": CENTRED}
TORCHVISION_IMAGE_SIZE = {"inception_v3": 299}


@dataclass(frozen=True)
class Model:
    """A network of our own: ``build(classes, (height, width))`` gives it with random weights."""

    build: Callable[[int, tuple[int, int]], nn.Module]
    image_size: int
    normalization: Normalization = IMAGENET
    detects: bool = False  # its output are boxes; its images' channels are blue, green, red


MODELS: Registry[Model] = Registry("model")


def _cifar_resnet(blocks: int) -> Model:
    return Model(lambda classes, size: CifarResNet(blocks, classes), 32)


for _name, _blocks in {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}.items():
    MODELS.register(_name)(_cifar_resnet(_blocks))
MODELS.register("vgg_tiny")(Model(lambda classes, size: VggTiny(classes), 16))
MODELS.register("vgg_small")(Model(VggSmall, 32))
MODELS.register("mobilenet_v2_cifar")(Model(lambda classes, size: mobilenet_v2_cifar(classes), 32))
MODELS.register("tiny_darknet")(Model(lambda classes, size: TinyDarknet(classes), 224, UNIT))
MODELS.register("fastestdet")(Model(lambda classes, size: FastestDet(classes), 352, UNIT, detects=True))


@cache
def torchvision_names() -> tuple[str, ...]:
    """Every torchvision classification network, sorted."""
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))


def model_names() -> tuple[str, ...]:
    """Every name that ``load_model`` knows, our own first."""
    return (*MODELS, *(name for name in torchvision_names() if name not in MODELS))


def check_name(name: str) -> None:
    """Find out without building anything whether ``name`` means a network.

    Raises:
        UserError: it does not; the message names the closest ones.
    """
    if name in MODELS:
        return
    if is_factory(name):
        find_factory(name)
    elif name not in torchvision_names():
        close = get_close_matches(name.lower(), model_names(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UserError(
            f"unknown model {name!r}; allowed are {', '.join(MODELS)}, every torchvision classification network "
            f"(resnet18, resnet50, mobilenet_v2, ...) and package.module:function.{hint}"
        )


def is_detector(name: str) -> bool:
    """Whether the network's output are boxes (see ``pipeline.detection``), not one class per image."""
    return name in MODELS and MODELS[name].detects


def check_classifier(name: str) -> None:
    """Refuse networks that do not classify, where only those are co-tuned.

    Raises:
        UserError: a detector, or no network at all.
    """
    check_name(name)
    if is_detector(name):
        raise UserError(
            f"{name} is a detector; search, training and evaluation are for classifiers so far. "
            "python -m benchmarks.detection quantizes and compiles it"
        )


def load_model(
    name: str,
    *,
    classes: int,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a network, in evaluation mode, float32, on the CPU.

    Args:
        name: see the module docstring.
        classes: length of the logits.
        image_size: height and width that the network will see; only some networks depend on it.
        weights: a file with a state dict, or the name of torchvision weights; None leaves random weights.
        seed: decides the random weights; torch's global random state is neither used nor changed.

    Raises:
        UserError: unknown name, weights that cannot be read or fetched or do not fit.
    """
    check_name(name)
    if classes < 2:
        raise UserError(f"{classes} classes: a classifier needs at least 2")
    size = image_size or default_image_size(name)
    height, width = (size, size) if isinstance(size, int) else size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(name, classes, (height, width))
    if weights is not None:
        # A file wins over a name: someone may well have called a file like torchvision's weights.
        if is_file(Path(weights)) or name not in torchvision_names() or name in MODELS:
            state, source = read_weights(weights), str(weights)
        else:
            state, source = fetch_weights(name, str(weights)), f"torchvision weights {weights}"
        fit_weights(network, state, f"{source} for {name} with {classes} classes")
    else:
        check_values(network, f"the weights that {name} starts with")
    return network.eval()


def _build(name: str, classes: int, size: tuple[int, int]) -> nn.Module:
    if name in MODELS:
        return MODELS[name].build(classes, size)
    if is_factory(name):
        network = call_factory(name, num_classes=classes, classes=classes, image_size=size)
        if not isinstance(network, nn.Module):
            raise UserError(f"{name!r} gave {article(network)}; it must give a torch.nn.Module")
        if isinstance(network, torch.jit.ScriptModule):
            raise UserError(
                f"{name!r} gave a TorchScript module, whose layers cannot be quantized; give the module it was made from"
            )
        if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            raise UserError(f"{name!r} gave a network without values (on the meta device); give it weights")
        network = network.to("cpu", torch.float32)
        network.register_forward_pre_hook(_plain_layout)
        return network
    import torchvision.models

    options: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):
        if size[0] != size[1] or size[0] % 16:
            raise UserError(
                f"{name} needs square images of a multiple of 16 pixels, not {size[0]} x {size[1]}"
            )
        options["image_size"] = size[0]
    elif name.startswith("maxvit_"):
        options["input_size"] = size
    return cast(nn.Module, torchvision.models.get_model(name, weights=None, **options))


def _plain_layout(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as PyTorch's own loaders lay them out: a forward with ``x.view(...)`` fails where channels lie last."""
    return tuple(each.contiguous() if isinstance(each, torch.Tensor) else each for each in given)


def normalization(name: str) -> Normalization:
    """Mean and standard deviation of each channel, of pixels in 0..1, that the network's input is normalized with."""
    return _normalization(name)[0]


def normalized_by(
    name: str, mean: Statistics | None = None, std: Statistics | None = None
) -> tuple[Statistics, Statistics, str]:
    """Mean, standard deviation and who says so: what was asked for, else what the network declares."""
    (declared_mean, declared_std), source = _normalization(name)
    if mean is not None or std is not None:
        given = " and ".join(flag for flag, value in (("--mean", mean), ("--std", std)) if value is not None)
        source = f"{given} given" if mean and std else f"{given} given, the other {source}"
    return mean or declared_mean, std or declared_std, source


def _normalization(name: str) -> tuple[Normalization, str]:
    check_name(name)
    if name in MODELS:
        return MODELS[name].normalization, f"that of {name}"
    if is_factory(name):
        declared = getattr(find_factory(name), "normalization", None)
        if declared is None:
            return IMAGENET, f"ImageNet's, since {name} declares none"
        return checked(declared, repr(name)), f"declared by {name}"
    return TORCHVISION_NORMALIZATION.get(name, IMAGENET), f"that of torchvision's {name}"


def default_image_size(name: str) -> int:
    """Height and width of the images that the network was designed for, in pixels."""
    check_name(name)
    if name in MODELS:
        return MODELS[name].image_size
    if is_factory(name):
        side = getattr(find_factory(name), "image_size", 224)
        if not isinstance(side, int) or side < 1:
            raise UserError(f"{name!r} declares image_size = {side!r}; it must be a number of pixels")
        return side
    return TORCHVISION_IMAGE_SIZE.get(name, 224)
