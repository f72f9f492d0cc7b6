"""Builds what runs blobs, once per target, and keeps it: a static aarch64 executable, and the same as a shared library."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy_arm.target.host import host_compiler
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.targets import TARGETS, Target
from deploy_arm.target.toolchain import Tool, choose_compiler, is_arm, version_of
from foundation.errors import UserError
from foundation.files import cache_directory, write_atomically

COMMAND_LINE = "main.c"  # the executable's alone; every other source is the library's
LIBRARY = "libnetwork.so"
# No contraction: a float result is two roundings, everywhere. Sections so that the linker drops what nobody calls.
CODE = (
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-ffunction-sections",
    "-Wall",
    "-Wextra",
    "-pthread",
)
# A damaged stack is noticed, and tables of addresses are read-only before anything runs.
HARDENING = ("-fstack-protector-strong", "-Wl,-z,relro,-z,now")
# Indirect branches arrive at landing pads, return addresses are signed; older cores pass over these instructions. Atomic
# operations in place, since the compiler's library of them has no landing pads. The library carries the note that turns the
# checks on; the executable does not where the C library that it contains was built without (Debian 12's and zig's are).
ARM_HARDENING = ("-mbranch-protection=standard", "-mno-outline-atomics")
LINK = ("-s", "-Wl,--gc-sections")
FLAGS = (*CODE, *HARDENING, "-fPIE", *LINK)
# zig's own spelling of a static position-independent executable, and everybody else's.
STATIC, ZIG_STATIC = ("-static-pie",), ("-static", "-pie")
# Only what network.h marks is seen from outside. zig's C library for it is glibc: musl's would not load beside a board's own.
SHARED_FLAGS = (
    *CODE,
    *HARDENING,
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    "-DNETWORK_FOR_OLDER_GLIBC",
    f"-Wl,-soname,{LIBRARY}",
    *LINK,
)
# Without the C library's start files, which a library without constructors does not need and which know nothing of branch
# protection. Up to glibc 2.33 threads are a library of their own (threads.c), which must then be named.
SHARED_LINK = ("-nostartfiles", "-Wl,--no-as-needed,-l:libpthread.so.0")
ZIG_SYSTEM, ZIG_SHARED_SYSTEM = "aarch64-linux-musl", "aarch64-linux-gnu.2.28"
COMPILE_SECONDS = 1200.0  # zig compiles its C library at first use, which takes minutes on a small machine


def library_sources() -> list[Path]:
    """The C sources behind ``network.h``."""
    return [path for path in sorted(KERNELS.glob("*.c")) if path.name != COMMAND_LINE]


def compile_command(target: Target, compiler: Tool, *, shared: bool = False) -> list[str]:
    """The compiler with every flag, without sources and output; of the executable, or of the ``shared`` library."""
    flags = (*(SHARED_FLAGS if shared else FLAGS), *ARM_HARDENING)
    if compiler.name == "ziglang":
        # zig adds checks of undefined behaviour on its own; the sanitized build is a test's, not a user's.
        system = ZIG_SHARED_SYSTEM if shared else ZIG_SYSTEM
        return [
            *compiler.command,
            "-target",
            system,
            f"-mcpu={target.zig_cpu}",
            "-fno-sanitize=all",
            *flags,
            *(() if shared else ZIG_STATIC),
        ]
    cross = [] if is_arm() or "gcc" in compiler.name else ["--target=aarch64-linux-gnu"]
    return [
        *compiler.command,
        *cross,
        f"-march={target.architecture}",
        f"-mtune={target.tune}",
        *flags,
        *(SHARED_LINK if shared else STATIC),
    ]


def build_program(target: str) -> Path:
    """The executable for ``target`` (a name in ``TARGETS``), built if it is not in the cache.

    Its command line is described in ``kernels/main.c``. The cache key is the sources, the compiler's version and every flag.

    Raises:
        UserError: unknown target, no compiler (the message has the command that installs one), or the compiler fails.
    """
    compiler = choose_compiler()
    command = compile_command(TARGETS[target], compiler)
    return build_cached(target, "", command, compiler.version, sorted(KERNELS.glob("*.c")))


def build_library(target: str) -> Path:
    """The shared library for ``target``: the functions of ``kernels/network.h``, by the same tool chain and flags.

    It needs the C library of the machine it runs on: glibc 2.17 or newer, whatever is installed here. Raises UserError as
    ``build_program``.
    """
    compiler = choose_compiler()
    command = compile_command(TARGETS[target], compiler, shared=True)
    return build_cached(target, ".so", command, compiler.version, library_sources())


def build_host_library() -> Path:
    """The same library for this machine's own processor. Where that is no ARM one it is plain C: exact, and slow.

    Raises:
        UserError: no C compiler for this machine, or it fails.
    """
    compiler = host_compiler()
    if compiler is None:
        raise UserError(
            "a C compiler for this machine is needed: `apt-get install gcc`, or `pip install ziglang`"
        )
    return build_cached(
        "host", ".so", [*compiler, *SHARED_FLAGS], version_of(tuple(compiler)), library_sources()
    )


def build_cached(
    name: str, suffix: str, command: Sequence[str], version: str, sources: Sequence[Path]
) -> Path:
    """``command`` on ``sources``, kept under ``name`` and a key of the command, the compiler's version and all it reads.

    Raises:
        UserError: the compiler fails or takes too long.
    """
    digest = hashlib.sha256(repr((list(command), version)).encode())
    for path in (*sources, *sorted(KERNELS.glob("*.h"))):
        digest.update(path.name.encode() + path.read_bytes())
    result = cache_directory("programs") / f"{name}-{digest.hexdigest()[:16]}{suffix}"
    if not result.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, "built")
            _compile([*command, *map(str, sources), "-o", str(built)])
            write_atomically(result, built.read_bytes(), mode=0o755)
    return result


def compiler_environment() -> dict[str, str]:
    """This process's, with the place where zig keeps the C library that it has compiled."""
    zig_cache = str(cache_directory("zig"))
    return {"ZIG_GLOBAL_CACHE_DIR": zig_cache, "ZIG_LOCAL_CACHE_DIR": zig_cache, **os.environ}


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
            env=compiler_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} did not finish within {COMPILE_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise UserError(f"{' '.join(command[:3])} cannot compile the kernels:\n{done.stderr.strip()[-2000:]}")
