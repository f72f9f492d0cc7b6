"""What Winograd's minimal filtering F(2x2, 3x3) could save on ARM: vector instructions per direct multiply-accumulate.

    python -m benchmarks.winograd_bound

A count, not a measurement: the least a kernel executes, loads and stores of the transforms included, those of the products not.

Integers: the entries of a transformed tile (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016) are sums
of four activations with signs, up to 512 in size; those of the weights (times 4, to stay whole) go up to 9 x 127. Neither fits
SDOT's or SMMLA's bytes. Exact products of 16-bit numbers are SMLAL's, 4 an instruction, so the 2.25 times fewer products are 4
times (SMMLA: 8 times) dearer each: 0.111 instructions per direct product against SDOT's 0.0625, before any transform. Halves of
both in two bytes each are four SDOT for one: the same. F(4x4, 3x3) has 4 times fewer products, but its weights leave 16 bits and
its sums leave 32 after ``channels_that_fit(4)`` input channels. So integer convolutions stay direct.

Floats: the products' width does not change, so F(2x2, 3x3) needs 0.111 FMLA for 0.25; that is how ncnn gets below FMLA's direct
bound. The float program is the uncompressed reference and stays direct: one order of summation, the same for every kernel.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundation.command import Parser, main_guard

Matrix = NDArray[np.int64]
SDOT, SMMLA, SMLAL, FMLA = 16, 32, 4, 4  # products of one instruction
LARGEST_ACTIVATION, LARGEST_WEIGHT, LARGEST_SUM = 128, 127, 2**31 - 1

# By outputs a side: B' of the input, G of the weights times the factor that makes it whole, that factor, A' of the output.
TRANSFORMS: dict[int, tuple[Matrix, Matrix, int, Matrix]] = {
    2: (
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]),
        2,
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    ),
    4: (
        np.array(
            [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
             [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
        ),
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]),
        24,
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TransformStage:
    """A 3 x 3 convolution of stride 1 and the size of its output."""

    name: str
    inputs: int
    outputs: int
    size: int


# ResNet-18's at 224 x 224: 13 of its 16 convolutions of this kind of kernel, the others have stride 2.
RESNET18 = (
    TransformStage("layer1", 64, 64, 56),
    TransformStage("layer2", 128, 128, 28),
    TransformStage("layer3", 256, 256, 14),
    TransformStage("layer4", 512, 512, 7),
)


def ranges(outputs: int) -> tuple[int, int]:
    """Largest transformed activation and weight in size, attained by bytes."""
    b, g, _, _ = TRANSFORMS[outputs]
    return (
        int(np.abs(b).sum(axis=1).max()) ** 2 * LARGEST_ACTIVATION,
        int(np.abs(g).sum(axis=1).max()) ** 2 * LARGEST_WEIGHT,
    )


def channels_that_fit(outputs: int) -> int:
    """Input channels whose products, at their largest, can be summed in 32 bits."""
    activation, weight = ranges(outputs)
    return LARGEST_SUM // (activation * weight)


def convolve(tile: Matrix, weights: Matrix, outputs: int) -> Matrix:
    """One channel's outputs from a tile of (outputs + 2)**2 inputs, exactly, by the transforms."""
    b, g, factor, a = TRANSFORMS[outputs]
    products = (b @ tile @ b.T) * (g @ weights @ g.T)
    return (a @ products @ a.T) // factor**2


def winograd(layer: TransformStage, per_product: int, lanes: int) -> float:
    """Instructions of F(2x2, 3x3) per multiply-accumulate of the direct form, tiles over the edge included.

    A tile of 8 input channels (4 of floats): 16 loads, 32 additions of which the first half widens, 16 stores. One of 4 output
    channels: 24 additions, its sums are in registers.
    """
    tiles = (-(-layer.size // 2)) ** 2
    products = 16 * layer.inputs * layer.outputs / per_product
    transforms = 64 * layer.inputs / lanes + 24 * layer.outputs / 4
    return tiles * (products + transforms) / (9 * layer.inputs * layer.outputs * layer.size**2)


def table() -> str:
    """Instructions per direct multiply-accumulate, and how many times as many as SDOT or FMLA Winograd's are."""
    lines = [f"{'':8}{'SDOT':>8}{'SMMLA':>8}{'Winograd, 16 bits':>20}{'FMLA':>8}{'Winograd, float':>18}"]
    for layer in RESNET18:
        whole, real = winograd(layer, SMLAL, 8), winograd(layer, FMLA, 4)
        lines.append(
            f"{layer.name:8}{1 / SDOT:8.4f}{1 / SMMLA:8.4f}{whole:12.4f} ({whole * SDOT:.2f}x)"
            f"{1 / FMLA:8.4f}{real:10.4f} ({real * FMLA:.2f}x)"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command; see the module's text."""
    Parser(
        prog="python -m benchmarks.winograd_bound",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)
    print(table())
    for outputs in TRANSFORMS:
        activation, weight = ranges(outputs)
        print(
            f"F({outputs}x{outputs}, 3x3): transformed activations up to {activation}, weights up to {weight}; "
            f"32-bit sums hold {channels_that_fit(outputs)} channels"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
