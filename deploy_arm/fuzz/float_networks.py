"""Random float graphs. Results of unequal shapes are laid side by side: one start of an emulator compares many operations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy_arm.fuzz.graphs import Builder
from deploy_arm.ir import float_graph as f
from deploy_arm.ir import graph as g
from deploy_arm.lowering.windows import average_windows
from foundation.windows import output_size

LIMITS = ((-f.INFINITY, f.INFINITY), (0.0, f.INFINITY), (0.0, 6.0), (-1.0, 1.0), (-0.0, 1.0))


class FloatBuilder(Builder):
    """Appends float operations to a graph; every method returns the name of the tensor it made."""

    def limits(self) -> tuple[float, float]:
        return LIMITS[int(self.random.integers(len(LIMITS)))]

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Numbers of several magnitudes, zeros of both signs among them."""
        values = self.random.normal(size=shape) * 10.0 ** self.random.integers(-2, 2, shape)
        return np.where(self.random.random(shape) < 0.1, values * 0, values).astype(np.float32)

    def floats(self, shape: Sequence[int]) -> str:
        return self.tensor(shape, 0, 0, floating=True)

    def pixels(self) -> str:
        table = self.normal(self.shape[2], 256)
        return self.emit(f.FloatInput(("image",), self.floats(self.shape), "input", table))

    def float_convolution(
        self,
        source: str,
        outs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> str:
        height, width, channels = self.graph.tensors[source].shape
        weights = self.normal(outs, *kernel, channels // groups)
        rows, columns = output_size((height, width), kernel, stride, padding, dilation)
        out = self.floats((rows, columns, outs))
        low, high = self.limits()
        return self.emit(
            f.FloatConvolution(
                (source,),
                out,
                "conv",
                weights,
                self.normal(outs),
                stride,
                padding,
                dilation,
                groups,
                low,
                high,
            )
        )

    def combine(self, kind: type[f.FloatAdd] | type[f.FloatMultiply], first: str, second: str) -> str:
        out = self.floats(self.graph.tensors[first].shape)
        return self.emit(kind((first, second), out, "combine", *self.limits()))

    def float_average(self, source: str, kernel: int, stride: int, padding: int, *, count: bool) -> str:
        x = self.graph.tensors[source]
        rows, columns = (
            average_windows(size, kernel, stride, padding, ceil_mode=False, count_padding=count)
            for size in x.shape[:2]
        )
        out = self.floats((len(rows), len(columns), x.shape[2]))
        return self.emit(f.FloatAveragePool((source,), out, "average", rows, columns))

    def function(self, source: str, name: str, parameter: float = 0.0) -> str:
        out = self.floats(self.graph.tensors[source].shape)
        limits = self.limits() if self.random.random() < 0.3 else LIMITS[0]
        return self.emit(f.FloatFunction((source,), out, name, name, parameter, *limits))

    def beside(self, sources: Sequence[str]) -> str:
        """Channels of all."""
        tensors = [self.graph.tensors[name] for name in sources]
        out = self.floats((*tensors[0].shape[:2], sum(t.shape[2] for t in tensors)))
        return self.emit(f.FloatConcatenate(tuple(sources), out, "concatenate"))

    def finished(self, sources: Sequence[str]) -> g.Graph:
        """Every element of all as the network's result."""
        flat = [self.reshape(name, (1, 1, int(np.prod(self.graph.tensors[name].shape)))) for name in sources]
        return self.done(self.beside(flat))


def random_convolutions(builder: FloatBuilder, source: str, count: int) -> list[str]:
    """Convolutions of ``source``, every kind of them."""
    random, made = builder.random, []
    height, width, channels = builder.graph.tensors[source].shape
    for _ in range(count):
        groups = int(random.choice([n for n in range(1, channels + 1) if channels % n == 0]))
        outs = int(random.choice([1, 2, 4, 5, 8, 9, 16, 17, 25]))
        if random.random() < 0.4:
            groups, outs = channels, int(random.integers(1, 3))
        kernel = tuple(int(random.integers(1, min(size, 4) + 1)) for size in (height, width))
        if random.random() < 0.3 and min(height, width) >= 3:
            kernel = (3, 3)
        if random.random() < 0.1:
            kernel = (height, width)
        padding = tuple(int(n) for n in random.integers(0, 3, 4)) if random.random() < 0.6 else (0, 0, 0, 0)
        room = (height + padding[0] + padding[2], width + padding[1] + padding[3])
        dilation = tuple(
            int(random.integers(1, (size - 1) // (k - 1) + 1)) if k > 1 and random.random() < 0.3 else 1
            for size, k in zip(room, kernel, strict=True)
        )
        made.append(
            builder.float_convolution(
                source, outs * groups if groups > 1 else outs, (kernel[0], kernel[1]), groups=groups,
                stride=(int(random.integers(1, 4)), int(random.choice([1, 1, 2, 3]))),
                padding=(padding[0], padding[1], padding[2], padding[3]), dilation=(dilation[0], dilation[1]),
            )
        )  # fmt: skip
    return made


def random_others(builder: FloatBuilder, source: str) -> list[str]:
    """Every other float operation, on ``source``."""
    random = builder.random
    height, width, channels = builder.graph.tensors[source].shape
    vector = builder.float_convolution(source, channels, (height, width))
    same = builder.float_convolution(source, channels, (1, 1))
    kernel = int(random.integers(1, min(height, width) + 1))
    stride, padding = int(random.integers(1, 3)), int(random.integers(0, kernel // 2 + 1))
    made = [
        builder.combine(f.FloatAdd, source, same),
        builder.combine(f.FloatMultiply, source, same),
        builder.combine(f.FloatMultiply, same, vector),
        builder.beside([same, source, same]),
        builder.max_pool(source, kernel, stride, padding),
        builder.max_pool(same, 1, 2, 0),
        builder.float_average(same, kernel, stride, padding, count=bool(random.random() < 0.5)),
        builder.slice(same, (0, width // 2, channels // 2), (2, 1, 1)),
        builder.slice(same, (height - 1, 0, 0), (1, 1, 2)),
        builder.pad(same, (1, 0, 2), (0, 1, 1)),
        builder.shuffle(same, 2),
        builder.limit(same, -0.5, 2.0),
    ]
    return made + [builder.function(same, name, 0.1) for name in f.FUNCTIONS]


def everything_float() -> g.Graph:
    """A small network with every float operation in it."""
    builder = FloatBuilder(np.random.default_rng(5), (6, 5, 3))
    source = builder.pixels()
    wide = builder.float_convolution(source, 10, (3, 3), padding=(1, 1, 1, 1))
    deep = builder.float_convolution(wide, 10, (3, 3), padding=(1, 1, 1, 1), groups=10)
    grouped = builder.float_convolution(deep, 18, (2, 1), stride=(2, 1), groups=2)
    return builder.finished([grouped, *random_others(builder, deep)])
