"""Damaged blobs give an error status, never a signal: loader and plain C under sanitizers, the vector kernels emulated."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_arm.blob.memory import tensor_bytes
from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.compiler.passes import fuse_additions
from deploy_arm.fuzz import __main__ as fuzzing
from deploy_arm.fuzz.build import ENVIRONMENT, build_replay, sources, unpack_corpus
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program, compile_command
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import choose_compiler, is_arm
from foundation.errors import UserError
from tests.deploy_arm.float_cases import everything_float
from tests.deploy_arm.integer_cases import blocks, everything, middles
from tests.deploy_arm.runtime_cases import (
    GROUPED,
    Builder,
    random_network,
    with_checksum,
    with_kernel,
)

PACKED = -3  # stands for where the packed weights lie
LAST = -4  # stands for the last 16 bytes of the file
RESIDUAL = -1  # stands for a convolution that ends in an addition
QEMU = [] if is_arm() else ["qemu-aarch64"]


def network_graphs() -> list[g.Graph]:
    return [
        everything(),
        everything_float(),
        blocks(),
        middles(),
        *(random_network(seed)[0] for seed in range(500, 508)),
    ]


def replay(command: list[str], *arguments: str | Path) -> tuple[int, int]:
    """How many blobs were refused, and how many ran."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.fullmatch(r"(\d+) refused, (\d+) ran\n", done.stdout)
    assert found, done.stdout
    return int(found[1]), int(found[2])


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replay for this machine with address and undefined-behaviour sanitizers."""
    try:
        return build_replay(tmp_path_factory.mktemp("fuzz") / "replay")
    except UserError as error:
        if "error:" in str(error) and "sanitize" not in str(error).split("\n", 1)[1]:
            raise  # the sources do not compile
        pytest.skip(str(error))


# The whole table of damages, and a quarter of it.
PARTS = pytest.mark.parametrize("part", [pytest.param(1, marks=pytest.mark.slow), 4])


@PARTS
def test_damaged_blobs_under_sanitizers(sanitized: Path, tmp_path: Path, part: int) -> None:
    refused = ran = 0
    for number, graph in enumerate(network_graphs()):
        blob = tmp_path / f"{number}.blob"
        blob.write_bytes(write_blob(graph))
        results = replay([str(sanitized)], "--damage", str(600 // part), str(number), blob)
        refused, ran = refused + results[0], ran + results[1]
    assert refused > 800 / part and ran > 400 / part  # both sides of the checks were reached


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replay with the vector kernels, for the emulator."""
    program = tmp_path_factory.mktemp("vectors") / "replay"
    command = compile_command(TARGETS["a76"], choose_compiler())
    subprocess.run([*command, *sources("replay.c"), "-o", str(program)], check=True)
    return program


def test_what_the_fuzzer_kept_under_sanitizers(sanitized: Path, tmp_path: Path) -> None:
    blobs = unpack_corpus(tmp_path)
    refused, ran = replay([str(sanitized)], *blobs)
    assert refused > 50 and ran > 10 and refused + ran >= len(blobs) > 100


