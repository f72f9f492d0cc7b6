"""A float network as an ONNX file, and its static quantization by ONNX Runtime's own tool."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arm_peers.float_network import INPUT, FloatLayer, FloatNetwork
from foundation.errors import UserError

OPSET = 17
END = 2**31 - 1


def require_onnx() -> None:
    """Raises UserError where the packages of the extra ``peers`` are not installed. Switches ONNX Runtime's telemetry off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error}: the peers need `pip install -e '.[peers]'`") from error


def write_onnx(network: FloatNetwork, path: Path) -> None:
    """Writes the float32 model; its input is [1, C, H, W]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, values: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes))
        return output

    for layer in network.layers:
        raw = f"{layer.name}.raw" if layer.activation else layer.name
        write_layer(layer, raw, add, constant)
        if layer.activation == "relu":
            add("Relu", [raw], layer.name)
        elif layer.activation == "relu6":
            limits = [
                constant(f"{layer.name}.{name}", np.array(value, np.float32))
                for name, value in (("low", 0), ("high", 6))
            ]
            add("Clip", [raw, *limits], layer.name)
    last = network.layers[-1]
    classes = 1 if last.weight is None else len(last.weight)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, *network.shape])],
        [helper.make_tensor_value_info(network.output, TensorProto.FLOAT, [1, classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_layer(layer: FloatLayer, output: str, add: Any, constant: Any) -> None:
    """Adds the nodes of one layer without its activation."""
    inputs, name = list(layer.inputs), layer.name
    if layer.kind == "convolution":
        parts = [constant(f"{name}.weight", layer.weight), constant(f"{name}.bias", layer.bias)]
        add(
            "Conv",
            inputs + parts,
            output,
            kernel_shape=layer.kernel,
            strides=layer.stride,
            pads=layer.padding * 2,
            group=layer.groups,
        )
    elif layer.kind == "linear":
        parts = [constant(f"{name}.weight", layer.weight), constant(f"{name}.bias", layer.bias)]
        flat = add("Flatten", inputs, f"{name}.flat", axis=1)
        add("Gemm", [flat, *parts], output, transB=1)
    elif layer.kind == "add":
        add("Add", inputs, output)
    elif layer.kind == "max_pool":
        add(
            "MaxPool", inputs, output, kernel_shape=layer.kernel, strides=layer.stride, pads=layer.padding * 2
        )
    elif layer.kind == "global_average":
        add("GlobalAveragePool", inputs, output)
    elif layer.kind == "subsample":
        values = {"starts": [0, 0], "ends": [END, END], "axes": [2, 3], "steps": list(layer.stride)}
        parts = [constant(f"{name}.{key}", np.array(value, np.int64)) for key, value in values.items()]
        add("Slice", inputs + parts, output)
    else:
        before, after = layer.channels
        pads = constant(f"{name}.pads", np.array([0, before, 0, 0, 0, after, 0, 0], np.int64))
        add("Pad", [*inputs, pads], output)


def quantize_onnx(source: Path, target: Path, images: NDArray[np.float32], *, signed: bool) -> None:
    """Static quantization, per channel, QDQ format; activations 8 bits (``signed`` or not), weights signed.

    ``images`` are float32 [N, C, H, W]; the ranges are the smallest and largest values that occur.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # an Any
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image[None]}

    logging.getLogger().setLevel(logging.ERROR)
    activation = quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8
    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=activation,
        weight_type=quantization.QuantType.QInt8,
    )
