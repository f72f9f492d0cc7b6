"""The kernels' sources as a house of their own: no circle among the files, tables that are whole, numbers that Python reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import typing
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from deploy_arm.blob.records import KERNELS as KERNEL_NAMES
from deploy_arm.blob.records import RECORDS
from deploy_arm.costs.choose import COMMAND, TABLE
from deploy_arm.costs.model import KERNELS as COSTED
from deploy_arm.ir import graph as g
from deploy_arm.ir.reference import execute
from deploy_arm.runtime.program import compile_command
from deploy_arm.target.kernel_sources import (
    KERNELS,
    UNTIMED,
    constants,
    library_digest,
    timed_digest,
    without_comments,
)
from deploy_arm.target.targets import CAPABILITIES, TARGETS
from deploy_arm.target.toolchain import choose_compiler


def every_kind(base: type[g.Operation] = g.Operation) -> set[type[g.Operation]]:
    kinds = set(base.__subclasses__())
    return kinds.union(*(every_kind(kind) for kind in kinds))


def test_costs_are_fitted_to_these_kernels() -> None:
    stale = {
        core
        for core, entry in json.loads(TABLE.read_text())["cores"].items()
        if entry.get("kernel_code") != timed_digest()
    }
    assert not stale, (
        f"the kernels have changed since their costs were fitted: `{COMMAND} --cores {' '.join(sorted(stale))}` "
        "fits them anew, about a minute a core"
    )


def test_the_digest_is_of_code_that_takes_time(tmp_path: Path) -> None:
    for path in KERNELS.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    assert {path.stem for path in KERNELS.iterdir()} >= UNTIMED
    before, library = timed_digest(tmp_path), library_digest(tmp_path)
    dense, main = tmp_path / "dense.c", tmp_path / "main.c"
    dense.write_text("/* other\n * words */\n" + dense.read_text())
    main.write_text(main.read_text() + "\nint more;\n")
    assert timed_digest(tmp_path) == before and library_digest(tmp_path) != library
    dense.write_text(dense.read_text() + "\nint more;\n")
    assert timed_digest(tmp_path) != before
    (tmp_path / "new.c").write_text("int more;\n")
    with_new = timed_digest(tmp_path)
    (tmp_path / "new.c").unlink()
    assert timed_digest(tmp_path) != with_new


def test_constants_are_those_that_a_compiler_sees(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler for this machine")
    names = {**constants("tiling.h"), **constants("blob.h")}
    assert len(names) > 40
    lines = "".join(f'_Static_assert({name} == {value}, "{name}");\n' for name, value in names.items())
    source = tmp_path / "asserted.c"
    source.write_text(f'#include "blob.h"\n#include "tiling.h"\n{lines}')
    subprocess.run([compiler, "-std=c11", f"-I{KERNELS}", "-fsyntax-only", str(source)], check=True)


@pytest.mark.parametrize("target", list(TARGETS))
def test_features_of_a_target_are_those_the_program_asks_for(target: str) -> None:
    """As the compiler sees ``processor.c`` with the target's flags; a compiler may use less than the architecture allows."""
    compiler = choose_compiler()
    command = [*compile_command(TARGETS[target], compiler), "-E", "-P", str(KERNELS / "processor.c")]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = {name: int(bit) for name, bit in re.findall(r'\{"(\w+)", (\d+)\}', seen)}
    told = {name: CAPABILITIES[name] for name in TARGETS[target].features}
    assert needed.items() <= told.items()
    assert ("asimddp" in needed) == TARGETS[target].dot_product
    if "clang" in compiler.name:
        assert needed == told


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "sizes.h").write_text(
        "enum { ONE, /* two = 7, */ THREE = 3, SUM = (THREE + ONE) * 2, FOUR };"
    )
    assert constants("sizes.h", tmp_path) == {"ONE": 0, "THREE": 3, "SUM": 6, "FOUR": 7}
    (tmp_path / "sizes.h").write_text("enum { ODD = sizeof(int) };")
    with pytest.raises(ValueError, match=r"sizes\.h: 'sizeof\(int\)'"):
        constants.__wrapped__("sizes.h", tmp_path)


def test_kernels_have_one_number_each() -> None:
    """What a graph may ask for, in the order of the numbers that the kernels know."""
    numbers = {name: value for name, value in constants("blob.h").items() if name.startswith("KERNEL_")}
    assert (
        list(numbers.values()) == list(range(len(KERNEL_NAMES))) and typing.get_args(g.Kernel) == KERNEL_NAMES
    )
    assert all(
        name.upper().split("-")[-1] == key.removeprefix("KERNEL_")
        for name, key in zip(KERNEL_NAMES, numbers, strict=True)
    )
    assert set(COSTED) <= set(KERNEL_NAMES)
    assert all(COSTED[name].does for name in COSTED), "the report says why a kernel was chosen"


def test_every_operation_is_written_read_and_has_a_meaning() -> None:
    kinds = every_kind()
    assert set(RECORDS) == kinds and len({record.opcode for record in RECORDS.values()}) == len(kinds)
    default = execute.dispatch(g.Operation)
    assert [kind.__name__ for kind in kinds if execute.dispatch(kind) is default] == []
    entries = without_comments((KERNELS / "operations.c").read_text())
    assert all(f"[{record.name}] = &{record.name.lower()}_kind," in entries for record in RECORDS.values())


def defined_and_used(nm: str, file: Path) -> tuple[set[str], set[str]]:
    defined: set[str] = set()
    used: set[str] = set()
    for line in subprocess.run(
        [nm, "-g", str(file)], check=True, capture_output=True, text=True
    ).stdout.splitlines():
        *_, kind, name = line.split()
        (used if kind == "U" else defined).add(name)
    return defined, used


@pytest.mark.parametrize("target", ["a76", pytest.param("a72", marks=pytest.mark.slow)])
def test_no_kernel_file_needs_one_that_needs_it(target: str, tmp_path: Path) -> None:
    compiler, nm = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("aarch64-linux-gnu-nm")
    if not compiler or not nm:
        pytest.skip("no aarch64-linux-gnu-gcc on this machine")
    sources = sorted(KERNELS.glob("*.c"))
    flags = ["-std=c11", "-O0", f"-march={TARGETS[target].architecture}", "-c"]
    subprocess.run([compiler, *flags, *map(str, sources)], check=True, cwd=tmp_path)
    symbols = {source.stem: defined_and_used(nm, tmp_path / f"{source.stem}.o") for source in sources}
    homes = {name: stem for stem, (defined, _) in symbols.items() for name in defined}
    needs = {
        stem: {homes[name] for name in used if name in homes} - {stem} for stem, (_, used) in symbols.items()
    }
    order = list(TopologicalSorter(needs).static_order())  # raises CycleError, with the circle
    assert order[-1] == "main" and order.index("plan") < order.index("dense") < order.index("convolution")
