"""Modelled cycles of known kernels against arithmetic."""

from __future__ import annotations

import doctest
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_arm.cycles import estimate as cycles
from deploy_arm.cycles import mca, throughput
from deploy_arm.cycles.block_code import BlockCode
from deploy_arm.emulate import emulator
from deploy_arm.emulate.counts import Block
from deploy_arm.emulate.elf import Executable, Segment, read_executable
from deploy_arm.target.cores import CORES
from foundation.errors import UserError
from tests.deploy_arm.profile_programs import need_qemu

ROUNDS = 20_000


def estimated(program: Path, target: str, **options: bool) -> cycles.Estimate:
    need_qemu()
    if options.get("use_mca", True) and mca.find_tools() is None:
        pytest.skip("llvm-mca is not installed")
    counts = emulator.count_command([str(program), str(ROUNDS)], b"", CORES[target], 60.0, caches=True)
    return cycles.estimate(program, counts, CORES[target], **options)


# 16 independent multiply-adds a round: two vector pipes on the A76, four on the X1, whose front end needs 18 / 5 cycles.
@pytest.mark.parametrize(("target", "expected"), [("a76", 8.0), ("x1", 4.0)])
def test_a_multiply_add_loop_runs_at_the_peak_of_its_pipes(
    marked: Path, target: str, expected: float
) -> None:
    operation = estimated(marked, target).operations[0]
    assert operation.low / ROUNDS == pytest.approx(expected, rel=0.03)
    assert operation.point / ROUNDS == pytest.approx(expected, rel=0.06)
    assert operation.high / operation.point < 1.05


@pytest.mark.parametrize("target", ["a76", "x1"])
def test_a_dependent_chain_costs_its_latency(marked: Path, target: str) -> None:
    chain = estimated(marked, target).operations[2]
    # Two multiply-adds, each waiting for the last: 4 cycles each, or 2 where the accumulator is forwarded.
    assert 4 * 0.95 <= chain.point / ROUNDS <= 8 * 1.1
    assert chain.low / ROUNDS <= 1.1


def test_misses_lie_between_point_and_high(marked: Path) -> None:
    core = CORES["a76"]
    walk = estimated(marked, "a76").operations[1]
    assert walk.high - walk.point == pytest.approx(
        16384 * (core.second_latency + core.memory_latency), rel=0.01
    )


@pytest.mark.parametrize("target", list(CORES))
@pytest.mark.parametrize("use_mca", [True, False])
def test_intervals_are_ordered(marked: Path, target: str, use_mca: bool) -> None:
    estimate = estimated(marked, target, use_mca=use_mca)
    parts: list[Any] = [*estimate.operations, estimate]
    for part in parts:
        assert 0 < part.low <= part.point <= part.high
    assert ("own throughput table" in estimate.model) == (not use_mca)


@pytest.mark.parametrize("target", ["a76", "x1", "a53", "a55"])
def test_the_table_s_bound_is_the_analyser_s_on_the_multiply_add_loop(marked: Path, target: str) -> None:
    operations = [estimated(marked, target, use_mca=flag).operations[0] for flag in (True, False)]
    # The A55 model has two multiply-adds a cycle, the table has one (its 64-bit pipes make pairs).
    factor = 0.5625 if target == "a55" else 1.0
    assert operations[0].low == pytest.approx(factor * operations[1].low, rel=0.02)


