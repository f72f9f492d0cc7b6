"""Every sentence of the program's help (the head of ``kernels/main.c``), on a small network; ``info`` is also in other files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_runtime_threads import QEMU

from deploy_arm.blob.write import write_blob
from deploy_arm.devices.native import NativeDevice
from deploy_arm.ir.graph import Graph
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program
from deploy_arm.target.fault import DeviceFault
from deploy_arm.target.toolchain import is_arm
from tests.deploy_arm.runtime_cases import Builder

SHAPE = (4, 4, 3)
CLASSES = 10


def network() -> Graph:
    builder = Builder(np.random.default_rng(7), SHAPE)
    return builder.done(builder.convolution(builder.input(0, 255), CLASSES, (4, 4), bits=8, to=None))


def images(count: int) -> np.ndarray:
    return Builder(np.random.default_rng(8), SHAPE).images(count)


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "case.blob"
    path.write_bytes(write_blob(network()))
    return path


def command(*arguments: str | Path, given: bytes = b"") -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    done = subprocess.run(
        [*QEMU, str(build_program("a76")), *map(str, arguments)],
        input=given,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.skipif(is_arm() or not QEMU, reason="another processor is emulated by qemu")
@pytest.mark.parametrize(
    ("target", "cpu", "lacks"),
    [
        ("a76", "cortex-a53", "asimddp"),
        pytest.param("x1", "cortex-a72", "asimddp", marks=pytest.mark.slow),
        ("a72", "cortex-a53", ""),
    ],
)
def test_another_processor_is_refused_in_a_line(target: str, cpu: str, lacks: str, blob: Path) -> None:
    program = str(build_program(target))
    shown = subprocess.run(["qemu-aarch64", "-cpu", cpu, program, "help"], capture_output=True, check=True)
    assert b"usage" in shown.stdout
    for name in ("info", "run", "classify", "bench"):
        done = subprocess.run(["qemu-aarch64", "-cpu", cpu, program, name, str(blob)], input=images(1).tobytes(),
                              capture_output=True, text=False, check=False)  # fmt: skip
        if not lacks:
            assert done.returncode == 0 and done.stdout
            continue
        assert (done.returncode, done.stdout) == (13, b"") and done.stderr.count(b"\n") == 1
        assert f"it has no {lacks}".encode() in done.stderr and b"another target" in done.stderr


@pytest.mark.skipif(is_arm() or not QEMU, reason="another processor is emulated by qemu")
def test_a_device_with_another_processor_is_the_devices_fault(blob: Path) -> None:
    """Not the candidate's: another device may run it."""
    device = NativeDevice("a76", launcher=["qemu-aarch64", "-cpu", "cortex-a72"])
    with pytest.raises(DeviceFault, match=r"lacks instructions.*asimddp"):
        device.execute(build_program("a76"), ["run", str(blob)], images(1).tobytes(), 60.0)


def test_help_is_printed() -> None:
    status, text, _ = command("help")
    assert status == 0 and all(
        f"program {name} BLOB" in text for name in ("info", "run", "classify", "bench")
    )
    assert command("--help") == (0, text, "")
    assert command() == (2, "", text) == command("bench")


def test_classify_prints_the_index_of_the_largest_result(blob: Path) -> None:
    given = images(5)
    status, text, _ = command("classify", blob, given=given.tobytes())
    assert status == 0
    assert text == "".join(f"{index}\n" for index in run(network(), given).argmax(axis=1))


def test_classify_prints_the_largest_results_with_their_labels(blob: Path, tmp_path: Path) -> None:
    given, labels = images(4), tmp_path / "labels.txt"
    names = [f"class {index}, größer" if index % 2 else "" for index in range(CLASSES)]
    results = run(network(), given)
    for ending in ("\n", "\r\n"):
        labels.write_bytes(ending.join(names).encode())  # no line end after the last
        for top in (1, 3, CLASSES, 1000):
            options = [] if top == 1 else ["--top", str(top)]
            status, text, _ = command("classify", blob, "--labels", labels, *options, given=given.tobytes())
            expected = []
            for number, result in enumerate(results):
                for index in np.argsort(-result, kind="stable")[:top]:  # the lower index first of equals
                    fields = [str(number), str(index), f"{result[index]:.6g}", names[index]]
                    expected.append("\t".join(filter(None, fields)))
            assert status == 0 and text.splitlines() == expected
    status, text, _ = command("classify", blob, "--top", "2", given=given.tobytes())
    assert [line.split("\t")[1] for line in text.splitlines()[::2]] == [
        str(i) for i in results.argmax(axis=1)
    ]
    assert {len(line.split("\t")) for line in text.splitlines()} == {3}


