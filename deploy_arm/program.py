"""Builds the program that runs blobs: one static aarch64 executable per target, compiled once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from deploy_arm.storage import cache_directory, write_atomically
from deploy_arm.targets import TARGETS, Target
from deploy_arm.toolchain import Tool, choose_compiler, is_arm
from quantizers.errors import UserError

KERNELS = Path(__file__).parent / "kernels"
# No contraction: a float result is two roundings, everywhere. Sections so that the linker drops what nobody calls.
FLAGS = (
    "-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-ffunction-sections", "-Wall", "-Wextra",
    "-pthread", "-static", "-s", "-Wl,--gc-sections",
)  # fmt: skip
COMPILE_SECONDS = 1200.0  # zig compiles its C library at first use, which takes minutes on a small machine


def compile_command(target: Target, compiler: Tool) -> list[str]:
    """The compiler with every flag, without sources and output."""
    if compiler.name == "ziglang":
        # zig adds checks of undefined behaviour on its own; the sanitized build is a test's, not a user's.
        return [
            *compiler.command,
            "-target",
            "aarch64-linux-musl",
            f"-mcpu={target.zig_cpu}",
            "-fno-sanitize=all",
            *FLAGS,
        ]
    cross = [] if is_arm() or "gcc" in compiler.name else ["--target=aarch64-linux-gnu"]
    return [*compiler.command, *cross, f"-march={target.architecture}", f"-mtune={target.tune}", *FLAGS]


def build_program(target: str) -> Path:
    """The executable for ``target`` (a name in ``TARGETS``), built if it is not in the cache.

    Its command line is described in ``kernels/main.c``. The cache key is the sources, the compiler's version and every flag.

    Raises:
        UserError: unknown target, no compiler (the message has the command that installs one), or the compiler fails.
    """
    compiler = choose_compiler()
    command = compile_command(TARGETS[target], compiler)
    sources = sorted(KERNELS.glob("*.c"))
    digest = hashlib.sha256(repr((command, compiler.version)).encode())
    for path in (*sources, *sorted(KERNELS.glob("*.h"))):
        digest.update(path.name.encode() + path.read_bytes())
    result = cache_directory("programs") / f"{target}-{digest.hexdigest()[:16]}"
    if not result.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, "program")
            _compile([*command, *map(str, sources), "-o", str(built)])
            write_atomically(result, built.read_bytes(), mode=0o755)
    return result


def _compile(command: list[str]) -> None:
    zig_cache = str(cache_directory("zig"))
    environment = {"ZIG_GLOBAL_CACHE_DIR": zig_cache, "ZIG_LOCAL_CACHE_DIR": zig_cache, **os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} did not finish within {COMPILE_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise UserError(f"{' '.join(command[:3])} cannot compile the kernels:\n{done.stderr.strip()[-2000:]}")
