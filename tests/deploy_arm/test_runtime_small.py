"""Small layers, whose kernels have a case for every remainder: the program's results are the reference's, bit for bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_runtime_exact import Case, check, large

from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import is_arm
from tests.deploy_arm.runtime_cases import RANGES, Builder, random_convolution


def small_depthwise(seed: int) -> Case:
    """3 x 3 depthwise with few or odd channels, and heights and widths from 1 on, one band or several."""
    random = np.random.default_rng(seed)
    channels = int(random.choice([2, 7, 8, 9, 15, 16, 24, 29, 32]))
    builder = Builder(random, (int(random.integers(2, 12)), int(random.integers(1, 14)), channels))
    source = builder.input(*RANGES[seed % 4])
    padding = tuple(int(value) for value in random.integers(1, 3, 4))
    stride = int(random.integers(1, 3))
    last = builder.convolution(
        source, channels, (3, 3), bits=int(random.choice([2, 3, 4, 8])), groups=channels, zeros=0.1,
        padding=(padding[0], padding[1], padding[2], padding[3]), stride=(stride, stride), to=RANGES[seed // 4 % 4],
    )  # fmt: skip
    return builder.done(last), builder.images(2)


def small_pointwise(seed: int) -> Case:
    """1 x 1 with few input channels and every remainder of pixels, channels and segments."""
    random = np.random.default_rng(seed)
    channels, outs = int(random.integers(1, 40)), int(random.choice([8, 16, 24, 32, 40, 12]))
    builder = Builder(random, (int(random.integers(1, 8)), int(random.integers(1, 8)), channels))
    last = builder.convolution(
        builder.input(*RANGES[seed % 4]),
        outs,
        (1, 1),
        bits=int(random.choice([2, 3, 4, 8])),
        to=RANGES[seed // 4 % 4],
    )
    return builder.done(last), builder.images(2)


@pytest.mark.parametrize("make", [small_depthwise, small_pointwise])
@pytest.mark.parametrize(
    ("target", "seeds"), [("a76", range(60)), ("a72", range(60, 80)), ("x2", range(80, 130))]
)
def test_small_layers(tmp_path: Path, target: str, seeds: range, make: Callable[[int], Case]) -> None:
    check((make(seed) for seed in seeds), tmp_path, target)


def test_matrix_instructions_are_chosen_when_the_processor_has_them(tmp_path: Path) -> None:
    """One program: its kernels on processors with and without SMMLA, with the same results."""
    cases = [random_convolution(seed) for seed in range(3000, 3060)]
    cases += [
        large(2, 1030, 9, 3, 3, 3),
        large(3, 4100, 20, 1, 1, 8),
        large(1, 640, 24, 5, 3, 2, padding=(1, 1, 1, 1)),  # of one pixel there are no pairs: not the last
    ]
    check(cases, tmp_path, "x2")
    if is_arm():
        return
    blob = tmp_path / "case.blob"
    for cpu, kernel in (("cortex-a76", "dense"), ("max,sve=off", "dense matrix")):
        command = ["qemu-aarch64", "-cpu", cpu, str(build_program("a76")), "info", str(blob)]
        described = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert described["operations"][1]["kernel"] == kernel
