"""A float network in ncnn's two files: ``.param`` (text) and ``.bin`` (weights), in float32 or with int8 convolutions.

The format and the meaning of ``int8_scale_term`` follow ncnn's public sources (its quantization tool sets the same figures):
weights symmetric per output channel, activations symmetric per layer input, and a convolution whose readers are all int8
convolutions hands over int8 values itself (100 is added to the term).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm_peers.float_network import INPUT, FloatLayer, FloatNetwork

MAGIC = 7767517
INT8_TAG = 0x000D4B38
ACTIVATIONS = {"": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0"}


def write_ncnn(network: FloatNetwork, param: Path, weights: Path, *, int8: bool) -> None:
    """Writes the network; its input blob is ``input``, its output ``output``."""
    writer = _Writer(network, int8)
    param.write_text(writer.text())
    weights.write_bytes(b"".join(writer.parts))


def scale_of(largest: float) -> float:
    """The factor that takes the largest magnitude to 127."""
    return 127.0 / largest if largest > 0 else 1.0


class _Writer:
    def __init__(self, network: FloatNetwork, int8: bool) -> None:
        self.network, self.int8 = network, int8
        self.lines: list[str] = []
        self.parts: list[bytes] = []
        self.blobs = 0
        self.copies: dict[str, list[str]] = {}  # names that are left to read a value by
        self.emit("Input", INPUT, [], INPUT, "")
        for layer in network.layers:
            self.layer(layer)

    def text(self) -> str:
        return "\n".join([str(MAGIC), f"{len(self.lines)} {self.blobs}", *self.lines]) + "\n"

    def emit(self, kind: str, name: str, inputs: Sequence[str], output: str, parameters: str) -> None:
        """One layer's line, and a Split behind it where several layers read its output."""
        self.line(kind, name, inputs, [output], parameters)
        readers = sum(layer.inputs.count(output) for layer in self.network.layers)
        if readers > 1:
            self.copies[output] = [f"{output}.{index}" for index in range(readers)]
            self.line("Split", f"{output}.split", [output], self.copies[output], "")
        else:
            self.copies[output] = [output]

    def line(
        self, kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], parameters: str
    ) -> None:
        words = [kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs]
        self.lines.append(" ".join(words) + parameters)
        self.blobs += len(outputs)

    def layer(self, layer: FloatLayer) -> None:
        inputs = [self.copies[name].pop(0) for name in layer.inputs]
        output = "output" if layer.name == self.network.output else layer.name
        if layer.kind in ("convolution", "linear"):
            kind, parameters = self.weighted(layer)
            self.emit(kind, layer.name, inputs, output, parameters + ACTIVATIONS[layer.activation])
            return
        kind, parameters = plain(layer)
        if layer.activation == "":
            self.emit(kind, layer.name, inputs, output, parameters)
            return
        raw = f"{layer.name}.raw"
        self.line(kind, layer.name, inputs, [raw], parameters)
        kind, parameters = ("ReLU", "") if layer.activation == "relu" else ("Clip", " 0=0.0 1=6.0")
        self.emit(kind, f"{layer.name}.{layer.activation}", [raw], output, parameters)

    def weighted(self, layer: FloatLayer) -> tuple[str, str]:
        """Kind and parameters of a convolution or linear layer; its weights go to the second file."""
        assert layer.weight is not None and layer.bias is not None
        term = self.scale_term(layer)
        scales = np.array([scale_of(float(np.abs(channel).max())) for channel in layer.weight], np.float32)
        if term:
            column = scales.reshape(-1, *[1] * (layer.weight.ndim - 1))
            self.parts.append(int8_bytes(np.clip(np.rint(layer.weight * column), -127, 127).astype(np.int8)))
        else:
            self.parts.append(bytes(4) + layer.weight.tobytes())
        self.parts.append(layer.bias.tobytes())
        if term:
            self.parts += [scales.tobytes(), self.scale_bytes(layer.inputs[0])]
        if term > 100:
            self.parts.append(self.scale_bytes(layer.name))
        if layer.kind == "linear":
            return "InnerProduct", f" 0={len(layer.weight)} 1=1 2={layer.weight.size} 8={term}"
        (high, wide), (down, right), (top, left) = layer.kernel, layer.stride, layer.padding
        parameters = f" 0={len(layer.weight)} 1={wide} 11={high} 3={right} 13={down} 4={left} 14={top} 5=1"
        parameters += f" 6={layer.weight.size}" + (f" 7={layer.groups}" if layer.groups > 1 else "")
        return "ConvolutionDepthWise" if layer.groups > 1 else "Convolution", f"{parameters} 8={term}"

    def scale_bytes(self, name: str) -> bytes:
        return np.float32(scale_of(self.network.largest[name])).tobytes()

    def scale_term(self, layer: FloatLayer) -> int:
        """0 for float32, 1 (grouped) or 2 for int8, and 100 more where int8 values are handed over."""
        if not self.int8:
            return 0
        readers = self.network.readers(layer.name)
        hands_over = layer.kind == "convolution" and all(reader.kind == "convolution" for reader in readers)
        return (1 if layer.groups > 1 else 2) + (100 if hands_over and readers else 0)


def int8_bytes(values: NDArray[np.int8]) -> bytes:
    """Tagged int8 weights, filled up to whole words."""
    content = values.tobytes()
    return INT8_TAG.to_bytes(4, "little") + content + bytes(-len(content) % 4)


def plain(layer: FloatLayer) -> tuple[str, str]:
    """Kind and parameters of a layer without weights."""
    if layer.kind == "add":
        return "BinaryOp", " 0=0"
    if layer.kind == "global_average":
        return "Pooling", " 0=1 4=1"
    if layer.kind == "pad_channels":
        return "Padding", f" 4=0 5=0.0 7={layer.channels[0]} 8={layer.channels[1]}"
    # A subsample is a maximum over single pixels; 5=1 leaves out windows that do not fit, as the network does.
    (high, wide), (down, right), (top, left) = layer.kernel, layer.stride, layer.padding
    return "Pooling", f" 0=0 1={wide} 11={high} 2={right} 12={down} 3={left} 13={top} 14={left} 15={top} 5=1"
