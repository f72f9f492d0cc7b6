"""How many trials run at a time, by the memory that they were seen to hold."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.measured import TrialMemory, fitting
from pipeline.study.memory import Watch, last_seen

GIB = 2**30


def test_before_anything_was_measured_processors_alone_say_how_many() -> None:
    assert TrialMemory([].append, lambda: []).limited(8) == 8


def test_as_many_run_as_fit_and_it_is_told_once() -> None:
    said: list[str] = []
    hosts = [12.0 * GIB, 3.0 * GIB]
    memory = TrialMemory(said.append, lambda: hosts)
    memory.note(GIB)
    assert memory.limited(8) == 8 and not said
    memory.note(4 * GIB)
    memory.note(2 * GIB)  # another trial's, which holds less
    assert [memory.limited(8) for _ in range(3)] == [3, 3, 3]
    assert said == ["trials hold up to 4.0 GiB of memory: 3 at a time instead of 8"]
    hosts.append(64.0 * GIB)  # a node joins
    assert memory.limited(8) == 8
    hosts.pop()
    assert memory.limited(8) == 3 and len(said) == 2
    memory.note(100 * GIB)
    assert memory.limited(8) == 1  # tried alone, and told by who ends it if it does not fit


@given(st.lists(st.integers(0, 10**6), max_size=5), st.integers(1, 10**5))
def test_what_fits_really_fits_and_one_more_does_not(hosts: list[int], held: int) -> None:
    count = fitting(map(float, hosts), held)
    free, placed = sorted(hosts), 0
    while free and max(free) >= held:  # one after another into the emptiest
        free[free.index(max(free))] -= held
        placed += 1
    assert count == placed


def test_what_a_process_holds_is_known_to_itself_and_to_who_finds_it_dead(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    try:
        seen = last_seen(tmp_path)
        assert seen is not None and 10 * 2**20 < seen[0] <= 1.02 * watch.peak
    finally:
        watch.end()
