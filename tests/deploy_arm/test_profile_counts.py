"""Counting executed instructions under the emulators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy_arm.cycles.block_code import BlockCode
from deploy_arm.emulate import emulator
from deploy_arm.emulate.counts import Block, Counts, operations_of, parse_plugin_output
from deploy_arm.emulate.elf import read_executable
from deploy_arm.emulate.unicorn_counter import CompiledCounter, PythonCounter
from deploy_arm.emulate.unicorn_loader import run_program
from deploy_arm.target.cores import CORES
from foundation.errors import UserError
from tests.deploy_arm.profile_programs import need_qemu

CORE = CORES["a76"]


def counted(program: Path, rounds: int, repeat: int = 1, *mode: str, caches: bool = False) -> Counts:
    need_qemu()
    return emulator.count_command(
        [str(program), str(rounds), str(repeat), *mode], b"", CORE, 60.0, caches=caches
    )


def test_known_loops_have_known_instruction_counts(marked: Path) -> None:
    one, two = counted(marked, 1000), counted(marked, 5000)
    # 18 instructions a round in operation 0, 4 in operation 2, whatever surrounds the loops.
    assert two.operations[0].instructions - one.operations[0].instructions == 18 * 4000
    assert two.operations[2].instructions - one.operations[2].instructions == 4 * 4000
    assert two.operations[1].instructions == one.operations[1].instructions >= 16384 * 3
    loop = max(two.operations[0].blocks.items(), key=lambda item: item[1])
    assert loop[0].instructions == 18 and loop[0].size == 72 and loop[1] in (4999, 5000)


def test_counts_are_repeatable_and_linear(marked: Path) -> None:
    one, again, ten = counted(marked, 2000), counted(marked, 2000), counted(marked, 2000, 10)
    assert one.instructions == again.instructions
    assert one.blocks == again.blocks
    assert ten.instructions == pytest.approx(10 * one.instructions, rel=0.01)


def test_operations_add_up_to_what_was_executed_between_the_first_and_last_marker(marked: Path) -> None:
    # Without markers everything is one region; the difference of two runs cancels start-up and end.
    need_qemu()
    by_operation = counted(marked, 4000, 7).instructions - counted(marked, 4000, 2).instructions

    def total(repeat: int) -> int:
        return (
            run_program(marked, ["4000", str(repeat), "silent"], b"", counter=PythonCounter())
            .regions[-1]
            .instructions
        )

    pytest.importorskip("unicorn")
    assert by_operation == pytest.approx(total(7) - total(2), rel=0.01)


def test_misses_of_a_walk_over_a_megabyte(marked: Path) -> None:
    walk = counted(marked, 10, 2, caches=True).operations[1]
    # 16384 lines, twice; 1 MiB fits neither level, so a least-recently-used cache always misses.
    assert walk.accesses == pytest.approx(2 * 16384, abs=40)
    assert walk.first_misses == pytest.approx(2 * 16384, abs=40)
    assert walk.second_misses == pytest.approx(2 * 16384, abs=40)
    loop = counted(marked, 1000, 1, caches=True).operations[0]
    assert loop.first_misses is not None and loop.first_misses < 5
    assert counted(marked, 10).operations[1].first_misses is None


def test_the_larger_second_level_of_the_other_core_keeps_the_megabyte(marked: Path) -> None:
    need_qemu()
    counts = emulator.count_command([str(marked), "10", "8"], b"", CORES["x1"], 60.0, caches=True)
    walk = counts.operations[1]
    assert walk.first_misses == pytest.approx(8 * 16384, abs=100)
    assert walk.second_misses is not None and walk.second_misses < 3 * 16384


def test_a_program_that_does_not_announce_its_operations_cannot_be_counted(marked: Path) -> None:
    with pytest.raises(ValueError, match="announced"):
        counted(marked, 10, 1, "silent")


def test_failures_are_told_with_the_program_s_own_words(marked: Path) -> None:
    for route in ("qemu", "unicorn"):
        if route == "qemu":
            need_qemu()
        else:
            pytest.importorskip("unicorn")
        with pytest.raises(UserError, match="status 3: a negative number of rounds"):
            emulator.emulate(marked, ["-1"], under=route)
        with pytest.raises(UserError, match="did not end within 1 s"):
            emulator.emulate(marked, ["1", "1", "forever"], timeout=1.0, under=route)
        with pytest.raises(UserError, match="marked"):  # no i8mm on an A76
            emulator.emulate(marked, ["1", "1", "matrix"], under=route)
        with pytest.raises(UserError, match="marked"):  # no dot product on an A72
            emulator.emulate(marked, ["1", "1", "dot"], target="a72", under=route)
        emulator.emulate(marked, ["1", "1", "dot"], under=route)
        data = np.random.default_rng(0).bytes(10_000)
        assert emulator.emulate(marked, ["1", "1", "copy"], data, under=route) == data


def test_both_emulators_and_both_counters_count_the_same_blocks(marked: Path) -> None:
    pytest.importorskip("unicorn")
    theirs = counted(marked, 3000, 2, caches=True)
    for counter in (PythonCounter(), CompiledCounter(None), CompiledCounter(CORE.caches)):
        ours = run_program(marked, ["3000", "2"], b"", counter=counter).counts()
        assert [part.instructions for part in ours.operations] == pytest.approx(
            [part.instructions for part in theirs.operations], rel=0.01
        )
    for mine, other in zip(ours.operations, theirs.operations):
        assert mine.first_misses == pytest.approx(other.first_misses, abs=30)
        assert mine.second_misses == pytest.approx(other.second_misses, abs=30)


def test_plugin_output_is_added_up_and_checked() -> None:
    lines = ["region -1 0 0 0", "block 4 1 4 9", "region 0 5 2 1", "block 8 2 8 3", "region 1 0 0 0"]
    lines += ["region 0 5 2 1", "block 8 2 8 4", "block 16 1 4 1", "region 1 7 7 7", "block 4 1 4 1"]
    operations = parse_plugin_output([*lines, "end"], caches=True)
    assert [part.operation for part in operations] == [0]
    assert operations[0].blocks == {Block(8, 2, 8): 7, Block(16, 1, 4): 1}
    assert operations[0].instructions == 15
    assert (operations[0].accesses, operations[0].first_misses, operations[0].second_misses) == (10, 4, 2)
    with pytest.raises(ValueError, match="cut off"):
        parse_plugin_output(lines, caches=True)
    with pytest.raises(ValueError, match="announced"):
        operations_of({-1: operations[0], 0: operations[0], 2: operations[0]})


def test_a_qemu_that_cannot_load_the_plugin_is_not_asked_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stub(name: str, banner: str, usage: str) -> str:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{banner}" || echo "{usage}"\n')
        path.chmod(0o755)
        return str(path)

    good = stub("good", "qemu-aarch64 version 7.2.22 (Debian)", "-plugin   QEMU_PLUGIN")
    static = stub("static", "qemu-aarch64 version 10.0.13 (Debian)", "-cpu model")
    newer = stub("newer", "qemu-aarch64 version 9.2.0", "-plugin   QEMU_PLUGIN")
    assert [emulator.takes_plugin(path) for path in (good, static, newer)] == [True, False, False]
    monkeypatch.setattr(emulator, "find_qemu", lambda: static)
    pytest.importorskip("unicorn")
    assert emulator.choose_emulator() == "qemu"
    assert emulator.choose_counter() == "unicorn"


def test_machine_code_kept_by_the_emulator_is_that_of_the_executable(marked: Path) -> None:
    need_qemu()
    counts = emulator.count_command([str(marked), "10", "1"], b"", CORE, 60.0, caches=False, code=True)
    executable = read_executable(marked)
    assert set(counts.blocks) <= set(counts.code)
    assert all(
        executable.read(block.address, block.size) == content for block, content in counts.code.items()
    )
    code = BlockCode(counts.code)
    block = max(counts.blocks, key=lambda block: block.instructions)
    assert code.read(block.address, block.size) == counts.code[block]
    with pytest.raises(ValueError, match="not executed"):
        code.read(16, 4)