def test_labels_that_do_not_fit_are_told(blob: Path, tmp_path: Path) -> None:
    labels, given = tmp_path / "labels.txt", images(1).tobytes()
    for lines in (CLASSES - 1, CLASSES + 1, 0):
        labels.write_text("name\n" * lines)
        status, text, message = command("classify", blob, "--labels", labels, given=given)
        assert (status, text) == (2, "") and f"{lines} lines, the network {CLASSES} results" in message
    status, _, message = command("classify", blob, "--labels", tmp_path / "none", given=given)
    assert status == 3 and "none: the file cannot be read" in message
    for options in (["--top", "0"], ["--top", "x"], ["--top"], ["--labels"]):
        assert command("classify", blob, *options, given=given)[0] == 2


def test_bench_times_every_repetition_and_says_it_in_words(blob: Path) -> None:
    given = images(1).tobytes()
    for options, count, runs in (([], 10, "1 run"), (["--repeat", "3", "--warmup", "0"], 3, "0 runs")):
        status, text, words = command("bench", blob, *options, given=given)
        times = np.array(json.loads(text)["ns"]) / 1e6
        assert status == 0 and len(times) == count and (times > 0).all()
        found = re.fullmatch(
            r"median (\S+) ms of (\d+) \(fastest (\S+), slowest (\S+); (\S+) per second\), 1 thread, (.*) before\n",
            words,
        )
        assert found and found[2] == str(count) and found[6] == runs
        figures = [float(found[i]) for i in (1, 3, 4, 5)]
        assert figures == pytest.approx(
            [np.median(times), times.min(), times.max(), 1e3 / np.median(times)], rel=1e-3
        )
    assert command("bench", blob, "--repeat", "0", given=given) == (0, '{"ns": []}\n', "")


def test_marks_are_system_calls_before_every_operation_of_one_repetition(blob: Path) -> None:
    if is_arm():
        pytest.skip("needs an emulator's list of system calls")
    program = ["qemu-aarch64", "-strace", str(build_program("a76")), "bench", str(blob), "--mark"]
    done = subprocess.run(program, input=images(1).tobytes(), capture_output=True, check=True)
    assert len(json.loads(done.stdout)["ns"]) == 1
    operations = len(network().operations)
    called = re.findall(r"getsid\((-?\d+)", done.stderr.decode())
    assert [int(number) for number in called] == [-1000000 - i for i in range(operations + 1)]


@pytest.mark.parametrize("name", ["run", "classify", "bench"])
def test_input_that_is_no_whole_image(blob: Path, name: str) -> None:
    for given in (b"", images(1).tobytes()[:-1]):
        status, text, message = command(name, blob, given=given)
        assert (status, text) == (9, "") and "48 bytes (4 x 4 x 3, uint8)" in message


@pytest.mark.parametrize("name", ["info", "run", "classify", "bench"])
def test_output_that_cannot_be_written(blob: Path, name: str) -> None:
    with Path("/dev/full").open("wb") as full:
        program = [*QEMU, str(build_program("a76")), name, str(blob)]
        done = subprocess.run(
            program, input=images(1).tobytes(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 10 and b"standard output cannot be written" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("walk", "BLOB"),
        ("info", "BLOB", "--portable"),
        ("info", "BLOB", "--threads", "2"),
        ("run", "BLOB", "--top", "2"),
        ("run", "BLOB", "--mark"),
        ("classify", "BLOB", "--repeat", "2"),
        ("bench", "BLOB", "--repeat", "-1"),
        ("bench", "BLOB", "--warmup", "1000001"),
        ("bench", "BLOB", "--labels", "x"),
    ],
)
def test_wrong_arguments(blob: Path, arguments: tuple[str, ...]) -> None:
    given = [str(blob) if part == "BLOB" else part for part in arguments]
    status, text, message = command(*given, given=images(1).tobytes())
    assert (status, text) == (2, "") and ("walk" if arguments[0] == "walk" else arguments[2]) in message


def test_plain_c_gives_the_same(blob: Path) -> None:
    given = images(3).tobytes()
    for name in ("run", "classify"):
        program = [*QEMU, str(build_program("a76")), name, str(blob)]
        outputs = {
            subprocess.run([*program, *options], input=given, capture_output=True, check=True).stdout
            for options in ([], ["--portable"], ["--threads", "3"])
        }
        assert len(outputs) == 1
