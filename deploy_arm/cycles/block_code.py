"""The machine code of counted blocks, where it came with the counts and not from one executable.

A program that loads shared libraries runs at addresses that no file names. The emulator's plugin keeps what it translated.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping

from deploy_arm.cycles import mca
from deploy_arm.emulate.counts import Block
from foundation.errors import UserError

WORD = 4  # bytes of an A64 instruction
ENCODED = re.compile(
    r"^\t(?P<text>.*?)\s*// encoding: \[0x(..),0x(..),0x(..),0x(..)\]$".replace("(..)", "([0-9a-f]{2})")
)


class BlockCode:
    """Instructions by address.

    ``read`` and ``listing`` are what ``deploy_arm.cycles.estimate.estimate_code`` wants of a program.
    """

    def __init__(self, code: Mapping[Block, bytes]) -> None:
        self.words = {
            block.address + offset: content[offset : offset + WORD]
            for block, content in code.items()
            for offset in range(0, block.size, WORD)
        }

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address, whole instructions.

        Raises:
            ValueError: some of them were not executed.
        """
        try:
            return b"".join(self.words[at] for at in range(address, address + size, WORD))
        except KeyError as error:
            raise ValueError(f"address {address:#x} was not executed") from error

    def listing(self, blocks: Iterable[Block]) -> dict[int, str]:
        """Instruction text by address; what the disassembler does not know is left out.

        Raises:
            UserError: the disassembler is missing or fails.
        """
        wanted = {
            at: self.words[at]
            for block in blocks
            for at in range(block.address, block.address + block.size, WORD)
        }
        texts = disassemble_words(set(wanted.values()))
        return {address: texts[word] for address, word in wanted.items() if word in texts}


def disassemble_words(words: Iterable[bytes]) -> dict[bytes, str]:
    """Text of instructions; addresses in it are relative to the instruction.

    Raises:
        UserError: llvm-mc, which comes with llvm-mca, is missing or fails.
    """
    disassembler = shutil.which(mca.tools()[0].replace("llvm-mca", "llvm-mc"))
    if disassembler is None:
        raise UserError("llvm-mc is not installed beside llvm-mca: `apt-get install llvm-19`")
    given = "\n".join(" ".join(f"{byte:#04x}" for byte in word) for word in sorted(words))
    command = [disassembler, "-disassemble", "-triple=aarch64", "-mattr=+all", "--show-encoding"]
    texts = {}
    for line in mca.run_tool(command, given + "\n").splitlines():
        if found := ENCODED.match(line):
            texts[bytes(int(digits, 16) for digits in found.groups()[1:])] = found["text"]
    return texts
