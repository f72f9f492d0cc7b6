"""The program's results are the reference's, bit for bit: random convolutions and networks, several targets, plain C too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.passes import fuse_additions
from deploy_arm.ir import graph as g
from deploy_arm.ir.float_graph import FloatAdd, FloatMultiply
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import is_arm
from tests.deploy_arm.runtime_cases import (
    GROUPED,
    RANGES,
    Builder,
    random_blocks,
    random_convolution,
    random_middle,
    random_network,
    random_taps,
    with_kernel,
)

Case = tuple[g.Graph, NDArray[np.uint8]]
QEMU_CPU = {"a76": "cortex-a76", "a72": "cortex-a72", "x2": "max,sve=off"}


def execute(target: str, blob: Path, images: NDArray[np.uint8], *options: str) -> NDArray[np.float32]:
    """Floats that the program writes for images, on an emulated core with exactly the target's instructions."""
    emulator = [] if is_arm() else ["qemu-aarch64", "-cpu", QEMU_CPU[target]]
    command = [*emulator, str(build_program(target)), "run", str(blob), *options]
    done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32).reshape(len(images), -1)


def check(cases: Iterable[Case], folder: Path, target: str, *options: str, kernel: int = 0) -> None:
    blob = folder / "case.blob"
    for number, (graph, images) in enumerate(cases):
        made = write_blob(graph)
        blob.write_bytes(with_kernel(made, kernel) if kernel else made)
        expected = run(graph, images)
        result = execute(target, blob, images, *options)
        np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32), f"case {number}")


@pytest.mark.parametrize(
    ("target", "make", "seeds", "kernel", "options"),
    [
        ("a76", random_convolution, range(0, 120), 0, ()),
        ("a76", random_convolution, range(500, 560), GROUPED, ()),
        ("a76", random_network, range(0, 40), 0, ()),
        ("a76", random_network, range(500, 520), GROUPED, ()),
        ("a76", random_convolution, range(1000, 1030), 0, ("--portable",)),
        ("a76", random_network, range(1000, 1020), 0, ("--portable",)),
        ("x2", random_network, range(3000, 3010), 0, ()),
        ("a72", random_convolution, range(2000, 2040), 0, ()),
        ("a76", random_blocks, range(25), 0, ()),
        ("x2", random_blocks, range(100, 125), 0, ()),
        ("a72", random_blocks, range(200, 210), 0, ()),
        ("a76", random_blocks, range(300, 310), 0, ("--portable",)),
        ("x2", random_blocks, range(400, 410), 0, ("--threads", "3")),
        ("a76", random_taps, range(12), 0, ()),
        ("x2", random_taps, range(100, 112), 0, ()),
        ("a72", random_taps, range(200, 206), 0, ()),
        ("a76", random_taps, range(300, 304), 0, ("--portable",)),
        ("x2", random_taps, range(400, 404), 0, ("--threads", "3")),
        ("a76", random_taps, range(500, 504), GROUPED, ()),
        pytest.param("a76", random_taps, range(1000, 1200), 0, (), marks=pytest.mark.slow),
        pytest.param("x2", random_taps, range(1500, 1700), 0, (), marks=pytest.mark.slow),
        pytest.param("a76", random_blocks, range(1000, 1500), 0, (), marks=pytest.mark.slow),
        pytest.param("x2", random_blocks, range(1500, 2000), 0, (), marks=pytest.mark.slow),
        ("a72", random_network, range(2000, 2020), GROUPED, ()),
        ("a76", random_middle, range(16), 0, ()),
        ("x2", random_middle, range(100, 116), 0, ()),
        ("a72", random_middle, range(200, 206), 0, ()),
        ("a76", random_middle, range(300, 306), 0, ("--portable",)),
        ("a76", random_middle, range(400, 406), GROUPED, ()),
        pytest.param("a76", random_middle, range(1000, 1200), 0, (), marks=pytest.mark.slow),
        pytest.param("x2", random_middle, range(1500, 1700), 0, (), marks=pytest.mark.slow),
    ],
)
def test_random_graphs_agree_with_the_reference(
    tmp_path: Path,
    target: str,
    make: Callable[[int], Case],
    seeds: range,
    kernel: int,
    options: tuple[str, ...],
) -> None:
    check((make(seed) for seed in seeds), tmp_path, target, *options, kernel=kernel)


def large(seed: int, channels: int, outs: int, size: int, kernel: int, bits: int, **options: object) -> Case:
    builder = Builder(np.random.default_rng(seed), (size, size, channels))
    source = builder.input(0, 255)
    last = builder.convolution(source, outs, (kernel, kernel), bits=bits, **options)  # type: ignore[arg-type]
    return builder.done(last), builder.images(1)


