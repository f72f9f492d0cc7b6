"""Finding tools, and building the program with every compiler that is there."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from deploy_arm.blob.write import write_blob
from deploy_arm.fuzz.hostile import hostile_blobs, hostile_graph
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program, compile_command
from deploy_arm.target import toolchain
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import ROUTE_VARIABLE, Tool, choose_compiler, find_tools, is_arm
from foundation.command import main_guard
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import random_convolution, random_network

ROOT = Path(__file__).resolve().parents[2]
QEMU = [] if is_arm() else ["qemu-aarch64"]


def test_the_pip_route_installs_what_the_project_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][
        "arm-pip"
    ]
    assert set(toolchain.PIP_REQUIREMENTS) <= set(declared)


def test_report_names_what_is_missing_and_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ROUTE_VARIABLE, "apt")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.main([]) == 1
    text = capsys.readouterr().out
    assert "route apt: not complete" in text and "missing  emulator" in text
    assert "apt-get install" in text and "route pip" not in text


def test_a_complete_route_is_found_here(capsys: pytest.CaptureFixture[str]) -> None:
    route = toolchain.complete_route()
    if route is None:
        pytest.skip("no tool chain for ARM on this machine")
    assert toolchain.main([]) == 0
    text = capsys.readouterr().out
    assert f"route {route}: complete" in text
    assert all(tool.version for tool in find_tools(route) if tool.found)


def test_the_environment_forces_a_route(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ROUTE_VARIABLE, "brew")
    assert main_guard(lambda: toolchain.main([])) == 2
    assert "apt, pip" in capsys.readouterr().err


def test_without_a_compiler_the_message_has_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ROUTE_VARIABLE, "apt")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"deploy_arm\.toolchain --install"):
        build_program("a76")


def test_unknown_target() -> None:
    with pytest.raises(UserError, match="a53, a55, a72, a76, x1"):
        build_program("a67")


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.slow) if name == "a55" else name for name in TARGETS]
)
def test_programs_are_static_small_and_cached(target: str) -> None:
    program = build_program(target)
    built = program.stat().st_mtime_ns
    content = program.read_bytes()
    headers, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    kinds = [struct.unpack_from("<I", content, headers + i * size)[0] for i in range(count)]
    assert (
        content[:4] == b"\x7fELF" and 1 in kinds and 3 not in kinds
    )  # loads something, names no interpreter
    assert program.stat().st_size < 1_000_000 and program.stat().st_mode & 0o111
    assert build_program(target) == program and program.stat().st_mtime_ns == built


def test_changed_sources_are_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("deploy_arm.runtime.program.KERNELS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "other.h").write_text("enum { STATUS = 41 };\n")
    (tmp_path / "main.c").write_text('#include "other.h"\nint main(void) { return STATUS; }\n')
    first = build_program("a76")
    (tmp_path / "other.h").write_text("enum { STATUS = 42 };\n")
    second = build_program("a76")
    assert [subprocess.run([*QEMU, str(path)], check=False).returncode for path in (first, second)] == [
        41,
        42,
    ]
    (tmp_path / "main.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(UserError, match="cannot compile the kernels"):
        build_program("a76")
    assert len(list((tmp_path / "cache/dgms-arm-search/programs").iterdir())) == 2


def check_program(program: Path, folder: Path) -> None:
    for seed in range(12):
        graph, images = random_network(seed) if seed % 2 else random_convolution(seed)
        blob = folder / "case.blob"
        blob.write_bytes(write_blob(graph))
        command = [*QEMU, str(program), "run", str(blob)]
        done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=True)
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), run(graph, images).ravel())


@pytest.mark.slow
def test_gcc_builds_it_too(tmp_path: Path) -> None:
    path = shutil.which("aarch64-linux-gnu-gcc")
    if path is None:
        pytest.skip("no cross gcc")
    program = tmp_path / "program"
    command = compile_command(TARGETS["a76"], Tool("apt", "C compiler", "aarch64-linux-gnu-gcc", (path,)))
    done = subprocess.run(
        [*command, "-Werror", *map(str, sorted(KERNELS.glob("*.c"))), "-o", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_program(program, tmp_path)


@pytest.mark.parametrize("target", ["a76", "a53"])
def test_there_are_no_warnings(target: str) -> None:
    command = compile_command(TARGETS[target], choose_compiler())
    flags = [
        "-fsyntax-only",
        "-Wconversion",
        "-Wno-sign-conversion",
        "-Wshadow",
        "-Werror",
        "-Wno-unused-command-line-argument",
    ]
    done = subprocess.run(
        [*command, *flags, *map(str, sorted(KERNELS.glob("*.c")))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_zig_builds_it_for_unicorn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip(
            f"ziglang is not installed ({sys.executable} -m pip install '{toolchain.PIP_REQUIREMENTS[0]}')"
        )
    monkeypatch.setenv(ROUTE_VARIABLE, "pip")
    program = build_program("a76")
    assert program.stat().st_size < 1_000_000
    if importlib.util.find_spec("unicorn") is None:
        check_program(program, tmp_path)
        return
    from deploy_arm.emulate.unicorn_loader import run_program

    for seed in (0, 1, 2, 3):
        graph, images = random_network(seed) if seed % 2 else random_convolution(seed)
        blob = tmp_path / "case.blob"
        blob.write_bytes(write_blob(graph))
        finished = run_program(program, ["run", str(blob)], images.tobytes(), target="a76", timeout=120)
        np.testing.assert_array_equal(np.frombuffer(finished.output, np.float32), run(graph, images).ravel())


def test_the_kernels_of_the_tool_chain_from_pypi_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no sanitizers and its emulator no threads: the vector kernels against plain C is what remains."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    pytest.importorskip("unicorn")
    from deploy_arm.emulate.unicorn_loader import run_program

    monkeypatch.setenv(ROUTE_VARIABLE, "pip")
    program = build_program("a76")
    path = tmp_path / "case.blob"
    for seed in (0, 1, 2, 3, 6):
        path.write_bytes(next(hostile_blobs(seed, 1)))
        shape = np.array(hostile_graph(seed).input.shape)
        image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).tobytes()
        found = [
            np.frombuffer(
                run_program(program, ["run", str(path), *options], image, timeout=120).output, np.float32
            )
            for options in ([], ["--portable"])
        ]
        np.testing.assert_array_equal(
            np.where(np.isnan(found[0]), np.float32(7), found[0]).view(np.int32),
            np.where(np.isnan(found[1]), np.float32(7), found[1]).view(np.int32),
        )
