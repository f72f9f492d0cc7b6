"""What a small hostile blob cannot ask for: much time of the loader, or much memory."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy_arm.blob import write as blobs
from deploy_arm.blob.write import write_blob
from deploy_arm.ir import graph as g
from deploy_arm.runtime.binding import Network, NetworkError
from deploy_arm.runtime.program import build_host_library, build_program
from deploy_arm.target.host import host_compiler
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import GROUPED, Builder, with_kernel

QEMU = [] if is_arm() else ["qemu-aarch64"]


def many_divisors(size: int) -> bytes:
    """An average whose every output looks for its divisor among 4096, at their end."""
    builder = Builder(np.random.default_rng(0), (size, size, 1))
    windows = tuple(g.Window(i, i + 1, 2 + i % 2) for i in range(size))
    divisors = (*range(1000, 1000 + 4093), 4, 6, 9)
    out = builder.tensor((size, size, 1), 0, 255)
    finish = builder.finish(255, len(divisors), 0, 255)
    source = builder.input(0, 255)
    builder.emit(g.AveragePool((source,), out, "average", windows, windows, divisors, finish))
    return write_blob(builder.done(out))


def shared_data(size: int) -> bytes:
    """Operations that all name the same indices, one for every 16 of them."""
    builder = Builder(np.random.default_rng(0), (1, 1, 1))
    last = builder.gather(builder.input(0, 255), np.zeros(size, np.int64))
    for _ in range(size // 16):
        last = builder.gather(last, np.arange(size))
    return write_blob(builder.done(last))


def many_phases(size: int) -> bytes:
    """A level-grouped convolution in which every tap has planes of its own."""
    builder = Builder(np.random.default_rng(0), (size, size, 1))
    last = builder.convolution(builder.input(0, 255), 40, (size, size), stride=(size, size), bits=2)
    return with_kernel(write_blob(builder.done(last)), GROUPED)


@pytest.mark.parametrize(
    ("make", "small", "large"),
    [(many_divisors, 1000, 2000), (shared_data, 4096, 8192), (many_phases, 32, 64)],
)
def test_the_loaders_time_is_linear_in_the_blob(
    make: Callable[[int], bytes], small: int, large: int, tmp_path: Path
) -> None:
    """In executed instructions, which do not depend on the machine."""
    pytest.importorskip("unicorn")
    from deploy_arm.emulate.unicorn_counter import make_counter
    from deploy_arm.emulate.unicorn_loader import run_program

    found = []
    for size in (small, large):
        path = tmp_path / f"{size}.blob"
        path.write_bytes(make(size))
        counter = make_counter(None)
        try:
            run_program(build_program("a76"), ["info", str(path)], b"", timeout=60, counter=counter)
        except UserError as error:
            assert "share too much data" in str(error), (
                error
            )  # refused in time, and not stopped after too much
        found.append((path.stat().st_size, sum(region.instructions for region in counter.regions.values())))
    (bytes_small, time_small), (bytes_large, time_large) = found
    assert time_large < 1.5 * time_small * bytes_large / bytes_small, found
    assert time_large < 3000 * bytes_large, found


def large_blob(monkeypatch: pytest.MonkeyPatch, side: int) -> bytes:
    """Less than 2 kB whose activations are ``side`` x ``side`` x 3 bytes, and as many floats."""
    monkeypatch.setattr(blobs, "DEFAULT_MEMORY", 2**40)
    builder = Builder(np.random.default_rng(0), (8, 8, 3))
    last = builder.pad(builder.input(0, 255), (0, 0, 0), (side - 8, side - 8, 0))
    return write_blob(builder.done(last))


def test_a_small_blob_may_not_ask_for_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.blob"
    path.write_bytes(large_blob(monkeypatch, 9000))
    arena = struct.unpack_from("<I", path.read_bytes(), 40)[0]
    needed = -(-arena // 2**20)
    assert path.stat().st_size < 2000 and arena > 2**30

    def info(*options: str) -> tuple[int, str]:
        command = [*QEMU, str(build_program("a76")), "info", str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    status, message = info()
    assert status == 12 and "more memory than is allowed" in message and "--memory" in message
    said = int(message.split("--memory ")[1].split()[0])
    assert needed <= said <= needed + 8
    assert info("--memory", str(said))[0] == 0
    assert info("--memory", str(needed - 1))[0] == 12
    assert info("--memory", "1")[0] == 12
    for wrong in ("0", "-1", "x", ""):
        status, message = info("--memory", wrong)
        assert status == 2 and "--memory needs a number of MiB" in message


def test_the_libraries_caller_chooses_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if host_compiler() is None:
        pytest.skip("no C compiler for this machine")
    library = build_host_library()
    path = tmp_path / "large.blob"
    path.write_bytes(large_blob(monkeypatch, 9000))
    with pytest.raises(
        NetworkError, match=r"more memory than is allowed: at least \d+ bytes, of 1073741824"
    ) as caught:
        Network(path, library=library)
    assert caught.value.status == 12
    path.write_bytes(large_blob(monkeypatch, 100))
    with Network(path, library=library) as network:
        memory = network.memory
    arena = struct.unpack_from("<I", path.read_bytes(), 40)[0]
    assert arena + path.stat().st_size < memory < arena + path.stat().st_size + 100_000
    with Network(path, library=library, memory_limit=memory) as network:
        assert network.memory == memory
    with pytest.raises(NetworkError, match=f"at least {memory} bytes, of {memory - 1}"):
        Network(path, library=library, memory_limit=memory - 1)
    with pytest.raises(
        NetworkError, match=f"at least {path.stat().st_size} bytes, of 9"
    ):  # of the file alone
        Network(path, library=library, memory_limit=9)
    for wrong in (0, -1, True, 1.5, 2**64):
        with pytest.raises(ValueError, match="memory_limit"):
            Network(path, library=library, memory_limit=wrong)  # type: ignore[arg-type]


def test_threads_count_for_the_limit(tmp_path: Path) -> None:
    if host_compiler() is None:
        pytest.skip("no C compiler for this machine")
    builder = Builder(np.random.default_rng(0), (40, 40, 16))
    last = builder.convolution(builder.input(0, 255), 16, (3, 3), padding=(1, 1, 1, 1))
    path = tmp_path / "case.blob"
    path.write_bytes(write_blob(builder.done(last)))
    library = build_host_library()
    held = []
    for threads in (1, 2, 3):
        with Network(path, library=library, threads=threads) as network:
            held.append(network.memory)
    assert held[0] < held[1] and held[2] - held[1] == held[1] - held[0]
    with pytest.raises(NetworkError, match=f"at least {held[2]} bytes, of {held[1]}"):
        Network(path, library=library, threads=3, memory_limit=held[1])


def test_what_would_be_refused_is_not_compiled() -> None:
    builder = Builder(np.random.default_rng(0), (8, 8, 3))
    last = builder.pad(builder.input(0, 255), (0, 0, 0), (8992, 8992, 0))
    with pytest.raises(UserError, match=r"1 GiB.*smaller images"):
        write_blob(builder.done(last))
