"""A trained network as the short list of layers that every peer's format can say: batch-norms folded, activations fused."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from foundation.errors import UserError

Floats = NDArray[np.float32]
Pair = tuple[int, int]
INPUT = "input"


@dataclass(frozen=True)
class FloatLayer:
    """One layer; ``name`` is also that of its output.

    Attributes:
        kind: convolution, linear, add, max_pool, global_average, subsample (every ``stride``-th pixel) or pad_channels.
        activation: "", "relu" or "relu6", applied to the output.
        weight: [out, in / groups, kh, kw] or [out, in]; ``bias`` always goes with it.
        channels: zero channels before and after (pad_channels).
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    activation: str = ""
    weight: Floats | None = None
    bias: Floats | None = None
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    channels: Pair = (0, 0)


@dataclass(frozen=True)
class FloatNetwork:
    """Layers in execution order; the input is called ``input``. ``largest`` is the largest magnitude of each value that
    calibration saw."""

    layers: tuple[FloatLayer, ...]
    shape: tuple[int, int, int]
    largest: dict[str, float]

    @property
    def output(self) -> str:
        return self.layers[-1].name

    def readers(self, name: str) -> list[FloatLayer]:
        """The layers that read a value."""
        return [layer for layer in self.layers if name in layer.inputs]


class Recorder(fx.Interpreter):
    """Runs a traced network and keeps the largest magnitude of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.largest: dict[str, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.largest[node.name] = float(value.abs().max())
        return value


def pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def array(tensor: Tensor) -> Floats:
    return tensor.detach().numpy().astype(np.float32)


def float_network(model: nn.Module, images: Tensor) -> FloatNetwork:
    """The layers of a model in evaluation mode; ``images`` (normalized float [N, C, H, W]) calibrate.

    Raises:
        UserError: the model has a layer that is not among the kinds above.
    """
    traced = fx.symbolic_trace(model.eval())
    recorder = Recorder(traced)
    with torch.inference_mode():
        recorder.run(images)
    builder = _Builder(traced)
    for node in traced.graph.nodes:
        builder.visit(node)
    largest = {name: recorder.largest[builder.sources[name]] for name in builder.sources}
    return FloatNetwork(tuple(builder.layers.values()), (images.shape[1], *pair(images.shape[2:])), largest)


class _Builder:
    def __init__(self, traced: fx.GraphModule) -> None:
        self.modules = dict(traced.named_modules())
        self.layers: dict[str, FloatLayer] = {}
        self.names: dict[fx.Node, str] = {}  # of the value a node gives
        self.sources: dict[str, str] = {}  # the last node that a value was computed by
        self.convolutions: dict[str, nn.Conv2d] = {}

    def visit(self, node: fx.Node) -> None:
        if node.op == "output":
            return
        if node.op == "placeholder":
            self.names[node], self.sources[INPUT] = INPUT, node.name
            return
        inputs = tuple(self.names[argument] for argument in node.args if isinstance(argument, fx.Node))
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        made = self.layer(node, module, inputs)
        name = made if isinstance(made, str) else made.name
        if isinstance(made, FloatLayer):
            self.layers[name] = made
        self.names[node], self.sources[name] = name, node.name

    def layer(self, node: fx.Node, module: nn.Module | None, inputs: tuple[str, ...]) -> FloatLayer | str:
        """A new layer, or the name of the value that the node only changes or passes on."""
        target: Any = node.target if module is None else type(module)
        name = node.name
        if isinstance(module, nn.Conv2d):
            self.convolutions[name] = module
            return convolution(module, name, inputs)
        if isinstance(module, nn.BatchNorm2d) and inputs[0] in self.convolutions:
            fused = fuse_conv_bn_eval(self.convolutions.pop(inputs[0]), module)
            self.layers[inputs[0]] = convolution(fused, inputs[0], self.layers[inputs[0]].inputs)
            return inputs[0]
        if target in (nn.ReLU, F.relu, torch.relu, nn.ReLU6, F.relu6):
            activation = "relu6" if target in (nn.ReLU6, F.relu6) else "relu"
            before, layer = node.args[0], self.layers.get(inputs[0])
            alone = isinstance(before, fx.Node) and len(before.users) == 1
            if layer is None or layer.activation or not alone:
                raise UserError(f"{name}: an activation must follow one layer that nobody else reads")
            self.layers[inputs[0]] = replace(layer, activation=activation)
            return inputs[0]
        if target in (operator.add, operator.iadd, torch.add) and len(inputs) == 2:
            return FloatLayer("add", name, inputs)
        if isinstance(module, nn.MaxPool2d) and not module.ceil_mode and module.dilation == 1:
            kernel, stride = pair(module.kernel_size), pair(module.stride)
            return FloatLayer(
                "max_pool", name, inputs, kernel=kernel, stride=stride, padding=pair(module.padding)
            )
        if target in (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d):
            size = node.args[1] if module is None else getattr(module, "output_size", None)
            if size in (1, (1, 1)):
                return FloatLayer("global_average", name, inputs)
        if isinstance(module, nn.Linear) and module.bias is not None:
            return FloatLayer("linear", name, inputs, weight=array(module.weight), bias=array(module.bias))
        if target in (nn.Dropout, nn.Identity, nn.Flatten, torch.flatten, "flatten"):
            return inputs[0]
        if target is operator.getitem:
            steps = [part.step or 1 for part in node.args[1] if isinstance(part, slice)]  # type: ignore[union-attr]
            if len(steps) == 4 and steps[:2] == [1, 1]:
                return FloatLayer("subsample", name, inputs, stride=(steps[2], steps[3]))
        if target is F.pad:
            widths: Any = node.args[1]
            if len(widths) == 6 and not any(widths[:4]):
                return FloatLayer("pad_channels", name, inputs, channels=(widths[4], widths[5]))
        raise UserError(f"{name} ({target}) cannot be said in the peers' formats by this benchmark")


def convolution(module: nn.Conv2d, name: str, inputs: tuple[str, ...]) -> FloatLayer:
    """A convolution's layer. Raises UserError for dilation and for padding modes other than zeros."""
    if pair(module.dilation) != (1, 1) or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise UserError(
            f"{name}: only plain convolutions can be said in the peers' formats by this benchmark"
        )
    bias = torch.zeros(module.out_channels) if module.bias is None else module.bias
    return FloatLayer(
        "convolution",
        name,
        inputs,
        weight=array(module.weight),
        bias=array(bias),
        kernel=pair(module.kernel_size),
        stride=pair(module.stride),
        padding=pair(module.padding),
        groups=module.groups,
    )
