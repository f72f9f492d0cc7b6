"""The networks that can be compressed, by name, and their trained weights.

A name is one of ``MODELS``, a torchvision classification network, ``timm:NAME``, or
``package.module:Name`` of a function or a ``ModelSpec``
(``pipeline.networks.from_factory``).
"""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.factories import is_factory
from foundation.foreign_files import NO_ONNX, is_file
from foundation.registry import Registry
from pipeline.networks import from_factory, from_timm, from_torchvision
from pipeline.networks.base import ModelSpec
from pipeline.networks.branches import load_weights
from pipeline.networks.from_torchvision import torchvision_names
from pipeline.networks.weights import check_values, fetch_weights, read_weights

MODELS: Registry[ModelSpec] = Registry("model", "pipeline.networks")


def model_names() -> tuple[str, ...]:
    """Every name that ``find_network`` knows, our own first."""
    return (*MODELS, *(name for name in torchvision_names() if name not in MODELS))


def find_network(name: str) -> ModelSpec:
    """The network that ``name`` means; nothing is built.

    Raises:
        UserError: it means none; the message names the closest ones; or what is declared of it is wrong.
    """
    if name in MODELS:
        return dataclasses.replace(MODELS[name], name=name, declared=f"that of {name}")
    if name.startswith(from_timm.PREFIX):
        return from_timm.find(name)
    if is_factory(name):
        return from_factory.find(name)
    if name in torchvision_names():
        return from_torchvision.find(name)
    if name.lower().endswith(".onnx"):
        raise UserError(
            f"--model {name}: {NO_ONNX}, by its name or as package.module:function, and its --weights"
        )
    close = get_close_matches(name.lower(), model_names(), n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UserError(
        f"unknown model {name!r}; allowed are {', '.join(MODELS)}, every torchvision classification network "
        f"(resnet18, resnet50, mobilenet_v2, ...) and package.module:function.{hint}"
    )


def load_model(
    model: str | ModelSpec,
    *,
    classes: int,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a network, in evaluation mode, float32, on the CPU.

    Args:
        model: what ``find_network`` gives, or a name for it.
        classes: length of the logits.
        image_size: height and width that the network will see; only some networks depend on it.
        weights: a file with a state dict, or the name of torchvision weights; None leaves random weights. Branches that a
            network learns with are fused.
        seed: decides the random weights; torch's global random state is neither used nor changed.

    Raises:
        UserError: unknown name, weights that cannot be read or fetched or do not fit.
    """
    network = find_network(model) if isinstance(model, str) else model
    name = network.name
    if classes < 2:
        raise UserError(f"{classes} classes: a classifier needs at least 2")
    built = _built(network, classes, image_size, seed)
    if weights is not None:
        state, source = _state_of(network, weights)
        load_weights(built, state, f"{source} for {name} with {classes} classes")
    else:
        check_values(built, f"the weights that {name} starts with")
    return built.eval()


def classes_of(
    network: ModelSpec, weights: str | Path, image_size: int | tuple[int, int] | None = None
) -> int:
    """How many classes trained weights of a network are for: as many rows as that tensor has whose shape depends on it.

    Raises:
        UserError: the weights cannot be read or fetched, or hold no such tensor.
    """
    state, source = _state_of(network, weights)
    few, more = (_built(network, classes, image_size, 0).state_dict() for classes in (2, 3))
    for key, value in few.items():
        differing = [axis for axis, side in enumerate(value.shape) if side != more[key].shape[axis]]
        found = next((held for name, held in state.items() if f".{name}".endswith(f".{key}")), None)
        if differing and found is not None and found.ndim == value.ndim:
            return int(found.shape[differing[0]] - value.shape[differing[0]]) + 2
    raise UserError(f"{source} for {network.name}: no tensor in it tells the number of classes")


def _built(
    network: ModelSpec, classes: int, image_size: int | tuple[int, int] | None, seed: int
) -> nn.Module:
    """With random weights; torch's global random state is neither used nor changed."""
    size = image_size or network.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network.build(classes, (height, width))


def _state_of(network: ModelSpec, weights: str | Path) -> tuple[dict[str, Tensor], str]:
    """The tensors, and where they come from, in words."""
    # A file wins over a name: someone may well have called a file like torchvision's weights.
    if is_file(Path(weights)) or not network.published:
        return read_weights(weights), str(weights)
    return fetch_weights(network.name, str(weights)), f"torchvision weights {weights}"