def test_figures_come_from_the_cache_the_second_time(
    marked: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = estimated(marked, "a76")
    monkeypatch.setattr(mca, "analyse", lambda *_: pytest.fail("analysed again"))
    assert estimated(marked, "a76") == first
    damaged = next((tmp_path / "dgms-arm-search" / "mca").glob("*.json"))
    damaged.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert estimated(marked, "a76") == first


counted_blocks = st.dictionaries(
    st.tuples(st.integers(0, 1000), st.integers(1, 9)).map(
        lambda pair: Block(16 * pair[0], pair[1], 4 * pair[1])
    ),
    st.integers(1, 10**6),
    min_size=1,
)


@given(counted_blocks)
def test_hot_blocks_cover_the_share_and_no_fewer_would(blocks: dict[Block, int]) -> None:
    chosen = cycles.hot_blocks(blocks)
    weights = {block: block.instructions * count for block, count in blocks.items()}
    needed = cycles.COVERAGE * sum(weights.values())
    assert sum(weights[block] for block in chosen) >= needed
    largest = sorted(weights.values(), reverse=True)
    assert sum(largest[: len(chosen) - 1]) < needed


def test_only_fall_through_of_equal_counts_is_joined() -> None:
    nop, branch = 0xD503201F, 0x54000001
    words = [nop, nop, nop, branch, nop, nop]
    # An exception or system instruction (nop is one) ends a piece, so data processing stands for plain instructions.
    add = 0x91000400
    code = b"".join((add if word == nop else word).to_bytes(4, "little") for word in words)
    executable = Executable(0, (Segment(0, code, len(code)),), 0, 0, 0)
    first, second, third = Block(0, 2, 8), Block(8, 2, 8), Block(16, 2, 8)
    assert cycles.join_fall_through({first: 5, second: 5, third: 5}, executable) == {
        Block(0, 4, 16): 5,
        third: 5,
    }
    unequal = {first: 5, second: 6, third: 6}
    assert cycles.join_fall_through(unequal, executable) == unequal
    # A loop cut at a page's end, entered from another block: both go on with its rest.
    entry = Block(4, 1, 4)
    assert cycles.join_fall_through({first: 5, entry: 1, second: 6, third: 6}, executable) == {
        Block(0, 4, 16): 5,
        Block(4, 3, 12): 1,
        third: 6,
    }


def test_disassembly_goes_back_into_the_assembler() -> None:
    for given_text, expected in {
        "b.ne\t0x400abc <multiply+0x10>": "b.ne\ttarget",
        "cbz\tx0, 0x400abc <multiply+0x10>": "cbz\tx0, target",
        "tbnz\tw3, #0x4, 0x400abc": "tbnz\tw3, #0x4, target",
        "bl\t0x400abc <f>": "b\ttarget",
        "blr\tx8": "br\tx8",
        "ret": "br\tx30",
        "adrp\tx0, 0x4a0000 <a+0x1>": "adrp\tx0, target",
        "add\tx0, x1, #0x10": "add\tx0, x1, #0x10",
        "ldr\tx0, 0x400abc <x>": "ldr\tx0, target",
        "mov\tw0, #0x2a                 // =42": "mov\tw0, #0x2a",
    }.items():
        assert re.sub(r"\s+$", "", mca.assembly(given_text)) == expected


def test_instructions_unknown_to_a_core_s_model_do_not_stop_the_others() -> None:
    if mca.find_tools() is None:
        pytest.skip("llvm-mca is not installed")
    known, unknown, nothing = mca.analyse(
        [["fmla\tv0.4s, v1.4s, v2.4s"] * 4, ["no_such_instruction", "add\tx0, x1, x2"], []], "neoverse-n1"
    )
    assert known.bound == 2.0 and unknown.iterated > 0 and nothing.iterated >= 0


def test_the_table_counts_structure_loads_and_pairs() -> None:
    assert doctest.testmod(throughput).failed == 0
    ld1_four, ldp_q, ldr_q, add = 0x4CDF2000, 0xAD400400, 0x3DC00000, 0x91000400

    def bound(*words: int) -> float:
        return throughput.throughput_bound(
            b"".join(word.to_bytes(4, "little") for word in words), "neoverse-n1"
        )

    assert bound(ld1_four) == 2.0
    assert bound(ldp_q) == 1.0
    assert bound(ldr_q) == 0.5
    assert bound(add, add, add) == 1.0


def test_what_is_no_static_program_is_refused(tmp_path: Path, marked: Path) -> None:
    path = tmp_path / "text"
    path.write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match="not a 64-bit"):
        read_executable(path)
    host = shutil.which("true")
    assert host is not None
    with pytest.raises(UserError, match="not a static aarch64"):
        read_executable(Path(host))
    executable = read_executable(marked)
    assert executable.read(executable.segments[0].address, 4) == b"\x7fELF"
    with pytest.raises(ValueError, match="not in the executable"):
        executable.read(1, 4)


def test_code_from_the_counts_costs_what_the_executable_costs(marked: Path) -> None:
    need_qemu()
    if mca.find_tools() is None:
        pytest.skip("llvm-mca is not installed")
    counts = emulator.count_command(
        [str(marked), str(ROUNDS)], b"", CORES["a76"], 60.0, caches=False, code=True
    )
    code = BlockCode(counts.code)
    ours = cycles.estimate(marked, counts, CORES["a76"])
    assert cycles.estimate_code(code, code.listing, counts, CORES["a76"]) == ours
    # The figures above may come from the cache, whose key is the machine code: so both texts are analysed here.
    blocks = cycles.hot_blocks(counts.blocks)
    listings = [
        [
            [mca.assembly(text[address]) for address in range(block.address, block.address + block.size, 4)]
            for block in blocks
        ]
        for text in (mca.disassemble(marked, blocks), code.listing(blocks))
    ]
    assert mca.analyse(listings[0], "neoverse-n1") == mca.analyse(listings[1], "neoverse-n1")
