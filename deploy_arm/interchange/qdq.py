"""An integer graph as an ONNX model in the QDQ form: floats between ``QuantizeLinear`` and ``DequantizeLinear`` on the same grid.

Every activation keeps its step, every convolution its int8 weights with a scale per channel, which is what its requantization
says: ``multiplier * 2**(left - 31 - right) = input step * weight scale / output step``. What is looked up in a table here is
looked up there, exactly. Elsewhere an ONNX runtime rounds halves to even and adds in floats, so an integer may differ by one now
and then; ``compare`` says what comes of that. Input: raw pixels uint8 [N, H, W, C]; output: float32 [N, K]; as a program's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.interchange.windows import regular
from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatConcatenate
from foundation.errors import UserError

NEAR = 1e-5  # of a step: what rounding to fixed point leaves of it
OPSET, IR_VERSION = 17, 8
INSTALL = "pip install 'dgms-arm-search[onnx]'"


def to_onnx(graph: g.Graph, name: str) -> bytes:
    """The model, checked by ONNX.

    Raises:
        UserError: onnx is not installed, or an operation has no counterpart.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"--format onnx needs onnx and onnxruntime: {INSTALL}") from error
    made = Model(graph)
    for op in graph.operations:
        translate(op, made)
    flat = made.node("Flatten", [made.nhwc(made.real(graph.output))], axis=1)
    made.nodes.append(onnx.helper.make_node("Identity", [flat], ["outputs"]))
    outputs = int(np.prod(graph.tensors[graph.output].shape))
    kinds = onnx.TensorProto
    whole = onnx.helper.make_graph(
        made.nodes,
        name,
        [onnx.helper.make_tensor_value_info("images", kinds.UINT8, ["N", *graph.input.shape])],
        [onnx.helper.make_tensor_value_info("outputs", kinds.FLOAT, ["N", outputs])],
        made.constants,
    )
    model = onnx.helper.make_model(
        whole,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dgms-arm-search",
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


class Model:
    """A model that grows. Values are [N, C, H, W]; of a tensor either the integers are known, or the floats, or both."""

    def __init__(self, graph: g.Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._integers: dict[str, str] = {}
        self._floats: dict[str, str] = {}
        self._number = 0

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node of one output; the output's name."""
        from onnx import helper

        name = self._fresh(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """Add a constant; its name."""
        from onnx import numpy_helper

        name = self._fresh("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def real(self, tensor: str, step: float | None = None) -> str:
        """The floats of a tensor; with a ``step`` that is not its own, those of its integers in that."""
        own = self.graph.tensors[tensor].step
        if step is not None and abs(step - own) > NEAR * own:
            zero = self.constant(np.zeros((), _kind(self.graph.tensors[tensor])))
            return self.node(
                "DequantizeLinear", [self._integers[tensor], self.constant(np.float32(step)), zero]
            )
        if tensor not in self._floats:
            of = self.graph.tensors[tensor]
            zero = self.constant(np.zeros((), _kind(of)))
            scale = self.constant(np.float32(of.step))
            self._floats[tensor] = self.node("DequantizeLinear", [self._integers[tensor], scale, zero])
        return self._floats[tensor]

    def integer(self, tensor: str) -> str:
        """The integers of a tensor, uint8 or int8."""
        return self._integers[tensor]

    def put_integers(self, tensor: str, value: str) -> None:
        """Say where a tensor's integers are."""
        self._integers[tensor] = value

    def put_floats(self, tensor: str, value: str) -> None:
        """Say where the floats of a tensor are that is not quantized."""
        self._floats[tensor] = value

    def quantize(self, value: str, low: int, high: int, step: float) -> str:
        """Floats on a grid; the integers."""
        of = g.Tensor("", (1, 1, 1), step, low, high)
        limits = np.iinfo(_kind(of))
        if (low, high) != (limits.min, limits.max):
            ends = [self.constant(np.float32(end * step)) for end in (low, high)]
            value = self.node("Clip", [value, *ends])
        zero = self.constant(np.zeros((), _kind(of)))
        return self.node("QuantizeLinear", [value, self.constant(np.float32(step)), zero])

    def finish(self, op: g.Operation, value: str) -> None:
        """Quantize an operation's floats as its output says."""
        of = self.graph.tensors[op.output]
        self.put_integers(op.output, self.quantize(value, of.low, of.high, of.step))

    def nhwc(self, value: str) -> str:
        return self.node("Transpose", [value], perm=[0, 2, 3, 1])

    def nchw(self, value: str) -> str:
        return self.node("Transpose", [value], perm=[0, 3, 1, 2])

    def looked_up(self, table: NDArray[Any], value: str) -> str:
        """``table`` by the byte."""
        index = self.node("Cast", [value], to=_code("int32"))
        wrapped = self.node("Mod", [index, self.constant(np.int32(256))])  # of -1 it is 255, as of the byte
        return self.node("Gather", [self.constant(table), wrapped], axis=0)

    def _fresh(self, kind: str) -> str:
        self._number += 1
        return f"{kind}_{self._number}"


def _kind(tensor: g.Tensor) -> type[np.int8] | type[np.uint8]:
    return np.int8 if tensor.low < 0 else np.uint8


def _code(name: str) -> int:
    from onnx import TensorProto

    return int(getattr(TensorProto, name.upper()))


def factor(finish: g.Requantize) -> NDArray[np.float64]:
    """What an accumulator is multiplied with."""
    return np.asarray(finish.multiplier.astype(np.float64) * 2.0 ** (finish.left - 31 - finish.right))


def shift(finish: g.Requantize) -> NDArray[np.float64]:
    """What is added then, in output steps."""
    return np.asarray(finish.offset.astype(np.float64) * 2.0**-finish.right + ahead(finish.right))


def ahead(right: int) -> float:
    """By how much of an output step a rounding shift by ``right`` rounds up early: what it shifts is rounded to whole numbers
    itself, and of those a half goes up. A float moved by so much rounds to the same integer, to even or not."""
    return 2.0 ** -(right + 1) if right else 0.0


@functools.singledispatch
def translate(op: g.Operation, made: Model) -> None:
    """Add one operation.

    Raises:
        UserError: it has no counterpart.
    """
    raise UserError(
        f"{op.layer}: {type(op).__name__} cannot be exported to ONNX; evaluate the candidate's program instead"
    )


@translate.register
def _(op: g.InputTable, made: Model) -> None:
    channels = made.graph.input.shape[2]
    pixels = made.node("Cast", ["images"], to=_code("int32"))
    place = made.node("Add", [pixels, made.constant(256 * np.arange(channels, dtype=np.int32))])
    table = op.table.astype(_kind(made.graph.tensors[op.output])).reshape(-1)
    made.put_integers(op.output, made.nchw(made.node("Gather", [made.constant(table), place], axis=0)))


@translate.register
def _(op: g.Convolution, made: Model) -> None:
    tensors, source = made.graph.tensors, made.graph.tensors[op.inputs[0]]
    target, finish = tensors[op.output], op.finish
    if isinstance(finish, g.Dequantize):
        scale, bias = finish.scale.astype(np.float64) / source.step, finish.offset.astype(np.float64)
        step = 1.0
    else:
        step = target.step
        if op.residual is not None:  # the byte that is added has a step of its own
            step = op.residual.multipliers[0] * target.step / 2.0**op.residual.right
        scale, bias = factor(finish) * step / source.step, shift(finish) * step
    outputs = op.weights.integers.shape[0]
    scale, bias = (np.broadcast_to(value, outputs) for value in (scale, bias))
    # A scale is above 0 there: its sign goes to the weights, and a channel that is a constant has no weights.
    weights = op.weights.integers.transpose(0, 3, 1, 2) * np.sign(scale).astype(np.int8)[:, None, None, None]
    size = np.where(scale == 0, 1.0, np.abs(scale)).astype(np.float32)
    kernel = made.node(
        "DequantizeLinear",
        [made.constant(weights), made.constant(size), made.constant(np.zeros(outputs, np.int8))],
        axis=0,
    )
    found = made.node(
        "Conv",
        [made.real(op.inputs[0]), kernel, made.constant(bias.astype(np.float32))],
        strides=list(op.stride), pads=list(op.padding), dilations=list(op.dilation), group=op.groups,
        kernel_shape=list(weights.shape[2:]),
    )  # fmt: skip
    if isinstance(finish, g.Dequantize):
        made.put_floats(op.output, found)
    elif op.residual is None:
        made.put_integers(op.output, made.quantize(found, finish.low, finish.high, target.step))
    else:
        byte = made.quantize(found, finish.low, finish.high, step)
        kind = np.int8 if finish.low < 0 else np.uint8
        zero, own = made.constant(np.zeros((), kind)), made.constant(np.float32(step))
        back = made.node("DequantizeLinear", [byte, own, zero])
        made.put_integers(op.output, _sum(op, back, op.inputs[1], op.residual, made))


def _sum(op: g.Operation, first: str, second: str, how: g.Add | g.FusedAdd, made: Model) -> str:
    """The integers of a weighted sum of floats and a tensor."""
    step = made.graph.tensors[op.output].step
    other = made.real(second, how.multipliers[1] * step / 2.0**how.right)
    found = made.node(
        "Add", [made.node("Add", [first, other]), made.constant(np.float32(ahead(how.right) * step))]
    )
    return made.quantize(found, how.low, how.high, step)


@translate.register
def _(op: g.Add, made: Model) -> None:
    step = made.graph.tensors[op.output].step
    first = made.real(op.inputs[0], op.multipliers[0] * step / 2.0**op.right)
    made.put_integers(op.output, _sum(op, first, op.inputs[1], op, made))


@translate.register
def _(op: g.Multiply, made: Model) -> None:
    tensors = made.graph.tensors
    first, second, target = (tensors[name] for name in (*op.inputs, op.output))
    found = made.node("Mul", [made.real(name) for name in op.inputs])
    scale = float(factor(op.finish)[0]) * target.step / (first.step * second.step)
    found = made.node("Mul", [found, made.constant(np.float32(scale))])
    if shift(op.finish).any():
        found = made.node("Add", [found, made.constant(np.float32(shift(op.finish)[0] * target.step))])
    made.put_integers(op.output, made.quantize(found, op.finish.low, op.finish.high, target.step))


@translate.register
def _(op: g.Concatenate, made: Model) -> None:
    kind = _kind(made.graph.tensors[op.output])
    parts = [
        made.looked_up(table.astype(kind), made.integer(name)) for table, name in zip(op.tables, op.inputs)
    ]
    made.put_integers(op.output, made.node("Concat", parts, axis=1))


@translate.register
def _(op: FloatConcatenate, made: Model) -> None:
    made.put_floats(op.output, made.node("Concat", [made.real(name) for name in op.inputs], axis=1))


@translate.register
def _(op: g.Table, made: Model) -> None:
    table = op.table.astype(_kind(made.graph.tensors[op.output]))
    made.put_integers(op.output, made.looked_up(table, made.integer(op.inputs[0])))


@translate.register
def _(op: g.FloatTable, made: Model) -> None:
    made.put_floats(op.output, made.looked_up(op.table.astype(np.float32), made.integer(op.inputs[0])))


def _pooling(
    op: g.MaxPool | g.AveragePool, made: Model, dilation: tuple[int, int] = (1, 1)
) -> dict[str, list[int]]:
    height, width, _ = made.graph.tensors[op.inputs[0]].shape
    rows, columns = regular(op.rows, height, dilation[0]), regular(op.columns, width, dilation[1])
    if rows is None or columns is None:
        raise UserError(
            f"{op.layer}: windows of different sizes (an adaptive pooling) cannot be exported to ONNX"
        )
    return {
        "kernel_shape": [rows.kernel, columns.kernel],
        "strides": [rows.stride, columns.stride],
        "pads": [rows.before, columns.before, rows.after, columns.after],
    }


@translate.register
def _(op: g.MaxPool, made: Model) -> None:
    if all(
        window.end - window.start == 1 for window in (*op.rows, *op.columns)
    ):  # grown by nearest neighbours
        floating = made.graph.tensors[op.output].floating
        value = made.real(op.inputs[0]) if floating else made.integer(op.inputs[0])
        for axis, windows in ((2, op.rows), (3, op.columns)):
            places = np.array([window.start for window in windows], np.int64)
            value = made.node("Gather", [value, made.constant(places)], axis=axis)
        (made.put_floats if floating else made.put_integers)(op.output, value)
        return
    how = _pooling(op, made, op.dilation)
    found = made.node("MaxPool", [made.real(op.inputs[0])], dilations=list(op.dilation), **how)
    if made.graph.tensors[op.output].floating:
        made.put_floats(op.output, found)
    else:
        made.finish(op, found)


@translate.register
def _(op: g.AveragePool, made: Model) -> None:
    how = _pooling(op, made)
    source, target = made.graph.tensors[op.inputs[0]], made.graph.tensors[op.output]
    area = how["kernel_shape"][0] * how["kernel_shape"][1]
    # The sum over what exists is the mean over whole windows, times their area; each output then has a factor of its own.
    found = made.node("AveragePool", [made.real(op.inputs[0])], count_include_pad=1, **how)
    index = np.array([[op.divisors.index(r.divisor * c.divisor) for c in op.columns] for r in op.rows])
    if isinstance(op.finish, g.Dequantize):
        scale, offset = op.finish.scale.astype(np.float64)[index], op.finish.offset.astype(np.float64)[index]
    else:
        scale, offset = factor(op.finish)[index] * target.step, shift(op.finish)[index] * target.step
    each = made.constant((scale * area / source.step).astype(np.float32)[None, None])
    found = made.node("Mul", [found, each])
    if offset.any():
        found = made.node("Add", [found, made.constant(offset.astype(np.float32)[None, None])])
    if isinstance(op.finish, g.Dequantize):
        made.put_floats(op.output, found)
    else:
        made.put_integers(op.output, made.quantize(found, op.finish.low, op.finish.high, target.step))


def _moved(op: g.Operation, made: Model, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
    """An operation that moves values and leaves them as they are."""
    if made.graph.tensors[op.output].floating:
        made.put_floats(op.output, made.node(kind, [made.real(op.inputs[0]), *inputs], **attributes))
    else:
        made.put_integers(op.output, made.node(kind, [made.integer(op.inputs[0]), *inputs], **attributes))


@translate.register
def _(op: g.Slice, made: Model) -> None:
    shape = made.graph.tensors[op.output].shape
    order = (2, 0, 1)  # channels, rows, columns
    starts = [op.starts[axis] for axis in order]
    steps = [op.steps[axis] for axis in order]
    ends = [start + step * (shape[axis] - 1) + 1 for start, step, axis in zip(starts, steps, order)]
    said = [made.constant(np.array(values, np.int64)) for values in (starts, ends, [1, 2, 3], steps)]
    _moved(op, made, "Slice", said)


@translate.register
def _(op: g.Gather, made: Model) -> None:
    _moved(op, made, "Gather", [made.constant(op.indices.astype(np.int64))], axis=1)


@translate.register
def _(op: g.Pad, made: Model) -> None:
    (top, left, first), (bottom, right, last) = op.before, op.after
    _moved(
        op, made, "Pad", [made.constant(np.array([0, first, top, left, 0, last, bottom, right], np.int64))]
    )


@translate.register
def _(op: g.Reshape, made: Model) -> None:
    floating = made.graph.tensors[op.output].floating
    value = made.real(op.inputs[0]) if floating else made.integer(op.inputs[0])
    shape = made.constant(np.array([-1, *made.graph.tensors[op.output].shape], np.int64))
    found = made.nchw(made.node("Reshape", [made.nhwc(value), shape]))
    (made.put_floats if floating else made.put_integers)(op.output, found)


@translate.register
def _(op: g.Limit, made: Model) -> None:
    ends = [made.constant(np.float32(end)) for end in (op.low, op.high)]
    made.put_floats(op.output, made.node("Clip", [made.real(op.inputs[0]), *ends]))


@translate.register
def _(op: g.LayerNorm, made: Model) -> None:
    source, target = made.graph.tensors[op.inputs[0]], made.graph.tensors[op.output]
    count, finish = source.shape[2], op.finish
    if isinstance(finish, g.Dequantize):
        scale, offset = finish.scale.astype(np.float64), finish.offset.astype(np.float64)
    else:
        scale, offset = factor(finish) * target.step, shift(finish) * target.step
    scale, offset = (np.broadcast_to(value, count) for value in (scale * 2.0**16, offset))
    parts = [
        made.nhwc(made.real(op.inputs[0])),
        *(made.constant(v.astype(np.float32)) for v in (scale, offset)),
    ]
    epsilon = op.epsilon / count**2 * source.step**2
    found = made.nchw(made.node("LayerNormalization", parts, axis=-1, epsilon=epsilon))
    if isinstance(finish, g.Dequantize):
        made.put_floats(op.output, found)
    else:
        made.put_integers(op.output, made.quantize(found, finish.low, finish.high, target.step))


@translate.register
def _(op: g.Output, made: Model) -> None:
    made.put_floats(op.output, made.real(op.inputs[0]))
