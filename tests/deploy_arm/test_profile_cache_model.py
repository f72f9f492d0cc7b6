"""The plugin's cache simulation against a slow one written from the definition."""

from __future__ import annotations

import ctypes
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy_arm.target.host import build_shared_library, host_compiler

LINE = 64


class Level(ctypes.Structure):
    _fields_ = [
        ("tags", ctypes.c_void_p),
        ("mask", ctypes.c_uint64),
        ("ways", ctypes.c_uint),
        ("misses", ctypes.c_uint64),
    ]


class Model(ctypes.Structure):
    _fields_ = [("first", Level), ("second", Level), ("last", ctypes.c_uint64), ("accesses", ctypes.c_uint64)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if host_compiler() is None:
        pytest.skip("no C compiler for this machine")
    loaded = ctypes.CDLL(str(build_shared_library("cache", "cache.c")))
    unsigned, wide = ctypes.c_uint, ctypes.c_uint64
    loaded.cache_init.argtypes = [ctypes.POINTER(Model), wide, unsigned, wide, unsigned]
    loaded.cache_init.restype = ctypes.c_bool
    loaded.cache_access.argtypes = [ctypes.POINTER(Model), wide, unsigned]
    loaded.cache_free.argtypes = [ctypes.POINTER(Model)]
    return loaded


class SlowLevel:
    """Sets of lines in order of use."""

    def __init__(self, size: int, ways: int) -> None:
        self.sets: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(size // LINE // ways)]
        self.ways = ways
        self.misses = 0

    def touch(self, line: int) -> bool:
        lines = self.sets[line % len(self.sets)]
        hit = line in lines
        if hit:
            lines.move_to_end(line)
        else:
            self.misses += 1
            lines[line] = None
            if len(lines) > self.ways:
                lines.popitem(last=False)
        return hit


accesses = st.lists(
    st.tuples(st.integers(0, 40 * LINE) | st.integers(0, 2**40), st.sampled_from([1, 2, 4, 8, 16])),
    max_size=400,
)


@settings(max_examples=150, deadline=None)
@given(accesses, st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 8]))
def test_misses_equal_the_slow_simulation(
    library: ctypes.CDLL, trace: list[tuple[int, int]], ways: int, first_sets: int, second_sets: int
) -> None:
    model = Model()
    first_bytes, second_bytes = LINE * ways * first_sets, LINE * 2 * ways * second_sets
    assert library.cache_init(model, first_bytes, ways, second_bytes, 2 * ways)
    first, second = SlowLevel(first_bytes, ways), SlowLevel(second_bytes, 2 * ways)
    lines = 0
    for address, size in trace:
        library.cache_access(model, address, size)
        for line in range(address // LINE, (address + size - 1) // LINE + 1):
            lines += 1
            if not first.touch(line):
                second.touch(line)
    assert (model.accesses, model.first.misses, model.second.misses) == (lines, first.misses, second.misses)
    library.cache_free(model)


@pytest.mark.parametrize(
    "geometry", [(0, 4, 4096, 8), (64 * 3, 1, 4096, 8), (100, 1, 4096, 8), (4096, 0, 4096, 8)]
)
def test_impossible_geometries_are_refused(library: ctypes.CDLL, geometry: tuple[int, ...]) -> None:
    assert not library.cache_init(Model(), *geometry)
