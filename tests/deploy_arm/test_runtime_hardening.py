"""What the built files ask of the machine they run on, and how they are protected, read from the files; of both tool chains."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy_arm.runtime.program import (
    build_library,
    build_program,
    compile_command,
    compiler_environment,
)
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import (
    CROSS_LIBRARY,
    ROUTE_VARIABLE,
    Route,
    choose_compiler,
    find_compiler,
    is_arm,
)

QEMU = [] if is_arm() else ["qemu-aarch64"]
LOAD, DYNAMIC, INTERPRETER, STACK, RELRO, PROPERTY = 1, 2, 3, 0x6474E551, 0x6474E552, 0x6474E553
NEEDED, STRINGS, TEXT_RELOCATIONS, FLAGS, FLAGS_1, VERSIONS, VERSION_COUNT = (
    1, 5, 22, 30, 0x6FFFFFFB, 0x6FFFFFFE, 0x6FFFFFFF,
)  # fmt: skip
SIGN_RETURN, LANDING_PAD = 0xD503233F, 0xD503245F  # paciasp, bti c
NEWEST_GLIBC = (2, 28)


@dataclass
class Header:
    kind: int
    flags: int
    offset: int
    address: int
    file_size: int


class Elf:
    """The few tables of an ELF file that say what the loader does with it."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.type = struct.unpack_from("<H", self.data, 16)[0]
        table, size, count = (
            struct.unpack_from("<Q", self.data, 32)[0],
            *struct.unpack_from("<HH", self.data, 54),
        )
        self.headers = [
            Header(kind, flags, offset, address, file_size)
            for kind, flags, offset, address, _, file_size in (
                struct.unpack_from("<IIQQQQ", self.data, table + i * size) for i in range(count)
            )
        ]
        start = self.one(DYNAMIC)
        entries = struct.iter_unpack("<QQ", self.data[start.offset : start.offset + start.file_size])
        self.dynamic = [entry for entry in entries if entry[0]]

    def one(self, kind: int) -> Header:
        return next(header for header in self.headers if header.kind == kind)

    def has(self, kind: int) -> bool:
        return any(header.kind == kind for header in self.headers)

    def values(self, tag: int) -> list[int]:
        return [value for found, value in self.dynamic if found == tag]

    def at(self, address: int) -> int:
        """Where in the file an address lies."""
        for header in self.headers:
            if header.kind == LOAD and header.address <= address < header.address + header.file_size:
                return header.offset + address - header.address
        raise ValueError(f"{address:#x} is not in the file")

    def text(self, offset: int) -> str:
        start = self.at(self.values(STRINGS)[0]) + offset
        return self.data[start : self.data.index(b"\0", start)].decode()

    def versions(self) -> list[str]:
        """All versions of symbols that other libraries must have."""
        found = []
        place = self.at(self.values(VERSIONS)[0])
        for _ in range(self.values(VERSION_COUNT)[0]):
            _, count, _, first, following = struct.unpack_from("<HHIII", self.data, place)
            entry = place + first
            for _ in range(count):
                _, _, _, name, step = struct.unpack_from("<IHHII", self.data, entry)
                found.append(self.text(name))
                entry += step
            place += following
        return found

    def protections(self) -> int:
        """GNU_PROPERTY_AARCH64_FEATURE_1_AND: 1 landing pads, 2 signed return addresses."""
        note = self.one(PROPERTY)
        kind, size, value = struct.unpack_from("<III", self.data, note.offset + 16)
        assert (kind, size) == (0xC0000000, 4)
        return int(value)

    def words(self) -> set[int]:
        """All instructions."""
        code = next(header for header in self.headers if header.kind == LOAD and header.flags & 1)
        content = self.data[code.offset : code.offset + code.file_size // 4 * 4]
        return {word for (word,) in struct.iter_unpack("<I", content)}


@pytest.fixture(params=["apt", "pip"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Route:
    chosen: Route = request.param
    if chosen == "pip" and importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    if chosen == "apt" and not (find_compiler("apt").found and (is_arm() or CROSS_LIBRARY.exists())):
        pytest.skip("no compiler for aarch64 from packages")
    monkeypatch.setenv(ROUTE_VARIABLE, chosen)
    return chosen


def check_protected(elf: Elf) -> None:
    """Position-independent; nothing both writable and executable; everything bound, then read-only, before anything runs."""
    assert elf.type == 3
    assert not [header for header in elf.headers if header.kind == LOAD and header.flags & 3 == 3]
    assert elf.one(STACK).flags & 1 == 0
    assert elf.has(RELRO)
    assert elf.values(FLAGS)[0] & 8 and elf.values(FLAGS_1)[0] & 1
    assert not elf.values(TEXT_RELOCATIONS)
    assert {SIGN_RETURN, LANDING_PAD} <= elf.words()


@pytest.mark.parametrize(  # with atomic instructions, and without
    ("route", "target"),
    [
        ("apt", "a76"),
        *(
            pytest.param(*way, marks=pytest.mark.slow)
            for way in (("apt", "a53"), ("pip", "a76"), ("pip", "a53"))
        ),
    ],
    indirect=["route"],
)
def test_the_library_loads_on_older_boards_and_is_protected(route: Route, target: str) -> None:
    elf = Elf(build_library(target))
    check_protected(elf)
    assert elf.protections() & 3 == 3
    needed = {elf.text(offset) for offset in elf.values(NEEDED)}
    assert (
        {"libc.so.6", "libpthread.so.0"}
        <= needed
        <= {"libc.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1"}
    )
    versions = elf.versions()
    assert versions and all(name.startswith("GLIBC_") for name in versions)
    assert max(tuple(int(part) for part in name[6:].split(".")) for name in versions) <= NEWEST_GLIBC
    assert b"__stack_chk_fail" in elf.data


def test_the_program_is_protected(route: Route) -> None:
    elf = Elf(build_program("a76"))
    check_protected(elf)
    assert not elf.has(INTERPRETER) and not elf.values(NEEDED)


def test_a_damaged_stack_ends_the_program(route: Route, tmp_path: Path) -> None:
    source, program = tmp_path / "main.c", tmp_path / "program"
    source.write_text(
        "#include <string.h>\n"
        "__attribute__((noinline)) static int fill(int count) {\n"
        "    volatile char some[16];\n"
        "    for (int i = 0; i < count; i++) some[i] = 1;\n"
        "    return some[3];\n"
        "}\n"
        "int main(int count, char **arguments) { (void)arguments; return fill(count * 16 - 16) == 1 ? 5 : 6; }\n"
    )
    command = compile_command(TARGETS["a76"], choose_compiler())
    subprocess.run(
        [*command, str(source), "-o", str(program)],
        check=True, capture_output=True, env=compiler_environment(),
    )  # fmt: skip
    fits, beyond = (
        subprocess.run([*QEMU, str(program), *extra], capture_output=True, check=False).returncode
        for extra in (["x"], ["x", "x"])
    )
    assert fits == 5 and beyond not in (5, 6)
