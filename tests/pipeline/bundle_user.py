"""What a person does with a bundle: its ``classify``, its C example, its CMake package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from deploy_arm.runtime.program import compile_command
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import choose_compiler

MINE = """
#include <stdio.h>
#include <string.h>
#include "image.h"
#include "runtime/network.h"
int main(int count, char **argument) {
    struct preprocessing how = {32, 32, 0, 1.0};
    struct network *network;
    if (count != 3 || network_open(WEIGHTS, 1, &network) || image_read(argument[2], &how, network_input(network, NULL)))
        return 1;
    network_run(network);
    size_t results;
    const float *result = network_output(network, &results);
    fwrite(result, sizeof *result, results, stdout);
    network_close(network);
    return 0;
}
"""


def classify(bundle: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The bundle's ``classify``, by the Python of these tests."""
    place = Path(sys.executable).parent
    environment = {"PATH": f"{place}:/usr/bin:/bin"}
    return subprocess.run(
        [bundle / "classify", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def built_by_hand(bundle: Path, place: Path) -> Path:
    command = [*compile_command(TARGETS["a76"], choose_compiler()), str(bundle / "usage.c"), str(bundle / "image.c"),
               *map(str, sorted((bundle / "runtime").glob("*.c"))), "-lm", "-o", str(place)]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return place


def cmake(source: Path, place: Path, *settings: str) -> bool:
    """Configure and build for ARM across; False where there is no CMake or no cross compiler."""
    beside = Path(sys.executable).with_name("cmake")
    program = str(beside) if beside.is_file() else shutil.which("cmake")
    if program is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        return False
    across = ["SYSTEM_NAME=Linux", "SYSTEM_PROCESSOR=aarch64", "C_COMPILER=aarch64-linux-gnu-gcc"]
    flags = [f"-DCMAKE_{setting}" for setting in (*across, *settings)]
    for command in ([program, "-S", source, "-B", place, *flags], [program, "--build", place]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return True


def built_by_cmake(bundle: Path, place: Path) -> Path | None:
    return place / "usage" if cmake(bundle, place, "EXE_LINKER_FLAGS=-static") else None


def found_by_cmake(bundle: Path, place: Path, arguments: list[str]) -> bytes | None:
    """The scores that a project prints which finds the bundle's package; None where it cannot be built or run here."""
    system, source = Path("/usr/aarch64-linux-gnu"), place / "source"
    source.mkdir(parents=True)
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(mine LANGUAGES C)\nfind_package(dgms 0.1 CONFIG REQUIRED)\n"
        "add_executable(mine mine.c)\ntarget_link_libraries(mine PRIVATE dgms::image dgms::network)\n"
        'target_compile_definitions(mine PRIVATE WEIGHTS="${dgms_WEIGHTS}")\n'
    )
    (source / "mine.c").write_text(MINE)
    if not (system / "lib").is_dir() or not cmake(source, place, f"PREFIX_PATH={bundle}"):
        return None
    command = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(system), str(place / "mine"), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout
