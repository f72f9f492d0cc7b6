"""Networks of someone else's, named by ``package.module:Name``.

That is a function, called with ``num_classes`` and ``image_size`` where it accepts them, which may carry the attributes
``normalization`` (mean and standard deviation of each channel, pixels in 0..1) and ``image_size``, else those of ImageNet are
used; or a ``ModelSpec``, which says it all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from foundation.errors import UserError
from foundation.factories import article, call, find_factory, find_named, story
from pipeline.datasets.normalization import IMAGENET, checked
from pipeline.networks.base import ModelSpec


def find(name: str) -> ModelSpec:
    """What ``package.module:Name`` names.

    Raises:
        UserError: there is none, or what it declares is wrong.
    """
    named = find_named(name)
    if isinstance(named, ModelSpec):
        build = partial(sound, name, named.build)
        return dataclasses.replace(named, build=build, name=name, declared=f"declared by {name}")
    function = find_factory(name)

    def called(classes: int, size: tuple[int, int]) -> Any:
        return call(function, name, num_classes=classes, classes=classes, image_size=size)

    declared = getattr(function, "normalization", None)
    side = getattr(function, "image_size", 224)
    if not isinstance(side, int) or side < 1:
        raise UserError(f"{name!r} declares image_size = {side!r}; it must be a number of pixels")
    return ModelSpec(
        partial(sound, name, called),
        side,
        IMAGENET if declared is None else checked(declared, repr(name)),
        name=name,
        declared=f"ImageNet's, since {name} declares none" if declared is None else f"declared by {name}",
    )


def sound(
    name: str, build: Callable[[int, tuple[int, int]], Any], classes: int, size: tuple[int, int]
) -> nn.Module:
    """What ``build`` gives, as a network that can be quantized: on the CPU, in float32."""
    try:
        network = build(classes, size)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name!r} failed: {story(error)}") from error
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


def _plain_layout(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as PyTorch's own loaders lay them out: a forward with ``x.view(...)`` fails where channels lie last."""
    return tuple(each.contiguous() if isinstance(each, torch.Tensor) else each for each in given)
