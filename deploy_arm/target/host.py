"""Programs of this machine: its C compiler, the emulator's plugin built with it, commands and what they answer."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy_arm.target.fault import OTHER_PROCESSOR, DeviceFault
from foundation.errors import UserError
from foundation.files import cache_directory, write_atomically

PLUGIN_FOLDER = Path(__file__).parents[1] / "plugin"


def host_compiler() -> list[str] | None:
    """Command of a C compiler for this machine, None when there is none."""
    for name in ("cc", "gcc", "clang", "clang-19"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


@functools.cache
def build_shared_library(name: str, *sources: str) -> Path:
    """Compiles sources of the plugin's folder for this machine; cached by their content, the compiler and the machine.

    Raises:
        UserError: no C compiler, or it refuses; the message has its last lines.
    """
    compiler = host_compiler()
    if compiler is None:
        raise UserError("counting under QEMU needs a C compiler for this machine: `apt-get install gcc`")
    flags = ["-O2", "-fPIC", "-shared"]
    digest = hashlib.sha256(repr((compiler, flags, platform.machine())).encode())
    for path in sorted(PLUGIN_FOLDER.glob("*.[ch]")):
        digest.update(path.read_bytes())
    target = cache_directory("plugin") / f"{name}-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, target.name)
            command = [
                *compiler,
                *flags,
                *(str(PLUGIN_FOLDER / source) for source in sources),
                "-o",
                str(built),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise UserError(f"{command[0]} could not compile the emulator's plugin:\n{tail(done.stderr)}")
            write_atomically(target, built.read_bytes(), mode=0o755)
    return target


def tail(text: str | bytes, lines: int = 6) -> str:
    """The last lines of a program's error output."""
    decoded = text.decode(errors="replace") if isinstance(text, bytes) else text
    return "\n".join(decoded.strip().splitlines()[-lines:])


def execute(command: list[str], given: bytes, timeout: float, what: str) -> bytes:
    """Runs a command with ``given`` on its standard input and returns its standard output.

    Raises:
        UserError: it fails; the message has the end of its error output.
        DeviceFault: it cannot be started, takes longer than ``timeout`` seconds, a signal ends it, or it is for another
            processor.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceFault(f"{what} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise DeviceFault(f"{what} cannot be started: {error}") from error
    if done.returncode != 0:
        failure = DeviceFault if done.returncode < 0 or done.returncode == OTHER_PROCESSOR else UserError
        raise failure(f"{what} stopped with status {done.returncode}: {tail(done.stderr) or '(no message)'}")
    return done.stdout
