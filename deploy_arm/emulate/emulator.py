"""Runs aarch64 programs where the machine is not one: under QEMU's user mode, or inside unicorn where only pip is usable.

Results are exact. ``count`` also says how often every block of instructions was executed in each operation of one inference;
``deploy_arm.cycles.estimate`` turns that into modelled time.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deploy_arm.emulate.counts import Counts, parse_code, parse_entry, parse_plugin_output
from deploy_arm.emulate.elf import read_executable
from deploy_arm.emulate.unicorn_counter import make_counter
from deploy_arm.emulate.unicorn_loader import run_program
from deploy_arm.target.cores import CORES, Core
from deploy_arm.target.fault import DeviceFault
from deploy_arm.target.host import build_shared_library, execute, host_compiler
from deploy_arm.target.toolchain import allowed_routes
from foundation.errors import UserError

EmulatorName = Literal["qemu", "unicorn"]
PLUGIN_SOURCES = ("counter.c", "cache.c")
SECONDS_PER_IMAGE = 120.0  # more than the largest network needs under the slower emulator


def find_qemu() -> str | None:
    """Path of qemu-aarch64 (or its static build), None when it is not installed."""
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def choose_emulator() -> EmulatorName:
    """QEMU where it is installed, else unicorn; only one of them where the tool chain's route is set.

    Raises:
        UserError: none that is allowed is installed.
    """
    routes = allowed_routes()
    if "apt" in routes and find_qemu():
        return "qemu"
    if "pip" in routes and importlib.util.find_spec("unicorn"):
        return "unicorn"
    raise UserError(
        "no emulator for ARM programs is installed; install one with `python -m deploy_arm.toolchain --install`"
    )


@functools.cache
def takes_plugin(qemu: str) -> bool:
    """Whether a QEMU can load the counter: built with plugins (Debian 13's is not) and of interface version 1 (before 9.0)."""
    usage, banner = (
        subprocess.run([qemu, option], capture_output=True, text=True, check=False).stdout
        for option in ("--help", "--version")
    )
    version = re.search(r"version (\d+)", banner)
    return "-plugin" in usage and version is not None and int(version.group(1)) < 9


def choose_counter() -> EmulatorName:
    """What counts: QEMU where it takes the plugin and a C compiler is there to build it, else unicorn.

    Raises:
        UserError: neither is possible.
    """
    qemu = find_qemu() if "apt" in allowed_routes() else None
    if qemu and takes_plugin(qemu) and host_compiler():
        return "qemu"
    if importlib.util.find_spec("unicorn"):
        return "unicorn"
    raise UserError(
        "nothing here can count what a program executes: QEMU with plugins and a C compiler, or unicorn, are needed; "
        "install unicorn with `pip install unicorn==2.1.4`"
    )


def emulate(
    program: Path,
    arguments: list[str],
    given: bytes = b"",
    *,
    target: str = "a76",
    timeout: float = 600.0,
    under: EmulatorName | None = None,
) -> bytes:
    """Standard output of ``program ARGUMENTS`` on the emulated core of ``target``.

    Raises:
        UserError: see ``execute``; also an instruction that the target does not have.
    """
    what = f"{program.name} {arguments[0] if arguments else ''} (emulated {target})"
    if (under or choose_emulator()) == "qemu":
        command = [
            find_qemu() or "qemu-aarch64",
            "-cpu",
            CORES[target].emulated_cpu,
            str(program),
            *arguments,
        ]
        return execute(command, given, timeout, what)

    return run_program(program, arguments, given, target=target, timeout=timeout).output


def float_rows(output: bytes, images: int, what: str) -> NDArray[np.float32]:
    """The program's float32 outputs as [N, K].

    Raises:
        DeviceFault: the number of bytes does not fit N images.
    """
    if images == 0 or len(output) == 0 or len(output) % (4 * images) != 0:
        raise DeviceFault(f"{what} wrote {len(output)} bytes for {images} images")
    return np.frombuffer(output, dtype="<f4").reshape(images, -1).astype(np.float32)


def checked_images(images: NDArray[np.uint8]) -> bytes:
    """The bytes a program reads. Raises ValueError unless ``images`` is uint8 [N, H, W, C]."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}")
    return np.ascontiguousarray(images).tobytes()


def run(
    program: Path,
    blob: Path,
    images: NDArray[np.uint8],
    *,
    target: str = "a76",
    timeout: float | None = None,
    under: EmulatorName | None = None,
) -> NDArray[np.float32]:
    """Outputs float32 [N, K] of the program for uint8 images [N, H, W, C].

    Raises:
        UserError: the program fails (its message is in the text), takes too long, or answers with too few bytes.
    """
    seconds = timeout if timeout is not None else SECONDS_PER_IMAGE * max(1, len(images))
    output = emulate(
        program, ["run", str(blob)], checked_images(images), target=target, timeout=seconds, under=under
    )
    return float_rows(output, len(images), program.name)


def count(
    program: Path,
    blob: Path,
    image: NDArray[np.uint8],
    *,
    target: str = "a76",
    caches: bool = True,
    warm_up: int = 0,
    part: tuple[int, int] = (0, 1),
    timeout: float = 600.0,
    under: EmulatorName | None = None,
) -> Counts:
    """Executed blocks of one inference of a uint8 image [H, W, C], per operation, at the addresses of the program's file.

    ``under`` is ``choose_counter``'s by default; ``caches`` simulates the target's data caches (under unicorn only
    where this machine has a C compiler); ``warm_up`` inferences run before, uncounted, to fill them. ``part`` (i, n) is
    what thread i of n executes.

    Raises:
        UserError: the program fails or takes too long, or does not announce its operations.
    """
    arguments = ["bench", str(blob), "--repeat", "1", "--warmup", str(warm_up), "--mark"]
    arguments += ["--part", f"{part[0]}/{part[1]}"] if part[1] > 1 else []
    given = checked_images(image[None])
    entry = read_executable(program).entry
    try:
        if (under or choose_counter()) == "qemu":
            command = [str(program), *arguments]
            return count_command(command, given, CORES[target], timeout, caches=caches).relocated(entry)

        counter = make_counter(CORES[target].caches if caches else None)
        finished = run_program(program, arguments, given, target=target, timeout=timeout, counter=counter)
        return finished.counts().relocated(entry)
    except ValueError as error:
        raise UserError(f"{program.name} cannot be profiled: {error}") from error


def count_command(
    command: list[str],
    given: bytes,
    core: Core,
    timeout: float,
    *,
    caches: bool,
    options: Sequence[str] = (),
    code: bool = False,
) -> Counts:
    """Counts any program that announces its operations, under QEMU with the plugin.

    ``options`` are further ones of QEMU; ``code`` keeps the blocks' machine code, which a program with shared libraries needs.

    Raises:
        UserError: as ``execute``.
        ValueError: the announcements are not complete.
    """
    plugin = build_shared_library("counter", *PLUGIN_SOURCES)
    geometry = core.caches
    with tempfile.TemporaryDirectory(prefix="counts-") as folder:
        result = Path(folder, "counts.txt")
        settings = [str(plugin), f"out={result}", f"cache={'on' if caches else 'off'}"]
        settings += [f"code={'on' if code else 'off'}"]
        settings += [f"l1={geometry.first_bytes}", f"l1_ways={geometry.first_ways}"]
        settings += [f"l2={geometry.second_bytes}", f"l2_ways={geometry.second_ways}"]
        # QEMU splits options at commas; a doubled one stands for itself.
        joined = ",".join(setting.replace(",", ",,") for setting in settings)
        emulator = [find_qemu() or "qemu-aarch64", "-cpu", core.emulated_cpu, "-plugin", joined, *options]
        execute(
            [*emulator, *command],
            given,
            timeout,
            f"{Path(command[0]).name} (counted on an emulated {core.target})",
        )
        lines = result.read_text().splitlines()
        return Counts(
            parse_plugin_output(lines, caches=caches), "qemu", parse_code(lines), parse_entry(lines)
        )
