"""What the records of operations are written to and read from: the data sections of a blob, and the parts that they share."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from deploy_arm.target.kernel_sources import constants

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


@dataclass(frozen=True)
class Reader:
    """The inverse: of a record in ``blob`` whose first input is ``source``, whose output is ``target``."""

    blob: bytes
    source: g.Tensor
    target: g.Tensor

    def array(self, offset: int, dtype: str, shape: int | tuple[int, ...]) -> NDArray[Any]:
        """An array of the file."""
        count = int(np.prod(shape))
        return np.frombuffer(self.blob, dtype, count, offset).reshape(shape)

    def table(self, offset: int, shape: int | tuple[int, ...]) -> NDArray[np.int16]:
        """Bytes of the output's kind as values."""
        return self.array(offset, "<i1" if self.target.low < 0 else "<u1", shape).astype(np.int16)

    def windows(self, offset: int, count: int) -> tuple[g.Window, ...]:
        return tuple(g.Window(*row) for row in self.array(offset, "<i4", (count, 3)).tolist())

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
