"""The blob's header and its refusals."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from deploy_arm.blob.write import HEADER, read_blob, write_blob
from deploy_arm.compiler.frontend import compile_graph
from foundation.errors import UserError
from tests.deploy_arm.compiler_networks import harden


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
