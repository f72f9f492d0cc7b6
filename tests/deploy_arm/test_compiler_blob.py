"""The blob's header and its refusals."""

from __future__ import annotations

import contextlib
import struct
import zlib
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.blob.read import read_graph
from deploy_arm.blob.write import HEADER, read_blob, write_blob
from deploy_arm.compiler.frontend import compile_graph
from foundation.errors import UserError
from tests.deploy_arm.compiler_networks import harden
from tests.deploy_arm.float_cases import everything_float
from tests.deploy_arm.integer_cases import blocks, everything, middles
from tests.deploy_arm.runtime_cases import with_checksum

HOSTILE = (-(2**31), -(2**16), -16, -1, 0, 1, 3, 5, 16, 255, 2**16, 2**30, 2**31 - 1)


@cache
def blob_of(place: int, coded: bool = False) -> bytes:
    """One of four that between them have every operation and every form of weights; coded ones take long to read."""
    return write_blob((everything, everything_float, blocks, middles)[place](), coded=coded)


@pytest.fixture(scope="module")
def blob() -> bytes:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    hardened = harden(model, torch.rand(2, 3, 8, 8), 3)
    return write_blob(compile_graph(hardened, (3, 8, 8), (0.5,) * 3, (0.5,) * 3))


def test_the_header_says_what_the_format_says(blob: bytes) -> None:
    header = read_blob(blob)
    assert blob[:8] == b"CNNBLOB1" and struct.unpack_from("<I", blob, 8) == (3,)
    assert struct.unpack_from("<I", blob, 12) == (zlib.crc32(blob[16:]),)
    assert struct.unpack_from("<Q", blob, 16) == (len(blob),) and len(blob) % 16 == 0
    assert (header.tensors, header.operations) == (4, 3)
    words = np.frombuffer(blob, "<i4", 3 * 32, header.operation_table).reshape(3, 32)
    assert words[:, 0].tolist() == [1, 2, 2]
    convolution, linear = words[1], words[2]
    assert convolution[4:16].tolist() == [3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1, 3]
    assert linear[4:6].tolist() == [6, 6]  # the kernel covers the flattened 6 x 6 image
    assert convolution[20] == 0 and linear[20] == 1
    assert all(offset % 16 == 0 for offset in convolution[[17, 18, 21, 22]])
    # 27 weights for each of 8 channels, padded to 28: 7 tiles of 32 entries of 3 bits, too few for a code to pay
    assert (convolution[19], convolution[30]) == (7 * 12, 0)
    # 8 x 36 weights for each of 4 channels, which are padded to 8: half of the entries are the zero level
    assert linear[19] < 72 * 12 and linear[30] == 1


@pytest.mark.parametrize("position", [0, 9, 17, 25, 70, 400, -1])
def test_one_changed_byte_is_noticed(blob: bytes, position: int) -> None:
    damaged = bytearray(blob)
    damaged[position] ^= 0x40
    with pytest.raises(UserError):
        read_blob(bytes(damaged))


def test_truncated_and_foreign_files_are_refused(blob: bytes) -> None:
    for content in (b"", b"CNNBLOB1", blob[:-16], blob + bytes(16), b"\x7fELF" + bytes(200)):
        with pytest.raises(UserError):
            read_blob(content)


def test_tables_outside_the_file_are_refused(blob: bytes) -> None:
    fields = list(HEADER.unpack_from(blob))
    fields[5] = 2**20  # number of operations
    forged = bytearray(HEADER.pack(*fields) + blob[HEADER.size :])
    struct.pack_into("<I", forged, 12, zlib.crc32(forged[16:]))
    with pytest.raises(UserError, match="tables"):
        read_blob(bytes(forged))


@pytest.mark.parametrize(("place", "turns", "coded"), [*((p, 600, False) for p in range(4)), (2, 60, True)])
def test_words_that_somebody_wrote_wrong_are_refused_in_a_line_though_the_checksum_is_right(
    place: int, turns: int, coded: bool
) -> None:
    """Words of the header, of tensors and of operations: a graph comes of it, or a refusal that says what to do."""
    content, random = blob_of(place, coded), np.random.default_rng(place)
    header = read_blob(content)
    tables = range(4, (header.operation_table + 128 * header.operations) // 4)  # words; behind them lies data
    refused = 0
    for turn in range(turns):
        damaged = bytearray(content)
        for _ in range(1 if turn % 2 else int(random.integers(2, 6))):
            word = int(random.choice(tables))
            value = int(random.choice([*HOSTILE, int(random.integers(-(2**31), 2**31))]))
            if random.random() < 0.3:  # next to what is there
                value = struct.unpack_from("<i", damaged, 4 * word)[0] ^ 1 << int(random.integers(0, 8))
            struct.pack_into("<i", damaged, 4 * word, value)
        try:
            read_graph(with_checksum(damaged))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and ("again" in str(error) or "give the" in str(error))
    assert turns / 4 < refused < turns


def test_damaged_data_is_a_graph_or_refused() -> None:
    """Weights, levels, tables and lists, whose words lie behind those of the operations."""
    for place in range(4):
        content, random = blob_of(place), np.random.default_rng(place)
        first = (read_blob(content).operation_table + 128 * read_blob(content).operations) // 4
        for _ in range(60):
            damaged = bytearray(content)
            for word in random.integers(first, len(content) // 4, 3):
                struct.pack_into("<i", damaged, 4 * int(word), int(random.choice(HOSTILE)))
            with contextlib.suppress(UserError):
                read_graph(with_checksum(damaged))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({0: 99}, "unknown code 99"),
        ({1: 4}, "operation 1 .* does not make sense"),  # a tensor beyond the table
        ({1: 2}, "not there yet"),  # its own output
        ({3: 0}, "writes again"),
        ({14: 0}, "does not lead from"),  # no groups
        ({15: 5}, "does not make sense"),  # bits
        ({18: 2**30}, "do not lie inside"),
        ({19: -1}, "do not lie inside"),
        ({21: -16}, "do not lie inside"),
    ],
)
def test_a_refusal_names_the_operation_or_the_place(blob: bytes, words: dict[int, int], said: str) -> None:
    damaged = bytearray(blob)
    for word, value in words.items():
        struct.pack_into("<i", damaged, read_blob(blob).operation_table + 4 * (32 + word), value)
    with pytest.raises(UserError, match=said):
        read_graph(with_checksum(damaged))
