"""The networks that can be compressed, by name, and their trained weights.

A name is one of ``MODELS``, a torchvision classification network, or ``package.module:Name`` of a function or a ``ModelSpec``
(``pipeline.networks.from_factory``).
"""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from foundation.errors import UserError
from foundation.factories import is_factory
from foundation.foreign_files import is_file
from foundation.registry import Registry
from pipeline.networks import from_factory, from_torchvision
from pipeline.networks.base import ModelSpec
from pipeline.networks.from_torchvision import torchvision_names
from pipeline.networks.weights import check_values, fetch_weights, fit_weights, read_weights

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
    if is_factory(name):
        return from_factory.find(name)
    if name in torchvision_names():
        return from_torchvision.find(name)
    close = get_close_matches(name.lower(), model_names(), n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UserError(
        f"unknown model {name!r}; allowed are {', '.join(MODELS)}, every torchvision classification network "
        f"(resnet18, resnet50, mobilenet_v2, ...) and package.module:function.{hint}"
    )


def find_classifier(name: str) -> ModelSpec:
    """The network that ``name`` means, where only classifiers are co-tuned.

    Raises:
        UserError: a detector, or no network at all.
    """
    network = find_network(name)
    if network.detects:
        raise UserError(
            f"{name} is a detector; search, training and evaluation are for classifiers so far. "
            "python -m benchmarks.detection quantizes and compiles it"
        )
    return network


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
        weights: a file with a state dict, or the name of torchvision weights; None leaves random weights.
        seed: decides the random weights; torch's global random state is neither used nor changed.

    Raises:
        UserError: unknown name, weights that cannot be read or fetched or do not fit.
    """
    network = find_network(model) if isinstance(model, str) else model
    name = network.name
    if classes < 2:
        raise UserError(f"{classes} classes: a classifier needs at least 2")
    size = image_size or network.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = network.build(classes, (height, width))
    if weights is not None:
        # A file wins over a name: someone may well have called a file like torchvision's weights.
        if is_file(Path(weights)) or not network.published:
            state, source = read_weights(weights), str(weights)
        else:
            state, source = fetch_weights(name, str(weights)), f"torchvision weights {weights}"
        fit_weights(built, state, f"{source} for {name} with {classes} classes")
    else:
        check_values(built, f"the weights that {name} starts with")
    return built.eval()
