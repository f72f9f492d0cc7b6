"""The integer network: a list of operations over byte tensors, and what each operation means.

A graph is what the compiler builds, the reference executes and the program runs; all three agree bit for bit. Tensors are
NHWC without the batch; a vector is (1, 1, C). An activation is one byte per element: uint8 when ``low >= 0``, else int8;
its real value is ``step * integer`` (no zero points, so padding with real zero is integer zero).

Requantization, the one fixed-point rule (``Requantize``), with acc int32 and per-channel int32 multiplier m and offset b::

    t = saturate32(acc << left)
    t = (2 * t * m + 2**31) >> 32          # SQRDMULH: 64-bit product, rounding; m is in [-(2**31 - 1), 2**31 - 1]
    t = saturate32(t + b)
    y = (t + (1 << (right - 1))) >> right  # SRSHL by -right, computed without overflow; right = 0 leaves t as it is
    y = min(max(y, low), high)

with left in 0..30 and right in 0..22 (a saturated t is then still beyond every byte), so ``acc`` times the real factor
m * 2**(left - 31 - right) plus b * 2**-right, rounded half up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foundation.codebook import Codebook

Int32 = NDArray[np.int32]
Kernel = Literal["automatic", "dense", "depthwise", "level-grouped", "blocks"]


@dataclass(frozen=True)
class Tensor:
    """A value between operations.

    ``shape`` is (height, width, channels). ``low``/``high`` bound the integers (0..255, 0..127, -128..127 or -64..63).
    ``floating`` marks the network's output where it is float32; then low, high and step mean nothing.
    """

    name: str
    shape: tuple[int, int, int]
    step: float = 1.0
    low: int = 0
    high: int = 255
    floating: bool = False


@dataclass(frozen=True)
class Requantize:
    """int32 accumulator to byte; arrays are per output channel. See the module docstring."""

    multiplier: Int32
    offset: Int32
    left: int
    right: int
    low: int
    high: int


@dataclass(frozen=True)
class Dequantize:
    """int32 accumulator to float32: ``float32(acc) * scale[c] + offset[c]``, two roundings, no fused multiply-add."""

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True)
class Operation:
    """Common to all: what is read, what is written, and the layer of the model it comes from."""

    inputs: tuple[str, ...]
    output: str
    layer: str


@dataclass(frozen=True)
class InputTable(Operation):
    """Pixels to the first activation: ``out[h, w, c] = table[c, pixel[h, w, c]]``; table is int16 [C, 256] holding values
    in the output's range. Normalization and quantization of the input in one exact step."""

    table: NDArray[np.int16]


@dataclass(frozen=True)
class FusedAdd:
    """An ``Add`` that a convolution's result goes through: the first multiplier is that of the convolution's byte (which has
    the finish's range), the second that of the residual, the convolution's second input."""

    multipliers: tuple[int, int]
    right: int
    low: int
    high: int


@dataclass(frozen=True)
class Convolution(Operation):
    """Convolution or linear layer (1x1 on a (1, 1, C) tensor, or on a flattened one).

    ``weights.indices`` is OHWI: (out, kh, kw, in/groups), already permuted from PyTorch's OIHW. A linear layer after a
    flatten of (H, W, C) is a convolution whose kernel is H x W. Padding (top, left, bottom, right) adds integer zeros.
    acc[oh, ow, o] = sum over kernel and input channels of x * integer weight (int32, wraps never: the compiler checks).
    With ``residual`` the output is that of an ``Add`` of the finished byte and the second input, which has the output's shape.
    ``kernel`` is what the program computes it with; it changes time, memory and how weights are stored, never results.
    """

    weights: Codebook
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    finish: Requantize | Dequantize
    residual: FusedAdd | None = None
    kernel: Kernel = "automatic"


@dataclass(frozen=True)
class Add(Operation):
    """Sum of two activations: ``y = clamp((a * multipliers[0] + b * multipliers[1] + (1 << (right - 1))) >> right)``;
    multipliers are in [0, 2**20], right in [1, 30], so int32 never overflows."""

    multipliers: tuple[int, int]
    right: int
    low: int
    high: int


