"""The shared library and its Python binding: its functions, the reference's bits, errors that say what is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_runtime_damage import everything
from test_runtime_threads import layers

from deploy_arm.blob.write import write_blob
from deploy_arm.ir.reference import run
from deploy_arm.runtime import binding
from deploy_arm.runtime.binding import Network, NetworkError
from deploy_arm.runtime.program import build_host_library, build_library
from deploy_arm.target.host import host_compiler
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.toolchain import is_arm
from tests.deploy_arm.runtime_cases import Builder, random_convolution, random_network

HERE = Path(__file__).parent
SYSTEM = Path("/usr/aarch64-linux-gnu")
FUNCTIONS = {
    f"network_{name}" for name in ("open", "open_within", "status_text", "input", "run", "output", "close")
}


@pytest.fixture(scope="module")
def library() -> Path:
    if host_compiler() is None:
        pytest.skip("no C compiler for this machine")
    return build_host_library()


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "weights.blob"
    path.write_bytes(write_blob(everything()))
    return path


def exported(library: Path) -> set[str]:
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    "target", ["a76", "x2", pytest.param("a53", marks=pytest.mark.slow)]
)  # dot products, more besides, neither
def test_libraries_show_their_functions_and_are_small_and_kept(target: str) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm (Debian's package binutils)")
    built = build_library(target)
    assert exported(built) == FUNCTIONS
    assert built.stat().st_size < 1_000_000
    time = built.stat().st_mtime_ns
    assert build_library(target) == built and built.stat().st_mtime_ns == time


def test_a_program_linked_against_the_library_answers_like_the_reference(tmp_path: Path) -> None:
    compiler = shutil.which("gcc" if is_arm() else "aarch64-linux-gnu-gcc")
    if compiler is None or not (is_arm() or (SYSTEM / "lib").is_dir()):
        pytest.skip("no gcc and shared C library for aarch64")
    shutil.copy(build_library("a76"), tmp_path / binding.LIBRARY)
    user = tmp_path / "user"
    command = [
        compiler,
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{KERNELS}",
        str(HERE / "library_user.c"),
        f"-L{tmp_path}",
        "-lnetwork",
    ]
    subprocess.run([*command, "-Wl,-rpath,$ORIGIN", "-o", str(user)], check=True)
    emulator = [] if is_arm() else ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(SYSTEM)]
    blob = tmp_path / "case.blob"
    cases = [random_convolution(1), random_network(2), random_network(3), *layers()[:2]]
    for number, (graph, images) in enumerate(cases):
        blob.write_bytes(write_blob(graph))
        for threads in ("1", "4"):
            done = subprocess.run(
                [*emulator, str(user), str(blob), threads],
                input=images.tobytes(),
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, (number, threads, done.returncode)
            expected = run(graph, images).astype(np.float32)
            assert done.stdout == expected.tobytes(), (number, threads)
    if not is_arm():  # a core that checks branches, which the library allows to be checked (its notes)
        command = ["qemu-aarch64", "-cpu", "max", "-L", str(SYSTEM), str(user), str(blob), "4"]
        done = subprocess.run(command, input=images.tobytes(), capture_output=True, check=True)
        assert done.stdout == expected.tobytes()
        # A processor without dot products: refused when it is opened, not ended in the middle of a layer.
        command[2] = "cortex-a72"
        assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 13
    for threads in ("0", "9", "-1"):
        assert (
            subprocess.run(
                [*emulator, str(user), str(blob), threads], stdin=subprocess.DEVNULL, check=False
            ).returncode
            == 11
        )
    blob.write_bytes(blob.read_bytes()[:-1])
    assert (
        subprocess.run([*emulator, str(user), str(blob)], stdin=subprocess.DEVNULL, check=False).returncode
        == 6
    )


def test_the_binding_answers_like_the_reference(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "case.blob"
    cases = [random_convolution(seed) for seed in range(8)] + [
        random_network(seed) for seed in range(100, 112)
    ]
    builder = Builder(np.random.default_rng(0), (9, 8, 3))
    cases.append((everything(), builder.images(5)))
    for number, (graph, images) in enumerate(cases):
        path.write_bytes(write_blob(graph))
        expected = run(graph, images)
        with Network(path, library=library, threads=1 + number % 3) as network:
            assert network.shape == images.shape[1:] and network.outputs == expected.shape[1]
            result = network.run(images)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32), f"case {number}")
            one = network.run(images[-1])
            assert one.shape == (network.outputs,) and np.array_equal(one, expected[-1])
            other = np.asfortranarray(images[::-1])  # neither in order nor side by side
            assert np.array_equal(network.run(other), expected[::-1])
            assert network.run(images[:0]).shape == (0, network.outputs)
            assert np.array_equal(result, expected)  # a result is not overwritten by later ones


def test_images_that_do_not_fit_are_named(library: Path, blob: Path) -> None:
    with Network(blob, library=library) as network:
        for images, error, text in (
            (np.zeros((9, 8, 3), np.float32), TypeError, "uint8 pixels, not float32 array"),
            (np.zeros((9, 8, 3), np.int8), TypeError, "not int8"),
            ([[1]], TypeError, "not list"),
            (np.zeros((8, 9, 3), np.uint8), ValueError, r"\[9, 8, 3\].*not \[8, 9, 3\]"),
            (np.zeros((1, 3, 9, 8), np.uint8), ValueError, r"not \[1, 3, 9, 8\]"),
            (np.zeros((0, 9, 8), np.uint8), ValueError, r"not \[0, 9, 8\]"),
            (np.zeros((1, 1, 9, 8, 3), np.uint8), ValueError, "not"),
        ):
            with pytest.raises(error, match=text):
                network.run(images)  # type: ignore[arg-type]
        assert network.run(np.zeros((2, 9, 8, 3), np.uint8)).shape[0] == 2
    network.close()
    with pytest.raises(ValueError, match="closed"):
        network.run(np.zeros((9, 8, 3), np.uint8))


def test_what_cannot_be_opened_is_told(library: Path, blob: Path, tmp_path: Path) -> None:
    good = blob.read_bytes()
    for content, status, text in (
        (None, 3, "cannot be read"),
        (b"", 4, "not a network blob"),
        (good[:8] + b"\x63\0\0\0" + good[12:], 5, "another version"),
        (good[:-1], 6, "copy it again"),
    ):
        path = tmp_path / "other.blob"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(NetworkError, match=f"other.blob: .*{text}") as caught:
            Network(path, library=library)
        assert caught.value.status == status
    for threads in (0, 9, 2.0, True):
        with pytest.raises(ValueError, match="from 1 to 8"):
            Network(blob, library=library, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="does not exist"):
        Network(blob, library=tmp_path / "no.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(NetworkError, match=r"text\.so cannot be used on this"):
        Network(blob, library=tmp_path / "text.so")
    if not is_arm():
        with pytest.raises(NetworkError, match="must be built for its processor"):
            Network(blob, library=build_library("a76"))


def test_every_status_has_a_meaning() -> None:
    numbers = re.findall(r"^ +NETWORK_\w+ = (\d+),", (KERNELS / "network.h").read_text(), re.MULTILINE)
    assert {int(number) for number in numbers} == {0, *binding.MEANINGS}


def test_threads_that_share_a_network_take_turns(library: Path, blob: Path) -> None:
    builder = Builder(np.random.default_rng(1), (9, 8, 3))
    images = builder.images(40)
    expected = run(everything(), images)
    with Network(blob, library=library) as network:
        found: dict[int, bool] = {}

        def work(start: int) -> None:
            part = slice(start, start + 10)
            for _ in range(20):
                same = np.array_equal(network.run(images[part]), expected[part])
                found[start] = found.get(start, True) and same

        workers = [threading.Thread(target=work, args=(start,)) for start in (0, 10, 20, 30)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == dict.fromkeys((0, 10, 20, 30), True)


ALONE = """
import os, sys
import numpy as np
from network import Network
assert not [name for name in sys.modules if name.split(".")[0] in ("deploy_arm", "quantizers", "torch")]
images = np.load("images.npy")
one, many = Network("weights.blob"), Network("weights.blob", threads=3)
child = os.fork()
if not child:
    code = 0 if np.array_equal(one.run(images), np.load("expected.npy")) else 1
    try:
        many.run(images)
        code = 2
    except ValueError as error:
        code = code if "fork" in str(error) else 3
    many.close()
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
np.save("result.npy", many.run(images))
"""


def test_the_binding_stands_alone_with_numpy(library: Path, blob: Path, tmp_path: Path) -> None:
    """As in a deployment bundle: the file beside the library, nothing else of the project; also after fork()."""
    shutil.copy(binding.__file__, tmp_path / "network.py")
    shutil.copy(library, tmp_path / binding.LIBRARY)
    images = Builder(np.random.default_rng(2), (9, 8, 3)).images(3)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "expected.npy", expected := run(everything(), images))
    (tmp_path / "alone.py").write_text(ALONE)
    subprocess.run(
        [sys.executable, "alone.py"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, check=True, timeout=60
    )
    assert np.array_equal(np.load(tmp_path / "result.npy"), expected)


def test_threads_that_the_system_refuses_are_told(library: Path, blob: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from deploy_arm.runtime.binding import *\n"
        "try: Network(sys.argv[1], library=sys.argv[2], threads=8)\n"
        "except NetworkError as error: print(error.status, error)\n"
    )
    # A thread's stack is the limit of the process's own: eight of them do not fit the address space.
    command = 'ulimit -s 4000000 && ulimit -v 8000000 && exec "$0" -c "$1" "$2" "$3"'
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, script, str(blob), str(library)],
        capture_output=True,
        text=True,
        cwd=Path(binding.__file__).parents[1],
        env=environment,
        check=False,
    )
    if "ulimit" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.startswith("11 ") and "ask for fewer" in done.stdout, done
