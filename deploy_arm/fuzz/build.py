"""Builds under sanitizers: the loader with the plain C operations for this machine, the vector kernels for aarch64; reads and
writes the corpus."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path

from deploy_arm.runtime.program import build_cached, library_sources
from deploy_arm.target.host import tail
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import is_arm, version_of
from foundation.errors import UserError

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus.zip"
FLAGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all")
CLANGS = ("clang-19", "clang", "clang-20", "clang-18", "clang-17", "clang-16")
COMPILERS = ("gcc", *CLANGS)
SYSTEM = Path("/usr/aarch64-linux-gnu")  # Debian's shared libraries for the cross compiler
# Of undefined behaviour what the plain C build cannot show: vectors that are not aligned, reads beyond tables, shifts. (gcc's own
# intrinsics add signed vectors as C does, whose overflow is defined.) -Og takes gcc a third of -O1's time, with checks around
# every access, and the program is as fast.
COMPARE_FLAGS = (
    "-std=c11",
    "-Og",
    "-g",
    "-fno-var-tracking",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffp-contract=off",
    "-pthread",
    "-fsanitize=address,alignment,bounds,shift",
    "-fno-sanitize-recover=all",
    "-Wl,--no-as-needed",
    "-lm",
)
# Memory that the loader asks for and does not get is a case of its own; without the limit, shapes cost seconds each.
ENVIRONMENT = {"ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=64:detect_leaks=1"}


def sources(main: str) -> list[str]:
    """The C files of a program whose entry is ``main`` of this folder, without the command line's."""
    return [f"-I{KERNELS}", *map(str, [FOLDER / main, FOLDER / "damage.c", *library_sources()])]


def _build(compilers: Iterable[str], sanitizers: str, main: str, target: Path) -> Path:
    compiler = next((path for name in compilers if (path := shutil.which(name))), None)
    if compiler is None:
        raise UserError(f"none of {', '.join(compilers)} is installed: `apt-get install clang-19`")
    command = [
        compiler,
        *FLAGS,
        f"-fsanitize={sanitizers}",
        *sources(main),
        "-lm",
        "-pthread",
        "-o",
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"{compiler} cannot build with -fsanitize={sanitizers} (clang's part of it is Debian's package "
            f"libclang-rt-19-dev):\n{tail(done.stderr)}"
        )
    return target


def build_fuzzer(target: Path) -> Path:
    """libFuzzer with address and undefined-behaviour sanitizers, written to ``target``.

    Raises:
        UserError: no clang, or its fuzzer runtime is missing.
    """
    return _build(CLANGS, "fuzzer,address,undefined", "entry.c", target)


def build_replay(target: Path) -> Path:
    """The same without a fuzzer: tries files (see ``replay.c``).

    Raises:
        UserError: no C compiler for this machine, or it has no sanitizers.
    """
    return _build(COMPILERS, "address,undefined", "replay.c", target)


def build_compare() -> list[str]:
    """The command of ``compare.c`` with the vector kernels and both sanitizers, emulated where this machine is not ARM; kept in
    the cache. gcc alone: it brings the sanitizers for aarch64, which neither clang's packages nor ziglang do.

    Raises:
        UserError: what it takes is not installed; the message has the command that installs it.
    """
    names = ("gcc",) if is_arm() else ("aarch64-linux-gnu-gcc", "qemu-aarch64")
    paths = [shutil.which(name) for name in names]
    if not all(paths) or not (is_arm() or list((SYSTEM / "lib").glob("libasan.so*"))):
        raise UserError(
            "the vector kernels' sanitized build needs gcc with its sanitizers for aarch64, which the tool chain from PyPI does "
            "not have: `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user`"
        )
    compiler = str(paths[0])
    command = [compiler, *COMPARE_FLAGS, f"-march={TARGETS['a76'].architecture}", f"-I{KERNELS}"]
    files = [FOLDER / "compare.c", *library_sources()]
    program = build_cached("compare", "", command, version_of((compiler,)), files)
    return [str(program)] if is_arm() else [str(paths[1]), "-L", str(SYSTEM), str(program)]


def unpack_corpus(folder: Path, archive: Path = CORPUS) -> list[Path]:
    """The archive's blobs as files in ``folder``."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        return [folder / name for name in packed.namelist()]


def pack_corpus(files: Iterable[Path], most_bytes: int, archive: Path = CORPUS) -> int:
    """Packs files, smallest first, until the archive would exceed ``most_bytes``; returns how many.

    The same files make the same archive: names are of the content, dates are none.
    """
    used = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as packed:
        for path in sorted(files, key=lambda path: (path.stat().st_size, path.name)):
            content = path.read_bytes()
            entry = zipfile.ZipInfo(hashlib.sha256(content).hexdigest()[:16])
            packed.writestr(entry, content, zipfile.ZIP_LZMA)
            used += packed.getinfo(entry.filename).compress_size + 150  # its two directory entries
            if used > most_bytes - 20000:
                break
        return len(packed.namelist())
