"""The state of one translation from an exported program to an integer graph, and the values it passes around."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from deploy_arm.ir import graph as g
from deploy_arm.lowering.layout import places, same, usual, viewed
from deploy_arm.lowering.pending import FloatWeights, Function, Pending, QuantizedRange, integers
from foundation.codebook import Codebook
from foundation.errors import UserError


@dataclass(frozen=True)
class Value:
    """A node's result. ``shape`` is its PyTorch shape without the batch; its elements in that order are those of the stored
    (height, width, channels) tensor in the order channels, height, width, unless ``strides`` say which (``layout.py``)."""

    content: g.Tensor | Pending
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def holding(self, content: g.Tensor | Pending) -> Value:
        """Another content, element by element."""
        return dataclasses.replace(self, content=content)

    @property
    def stored(self) -> tuple[int, int, int]:
        return self.content.shape


class Unsupported(Exception):
    """What a handler raises; the frontend adds operator and layer."""


@dataclass
class Lowering:
    """Translation in progress.

    ``codebooks`` are the compressed weights by layer, None where weights stay floats; ``parameters`` the exported program's
    tensors by placeholder name, ``layers`` the module path of each.
    """

    graph: g.Graph
    codebooks: Mapping[str, Codebook] | None
    parameters: Mapping[str, torch.Tensor]
    layers: Mapping[str, str]
    batch: int
    node: fx.Node | None = None
    layer: str = ""
    floating = False  # of the class: what is read becomes float tensors (float_lowering.py)
    values: dict[fx.Node, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the node being translated."""
        assert self.node is not None
        return self.node.name

    @property
    def operator(self) -> str:
        """Name in ``OPERATORS`` of the node being translated: no namespace, overload, or in-place underscore."""
        assert self.node is not None
        packet = getattr(self.node.target, "overloadpacket", None)
        name = (
            packet.__name__
            if packet is not None
            else getattr(self.node.target, "__name__", str(self.node.target))
        )
        return name.rstrip("_")

    def result_shapes(self) -> list[tuple[int, ...]]:
        """PyTorch shapes without the batch of what the node returns.

        Raises:
            Unsupported: a result whose first dimension is not the batch.
        """
        assert self.node is not None
        found = self.node.meta["val"]
        shapes = [
            tuple(int(n) for n in part.shape)
            for part in (found if isinstance(found, list | tuple) else [found])
        ]
        if any(not shape or shape[0] != self.batch for shape in shapes):
            raise Unsupported(f"its result {shapes} does not keep the batch as first dimension")
        return [shape[1:] for shape in shapes]

    def result_shape(self) -> tuple[int, ...]:
        return self.result_shapes()[0]

    def shared(self, value: Value) -> Value:
        """A value that several operations read."""
        return value

    def emit(self, make: Callable[[str], g.Operation], tensor: g.Tensor) -> g.Tensor:
        """Add an operation and its output tensor, under a name not used yet."""
        name, number = tensor.name, 1
        while name in self.graph.tensors:
            number += 1
            name = f"{tensor.name}_{number}"
        tensor = dataclasses.replace(tensor, name=name)
        self.graph.operations.append(make(name))
        self.graph.tensors[name] = tensor
        return tensor

    def integer(self, value: Value) -> g.Tensor:
        """The value as an integer tensor, which it must be by now.

        Raises:
            ValueError: the network has no quantizer where one is needed.
        """
        content = value.content
        if isinstance(content, g.Tensor):
            return content
        if isinstance(content, Function) and content.exact:
            source = content.source
            target = QuantizedRange(source.step, source.low, source.high)
            low, high = content.bounded(target)
            if low <= source.low and high >= source.high:
                return source
            return content.quantize(self, target)
        raise ValueError(
            f"{self.name} in layer {self.layer} reads {content.name} of layer {content.layer} before it is quantized"
        )

    def function(self, value: Value) -> Function:
        """The value as an elementwise function of an integer tensor (at first the identity)."""
        if isinstance(value.content, Function) and value.content.values.ndim == 1:
            return value.content
        tensor = self.integer(value)
        real = integers(tensor).astype(np.float32) * np.float32(tensor.step)
        return Function(
            name=self.name, layer=self.layer, shape=tensor.shape, source=tensor, values=real, exact=True
        )

    def pending(self, value: Value) -> Pending:
        """The value as something that can still be limited."""
        return self.function(value) if isinstance(value.content, g.Tensor) else value.content

    def image(self, value: Value) -> Value:
        """The value with shape (channels, height, width), as convolutions and poolings want it."""
        if len(value.shape) != 3:
            raise Unsupported(f"its input has shape {('N', *value.shape)}, not (N, C, H, W)")
        return self.reshaped(self.plain(value), value.shape)

    def strides(self, value: Value) -> tuple[int, ...] | None:
        """How the value's shape reads what is stored; None for a flattened image."""
        return value.strides or usual(value.shape, value.stored)

    def laid_out(
        self, content: g.Tensor | Pending, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Value:
        """A value that reads ``content`` by ``strides``."""
        height, width, channels = content.shape
        plain = (channels, height, width) if len(shape) == 3 else (channels, height * width)[: len(shape)]
        if shape == plain and same(shape, strides, usual(shape, content.shape)):
            return Value(content, shape)
        return Value(content, shape, strides)

    def plain(self, value: Value) -> Value:
        """The value with the usual order of elements, which channels are moved for if need be.

        Raises:
            Unsupported: elements would move from one position to another.
        """
        return value if value.strides is None else self._moved(value, value.shape)

    def _moved(self, value: Value, shape: tuple[int, ...]) -> Value:
        """A strided value under a shape that its strides do not allow."""
        assert value.strides is not None
        order = places(value.shape, value.strides)
        height, width, channels = value.stored
        size = (height, width)
        if len(shape) == 1:
            channels, size, indices = len(order.reshape(-1)), (1, 1), order.reshape(-1)
        elif len(shape) in (2, 3):
            rows = order.reshape(shape[0], -1)
            indices = rows[:, 0]
            positions = np.arange(height * width) * channels
            if rows.shape[1] != len(positions) or (rows != indices[:, None] + positions).any():
                raise Unsupported(f"a change of shape to {('N', *shape)} moves elements between positions")
            size = size if len(shape) == 2 else (shape[1], shape[2])
        else:
            raise Unsupported(f"a tensor of shape {('N', *shape)}")
        tensor = self._resized(self.integer(value), (*size, channels))
        if len(indices) != channels or (indices != np.arange(channels)).any():
            source, chosen = tensor.name, indices.astype(np.int32)
            tensor = dataclasses.replace(tensor, name=self.name, shape=(*size, len(indices)))
            tensor = self.emit(lambda name: g.Gather((source,), name, self.layer, chosen), tensor)
        return Value(tensor, shape)

    def _resized(self, source: g.Tensor, shape: tuple[int, int, int]) -> g.Tensor:
        """The same bytes under another stored shape."""
        if source.shape == shape:
            return source
        tensor = dataclasses.replace(source, name=self.name, shape=shape)
        return self.emit(lambda name: g.Reshape((source.name,), name, self.layer), tensor)

    def reshaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The value under another PyTorch shape.

        Raises:
            Unsupported: the elements would have to move, since channels are stored last.
        """
        height, width, channels = value.stored
        if math.prod(shape) != height * width * channels:
            raise Unsupported(f"a change of shape to {('N', *shape)} mixes images of a batch")
        if value.strides is None:
            if len(shape) == 1 or shape == (channels, height, width):
                return Value(value.content, shape)
            if len(shape) == 2 and shape[0] == channels:
                return Value(value.content, shape)
            if len(shape) == 3 and shape[0] == channels:
                return Value(self._resized(self.integer(value), (shape[1], shape[2], channels)), shape)
            strides = usual(shape, value.stored)
        else:
            strides = viewed(value.shape, value.strides, shape)
        if strides is not None:
            return self.laid_out(value.content, shape, strides)
        if value.strides is not None:
            return self._moved(value, shape)
        raise Unsupported(
            f"a change of shape from (N, {channels}, {height}, {width}) to {('N', *shape)} moves elements"
        )

    def parameter(self, node: Any) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """A weight of the model as float64, None for None.

        Raises:
            Unsupported: a value that the network computes.
        """
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.name not in self.parameters:
            raise Unsupported("its weights are computed while the network runs")
        return self.parameters[node.name].detach().cpu().double().numpy()

    def codebook(self, node: Any) -> Codebook | FloatWeights:
        """The compressed weights behind a weight placeholder, in PyTorch's shape."""
        if not isinstance(node, fx.Node) or node.name not in self.parameters:
            raise Unsupported("its weights are computed while the network runs")
        layer = self.layers[node.name]
        shape = tuple(self.parameters[node.name].shape)
        if layer not in (self.codebooks or {}):
            raise UserError(
                f"layer {layer} has no codebook; the plan must name every convolution and linear layer"
            )
        assert self.codebooks is not None
        found = self.codebooks[layer]
        if found.indices.shape != shape:
            raise ValueError(f"codebook of layer {layer} has shape {found.indices.shape}, its weight {shape}")
        return found