def test_what_the_fuzzer_kept_with_the_vector_kernels(vectors: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    refused, ran = replay([*QEMU, str(vectors)], *unpack_corpus(tmp_path / "corpus"))
    assert refused > 50 and ran > 10


@PARTS
def test_damaged_blobs_with_the_vector_kernels(vectors: Path, tmp_path: Path, part: int) -> None:
    refused = ran = 0
    for number, graph in enumerate(network_graphs()):
        blob = tmp_path / f"{number}.blob"
        blob.write_bytes(write_blob(graph))
        if number % 2:
            blob.write_bytes(with_kernel(blob.read_bytes(), GROUPED))
        results = replay([*QEMU, str(vectors)], "--damage", str(300 // part), str(100 + number), blob)
        refused, ran = refused + results[0], ran + results[1]
    assert refused > 400 / part and ran > 200 / part


def status(blob: bytes, folder: Path, images: bytes = b"") -> tuple[int, str]:
    path = folder / "case.blob"
    path.write_bytes(blob)
    command = [*QEMU, str(build_program("a76")), "run", str(path)]
    done = subprocess.run(command, input=images, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


def test_exit_statuses_say_what_is_wrong(tmp_path: Path) -> None:
    graph = everything()
    good = write_blob(graph)
    image = bytes(9 * 8 * 3)
    assert status(good, tmp_path, image) == (0, "")
    assert status(good, tmp_path, image + b"x")[0] == 9
    assert status(b"", tmp_path)[0] == 4
    assert status(b"PNG" + good[3:], tmp_path)[0] == 4
    other = bytearray(good)
    struct.pack_into("<I", other, 8, 1)
    assert status(with_checksum(other), tmp_path)[0] == 5
    assert status(good[:-1], tmp_path)[0] == 6
    flipped = bytearray(good)
    flipped[-20] ^= 1
    assert status(bytes(flipped), tmp_path)[0] == 6
    table = struct.unpack_from("<I", good, 36)[0]
    hostile = bytearray(good)
    struct.pack_into("<i", hostile, table + 128 + 18 * 4, len(good) - 16)  # weights that end beyond the file
    code, message = status(with_checksum(hostile), tmp_path)
    assert code == 7 and "operation 1" in message and "packed weights" in message
    command = [*QEMU, str(build_program("a76"))]
    assert (
        subprocess.run([*command, "run", str(tmp_path / "none")], capture_output=True, check=False).returncode
        == 3
    )
    assert subprocess.run([*command, "walk", "x"], capture_output=True, check=False).returncode == 2
    assert (
        subprocess.run([*command, "bench", "x", "--repeat"], capture_output=True, check=False).returncode == 2
    )


@pytest.mark.parametrize(
    ("opcode", "word", "value", "reason"),
    [
        (12, 4, -(2**31), "multiplier"),
        (12, 6, 40, "shift"),
        (12, 9, 300, "range"),
        (12, 2, 1, "product"),
        (13, 4, 2**24, "indices"),
        (13, 4, 64, "channel"),  # the tensor table read as indices
        (14, 5, -1, "epsilon"),
        (14, 5, 2**30, "epsilon"),
        (14, 7, 8, "arrays"),
        (15, 0, 11, "output"),
        (5, 6, -1, "dilation"),
        (32, 4, 2**30, "table"),
        (32, 3, 0, "written twice"),
        (33, 14, 2, "groups"),
        (33, 12, 60000, "kernel"),
        (33, 15, 2**30, "outside"),
        (33, 16, 4, "another size"),
        (33, 17, 2**31 - 16, "outside"),
        (33, 18, 0x7FC00000, "order"),  # not a number
        (34, 5, -8388608, "order"),  # at most minus infinity
        (34, 2, 0, "product of bytes"),
        (36, 4, 2**20, "concatenation"),
        (36, 5, 64, "concatenat"),
        (37, 4, 64, "window"),
        (38, 4, 0, "function"),
        (38, 4, 99, "function"),
        (RESIDUAL, 29, 8, "addition"),
        (RESIDUAL, 29, 2**30, "addition"),
        (RESIDUAL, 2, 1, "addition's shapes"),
        (RESIDUAL, 2, 0, "overlaps"),
        (RESIDUAL, 2, -1, "input tensor"),
        (RESIDUAL, 25, -200, "range"),
        (RESIDUAL, 26, 200, "range"),
        (RESIDUAL, 20, 1, "finish"),
    ],
)
def test_what_is_wrong_with_an_operation_is_said(
    tmp_path: Path, opcode: int, word: int, value: int, reason: str
) -> None:
    blob = bytearray(write_blob(everything_float() if opcode >= 32 else everything()))
    operations, table = struct.unpack_from("<2I", blob, 28)[0], struct.unpack_from("<I", blob, 36)[0]
    places = range(table, table + 128 * operations, 128)
    found = [struct.unpack_from("<32i", blob, place) for place in places]
    wanted = (2, True) if opcode == RESIDUAL else (opcode, False)
    number = next(i for i, words in enumerate(found) if (words[0], words[0] == 2 and words[29] > 0) == wanted)
    start = table + 128 * number
    struct.pack_into("<i", blob, start + 4 * word, value)
    code, message = status(with_checksum(blob), tmp_path)
    assert code == 7 and f"operation {number}:" in message and reason in message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({31: 0}, "without blocks"),
        ({27: 1}, "before version 5"),  # read as the weights of a middle tap
        ({31: 2**30}, "outside"),
        ({31: 8}, "outside"),
        ({19: 4, 30: 0}, "another size"),
        ({14: 2}, "whole blocks"),
        ({31: PACKED}, "do not exist"),  # weights read as bits
    ],
)
def test_what_is_wrong_with_blocks_is_said(tmp_path: Path, words: dict[int, int], reason: str) -> None:
    blob = bytearray(write_blob(blocks()))
    assert (
        struct.unpack_from("<I", blob, 8)[0] == 4 and status(bytes(blob), tmp_path, bytes(9 * 7 * 8))[0] == 0
    )
    start = struct.unpack_from("<I", blob, 36)[0] + 128  # behind the table of pixels: 8 bits, 9 blocks a quad
    for word, value in words.items():
        packed = struct.unpack_from("<i", blob, start + 4 * 18)[0]
        struct.pack_into("<i", blob, start + 4 * word, packed if value == PACKED else value)
    code, message = status(with_checksum(blob), tmp_path)
    assert code == 7 and "operation 1:" in message and reason in message
    old = bytearray(write_blob(blocks()))
    struct.pack_into("<I", old, 8, 3)
    code, message = status(with_checksum(old), tmp_path)
    assert code == 7 and "before version 4" in message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({27: 4}, "blocks"),
        ({31: 2**30}, "outside"),
        ({31: 8}, "outside"),
        ({31: LAST}, "outside"),
        ({4: 2, 10: 0, 19: 48 // 8 * 24 * 16}, "no middle"),
        ({15: 8, 19: 48 // 8 * 36 * 32, 16: 0, 17: 0}, "middle tap of 8 bits"),
    ],
)
def test_what_is_wrong_with_a_middle_tap_is_said(tmp_path: Path, words: dict[int, int], reason: str) -> None:
    blob = bytearray(write_blob(middles(), coded=False))
    assert struct.unpack_from("<I", blob, 8)[0] == 5
    assert status(bytes(blob), tmp_path, bytes(9 * 7 * 16))[0] == 0
    start = struct.unpack_from("<I", blob, 36)[0] + 128  # behind the table of pixels
    for word, value in words.items():
        struct.pack_into("<i", blob, start + 4 * word, len(blob) - 16 if value == LAST else value)
    code, message = status(with_checksum(blob), tmp_path)
    assert code == 7 and "operation 1:" in message and reason in message
    old = bytearray(write_blob(middles()))
    struct.pack_into("<I", old, 8, 4)
    code, message = status(with_checksum(old), tmp_path)
    assert code == 7 and "before version 5" in message


def test_middle_taps_count_as_memory_and_are_read_back(tmp_path: Path) -> None:
    graph = middles()
    blob = write_blob(graph)
    assert write_blob(read_graph(blob)) == blob
    images = np.random.default_rng(3).integers(0, 256, (2, 9, 7, 16), dtype=np.uint8)
    np.testing.assert_array_equal(run(read_graph(blob), images), run(graph, images))


def moved_onto(graph: g.Graph, kind: type[g.Operation], place: int) -> tuple[bytes, g.Operation]:
    """The blob in which every tensor has a place of its own, but the output of the first operation of a kind, which lies
    exactly where its input ``place`` does."""
    blob, names = bytearray(write_blob(graph)), list(graph.tensors)
    operation = next(
        op
        for op in graph.operations
        if isinstance(op, kind) and len(op.inputs) == 2 and op.inputs[0] != "image"
    )
    offsets, end = {}, 0
    for name, tensor in graph.tensors.items():
        offsets[name], end = end, end + -(-tensor_bytes(tensor) // 64) * 64
    offsets[operation.output] = offsets[operation.inputs[place]]
    table = struct.unpack_from("<I", blob, 32)[0]
    for index, name in enumerate(names):
        struct.pack_into("<I", blob, table + 32 * index + 12, offsets[name])
    struct.pack_into("<I", blob, 40, max(offsets[name] + tensor_bytes(graph.tensors[name]) for name in names))
    return with_checksum(blob), operation


def residual_block(*, fused: bool) -> g.Graph:
    """A convolution whose result is added to another one's; all tensors are equally large."""
    builder = Builder(np.random.default_rng(5), (6, 5, 8))
    same = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "to": (0, 127)}
    first = builder.convolution(builder.input(0, 127), 8, **same)  # type: ignore[arg-type]
    side = builder.convolution(first, 8, **same)  # type: ignore[arg-type]
    other = builder.convolution(side, 8, **same)  # type: ignore[arg-type]
    graph = builder.done(builder.add(first, other, 0, 127))
    return fuse_additions(graph) if fused else graph


def test_only_what_goes_element_by_element_may_write_where_it_reads(tmp_path: Path) -> None:
    for place in (0, 1):  # its input, what is added to its result
        blob, operation = moved_onto(residual_block(fused=True), g.Convolution, place)
        assert isinstance(operation, g.Convolution) and operation.residual
        code, message = status(blob, tmp_path, bytes(6 * 5 * 8))
        assert code == 7 and "memory overlaps" in message
    graph = residual_block(fused=False)
    images = Builder(np.random.default_rng(1), (6, 5, 8)).images(3)
    for place in (0, 1):
        path = tmp_path / "in-place.blob"
        path.write_bytes(moved_onto(graph, g.Add, place)[0])
        for options in ([], ["--portable"]):
            done = subprocess.run(
                [*QEMU, str(build_program("a76")), "run", str(path), *options],
                input=images.tobytes(), capture_output=True, check=True,
            )  # fmt: skip
            assert np.array_equal(np.frombuffer(done.stdout, np.float32), run(graph, images).ravel())


def test_what_is_accepted_is_run_unless_that_is_long(sanitized: Path, tmp_path: Path) -> None:
    blob = tmp_path / "case.blob"
    blob.write_bytes(write_blob(everything()))
    assert replay([str(sanitized)], blob) == (0, 1)
    builder = Builder(np.random.default_rng(0), (64, 64, 8))
    many = builder.convolution(builder.input(0, 255), 64, (3, 3), to=None)  # 17.7 million products
    blob.write_bytes(write_blob(builder.done(many)))
    assert replay([str(sanitized)], blob) == (0, 0)
    builder = Builder(np.random.default_rng(0), (64, 64, 2))
    many = builder.max_pool(builder.input(0, 255), 63, 1, 31)  # 19 million values looked at
    blob.write_bytes(write_blob(builder.done(many)))
    assert replay([str(sanitized)], blob) == (0, 0)


def test_the_fuzzer_keeps_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, row = tmp_path / "log.csv", {"cpu_minutes": 30.1, "executions": 7, "findings": 0}
    monkeypatch.setattr(fuzzing, "fuzz", lambda *_, keep: row)
    assert fuzzing.main(["--log", str(log)]) == 0
    assert log.read_text() == capsys.readouterr().out == "cpu_minutes,executions,findings\n30.1,7,0\n"
    row |= {"findings": 1, "kept_files": 3}
    assert fuzzing.main(["--log", str(log)]) == 1
    assert log.read_text() == "cpu_minutes,executions,findings,kept_files\n30.1,7,0,\n30.1,7,1,3\n"
    log.write_text("method,accuracy\nours,0.9\n")
    assert fuzzing.main(["--log", str(log)]) == 2 and "not a log" in capsys.readouterr().err
    assert log.read_text() == "method,accuracy\nours,0.9\n"
