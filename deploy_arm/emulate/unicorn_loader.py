"""Runs a static aarch64 Linux executable inside unicorn: the emulator that pip can install.

Slower than QEMU, but the results are exact. The program gets one thread, standard input from memory, and read access to the
files named in its arguments; every other path does not exist for it. No matrix-multiply extension (unicorn's models stop
before i8mm).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy_arm.emulate.counts import Counts, OperationCounts, operations_of
from deploy_arm.emulate.elf import read_executable
from deploy_arm.emulate.unicorn_counter import PythonCounter
from deploy_arm.target.targets import CAPABILITIES, TARGETS
from foundation.errors import UserError

PAGE = 4096
HEAP_SIZE = 64 << 20
STACK_TOP, STACK_SIZE = 0x7FFF00000000, 8 << 20
MAPPINGS_START = 0x7F0000000000
LOAD_DISTANCE = 0x5500000000  # of a position-independent program from its own addresses, as QEMU does it
MARK = 1000000
FLOATING_POINT = 1  # of the capability bits of aarch64 Linux; the others are those of the target

READ_FILE = {63: "read", 65: "readv", 67: "pread"}
IGNORED = {
    96,
    99,
    98,
    122,
    123,
    132,
    134,
    135,
    215,
    226,
    233,
    261,
}  # tid address, robust list, signals, munmap, protections
AT_FDCWD = -100


@dataclass
class Finished:
    """What a program left: its standard output, and the block counts of every region between markers."""

    output: bytes
    regions: dict[int, OperationCounts] = field(default_factory=dict)
    entry: int | None = None

    def counts(self) -> Counts:
        """Raises ValueError when the program did not announce its operations."""
        return Counts(operations_of(self.regions), "unicorn", entry=self.entry)


class Process:
    """Memory, registers and open files of one emulated program. System-call numbers are aarch64 Linux's."""

    def __init__(
        self, program: Path, arguments: list[str], given: bytes, target: str, counter: PythonCounter | None
    ) -> None:
        import unicorn
        from unicorn import arm64_const as arm64

        self.arm64 = arm64
        self.engine: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        # Unicorn has no model of a core with the dot product but the largest one.
        model = "MAX" if TARGETS[target].dot_product else target.upper()
        self.engine.ctl_set_cpu_model(getattr(arm64, f"UC_CPU_ARM64_{model}"))
        self.given, self.position = given, 0
        self.output, self.errors = bytearray(), bytearray()
        self.status: int | None = None
        self.failure: BaseException | None = None
        self.readable = {os.path.abspath(argument) for argument in arguments if os.path.isfile(argument)}
        self.files: dict[int, tuple[bytes, int]] = {}
        self.next_mapping = MAPPINGS_START
        self.counter = counter
        self.calls: dict[int, Callable[..., int]] = {
            56: self.open, 57: self.close, 62: self.seek, 63: self.read, 64: self.write, 65: self.read_vector,
            66: self.write_vector, 67: self.read_at, 79: self.status_at, 80: self.status_of, 93: self.exit, 94: self.exit,
            113: self.clock, 156: self.session, 160: self.uname, 214: self.set_break, 222: self.map, 278: self.random,
        }  # fmt: skip
        self.load(program, arguments, target)

    def load(self, program: Path, arguments: list[str], target: str) -> None:
        executable = read_executable(program)
        distance = LOAD_DISTANCE if executable.position_independent else 0
        end = 0
        mapped: set[int] = set()
        for segment in executable.segments:
            start = segment.address + distance
            first, last = start // PAGE, -(-(start + segment.size) // PAGE)
            for page in range(first, last):
                if page not in mapped:
                    self.engine.mem_map(page * PAGE, PAGE)
                    mapped.add(page)
            self.engine.mem_write(start, segment.content)
            end = max(end, last * PAGE)
        self.heap = self.heap_end = end
        self.engine.mem_map(self.heap, HEAP_SIZE)
        self.engine.mem_map(STACK_TOP - STACK_SIZE, STACK_SIZE)
        capabilities = FLOATING_POINT | sum(1 << CAPABILITIES[name] for name in TARGETS[target].features)
        stack = STACK_TOP - PAGE
        strings = [str(program), *arguments]
        pointers = []
        for text in strings:
            encoded = text.encode() + b"\0"
            stack -= len(encoded)
            self.engine.mem_write(stack, encoded)
            pointers.append(stack)
        random = stack = (stack - 16) & ~15
        self.engine.mem_write(random, bytes(range(16)))
        # Auxiliary vector: program headers, page size, base, entry, ids, capabilities, clock ticks, secure, random bytes.
        auxiliary = [
            3,
            executable.headers + distance,
            4,
            executable.header_size,
            5,
            executable.header_count,
            6,
            PAGE,
            7,
            0,
            9,
        ]
        auxiliary += [
            executable.entry + distance,
            11,
            0,
            12,
            0,
            13,
            0,
            14,
            0,
            16,
            capabilities,
            17,
            100,
            23,
            0,
            25,
            random,
            26,
            0,
            0,
            0,
        ]
        words = [len(strings), *pointers, 0, 0, *auxiliary]
        stack = (stack - 8 * len(words)) & ~15
        self.engine.mem_write(stack, struct.pack(f"<{len(words)}Q", *words))
        self.engine.reg_write(self.arm64.UC_ARM64_REG_SP, stack)
        # Floating point and vectors allowed at this exception level.
        enabled = self.engine.reg_read(self.arm64.UC_ARM64_REG_CPACR_EL1) | 3 << 20
        self.engine.reg_write(self.arm64.UC_ARM64_REG_CPACR_EL1, enabled)
        self.entry = executable.entry + distance

    # System calls: arguments as signed 64-bit numbers, result or negative error number.

    def open(self, folder: int, path: int, *_: int) -> int:
        name = os.path.abspath(self.string(path))
        if name not in self.readable:
            return -errno.ENOENT
        handle = 3 + len(self.files)
        self.files[handle] = (Path(name).read_bytes(), 0)
        return handle

    def close(self, handle: int, *_: int) -> int:
        return 0

    def seek(self, handle: int, offset: int, whence: int, *_: int) -> int:
        if handle not in self.files:
            return -errno.ESPIPE
        content, position = self.files[handle]
        position = {0: 0, 1: position, 2: len(content)}[whence] + offset
        self.files[handle] = (content, position)
        return position

    def take(self, handle: int, size: int) -> bytes | None:
        if handle == 0:
            chunk = self.given[self.position : self.position + size]
            self.position += len(chunk)
            return chunk
        if handle not in self.files:
            return None
        content, position = self.files[handle]
        chunk = content[position : position + size]
        self.files[handle] = (content, position + len(chunk))
        return chunk

    def read(self, handle: int, address: int, size: int, *_: int) -> int:
        chunk = self.take(handle, size)
        if chunk is None:
            return -errno.EBADF
        self.engine.mem_write(address, chunk)
        return len(chunk)

    def read_at(self, handle: int, address: int, size: int, offset: int, *_: int) -> int:
        if handle not in self.files:
            return -errno.EBADF
        chunk = self.files[handle][0][offset : offset + size]
        self.engine.mem_write(address, chunk)
        return len(chunk)

    def vectors(self, address: int, count: int) -> list[tuple[int, int]]:
        data = self.engine.mem_read(address, 16 * count)
        return [struct.unpack_from("<QQ", data, 16 * index) for index in range(count)]

    def read_vector(self, handle: int, address: int, count: int, *_: int) -> int:
        total = 0
        for base, size in self.vectors(address, count):
            done = self.read(handle, base, size)
            if done < 0:
                return done
            total += done
            if done < size:
                break
        return total

    def write(self, handle: int, address: int, size: int, *_: int) -> int:
        if handle not in (1, 2):
            return -errno.EBADF
        (self.output if handle == 1 else self.errors).extend(self.engine.mem_read(address, size))
        return size

    def write_vector(self, handle: int, address: int, count: int, *_: int) -> int:
        return sum(self.write(handle, base, size) for base, size in self.vectors(address, count) if size)

    def file_status(self, handle: int, address: int) -> int:
        content = self.files[handle][0] if handle in self.files else b""
        mode = 0o100444 if handle in self.files else 0o010600  # a regular file, else a pipe
        head = struct.pack("<QQIIIIQQqii", 0, 0, mode, 1, 0, 0, 0, 0, len(content), PAGE, 0)
        self.engine.mem_write(address, head.ljust(128, b"\0"))
        return 0

    def status_of(self, handle: int, address: int, *_: int) -> int:
        return self.file_status(handle, address)

    def status_at(self, folder: int, path: int, address: int, *_: int) -> int:
        return self.file_status(folder, address) if self.string(path) == "" else -errno.ENOENT

    def exit(self, status: int, *_: int) -> int:
        self.status = status & 0xFF
        self.engine.emu_stop()
        return 0

    def clock(self, _: int, address: int, *__: int) -> int:
        self.engine.mem_write(address, struct.pack("<qq", *divmod(time.monotonic_ns(), 10**9)))
        return 0

    def session(self, process: int, *_: int) -> int:
        process = (process & 0xFFFFFFFF) - (1 << 32)
        if self.counter and -(1 << 31) <= process <= -MARK:
            self.counter.enter(-process - MARK)
        return -errno.ESRCH

    def uname(self, address: int, *_: int) -> int:
        names = ("Linux", "emulated", "5.10.0", "1", "aarch64", "")
        self.engine.mem_write(address, b"".join(name.encode().ljust(65, b"\0") for name in names))
        return 0

    def set_break(self, address: int, *_: int) -> int:
        if self.heap <= address <= self.heap + HEAP_SIZE:
            self.heap_end = address
        return self.heap_end

    def map(self, _: int, size: int, __: int, flags: int, handle: int, offset: int) -> int:
        size = -(-size // PAGE) * PAGE
        address = self.next_mapping
        self.next_mapping += size + PAGE  # a hole between mappings catches what runs over
        self.engine.mem_map(address, size)
        if not flags & 0x20:
            if handle not in self.files:
                return -errno.EBADF
            self.engine.mem_write(address, self.files[handle][0][offset : offset + size])
        return address

    def random(self, address: int, size: int, *_: int) -> int:
        self.engine.mem_write(address, bytes(size))
        return size

    # The emulator's callbacks. An exception must not cross the emulator's C frames: it is kept, and raised after the stop.

    def string(self, address: int) -> str:
        text = bytearray()
        while (byte := self.engine.mem_read(address + len(text), 1)[0]) != 0:
            text.append(byte)
        return text.decode(errors="replace")

    def on_interrupt(self, _: Any, number: int, __: Any) -> None:
        try:
            if number != 2:
                where = self.engine.reg_read(self.arm64.UC_ARM64_REG_PC)
                raise UserError(
                    f"exception {number} at {where:#x}: an instruction that the emulated core does not have"
                )
            registers = [getattr(self.arm64, f"UC_ARM64_REG_X{index}") for index in range(6)]
            values = [self.engine.reg_read(register) for register in registers]
            signed = [value - (1 << 64) if value >> 63 else value for value in values]
            call = self.engine.reg_read(self.arm64.UC_ARM64_REG_X8)
            if call in self.calls:
                result = self.calls[call](*signed)
            else:
                result = 0 if call in IGNORED else -errno.ENOSYS
            self.engine.reg_write(self.arm64.UC_ARM64_REG_X0, result & (1 << 64) - 1)
        except Exception as error:
            self.failure = error
            self.engine.emu_stop()


def run_program(
    program: Path,
    arguments: list[str],
    given: bytes,
    *,
    target: str = "a76",
    timeout: float = 600.0,
    counter: PythonCounter | None = None,
) -> Finished:
    """Runs ``program ARGUMENTS`` to its end with ``given`` on its standard input; ``counter`` counts what is executed.

    Raises:
        UserError: unicorn is not installed, the program fails or takes longer than ``timeout`` seconds, or it uses
            an instruction that the target or unicorn does not have.
    """
    try:
        import unicorn
    except ImportError as error:
        raise UserError("unicorn is not installed: `pip install unicorn==2.1.4`") from error
    process = Process(program, arguments, given, target, counter)
    process.engine.hook_add(unicorn.UC_HOOK_INTR, process.on_interrupt)
    if counter:
        counter.attach(process.engine)
    what = f"{program.name} (unicorn)"
    try:
        process.engine.emu_start(process.entry, 0, timeout=int(timeout * 1e6))
    except unicorn.UcError as error:
        where = process.engine.reg_read(process.arm64.UC_ARM64_REG_PC)
        raise UserError(f"{what} stopped at {where:#x}: {error}") from error
    finally:
        if counter:
            counter.close()
    if process.failure is not None:
        if isinstance(process.failure, UserError):
            raise UserError(f"{what} stopped: {process.failure}") from process.failure
        raise process.failure
    if process.status is None:
        raise UserError(f"{what} did not end within {timeout:.0f} s")
    if process.status != 0:
        message = process.errors.decode(errors="replace").strip().splitlines()[-6:]
        raise UserError(
            f"{what} stopped with status {process.status}: " + ("\n".join(message) or "(no message)")
        )
    return Finished(bytes(process.output), counter.regions if counter else {}, process.entry)
