"""Cycles of instruction blocks by LLVM's machine-code analyser, cached by block and scheduling model.

A block is modelled as if it ran in a loop by itself: right for hot loops, optimistic for what runs once. Two figures
per execution are kept: the resource bound (no dependencies, no latencies) and the mean over 50 simulated iterations.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from deploy_arm.emulate.counts import Block
from deploy_arm.target.toolchain import allowed_routes
from foundation.errors import UserError
from foundation.files import cache_directory, json_text, write_atomically

ITERATIONS = 50
# Every extension a kernel may use: the scheduling models know their latencies where the core has them; the analyser leaves an
# instruction out where it does not.
FEATURES = "+dotprod,+i8mm,+fullfp16,+lse,+rcpc,+crc,+aes,+sha2"
REFERENCE = re.compile(r"(?:#?0x[0-9a-f]+ )?<[^>]*>")
LOCAL = re.compile(r"^(b|bl|b\.\w+|cbn?z|tbn?z|adrp?)\t(.*?)#?(?:0x)[0-9a-f]+$")
# A call is modelled as the jump that it is: the analyser would add 100 cycles for the callee, whose blocks are counted.
CALLS = {"bl": "b", "blr": "br", "ret": "br\tx30"}


class Code(Protocol):
    """Machine code by address."""

    def read(self, address: int, size: int) -> bytes: ...


Listing = Callable[[Iterable[Block]], dict[int, str]]


class BlockCycles(NamedTuple):
    """Cycles for one execution of a block."""

    bound: float
    iterated: float


def find_tools() -> tuple[str, str] | None:
    """Paths of llvm-mca and llvm-objdump of one version (19 preferred); None when they are not installed, or when
    the tool chain's route is set to pip, which does not have them."""
    if "apt" not in allowed_routes():
        return None
    for suffix in ("-19", "", "-20", "-18"):
        analyser, disassembler = shutil.which(f"llvm-mca{suffix}"), shutil.which(f"llvm-objdump{suffix}")
        if analyser and disassembler:
            return analyser, disassembler
    return None


def tools() -> tuple[str, str]:
    """As ``find_tools``.

    Raises:
        UserError: they are not installed.
    """
    found = find_tools()
    if found is None:
        raise UserError("llvm-mca is not installed (or not allowed here): `apt-get install llvm-19`")
    return found


@functools.cache
def version_of(analyser: str) -> str:
    found = re.search(r"version (\S+)", run_tool([analyser, "--version"]))
    return found.group(1) if found else "unknown"


def version() -> str:
    """Version of the analyser, such as ``19.1.7``.

    Raises:
        UserError: llvm-mca is not installed.
    """
    return version_of(tools()[0])


def run_tool(command: list[str], given: str | None = None) -> str:
    """Standard output of an LLVM tool.

    Raises:
        UserError: it fails; the message has the end of its error output.
    """
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-600:]}")
    return done.stdout


def disassemble(program: Path, blocks: Iterable[Block]) -> dict[int, str]:
    """Instruction text by address, over the range that the blocks span."""
    spans = [(block.address, block.address + block.size) for block in blocks]
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    command = [
        tools()[1],
        "-d",
        "--no-show-raw-insn",
        f"--start-address={first}",
        f"--stop-address={last}",
        str(program),
    ]
    text = {}
    for line in run_tool(command).splitlines():
        address, separator, instruction = line.strip().partition(":")
        if separator and instruction.strip() and re.fullmatch(r"[0-9a-f]+", address):
            text[int(address, 16)] = instruction.strip()
    return text


def assembly(instruction: str) -> str:
    """Disassembled text as the assembler takes it back: addresses become a symbol, comments go."""
    text = instruction.split("//")[0].split(";")[0].strip()
    text = REFERENCE.sub("target", text)
    text = LOCAL.sub(r"\1\t\2target", text)
    mnemonic, _, operands = text.partition("\t")
    if mnemonic in CALLS:
        return f"{CALLS[mnemonic]}\t{operands}".strip()
    return text


def analyse(texts: list[list[str]], scheduler: str) -> list[BlockCycles]:
    """Figures for blocks of assembly text, in one call of the analyser."""
    lines = []
    for index, text in enumerate(texts):
        # A block that holds nothing the analyser knows would have no region in the output: a nop keeps the numbering.
        lines += [f"# LLVM-MCA-BEGIN {index}", *(text or ["nop"]), f"# LLVM-MCA-END {index}"]
    command = [
        tools()[0],
        "-march=aarch64",
        f"-mcpu={scheduler}",
        f"-mattr={FEATURES}",
        f"-iterations={ITERATIONS}",
    ]
    command += ["--json", "--instruction-info=false", "--resource-pressure=false", "--call-latency=1"]
    command += ["--skip-unsupported-instructions=any", "-"]
    regions = json.loads(run_tool(command, "\n".join(lines) + "\n"))["CodeRegions"]
    found = {}
    for region in regions:
        summary = region["SummaryView"]
        iterated = summary["TotalCycles"] / summary["Iterations"]
        found[int(region["Name"])] = BlockCycles(summary["BlockRThroughput"], iterated)
    return [found.get(index, BlockCycles(0.0, 0.0)) for index in range(len(texts))]


def read_figures(path: Path) -> dict[str, list[float]]:
    """Cached figures; none where there is no such file or it is damaged."""
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def block_cycles(
    code: Code, listing: Listing, blocks: Iterable[Block], scheduler: str
) -> dict[Block, BlockCycles]:
    """Cycles of blocks of a program under a scheduling model (llvm-mca's ``-mcpu``).

    ``code`` has their machine code, ``listing`` gives their instructions' text by address.

    What was analysed before, in whatever program, comes from the cache, whose key is the block's machine code.

    Raises:
        UserError: LLVM's tools are not installed, or fail.
    """
    path = cache_directory("mca") / f"{scheduler}-{version()}-{ITERATIONS}.json"
    known = read_figures(path)
    keys = {block: hashlib.sha256(code.read(block.address, block.size)).hexdigest()[:24] for block in blocks}
    missing = {key: block for block, key in keys.items() if key not in known}
    if missing:
        text = listing(missing.values())
        listings = [
            [
                assembly(text[address])
                for address in range(block.address, block.address + block.size, 4)
                if address in text
            ]
            for block in missing.values()
        ]
        figures = analyse(listings, scheduler)
        # Somebody else may have written meanwhile; who writes last wins, and what is lost is analysed again.
        known = read_figures(path)
        known.update(zip(missing, ([cycles.bound, cycles.iterated] for cycles in figures)))
        write_atomically(path, json_text(known))
    return {block: BlockCycles(*known[key]) for block, key in keys.items()}
