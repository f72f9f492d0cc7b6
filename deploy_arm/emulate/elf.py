"""The few facts of a static aarch64 executable that emulation and profiling need: its segments and its entry."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError

AARCH64 = 183
FIXED, POSITION_INDEPENDENT = 2, 3  # ELF's types "executable" and "shared object"
LOAD, INTERPRETER = 1, 3


@dataclass(frozen=True)
class Segment:
    """Bytes that belong at a virtual address; ``size`` in memory may exceed the content, the rest is zero."""

    address: int
    content: bytes
    size: int


@dataclass(frozen=True)
class Executable:
    """A little-endian 64-bit static executable.

    ``headers``, ``header_size`` and ``header_count`` say where its program headers lie in memory (the C library wants to know).
    Addresses are the file's own; one that is ``position_independent`` may run at any distance from them.
    """

    entry: int
    segments: tuple[Segment, ...]
    headers: int
    header_size: int
    header_count: int
    position_independent: bool = False

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a virtual address.

        Raises:
            ValueError: the range is not in the file's part of one segment.
        """
        for segment in self.segments:
            offset = address - segment.address
            if offset >= 0 and offset + size <= len(segment.content):
                return segment.content[offset : offset + size]
        raise ValueError(f"address {address:#x} is not in the executable")


def read_executable(path: Path) -> Executable:
    """Parses ``path``.

    Raises:
        UserError: not a static aarch64 ELF executable.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise UserError(f"{path} is not a 64-bit little-endian ELF executable")
    kind, machine, _, entry, table, _, _, _, entry_size, count = struct.unpack_from("<HHIQQQIHHH", data, 16)
    if machine != AARCH64 or kind not in (FIXED, POSITION_INDEPENDENT):
        raise UserError(f"{path} is not a static aarch64 executable (machine {machine}, type {kind})")
    segments = []
    headers = 0
    for index in range(count):
        segment, _, offset, address, _, file_size, memory_size, _ = struct.unpack_from(
            "<IIQQQQQQ", data, table + index * entry_size
        )
        if segment == INTERPRETER:
            raise UserError(f"{path} is not a static aarch64 executable: it needs shared libraries")
        if segment != LOAD:
            continue
        segments.append(Segment(address, data[offset : offset + file_size], memory_size))
        if offset <= table < offset + file_size:
            headers = address + table - offset
    return Executable(entry, tuple(segments), headers, entry_size, count, kind == POSITION_INDEPENDENT)
