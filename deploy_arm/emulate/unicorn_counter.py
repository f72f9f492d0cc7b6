"""Counting executed blocks inside unicorn, per region between the program's markers."""

from __future__ import annotations

import ctypes
from typing import Any

from deploy_arm.emulate.counts import Block, OperationCounts
from deploy_arm.target.cores import Caches
from deploy_arm.target.host import build_shared_library, host_compiler


class PythonCounter:
    """One Python call per executed block: needs no compiler, about 10 million instructions a second, no caches."""

    def __init__(self) -> None:
        self.region = OperationCounts(-1)
        self.regions = {-1: self.region}

    def attach(self, engine: Any) -> None:
        import unicorn

        engine.hook_add(unicorn.UC_HOOK_BLOCK, self.on_block)

    def on_block(self, _: Any, address: int, size: int, __: Any) -> None:
        block = Block(address, size // 4, size)
        blocks = self.region.blocks
        blocks[block] = blocks.get(block, 0) + 1

    def enter(self, index: int) -> None:
        """Region ``index`` begins."""
        self.region = self.regions.setdefault(index, OperationCounts(index))

    def close(self) -> None:
        """The program has ended."""


class CompiledCounter(PythonCounter):
    """The same in C (``plugin/hooks.c``): counting is nearly free, a simulated memory access costs half a microsecond."""

    def __init__(self, caches: Caches | None) -> None:
        super().__init__()
        self.caches = caches
        library = ctypes.CDLL(str(build_shared_library("hooks", "hooks.c", "cache.c")))
        wide, pointer = ctypes.c_uint64, ctypes.c_void_p
        library.hooks_new.argtypes = [wide, ctypes.c_uint, wide, ctypes.c_uint]
        library.hooks_new.restype = pointer
        library.hooks_free.argtypes = [pointer]
        library.hooks_take.argtypes = [pointer, pointer, pointer]
        library.hooks_take.restype = wide
        self.library = library
        geometry = caches or Caches()
        self.state = library.hooks_new(
            geometry.first_bytes, geometry.first_ways, geometry.second_bytes, geometry.second_ways
        )
        if not self.state:
            raise ValueError(f"these caches cannot be simulated: {geometry}")

    def attach(self, engine: Any) -> None:
        import unicorn
        from unicorn.unicorn_py3.unicorn import uclib

        # The binding takes Python callbacks only: the C library is called as the binding itself does. (Pinned to 2.1.4.)
        kinds = [(unicorn.UC_HOOK_BLOCK, self.library.hooks_block)]
        if self.caches:
            kinds.append((unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, self.library.hooks_memory))
        for kind, callback in kinds:
            handle = ctypes.c_size_t()
            function = ctypes.cast(callback, ctypes.c_void_p)
            # An empty range (begin after end) means every address.
            status = uclib.uc_hook_add(
                engine._uch,
                ctypes.byref(handle),
                kind,
                function,
                ctypes.c_void_p(self.state),
                ctypes.c_uint64(1),
                ctypes.c_uint64(0),
            )
            if status != unicorn.UC_ERR_OK:
                raise unicorn.UcError(status)

    def enter(self, index: int) -> None:
        self.take()
        super().enter(index)

    def take(self) -> None:
        """What was counted goes to the region that is open."""
        count = self.library.hooks_take(self.state, None, None)
        records, totals = (ctypes.c_uint64 * (3 * count + 1))(), (ctypes.c_uint64 * 4)()
        self.library.hooks_take(self.state, records, totals)
        if totals[3]:
            raise ValueError(f"too many different blocks: {totals[3]} executions were not counted")
        blocks = self.region.blocks
        for place in range(0, 3 * count, 3):
            address, size, executions = records[place : place + 3]
            block = Block(address, size // 4, size)
            blocks[block] = blocks.get(block, 0) + executions
        if self.caches:
            self.region.accesses = (self.region.accesses or 0) + totals[0]
            self.region.first_misses = (self.region.first_misses or 0) + totals[1]
            self.region.second_misses = (self.region.second_misses or 0) + totals[2]

    def close(self) -> None:
        self.take()
        self.library.hooks_free(self.state)
        self.state = None


def make_counter(caches: Caches | None) -> PythonCounter:
    """The compiled counter where this machine has a C compiler, else the one in Python, which simulates no caches."""
    return CompiledCounter(caches) if host_compiler() else PythonCounter()
