"""What the records of operations are written to and read from: the data sections of a blob, and the parts that they share."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from deploy_arm.target.kernel_sources import constants
from foundation.errors import UserError
from foundation.windows import output_size

Words = list[int]


class Writer:
    """Appends data sections at multiples of 16, each distinct content once.

    ``index`` numbers the tensors by name; ``coded`` allows weights to be entropy-coded.
    """

    def __init__(self, start: int, index: Mapping[str, int], *, coded: bool = True) -> None:
        self.position = start
        self.index = index
        self.coded = coded
        self.parts: list[bytes] = []
        self.seen: dict[bytes, int] = {}

    def add(self, data: NDArray[Any]) -> int:
        """The offset at which ``data`` will lie."""
        content = np.ascontiguousarray(data).tobytes()
        if content in self.seen:
            return self.seen[content]
        offset = self.seen[content] = self.position
        padding = -len(content) % 16
        self.parts += [content, bytes(padding)]
        self.position += len(content) + padding
        return offset

    def table(self, table: NDArray[np.int16]) -> int:
        """Values as bytes: the low byte of int16, the two's complement byte."""
        return self.add(table.astype(np.uint8))

    def windows(self, windows: Sequence[g.Window]) -> int:
        return self.add(np.array([(w.start, w.end, w.divisor) for w in windows], np.dtype("<i4")))

    def finish(self, finish: g.Requantize | g.Dequantize) -> Words:
        """finish, two offsets, left, right, low, high."""
        if isinstance(finish, g.Dequantize):
            arrays = [self.add(finish.scale.astype("<f4")), self.add(finish.offset.astype("<f4"))]
            return [1, *arrays, 0, 0, 0, 0]
        arrays = [self.add(finish.multiplier.astype("<i4")), self.add(finish.offset.astype("<i4"))]
        return [0, *arrays, finish.left, finish.right, finish.low, finish.high]


class Geometry(NamedTuple):
    """What a convolution has beside its numbers: the shape of its weights (OHWI), and how they move."""

    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Reader:
    """The inverse: of a record in ``blob`` whose first input is ``source``, whose output is ``target``."""

    blob: bytes
    source: g.Tensor
    target: g.Tensor

    def array(self, offset: int, dtype: str, shape: int | tuple[int, ...]) -> NDArray[Any]:
        """An array of the file.

        Raises:
            UserError: it does not lie inside the file.
        """
        sides = (shape,) if isinstance(shape, int) else shape
        count, kind = math.prod(sides), np.dtype(dtype)
        if min(offset, *sides) < 0 or offset + count * kind.itemsize > len(self.blob):
            raise UserError(
                f"{sides} numbers at byte {offset} of the blob do not lie inside its {len(self.blob)} bytes; "
                "compile the candidate again"
            )
        return np.frombuffer(self.blob, kind, count, offset).reshape(sides)

    def table(self, offset: int, shape: int | tuple[int, ...]) -> NDArray[np.int16]:
        """Bytes of the output's kind as values."""
        return self.array(offset, "<i1" if self.target.low < 0 else "<u1", shape).astype(np.int16)

    def windows(self, offset: int, count: int) -> tuple[g.Window, ...]:
        return tuple(g.Window(*row) for row in self.array(offset, "<i4", (count, 3)).tolist())

    def geometry(self, words: Words) -> Geometry:
        """Of a convolution, from its words 4 to 14.

        Raises:
            UserError: its groups do not divide the channels, or its output does not follow from its input.
        """
        (height, width, _), (*out, outs) = self.source.shape, self.target.shape
        kernel, stride, dilation = (words[4], words[5]), (words[6], words[7]), (words[12], words[13])
        padding, groups = (words[8], words[9], words[10], words[11]), words[14]
        possible = min(*kernel, *stride, *dilation, groups) > 0 and min(padding) >= 0
        if (
            not possible
            or self.source.shape[2] % groups
            or outs % groups
            or output_size((height, width), kernel, stride, padding, dilation) != tuple(out)
        ):
            raise UserError(
                f"a convolution of the blob with the numbers {words[4:15]} does not lead from {self.source.shape} to "
                f"{self.target.shape}; compile the candidate again"
            )
        shape = (outs, *kernel, self.source.shape[2] // groups)
        return Geometry(shape, stride, padding, dilation, groups)

    def finish(self, words: Words, count: int) -> g.Requantize | g.Dequantize:
        kind, first, second, *rest = words
        if kind == 1:
            return g.Dequantize(self.array(first, "<f4", count), self.array(second, "<f4", count))
        return g.Requantize(self.array(first, "<i4", count), self.array(second, "<i4", count), *rest[:4])


@dataclass(frozen=True)
class OperationRecord:
    """How an operation stands in a blob (FORMAT.md).

    Attributes:
        name: in ``enum opcode`` of ``kernels/blob.h``.
        write: words 4 and following.
        read: from all words, what the operation's class takes after inputs, output and layer.
        listed: where inputs are a list of their own (its length in word 4, its place in word 5): words of each, the tensor first.
    """

    name: str
    write: Callable[[Any, Writer], Words]
    read: Callable[[Reader, Words], tuple[Any, ...]]
    listed: int = 0

    @property
    def opcode(self) -> int:
        return constants("blob.h")[self.name]


def nothing_written(op: g.Operation, writer: Writer) -> Words:
    return []


def nothing_read(reader: Reader, words: Words) -> tuple[Any, ...]:
    return ()


def float_words(*values: float) -> Words:
    """Floats as words."""
    return list(struct.unpack(f"<{len(values)}i", struct.pack(f"<{len(values)}f", *values)))


def words_float(words: Words) -> tuple[float, ...]:
    """The inverse."""
    return struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}i", *words))