def test_large_layers_are_split_into_bands_and_chunks(tmp_path: Path) -> None:
    """Padded inputs beyond a band, and more products per output than decoded weights are kept for."""
    cases = [
        large(1, 64, 20, 72, 3, 4, padding=(1, 1, 1, 1)),  # 350 KB of padded input
        large(2, 640, 24, 5, 3, 2, padding=(1, 1, 1, 1)),  # 5760 products
        large(3, 4100, 12, 1, 1, 8),  # one pixel, segments of 2048 bytes
        large(4, 1030, 9, 3, 3, 3, padding=(1, 0, 0, 1)),  # segments that are no whole tiles
        large(5, 96, 96, 60, 3, 4, padding=(1, 1, 1, 1), groups=96),  # depthwise in bands
        large(6, 48, 16, 120, 1, 4, stride=(2, 2)),  # bands without a copy
    ]
    check(cases, tmp_path, "a76")
    check([*cases[:4], cases[5]], tmp_path, "a76", kernel=GROUPED)
    pairs = [
        large(7, 640, 24, 7, 3, 4, padding=(1, 1, 1, 1)),  # an odd width: pairs of pixels across rows
        large(8, 3, 40, 61, 7, 4, padding=(3, 3, 3, 3), stride=(2, 2)),
    ]
    check([*cases[:4], cases[5], *pairs], tmp_path, "x2")


