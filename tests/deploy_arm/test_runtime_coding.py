"""Programs with coded weights: the same answers as without, honest memory, and damaged codes refused with a status."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy_arm.blob import write as blobs
from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import write_blob
from deploy_arm.fuzz.hostile import hostile_blobs
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import run
from deploy_arm.runtime.program import build_program
from deploy_arm.target.toolchain import is_arm
from foundation.errors import UserError
from tests.deploy_arm.runtime_cases import (
    GROUPED,
    Builder,
    random_convolution,
    random_network,
    with_checksum,
    with_kernel,
)

QEMU = [] if is_arm() else ["qemu-aarch64", "-cpu", "cortex-a76"]


def many_zeros(bits: int = 2, channels: int = 64) -> tuple[g.Graph, NDArray[np.uint8]]:
    """A depthwise convolution of one lane, and a dense one of several."""
    builder = Builder(np.random.default_rng(bits), (6, 5, channels))
    same: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "bits": bits, "zeros": 0.95}
    last = builder.convolution(builder.input(0, 255), channels, groups=channels, **same)
    return builder.done(builder.convolution(last, 48, to=None, **same)), builder.images(2)


def convolutions(blob: bytes) -> dict[int, tuple[int, ...]]:
    """Words by the number of the operation."""
    count, table = struct.unpack_from("<I", blob, 28)[0], struct.unpack_from("<I", blob, 36)[0]
    rows = {number: struct.unpack_from("<32i", blob, table + 128 * number) for number in range(count)}
    return {number: words for number, words in rows.items() if words[0] == 2}


def program(*arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*QEMU, str(build_program("a76")), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def information(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(program("info", path).stdout)
    return result


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_answers_are_the_same_with_and_without_a_code(tmp_path: Path, bits: int) -> None:
    graph, images = many_zeros(bits)
    coded, expected = write_blob(graph), run(graph, images)
    plain = write_blob(graph, coded=False)
    assert coded[8] == 3 and plain[8] == 2 and len(coded) < len(plain)
    lanes = [words[30] for words in convolutions(coded).values()]
    assert lanes == [1, 4]
    for blob in (coded, plain):
        np.testing.assert_array_equal(run(read_graph(blob), images), expected)
        for kernel in (0, GROUPED):
            path = tmp_path / "case.blob"
            path.write_bytes(with_kernel(blob, kernel))
            for options in ([], ["--portable"], ["--threads", "3"]):
                done = program("run", path, *options, given=images.tobytes())
                assert done.returncode == 0, done.stderr
                assert done.stdout == expected.tobytes()


def test_the_random_graphs_of_the_other_tests_have_coded_layers() -> None:
    made = [write_blob(random_convolution(seed)[0]) for seed in range(20)]
    made += [write_blob(random_network(seed)[0]) for seed in range(10)]
    assert sum(blob[8] == 3 for blob in made) > 8
    assert sum(blob[8] == 3 for blob in hostile_blobs(0, 16)) > 4


def test_decoded_weights_count_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = many_zeros(channels=512)
    path = tmp_path / "case.blob"
    path.write_bytes(write_blob(graph))
    coded = information(path)
    path.write_bytes(write_blob(graph, coded=False))
    plain = information(path)
    layers = [o for o in coded["operations"] if o["operation"] == "convolution"]
    packed = sum(layer["packed_bytes"] for layer in layers)
    assert coded["version"] == 3 and plain["version"] == 2
    assert packed >= 512 * 9 * 48 // 4 and 0 < sum(layer["coded_bytes"] for layer in layers) < 0.5 * packed
    assert coded["prepared_bytes"] == plain["prepared_bytes"] + packed
    assert coded["memory_bytes"] - coded["blob_bytes"] == plain["memory_bytes"] - plain["blob_bytes"] + packed
    monkeypatch.undo()
    monkeypatch.setattr(blobs, "DEFAULT_MEMORY", coded["blob_bytes"] + coded["arena_bytes"] + packed - 1)
    with pytest.raises(UserError, match="for its weights"):
        write_blob(graph)


def test_a_small_blob_may_not_ask_for_much_decoded_memory(tmp_path: Path) -> None:
    builder = Builder(np.random.default_rng(0), (40, 40, 64))
    last = builder.convolution(builder.input(0, 255), 56, (40, 40), bits=2, zeros=1.0, to=None)
    path = tmp_path / "case.blob"
    path.write_bytes(write_blob(builder.done(last)))
    assert path.stat().st_size < 100_000 and information(path)["memory_bytes"] > 40 * 40 * 64 * 56 // 4
    done = program("info", path, "--memory", "1")
    assert done.returncode == 12 and b"more memory than is allowed" in done.stderr


def damaged(blob: bytes, number: int, at: int, content: bytes) -> bytes:
    """With other bytes at a place of the coded weights of an operation."""
    words, changed = convolutions(blob)[number], bytearray(blob)
    changed[words[18] + at : words[18] + at + len(content)] = content
    return with_checksum(changed)


def reworded(blob: bytes, number: int, **values: int) -> bytes:
    """With other words (``w30=3``) of an operation."""
    changed, table = bytearray(blob), struct.unpack_from("<I", blob, 36)[0]
    for word, value in values.items():
        struct.pack_into("<i", changed, table + 128 * number + 4 * int(word[1:]), value)
    return with_checksum(changed)


def test_a_damaged_code_is_refused_with_a_status(tmp_path: Path) -> None:
    graph, images = many_zeros()
    blob = write_blob(graph)
    number = max(convolutions(blob))
    words = convolutions(blob)[number]
    size, lanes = words[19], words[30]
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, size - 8 - 4 * lanes, dtype=np.uint8).tobytes()
    old = bytearray(blob)
    old[8] = 2
    end, wrong = "do not end where they must", "lanes, size or frequencies"
    cases = [
        (damaged(blob, number, 8 + 4 * lanes, noise), end),
        (damaged(blob, number, 8, bytes(4 * lanes)), end),
        (damaged(blob, number, 8, b"\xff" * 4 * lanes), end),
        (damaged(blob, number, size - 2, noise[:2]), end),
        (reworded(blob, number, w19=size - 2), end),
        (reworded(blob, number, w19=size + 2), end),
        (reworded(blob, number, w19=8 + 4 * lanes), end),
        (reworded(blob, number, w30=2 * lanes), end),
        (damaged(blob, number, 0, struct.pack("<4H", 4096, 0, 0, 0)), end),
        (damaged(blob, number, 0, struct.pack("<4H", 4096, 1, 0, 0)), wrong),
        (damaged(blob, number, 0, struct.pack("<4H", 65535, 4097, 0, 0)), wrong),
        (damaged(blob, number, 0, bytes(8)), wrong),
        (reworded(blob, number, w19=size - 1), wrong),
        (reworded(blob, number, w19=7 + 4 * lanes), wrong),
        (reworded(blob, number, w19=0), wrong),
        (reworded(blob, number, w30=3), wrong),
        (reworded(blob, number, w30=1), wrong),
        (reworded(blob, number, w30=-lanes), wrong),
        (reworded(blob, number, w30=-(2**31)), wrong),
        (reworded(blob, number, w30=2**20), wrong),
        (reworded(blob, number, w19=2**31 - 1), "outside the file"),
        (reworded(blob, number, w19=-2), "outside the file"),
        (reworded(blob, number, w18=2**30), "outside the file"),
        (reworded(blob, number, w30=0), "another size"),
        (with_checksum(old), "version 2"),
    ]
    path = tmp_path / "case.blob"
    path.write_bytes(blob)
    assert program("run", path, given=images.tobytes()).returncode == 0
    for place, (content, reason) in enumerate(cases):
        path.write_bytes(content)
        done = program("run", path, given=images.tobytes())
        message = done.stderr.decode()
        first = min(convolutions(blob)) if "version" in reason else number
        assert done.returncode == 7 and f"operation {first}: " in message and reason in message, (
            place,
            done.returncode,
            message,
        )
        if "version" not in reason:
            with pytest.raises((UserError, ValueError)):
                read_graph(content)
