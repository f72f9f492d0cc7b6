"""The float32 operations of a graph: the network as it is, without integers.

Beside these, ``MaxPool``, ``Slice``, ``Pad``, ``Gather``, ``Reshape`` and ``Limit`` of ``graph.py`` take floats as they do bytes.

Every rounding is named here, so that all implementations agree bit for bit; ``fma(a, b, c)`` rounds ``a * b + c`` once. Limits
``low``..``high`` at an operation's end mean: ``low`` where ``x <= low``, then ``high`` where that is above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir.graph import Operation, Window

Float32 = NDArray[np.float32]
INFINITY = float("inf")

# What FloatFunction knows; the numbers stand in the blob.
FUNCTIONS = {"leaky_relu": 1, "hardsigmoid": 2, "hardswish": 3, "sigmoid": 4, "silu": 5, "tanh": 6}


@dataclass(frozen=True)
class FloatInput(Operation):
    """Pixels to floats: ``out[h, w, c] = table[c, pixel[h, w, c]]``; table is float32 [C, 256]: the normalization."""

    table: Float32


@dataclass(frozen=True)
class FloatConvolution(Operation):
    """Convolution or linear layer; the geometry is ``graph.Convolution``'s.

    ``weights`` is float32 OHWI, ``bias`` float32 [out]. The sum starts with the bias; for kernel rows, columns and input channels
    in that order ``acc = fma(weight, x, acc)``, where x is zero in the padding; then the limits.
    """

    weights: Float32
    bias: Float32
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    low: float = -INFINITY
    high: float = INFINITY


@dataclass(frozen=True)
class FloatAdd(Operation):
    """``a + b``, limited."""

    low: float = -INFINITY
    high: float = INFINITY


@dataclass(frozen=True)
class FloatMultiply(Operation):
    """``a * b``, limited. The second has the first's shape, or is a vector (1, 1, C) that multiplies every position."""

    low: float = -INFINITY
    high: float = INFINITY


@dataclass(frozen=True)
class FloatConcatenate(Operation):
    """Channels of several activations side by side."""


@dataclass(frozen=True)
class FloatAveragePool(Operation):
    """Sum over a window (rows, then columns, from zero on) divided by ``float32(rows[i].divisor * columns[j].divisor)``."""

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]


@dataclass(frozen=True)
class FloatFunction(Operation):
    """A function of ``FUNCTIONS`` of each element, then the limits. ``parameter`` is leaky_relu's slope. The steps of each are in
    ``kernels/float_elementwise.c``."""

    function: str
    parameter: float = 0.0
    low: float = -INFINITY
    high: float = INFINITY