def test_shuffles_and_norms_of_whole_and_partial_vectors(tmp_path: Path) -> None:
    cases = []
    for channels in (16, 31, 32, 34, 48, 62, 64, 96, 116):
        builder = Builder(np.random.default_rng(channels), (3, 4, channels))
        source = builder.input(*RANGES[channels % 4])
        last = builder.layer_norm(builder.shuffle(source, 2), RANGES[channels // 4 % 4])
        last = builder.multiply(last, builder.average_pool(last, 3, 4, 0, (0, 255)), -128, 127)
        cases.append((builder.done(builder.shuffle(last, 4)), builder.images(3)))
    constant = Builder(
        np.random.default_rng(0), (2, 2, 40)
    )  # no variance at all, and the least and largest epsilon
    source = constant.gather(constant.input(-128, 127), np.zeros(40, np.int64))
    norms = [constant.layer_norm(source, (-128, 127)) for _ in range(2)]
    for epsilon, operation in zip((1, 2**60), constant.graph.operations[2:], strict=True):
        object.__setattr__(operation, "epsilon", epsilon)
    cases.append((constant.done(constant.concatenate(norms, 0, 255)), constant.images(2)))
    for options in ((), ("--portable",)):
        check(cases, tmp_path, "a76", *options)


def test_every_second_channel_and_tables_of_whole_and_partial_vectors(tmp_path: Path) -> None:
    """Vectors that overlap at a pixel's end, or are shorter than a register, miss no byte and touch no neighbour."""
    cases = []
    for channels in (1, 15, 16, 17, 31, 32, 33, 40, 62, 64, 66, 96):
        builder = Builder(np.random.default_rng(channels), (3, 5, channels))
        source = builder.input(*RANGES[channels % 4])
        halves = [builder.slice(source, (0, 0, start), (1, 1, 2)) for start in (0, min(1, channels - 1))]
        last = builder.concatenate([halves[0], source, halves[1]], *RANGES[channels // 4 % 4])
        last = builder.resize(builder.max_pool(last, 2, 1, 0), [0, 1, 1], [3, 2, 0, 0, 1])
        last = builder.look_up(builder.look_up(last, 0, 255), -128, 127)
        cases.append((builder.done(last), builder.images(3)))
    for options in ((), ("--portable",)):
        check(cases, tmp_path, "a76", *options)


def test_a_last_operation_in_floats(tmp_path: Path) -> None:
    """Tables of floats for every byte of every range; sums and products of bytes of different ranges as floats."""
    cases = []
    for number, (low, high) in enumerate(RANGES):
        builder = Builder(np.random.default_rng(number), (5, 7, 3 + number))
        source = builder.input(low, high)
        cases.append((builder.done(builder.look_up_floats(source)), builder.images(3)))
        for kind in (FloatAdd, FloatMultiply):
            builder = Builder(np.random.default_rng(number), (4, 5, 16 + number))
            first = builder.input(low, high)
            second = builder.look_up(first, *RANGES[number - 1])
            if number % 2 and kind is FloatMultiply:  # by a vector
                second = builder.average_pool(second, 4, 4, 0, (0, 255))
                second = builder.slice(second, (0, 0, 0), (1, 2, 1))
            cases.append((builder.done(builder.combine_floats(kind, first, second)), builder.images(3)))
    for options in ((), ("--portable",)):
        check(cases, tmp_path, "a76", *options)


def information(blob: Path) -> dict[str, Any]:
    """What ``program info`` says on a core without matrix instructions."""
    emulator = [] if is_arm() else ["qemu-aarch64", "-cpu", QEMU_CPU["a76"]]
    command = [*emulator, str(build_program("a76")), "info", str(blob)]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return result


@pytest.mark.parametrize("range_", RANGES)
def test_a_level_that_nearly_every_weight_has(tmp_path: Path, range_: tuple[int, int]) -> None:
    """Skewed codebooks: thousands of activations at their ends meet one level, so 16-bit sums must be emptied in time."""
    cases = []
    for level in (-128, 1, 127):
        builder = Builder(np.random.default_rng(0), (4, 5, 300))
        builder.input(*range_)
        table = builder.graph.operations[0]
        assert isinstance(table, g.InputTable)
        table.table[:] = np.where(np.arange(256) < 128, *range_)
        name = builder.convolution(table.output, 17, (3, 3), bits=3, padding=(1, 1, 1, 1), zeros=0.0, to=None)
        convolution = builder.graph.operations[1]
        assert isinstance(convolution, g.Convolution)
        convolution.weights.levels[0] = level
        convolution.weights.indices[builder.random.random(convolution.weights.indices.shape) < 0.97] = 0
        cases.append((builder.done(name), builder.images(3)))
    check(cases, tmp_path, "a76", kernel=GROUPED)


def test_zeros_decide_for_the_level_grouped_kernel(tmp_path: Path) -> None:
    kernels = []
    for zeros in (0.0, 0.9):
        graph, images = large(8, 64, 64, 16, 3, 2, padding=(1, 1, 1, 1), zeros=zeros)
        check([(graph, images)], tmp_path, "a76")
        described = information(tmp_path / "case.blob")
        kernels.append(described["operations"][1]["kernel"])
        assert described["operations"][1]["zeros"] == (graph.operations[1].weights.integers == 0).sum()  # type: ignore[attr-defined]
        assert described["operations"][1]["multiplications"] == 64 * 64 * 9 * 16 * 16
        assert described["input"] == [16, 16, 64] and described["outputs"] == 64 * 16 * 16
        assert described["memory_bytes"] > described["arena_bytes"] + described["blob_bytes"]
    assert kernels[0] in ("dense", "dense matrix") and kernels[1] == "level-grouped"


def test_extreme_weights_and_activations(tmp_path: Path) -> None:
    """All weights -128 or 127 against all activations at their ends: no sum may wrap early in 16 bits."""
    cases = []
    for groups in (1, 32):
        for low, high in ((0, 255), (-128, 127), (0, 127)):
            for level in (-128, 127):
                builder = Builder(np.random.default_rng(0), (6, 6, 32))
                builder.input(low, high)
                table = builder.graph.operations[0]
                assert isinstance(table, g.InputTable)
                table.table[:] = np.where(np.arange(256) < 128, low, high)
                name = builder.convolution(
                    table.output,
                    32,
                    (3, 3),
                    bits=2,
                    groups=groups,
                    padding=(1, 1, 1, 1),
                    zeros=0.0,
                    to=None,
                )
                convolution = builder.graph.operations[1]
                assert isinstance(convolution, g.Convolution)
                convolution.weights.levels[:] = level
                cases.append((builder.done(name), builder.images(3)))
    check(cases, tmp_path, "a76")
    check(cases, tmp_path, "a76", kernel=GROUPED)
    check(cases, tmp_path, "a72")


def residual_block(
    seed: int, channels: int, size: int, *, fused: bool, groups: int = 1, **options: Any
) -> Case:
    """A convolution whose result meets its input's sibling in an addition."""
    builder = Builder(np.random.default_rng(seed), (size, size, channels))
    source = builder.input(*RANGES[seed % 4])
    other = builder.look_up(source, *RANGES[seed // 4 % 4])
    last = builder.convolution(
        source, channels, (3, 3), padding=(1, 1, 1, 1), groups=groups, to=RANGES[seed // 2 % 4], **options
    )
    pair = (last, other) if seed % 3 else (other, last)
    graph = builder.done(builder.add(*pair, *RANGES[seed // 3 % 4]))
    return fuse_additions(graph) if fused else graph, builder.images(2)


@pytest.mark.parametrize(
    ("kernel", "target", "options"),
    [(0, "a76", ()), (0, "x2", ()), (0, "a72", ()), (GROUPED, "a76", ()), (0, "a76", ("--portable",)),
     (0, "x2", ("--threads", "3"))],
)  # fmt: skip
def test_an_addition_at_the_end_of_a_convolution(
    tmp_path: Path, kernel: int, target: str, options: tuple[str, ...]
) -> None:
    cases = []
    for seed in range(16):
        channels, groups = ((32, 1), (17, 1), (16, 16), (20, 20), (24, 3), (40, 1))[seed % 6]
        fused, images = residual_block(seed, channels, 9, fused=True, groups=groups, bits=(2, 4, 8)[seed % 3])
        apart, _ = residual_block(seed, channels, 9, fused=False, groups=groups, bits=(2, 4, 8)[seed % 3])
        assert len(fused.operations) == len(apart.operations) - 1
        np.testing.assert_array_equal(run(fused, images), run(apart, images))
        cases.append((fused, images))
    check(cases, tmp_path, target, *options, kernel=kernel)
