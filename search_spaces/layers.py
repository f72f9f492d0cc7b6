"""The layers of a model that a plan speaks of: every convolution and linear layer, with its shape and work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer.

    Attributes:
        name: as in ``model.named_modules()``.
        weight_shape: (out, in/groups, kh, kw) or (out, in).
        parameters: weights and biases.
        macs: multiply-accumulates for one image.
        output_shape: of one image, (C, H, W) or (features,).
    """

    name: str
    kind: Literal["convolution", "depthwise", "linear"]
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int
    output_shape: tuple[int, ...]


@torch.no_grad()
def layers_of(model: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers that run for an input of ``input_shape`` (C, H, W), in the model's own order.

    The model runs once on zeros, in evaluation mode; its training flags are put back. A layer that runs several times has
    the sum of the work. A layer that does not run (an auxiliary head) is left out.
    """
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    macs: dict[str, int] = {}
    outputs: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(module.weight, torch.Tensor)
        name = names[module]
        places = output[0].numel() // module.weight.shape[0]
        macs[name] = macs.get(name, 0) + places * module.weight.numel()
        outputs[name] = tuple(output.shape[1:])

    parameter = next(model.parameters(), torch.zeros(()))
    training = [module for module in model.modules() if module.training]
    handles = [module.register_forward_hook(note) for module in names]
    try:
        model.eval()
        # Two images: a forward with squeeze() takes a batch of one for something else.
        model(torch.zeros(2, *input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return [_layer(name, module, macs[name], outputs[name]) for module, name in names.items() if name in macs]


def _layer(name: str, module: nn.Module, macs: int, output_shape: tuple[int, ...]) -> Layer:
    assert isinstance(module.weight, torch.Tensor)
    kind: Literal["convolution", "depthwise", "linear"] = "linear"
    if isinstance(module, nn.Conv2d):
        kind = "depthwise" if 1 < module.groups == module.in_channels else "convolution"
    parameters = sum(p.numel() for p in module.parameters(recurse=False))
    return Layer(name, kind, tuple(module.weight.shape), parameters, macs, output_shape)