@dataclass(frozen=True)
class Multiply(Operation):
    """Product of two activations, ``acc = a * b`` then ``finish``, whose arrays have one entry. The second has the first's
    shape, or is a vector (1, 1, C) that multiplies every position."""

    finish: Requantize


@dataclass(frozen=True)
class Concatenate(Operation):
    """Channels of several activations side by side; each input through its own table: ``table[i]`` int16 [256], indexed by
    the byte (int8 bytes taken as uint8), gives the value in the output's range."""

    tables: tuple[NDArray[np.int16], ...]


@dataclass(frozen=True)
class Window:
    """One output row (or column) of a pooling: input rows [start, end) that exist, and the divisor's factor."""

    start: int
    end: int
    divisor: int


@dataclass(frozen=True)
class MaxPool(Operation):
    """Maximum over windows, of whose rows and columns every ``dilation``-th counts; step and range stay. Windows of one row
    and column choose pixels: a nearest-neighbour resizing."""

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class AveragePool(Operation):
    """Sum over a window, then ``finish``, whose arrays are indexed by nothing but ``divisor``: for every distinct product
    ``rows[i].divisor * columns[j].divisor`` there is one entry in ``divisors`` and, at the same place, in the arrays."""

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    divisors: tuple[int, ...]
    finish: Requantize | Dequantize


@dataclass(frozen=True)
class Table(Operation):
    """Any elementwise function of one activation: ``table`` int16 [256], indexed by the byte as in Concatenate. Also a
    change of scale."""

    table: NDArray[np.int16]


@dataclass(frozen=True)
class FloatTable(Operation):
    """Any elementwise function of one activation whose values stay floats, at the network's end: ``table`` float32 [256],
    indexed as in Table."""

    table: NDArray[np.float32]


@dataclass(frozen=True)
class Slice(Operation):
    """Every ``steps``-th row, column, channel from ``starts``; the output's shape says how many."""

    starts: tuple[int, int, int]
    steps: tuple[int, int, int]


@dataclass(frozen=True)
class Gather(Operation):
    """Output channel c is the input's channel ``indices[c]``: a channel shuffle."""

    indices: Int32


@dataclass(frozen=True)
class LayerNorm(Operation):
    """Over the n <= 2**15 channels of every position, with S the sum of the integers q and Q that of their squares::

        d = n * q - S                          # n times the distance from the mean
        D = n * Q - S * S + epsilon            # n**2 times the variance; epsilon in 1..2**60 likewise scaled
        e = the even number for which 2**60 <= D << e < 2**62
        m = floor(sqrt(D << e));  r = min(floor(2**61 / m), 2**31 - 1)
        acc = (d * r + (1 << (44 - e / 2))) >> (45 - e / 2)

    so acc is about 2**16 times the normalized value, below 2**16 * (sqrt(n) + 1) in size. Then ``finish`` by channel."""

    epsilon: int
    finish: Requantize | Dequantize


@dataclass(frozen=True)
class Limit(Operation):
    """Float results within ``low``..``high`` (float32 numbers, infinity allowed): ``low if x < low else high if x > high
    else x``. A rectifier behind the network's last layer."""

    low: float
    high: float


@dataclass(frozen=True)
class Pad(Operation):
    """Integer zeros around: ``before`` and ``after`` for rows, columns, channels."""

    before: tuple[int, int, int]
    after: tuple[int, int, int]


@dataclass(frozen=True)
class Reshape(Operation):
    """The same bytes under another shape (a flatten before a linear layer, whose weights were permuted to HWC order)."""


@dataclass(frozen=True)
class Output(Operation):
    """A byte activation as the network's float output: ``float32(integer) * float32(step)``. Absent when the last
    operation already dequantizes."""


@dataclass
class Graph:
    """Operations in execution order. ``tensors`` maps names to types; ``input`` is the uint8 image, ``output`` float32."""

    input: Tensor
    output: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
