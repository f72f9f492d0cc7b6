"""Graphs by hand, with random contents: an input table into some range, the operations under test, integers as floats out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatConcatenate
from deploy_arm.lowering.windows import average_windows, pool_windows
from foundation.codebook import Codebook
from foundation.windows import output_size

RANGES = ((0, 255), (0, 127), (-128, 127), (-64, 63))


@dataclass
class Builder:
    """Appends operations to a graph; every method returns the name of the tensor it made."""

    random: np.random.Generator
    shape: tuple[int, int, int]
    graph: g.Graph = field(init=False)

    def __post_init__(self) -> None:
        image = g.Tensor("image", self.shape)
        self.graph = g.Graph(image, "", {"image": image})

    def tensor(
        self, shape: Sequence[int], low: int, high: int, *, step: float = 1.0, floating: bool = False
    ) -> str:
        name = f"t{len(self.graph.tensors)}"
        height, width, channels = (int(size) for size in shape)
        self.graph.tensors[name] = g.Tensor(name, (height, width, channels), step, low, high, floating)
        return name

    def like(self, x: g.Tensor, shape: Sequence[int]) -> str:
        """A tensor of the range or kind of another."""
        return self.tensor(shape, x.low, x.high, floating=x.floating)

    def emit(self, operation: g.Operation) -> str:
        self.graph.operations.append(operation)
        return operation.output

    def table(self, low: int, high: int) -> NDArray[np.int16]:
        """Random values of a range, its ends often among them."""
        values = self.random.integers(low, high + 1, 256)
        ends = self.random.random(256)
        return np.where(ends < 0.1, low, np.where(ends > 0.9, high, values)).astype(np.int16)

    def input(self, low: int, high: int) -> str:
        out = self.tensor(self.shape, low, high)
        table = np.stack([self.table(low, high) for _ in range(self.shape[2])])
        return self.emit(g.InputTable(("image",), out, "input", table))

    def finish(self, bound: int, count: int, low: int, high: int) -> g.Requantize:
        """Sums up to ``bound`` onto about the range, so that values and both clamps occur."""
        left = int(self.random.integers(0, max(31 - bound.bit_length(), 1)))
        right = int(self.random.integers(0, 16))
        if (
            self.random.random() < 0.6
        ):  # as the compiler chooses them: all of the head room, many fraction bits
            left, right = max(31 - bound.bit_length(), 0), int(self.random.integers(15, 24))
        wanted = (
            (high - low) / max(bound, 1) * self.random.uniform(0.5, 8, count) * 2.0 ** (31 + right - left)
        )
        multiplier = np.clip(np.rint(wanted), 1, 2**31 - 1).astype(np.int32)
        if self.random.random() < 0.3:
            multiplier *= self.random.choice(np.array([-1, 1], np.int32), count)
        offset = np.rint(self.random.uniform(low, high, count) * 2.0**right).astype(np.int32)
        if self.random.random() < 0.1:  # nonsense must agree too
            left, right = (int(value) for value in self.random.integers(0, 32, 2))
            offset = self.random.integers(-(2**31), 2**31, count).astype(np.int32)
        return g.Requantize(multiplier, offset, left, right, low, high)

    def codebook(
        self, shape: Sequence[int], bits: int, zeros: float = 0.3, *, skewed: bool = False
    ) -> Codebook:
        """Random weights (OHWI). Below 8 bits zero is among the levels, except now and then."""
        size = int(np.prod(shape))
        if bits == 8:
            levels = np.arange(-127, 128, dtype=np.int8)
            zero = 127
        else:
            count = int(self.random.integers(2, 2**bits + 1))
            lowest = -128 if self.random.random() < 0.1 else -127
            others = self.random.choice(
                np.array([v for v in range(lowest, 128) if v]), count - 1, replace=False
            )
            levels = np.sort(np.append(others, 0 if self.random.random() < 0.9 else others[0])).astype(
                np.int8
            )
            zero = int(np.argmin(np.abs(levels.astype(int))))
        indices = self.random.integers(0, len(levels), size)
        if skewed:  # one level nearly everywhere: its sums run to the limit
            indices[self.random.random(size) < 0.95] = self.random.integers(0, len(levels))
        indices[self.random.random(size) < zeros] = zero
        scale = np.ones(shape[0] if bits == 8 else 1, np.float32)
        return Codebook(indices.astype(np.uint8).reshape(tuple(shape)), levels, scale, bits)

    def convolution(
        self,
        source: str,
        outs: int,
        kernel: tuple[int, int],
        *,
        bits: int = 4,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        to: tuple[int, int] | None = (0, 255),
        zeros: float = 0.3,
        skewed: bool = False,
    ) -> str:
        """``to`` is the output's range, None for floats."""
        x = self.graph.tensors[source]
        height, width, channels = x.shape
        weights = self.codebook((outs, *kernel, channels // groups), bits, zeros, skewed=skewed)
        rows, columns = output_size((height, width), kernel, stride, padding, dilation)
        sizes = np.abs(weights.integers.astype(np.int64)).reshape(outs, -1).sum(axis=1)
        bound = int(sizes.max()) * max(-x.low, x.high)
        finish: g.Requantize | g.Dequantize
        if to is None:
            finish = g.Dequantize(
                self.random.normal(size=outs).astype(np.float32),
                self.random.normal(size=outs).astype(np.float32),
            )
            out = self.tensor((rows, columns, outs), 0, 0, floating=True)
        else:
            finish = self.finish(bound // 4 + 1, outs, *to)
            out = self.tensor((rows, columns, outs), *to)
        return self.emit(
            g.Convolution((source,), out, "conv", weights, stride, padding, dilation, groups, finish)
        )

    def add(self, first: str, second: str, low: int, high: int) -> str:
        right = int(
            self.random.integers(1, 31) if self.random.random() < 0.5 else self.random.integers(15, 24)
        )
        most = min(2**20, 2 ** (right + 1))
        multipliers = (int(self.random.integers(0, most + 1)), int(self.random.integers(0, most + 1)))
        out = self.tensor(self.graph.tensors[first].shape, low, high)
        return self.emit(g.Add((first, second), out, "add", multipliers, right, low, high))

    def multiply(self, first: str, second: str, low: int, high: int) -> str:
        x, y = self.graph.tensors[first], self.graph.tensors[second]
        finish = self.finish(max(-x.low, x.high) * max(-y.low, y.high) // 4 + 1, 1, low, high)
        return self.emit(g.Multiply((first, second), self.tensor(x.shape, low, high), "multiply", finish))

    def concatenate(self, sources: Sequence[str], low: int, high: int) -> str:
        tensors = [self.graph.tensors[name] for name in sources]
        out = self.tensor((*tensors[0].shape[:2], sum(t.shape[2] for t in tensors)), low, high)
        tables = tuple(self.table(low, high) for _ in sources)
        return self.emit(g.Concatenate(tuple(sources), out, "concatenate", tables))

    def look_up(self, source: str, low: int, high: int) -> str:
        out = self.tensor(self.graph.tensors[source].shape, low, high)
        return self.emit(g.Table((source,), out, "table", self.table(low, high)))

    def look_up_floats(self, source: str) -> str:
        """Through a table of floats, with numbers of every kind."""
        table = self.random.normal(size=256).astype(np.float32)
        table[self.random.permutation(256)[:4]] = 0.0, -0.0, np.inf, 1e-40
        out = self.tensor(self.graph.tensors[source].shape, 0, 0, floating=True)
        return self.emit(g.FloatTable((source,), out, "function", table))

    def combine_floats(self, kind: type[g.Operation], first: str, second: str) -> str:
        """The sum or product of two byte tensors as floats."""
        sources = []
        for name in (first, second):
            out = self.tensor(self.graph.tensors[name].shape, 0, 0, floating=True)
            sources.append(self.emit(g.Output((name,), out, "output")))
        out = self.tensor(self.graph.tensors[first].shape, 0, 0, floating=True)
        return self.emit(kind((sources[0], sources[1]), out, "together", -1.5, 20.0))  # type: ignore[call-arg]

    def max_pool(self, source: str, kernel: int, stride: int, padding: int, dilation: int = 1) -> str:
        x = self.graph.tensors[source]
        rows, columns = (
            pool_windows(size, kernel, stride, padding, ceil_mode=False, dilation=dilation)
            for size in x.shape[:2]
        )
        out = self.like(x, (len(rows), len(columns), x.shape[2]))
        return self.emit(g.MaxPool((source,), out, "pool", rows, columns, (dilation, dilation)))

    def resize(self, source: str, rows: Sequence[int], columns: Sequence[int]) -> str:
        """Rows and columns chosen by number, as a nearest-neighbour resizing does."""
        x = self.graph.tensors[source]
        out = self.tensor((len(rows), len(columns), x.shape[2]), x.low, x.high)
        windows = [tuple(g.Window(int(i), int(i) + 1, 1) for i in axis) for axis in (rows, columns)]
        return self.emit(g.MaxPool((source,), out, "resize", windows[0], windows[1]))

    def join(self, sources: Sequence[str]) -> str:
        shapes = [self.graph.tensors[name].shape for name in sources]
        out = self.tensor((*shapes[0][:2], sum(shape[2] for shape in shapes)), 0, 0, floating=True)
        return self.emit(FloatConcatenate(tuple(sources), out, "join"))

    def gather(self, source: str, indices: NDArray[np.int64]) -> str:
        x = self.graph.tensors[source]
        out = self.like(x, (*x.shape[:2], len(indices)))
        return self.emit(g.Gather((source,), out, "gather", indices.astype(np.int32)))

    def shuffle(self, source: str, groups: int) -> str:
        """As a channel shuffle does, where the groups divide the channels; else channels at random."""
        channels = self.graph.tensors[source].shape[2]
        if channels % groups == 0:
            return self.gather(source, np.arange(channels).reshape(groups, -1).T.reshape(-1))
        return self.gather(source, self.random.integers(0, channels, int(self.random.integers(1, 30))))

    def layer_norm(self, source: str, to: tuple[int, int] | None) -> str:
        x = self.graph.tensors[source]
        channels = x.shape[2]
        epsilon = int(2 ** self.random.uniform(0, 60 if self.random.random() < 0.2 else 20))
        finish: g.Requantize | g.Dequantize
        if to is None:
            scale, shift = self.random.normal(size=(2, channels)).astype(np.float32)
            finish, out = g.Dequantize(scale, shift), self.tensor(x.shape, 0, 0, floating=True)
        else:
            finish, out = self.finish(4 << 16, channels, *to), self.tensor(x.shape, *to)
        return self.emit(g.LayerNorm((source,), out, "norm", epsilon, finish))

    def limit(self, source: str, low: float, high: float) -> str:
        out = self.tensor(self.graph.tensors[source].shape, 0, 0, floating=True)
        return self.emit(g.Limit((source,), out, "limit", low, high))

    def average_pool(
        self,
        source: str,
        kernel: int,
        stride: int,
        padding: int,
        to: tuple[int, int] | None,
        *,
        count: bool = True,
    ) -> str:
        x = self.graph.tensors[source]
        rows, columns = (
            average_windows(size, kernel, stride, padding, ceil_mode=False, count_padding=count)
            for size in x.shape[:2]
        )
        divisors = tuple(sorted({r.divisor * c.divisor for r in rows for c in columns}))
        shape = (len(rows), len(columns), x.shape[2])
        finish: g.Requantize | g.Dequantize
        if to is None:
            scale = np.array([1 / d for d in divisors], np.float32)
            finish = g.Dequantize(scale, self.random.normal(size=len(divisors)).astype(np.float32))
            out = self.tensor(shape, 0, 0, floating=True)
        else:
            finish = self.finish(max(-x.low, x.high) * kernel * kernel, len(divisors), *to)
            out = self.tensor(shape, *to)
        return self.emit(g.AveragePool((source,), out, "average", rows, columns, divisors, finish))

    def slice(self, source: str, starts: tuple[int, int, int], steps: tuple[int, int, int]) -> str:
        x = self.graph.tensors[source]
        shape = [
            (size - start + step - 1) // step
            for size, start, step in zip(x.shape, starts, steps, strict=True)
        ]
        return self.emit(g.Slice((source,), self.like(x, shape), "slice", starts, steps))

    def pad(self, source: str, before: tuple[int, int, int], after: tuple[int, int, int]) -> str:
        x = self.graph.tensors[source]
        shape = [sum(sizes) for sizes in zip(x.shape, before, after, strict=True)]
        return self.emit(g.Pad((source,), self.like(x, shape), "pad", before, after))

    def reshape(self, source: str, shape: tuple[int, int, int]) -> str:
        x = self.graph.tensors[source]
        out = self.like(x, shape)
        return self.emit(g.Reshape((source,), out, "reshape"))

    def done(self, last: str) -> g.Graph:
        """The graph, with integers as floats at its end."""
        x = self.graph.tensors[last]
        if not x.floating:
            out = self.tensor(x.shape, 0, 0, floating=True)
            last = self.emit(g.Output((last,), out, "output"))
        self.graph.output = last
        return self.graph

    def images(self, count: int) -> NDArray[np.uint8]:
        """Random pixels, black and white images among them."""
        images = self.random.integers(0, 256, (count, *self.shape), dtype=np.uint8)
        images[0] = self.random.choice(np.array([0, 255], np.uint8))
        return images
