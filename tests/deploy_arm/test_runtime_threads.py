"""Results do not depend on the number of threads; one thread starts none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_runtime_exact import Case, check, large

from deploy_arm.blob.write import write_blob
from deploy_arm.emulate.emulator import count
from deploy_arm.runtime.program import build_program
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import GROUPED, Builder, random_network

QEMU = [] if is_arm() else ["qemu-aarch64"]


def layers() -> list[Case]:
    """Layers that are large enough to be split, by rows and by channels."""
    return [
        large(1, 64, 40, 20, 3, 4, padding=(1, 1, 1, 1)),
        large(2, 96, 72, 7, 3, 2, padding=(1, 1, 1, 1)),  # few rows
        large(3, 2100, 40, 1, 1, 8),  # one pixel, several chunks
        large(4, 32, 36, 19, 3, 3, padding=(1, 0, 0, 1), groups=2),
        large(5, 96, 96, 13, 3, 4, padding=(1, 1, 1, 1), groups=96),
        large(6, 36, 36, 30, 3, 4, padding=(1, 1, 1, 1), groups=36),  # no multiple of 16
        large(7, 48, 48, 31, 3, 4, padding=(1, 1, 1, 1), groups=48, stride=(2, 2)),
        large(8, 48, 17, 40, 1, 4, stride=(2, 2)),
        large(9, 64, 20, 9, 3, 4, to=None),
    ]


def pooled() -> Case:
    """An image and a pooling that are large enough to be split by rows."""
    builder = Builder(np.random.default_rng(5), (97, 61, 3))
    last = builder.convolution(builder.input(-128, 127), 8, (3, 3), to=(0, 255))
    return builder.done(builder.max_pool(last, 3, 1, 1)), builder.images(2)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_layers_split_among_threads(tmp_path: Path, threads: int) -> None:
    cases = [*layers(), pooled()]
    check(cases, tmp_path, "a76", "--threads", str(threads))
    check([cases[0], cases[1], cases[7]], tmp_path, "a76", "--threads", str(threads), kernel=GROUPED)
    check(cases[:4], tmp_path, "x2", "--threads", str(threads))


def test_networks_with_eight_threads(tmp_path: Path) -> None:
    check([random_network(seed) for seed in range(4000, 4010)], tmp_path, "a76", "--threads", "8")


def test_numbers_of_threads(tmp_path: Path) -> None:
    builder = Builder(np.random.default_rng(7), (4, 4, 3))
    graph = builder.done(builder.convolution(builder.input(0, 255), 10, (4, 4), bits=8, to=None))
    blob = tmp_path / "case.blob"
    blob.write_bytes(write_blob(graph))
    for command in ("classify", "bench"):
        for number, status in (("1", 0), ("8", 0), ("0", 2), ("9", 2), ("many", 2)):
            done = subprocess.run(
                [*QEMU, str(build_program("a76")), command, str(blob), "--threads", number],
                input=bytes(48),
                capture_output=True,
                check=False,
            )
            assert done.returncode == status, done.stderr
            assert status == 0 or b"from 1 to 8" in done.stderr


def test_parts_of_an_inference_add_up(tmp_path: Path) -> None:
    """What each thread executes, on its own: together all of it, none of them nearly all of a layer that is split."""
    graph, images = large(1, 64, 48, 24, 3, 4, padding=(1, 1, 1, 1))
    blob = tmp_path / "case.blob"
    blob.write_bytes(write_blob(graph))

    def counted(index: int, threads: int) -> list[int]:
        found = count(build_program("a76"), blob, images[0], caches=False, part=(index, threads))
        return [operation.instructions for operation in found.operations]

    whole, parts = counted(0, 1), [counted(index, 3) for index in range(3)]
    assert whole[1] <= sum(part[1] for part in parts) < 1.15 * whole[1]
    assert max(part[1] for part in parts) < 0.4 * whole[1]
    assert parts[1][2] < 0.01 * whole[2] and parts[0][2] == pytest.approx(whole[2], rel=0.01)  # not split
    with pytest.raises(UserError, match="--part"):
        counted(3, 3)


def test_one_thread_starts_none(tmp_path: Path) -> None:
    if is_arm():
        pytest.skip("needs an emulator's list of system calls")
    graph, images = large(1, 64, 40, 20, 3, 4, padding=(1, 1, 1, 1))
    blob = tmp_path / "case.blob"
    blob.write_bytes(write_blob(graph))
    calls = {}
    for threads in ("1", "4"):
        command = [
            "qemu-aarch64",
            "-strace",
            str(build_program("a76")),
            "classify",
            str(blob),
            "--threads",
            threads,
        ]
        done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=True)
        calls[threads] = done.stderr.decode().count("clone")
    assert calls["1"] == 0 and calls["4"] >= 3


def test_the_pool_has_no_races(tmp_path: Path) -> None:
    compiler = next((path for name in ("gcc", "clang", "clang-19") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler for this machine")
    program = tmp_path / "race"
    sources = [str(Path(__file__).parent / "race_threads.c"), str(KERNELS / "threads.c")]
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Werror", "-pthread", "-fsanitize=thread", f"-I{KERNELS}"]
    built = subprocess.run(
        [compiler, *flags, *sources, "-o", str(program)], capture_output=True, text=True, check=False
    )
    if built.returncode != 0 and "sanitize" in built.stderr:
        pytest.skip(f"{compiler} has no thread sanitizer here")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["2", "4", "6", "8"]
