"""The processors a program can be compiled for. A target is an instruction set; what it costs to run is in ``cores.py``."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.registry import Registry


@dataclass(frozen=True)
class Target:
    """How compilers name a processor.

    Attributes:
        name: what a person types (``--target``).
        description: the processors that run such a program.
        architecture: ``-march`` of clang and gcc.
        tune: ``-mtune`` of clang and gcc; schedules instructions, never changes results.
        zig_cpu: ``-mcpu`` of ``zig cc``, which knows neither ``-march`` nor ``-mtune``.
        dot_product: whether SDOT exists; without it the kernels multiply by widening.
        features: what the processor must have, as /proc/cpuinfo calls it: all that the architecture allows the compiler to use.
    """

    name: str
    description: str
    architecture: str
    tune: str
    zig_cpu: str
    dot_product: bool
    features: tuple[str, ...]


# Bits of AT_HWCAP (Linux, asm/hwcap.h); kernels/processor.c looks at the same.
CAPABILITIES = {
    "asimd": 1, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12, "lrcpc": 15, "asimddp": 20
}  # fmt: skip
ARMV8 = ("asimd", "crc32")
ARMV8_2 = (*ARMV8, "atomics", "asimdrdm", "asimddp")
ARMV8_2_HALF = (*ARMV8_2, "fphp", "asimdhp", "lrcpc")

TARGETS: Registry[Target] = Registry("target")

for _target in (
    Target(
        "a76",
        "Cortex-A76 and newer (Raspberry Pi 5, Neoverse N1)",
        "armv8.2-a+dotprod",
        "cortex-a76",
        "generic+dotprod+crc",
        dot_product=True,
        features=ARMV8_2,
    ),
    Target(
        "x1",
        "Cortex-X1 (Snapdragon 888), Neoverse V1",
        "armv8.2-a+dotprod+fp16+rcpc",
        "cortex-x1",
        "generic+dotprod+crc+fullfp16+rcpc",
        dot_product=True,
        features=ARMV8_2_HALF,
    ),
    Target(
        "x2",
        "Cortex-X2 and newer (Snapdragon 8 Gen 1), Neoverse V2: matrix instructions",
        "armv8.2-a+dotprod+fp16+rcpc",
        "cortex-x2",
        "generic+dotprod+crc+fullfp16+rcpc",
        dot_product=True,
        features=ARMV8_2_HALF,
    ),
    Target(
        "a55",
        "Cortex-A55, the small cores beside A76 to X1",
        "armv8.2-a+dotprod",
        "cortex-a55",
        "generic+dotprod+crc",
        dot_product=True,
        features=ARMV8_2,
    ),
    Target(
        "a72",
        "Cortex-A72 (Raspberry Pi 4)",
        "armv8-a+crc",
        "cortex-a72",
        "generic+crc",
        dot_product=False,
        features=ARMV8,
    ),
    Target(
        "a53",
        "Cortex-A53 (Raspberry Pi 3)",
        "armv8-a+crc",
        "cortex-a53",
        "generic+crc",
        dot_product=False,
        features=ARMV8,
    ),
):
    TARGETS.register(_target.name)(_target)
