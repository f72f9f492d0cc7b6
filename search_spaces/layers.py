"""The layers of a model that a plan speaks of: every convolution and linear layer, with its shape and work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from foundation.dimension import Layer
from foundation.modes import evaluating


@torch.no_grad()
def layers_of(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    producers: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> list[Layer]:
    """The layers that run for an input of ``input_shape`` (C, H, W), in the model's own order.

    The model runs once on zeros, in evaluation mode; its training flags are put back. A layer that runs several times has
    the sum of the work. A layer that does not run (an auxiliary head) is left out. ``producers`` says of layers which others
    make their input for them alone.
    """
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    macs: dict[str, int] = {}
    outputs: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        weight: Any = module.weight
        name = names[module]
        places = output[0].numel() // weight.shape[0]
        macs[name] = macs.get(name, 0) + places * weight.numel()
        outputs[name] = tuple(output.shape[1:])

    parameter = next(model.parameters(), torch.zeros(()))
    handles = [module.register_forward_hook(note) for module in names]
    try:
        with evaluating(model):
            # Two images: a forward with squeeze() takes a batch of one for something else.
            model(torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    ran = [(name, module) for module, name in names.items() if name in macs]
    made = [
        _layer(name, module, macs[name], outputs[name], index, len(ran))
        for index, (name, module) in enumerate(ran)
    ]
    return [dataclasses.replace(layer, producers=producers.get(layer.name, ())) for layer in made]


def _layer(
    name: str, module: nn.Module, macs: int, output_shape: tuple[int, ...], index: int, count: int
) -> Layer:
    kind: Literal["convolution", "depthwise", "linear"] = "linear"
    groups: Any = getattr(module, "groups", None)  # a linear layer has none
    if groups is not None:
        kind = "depthwise" if 1 < groups == module.in_channels else "convolution"
    weight: Any = module.weight
    parameters = sum(p.numel() for p in module.parameters(recurse=False))
    return Layer(name, kind, tuple(weight.shape), parameters, macs, output_shape, groups or 1, index, count)
