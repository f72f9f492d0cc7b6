"""What the float operations compute, in NumPy: slow, and bit for bit what the program computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g
from deploy_arm.ir.execute import Float, Inputs, Tensors, execute
from foundation.windows import output_size

ONE, TWO, THREE, SIX = (np.float32(value) for value in (1, 2, 3, 6))
TAYLOR = [np.float32(value) for value in (1.98412698e-4, 1.38888889e-3, 8.33333333e-3, 4.16666667e-2)]
TAYLOR += [np.float32(value) for value in (1.66666667e-1, 0.5, 1.0, 1.0)]
MAGIC, LOG2_E = np.float32(12582912.0), np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693145752), np.float32(1.42860677e-6)


def fused(a: Any, b: Any, c: Any) -> Float:
    """``a * b + c`` of float32 numbers with one rounding.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond, "Emulation of a FMA and
    correctly-rounded sums: proved algorithms using rounding to odd", 2008): then rounding it to float32 rounds once.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    inexact = np.isfinite(error) & (error != 0)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where(inexact & even, np.nextafter(total, toward), total).astype(np.float32)


def limited(x: Float, low: float, high: float) -> Float:
    """Within the limits, as ``float_graph`` says."""
    bottom, top = np.float32(low) + np.float32(0), np.float32(high) + np.float32(0)
    x = np.where(x <= bottom, bottom, x)
    return np.where(x > top, top, x)


def _convolution(x: Float, op: f.FloatConvolution) -> Float:
    top, left, bottom, right = op.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    out, kernel_height, kernel_width, depth = op.weights.shape
    height, width = output_size(x.shape[1:3], (kernel_height, kernel_width), op.stride, dilation=op.dilation)
    acc = np.broadcast_to(op.bias, (len(x), height, width, out))
    first = np.arange(out) // (out // op.groups) * depth  # the first input channel that each output reads
    for i in range(kernel_height):
        for j in range(kernel_width):
            start = i * op.dilation[0], j * op.dilation[1]
            rows = slice(start[0], start[0] + op.stride[0] * (height - 1) + 1, op.stride[0])
            columns = slice(start[1], start[1] + op.stride[1] * (width - 1) + 1, op.stride[1])
            for d in range(depth):
                acc = fused(op.weights[:, i, j, d], x[:, rows, columns][..., first + d], acc)
    return limited(acc, op.low, op.high)


def _average(x: Float, op: f.FloatAveragePool) -> Float:
    result = np.zeros((len(x), len(op.rows), len(op.columns), x.shape[3]), np.float32)
    for i, row in enumerate(op.rows):
        for j, column in enumerate(op.columns):
            for y in range(row.start, row.end):
                for z in range(column.start, column.end):
                    result[:, i, j] += x[:, y, z]
            result[:, i, j] /= np.float32(row.divisor * column.divisor)
    return result


def maximum(x: Float, op: g.MaxPool) -> Float:
    """One after the other, rows first: of two zeros the first stays."""
    result = np.full((len(x), len(op.rows), len(op.columns), x.shape[3]), -np.inf, np.float32)
    for i, row in enumerate(op.rows):
        for j, column in enumerate(op.columns):
            for y in range(row.start, row.end, op.dilation[0]):
                for z in range(column.start, column.end, op.dilation[1]):
                    most = result[:, i, j]
                    result[:, i, j] = np.where(x[:, y, z] <= most, most, x[:, y, z])
    return result


def exponential(x: Float) -> Float:
    """exp by the steps of ``kernels/float_elementwise.c``."""
    x = limited(x, -87.0, 88.0)
    shifted = fused(x, LOG2_E, MAGIC)
    n = shifted - MAGIC
    r = fused(n, -LN2_LOW, fused(n, -LN2_HIGH, x))
    p: Any = TAYLOR[0]
    for coefficient in TAYLOR[1:]:
        p = fused(p, r, coefficient)
    power = (shifted.view(np.uint32) - MAGIC.view(np.uint32) + np.uint32(127)) << np.uint32(23)
    return p * power.view(np.float32)


def _function(x: Float, op: f.FloatFunction) -> Float:
    def sigmoid(x: Float) -> Float:
        return ONE / (ONE + exponential(-x))

    hard = limited(x + THREE, 0.0, 6.0)
    values: dict[str, Callable[[], Float]] = {
        "leaky_relu": lambda: np.where(x > 0, x, x * np.float32(op.parameter)),
        "hardsigmoid": lambda: hard / SIX,
        "hardswish": lambda: x * hard / SIX,
        "sigmoid": lambda: sigmoid(x),
        "silu": lambda: x * sigmoid(x),
        "tanh": lambda: TWO * sigmoid(TWO * x) - ONE,
    }
    return limited(values[op.function](), op.low, op.high)


@execute.register
def _(op: f.FloatInput, inputs: Inputs, tensors: Tensors) -> Float:
    return op.table[np.arange(inputs[0].shape[3]), inputs[0]]


@execute.register
def _(op: f.FloatConvolution, inputs: Inputs, tensors: Tensors) -> Float:
    return _convolution(inputs[0], op)


@execute.register
def _(op: f.FloatAdd, inputs: Inputs, tensors: Tensors) -> Float:
    return limited(inputs[0] + inputs[1], op.low, op.high)


@execute.register
def _(op: f.FloatMultiply, inputs: Inputs, tensors: Tensors) -> Float:
    return limited(inputs[0] * inputs[1], op.low, op.high)


@execute.register
def _(op: f.FloatConcatenate, inputs: Inputs, tensors: Tensors) -> Float:
    return np.concatenate(inputs, axis=-1)


@execute.register
def _(op: f.FloatAveragePool, inputs: Inputs, tensors: Tensors) -> Float:
    return _average(inputs[0], op)


@execute.register
def _(op: f.FloatFunction, inputs: Inputs, tensors: Tensors) -> Float:
    return _function(inputs[0], op)
