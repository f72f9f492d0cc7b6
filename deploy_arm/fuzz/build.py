"""Builds the loader, with the plain C operations, for this machine under sanitizers; reads and writes the corpus."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path

from deploy_arm.emulator import tail
from deploy_arm.program import KERNELS, library_sources
from quantizers.errors import UserError

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus.zip"
FLAGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all")
CLANGS = ("clang-19", "clang", "clang-20", "clang-18", "clang-17", "clang-16")
COMPILERS = ("gcc", *CLANGS)
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
