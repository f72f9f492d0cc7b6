"""Float programs: plain C, vector kernels and the NumPy reference agree bit for bit, with any number of threads."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_runtime_exact import execute

from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.ir import graph as g
from deploy_arm.ir.float_reference import exponential, fused
from deploy_arm.ir.reference import run
from tests.deploy_arm.float_cases import FloatBuilder, everything_float, random_convolutions, random_others

WAYS: tuple[tuple[str, ...], ...] = ((), ("--threads", "8"), ("--portable",))


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def results(graph: g.Graph, images: NDArray[np.uint8], target: str = "a76") -> list[NDArray[np.uint32]]:
    """The bits of what the program computes, in every way."""
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder, "case.blob")
        blob.write_bytes(write_blob(graph))
        return [bits(execute(target, blob, images, *options)) for options in WAYS]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 14)),
    channels=st.sampled_from([1, 2, 3, 4, 6, 9, 12, 16, 20, 33]),
    target=st.sampled_from(["a76", "a72"]),
)
@example(seed=1, size=(9, 14), channels=33, target="a76")
def test_convolutions_agree_bit_for_bit(seed: int, size: tuple[int, int], channels: int, target: str) -> None:
    builder = FloatBuilder(np.random.default_rng(seed), (*size, channels))
    graph = builder.finished(random_convolutions(builder, builder.pixels(), 6))
    images = builder.images(2)
    expected = bits(run(graph, images))
    for found in results(graph, images, target):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([2, 3, 4, 8, 15, 16, 21, 36]),
)
def test_the_other_operations_agree_bit_for_bit(seed: int, size: tuple[int, int], channels: int) -> None:
    builder = FloatBuilder(np.random.default_rng(seed), (*size, channels))
    graph = builder.finished(random_others(builder, builder.pixels()))
    images = builder.images(2)
    expected = bits(run(graph, images))
    for found in results(graph, images):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "outs", "kernel", "groups"),
    [
        ((60, 40, 40), 24, (3, 3), 1),  # 420 KB of padded input: bands
        ((4, 5, 700), 20, (1, 1), 1),  # more products than weights are kept for
        ((5, 5, 230), 17, (3, 3), 1),
        ((30, 40, 96), 96, (3, 3), 96),
    ],
)
def test_large_layers_are_split_into_bands_and_chunks(
    shape: tuple[int, int, int], outs: int, kernel: tuple[int, int], groups: int
) -> None:
    builder = FloatBuilder(np.random.default_rng(outs), shape)
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2)
    last = builder.float_convolution(builder.pixels(), outs, kernel, padding=padding, groups=groups)
    vectors, threads, portable = results(builder.done(last), builder.images(1))
    np.testing.assert_array_equal(vectors, portable)
    np.testing.assert_array_equal(threads, portable)


def test_a_blob_gives_its_graph_back() -> None:
    graph = everything_float()
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        bits(run(graph, images)), bits(run(read_graph(write_blob(graph)), images)), strict=True
    )


@given(st.lists(st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 3), min_size=1))
def test_the_reference_rounds_once(triples: list[tuple[float, float, float]]) -> None:
    """Against exact fractions."""
    a, b, c = (np.array(column, np.float32) for column in zip(*triples, strict=True))
    with np.errstate(over="ignore"):
        found = fused(a, b, c)
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), found, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        if not np.isfinite(result):
            assert abs(exact) > Fraction(float(np.finfo(np.float32).max))
            continue
        distance = abs(exact - Fraction(float(result)))
        with np.errstate(over="ignore"):
            neighbours = [np.nextafter(result, np.float32(side)) for side in (-np.inf, np.inf)]
        for neighbour in neighbours:
            if np.isfinite(neighbour):
                assert distance <= abs(exact - Fraction(float(neighbour)))


def test_the_exponential_is_near() -> None:
    x = np.linspace(-87, 88, 200001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(exponential(x) / exact - 1).max() < 2.5e-7
