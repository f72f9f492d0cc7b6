"""The CPU cores a profile can be modelled for: clock, widths, caches, and which public models stand for them.

Clocks and cache sizes are those of the named board. ``scheduler`` is the LLVM scheduling model whose peak rates agree with the
core's: LLVM 19 maps cortex-a76, a78 and x1 themselves to an older model with one vector multiply-add per cycle, so the
Neoverse sibling is taken. Programs choose SMMLA when they run, so cores that lack it are emulated by models that lack it.
Memory latency is the full random latency that AnandTech measured on the Snapdragon 888, 114 ns, assumed for the other boards
too; the second level's extra latency is a figure of public core descriptions. Both only raise the upper end of a modelled
interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from foundation.registry import Registry


@dataclass(frozen=True)
class Caches:
    """Geometry of the simulated data caches; lines have 64 bytes."""

    first_bytes: int = 64 * 1024
    first_ways: int = 4
    second_bytes: int = 512 * 1024
    second_ways: int = 8


@dataclass(frozen=True)
class Core:
    """One kind of core.

    Attributes:
        target: the compiler target it runs (see ``TARGETS``).
        board: where clock and caches come from.
        frequency_ghz: clock for turning cycles into time.
        scheduler: llvm-mca's ``-mcpu``.
        front_end: instructions per cycle that the front end delivers: (pessimistic, optimistic).
        emulated_cpu: QEMU's ``-cpu``: a model with exactly the instructions the target may use, so that a program that
            uses more stops.
        second_latency, memory_latency: cycles that a miss of the first and of the second level adds when nothing hides it.
        ordering_only: the scheduling model is known to flatter the core; figures only rank candidates.
        stands_for: the real chips that figures hold for, and how far others are off, as ``benchmarks.silicon`` found it.
        approximate: how far off all real chips of this core are, where that is too far to rely on; empty elsewhere. Words
            only: neither of the two changes a figure, so they are no part of what identifies a core.
    """

    target: str
    board: str
    frequency_ghz: float
    scheduler: str
    front_end: tuple[int, int]
    emulated_cpu: str
    caches: Caches
    second_latency: int
    memory_latency: int
    ordering_only: bool = False
    stands_for: str = field(default="", repr=False, compare=False)
    approximate: str = field(default="", repr=False, compare=False)

    @property
    def caution(self) -> str:
        """What to know before relying on a figure: begins with the word that marks the core; empty where it is sound."""
        if self.approximate:
            return f"approximate: {self.approximate}"
        return "for ranking only: the model flatters this core" if self.ordering_only else ""

    @property
    def mark(self) -> str:
        """The first words of ``caution``, for beside a name."""
        return self.caution.partition(":")[0]


CORES: Registry[Core] = Registry("modelled core")

for _core in (
    Core(
        "a76",
        "Raspberry Pi 5",
        2.4,
        "neoverse-n1",
        (4, 4),
        "cortex-a76",
        Caches(),
        9,
        274,
        stands_for="a phone's Cortex-A76 with fast memory (Snapdragon 855+); a Raspberry Pi 5 takes 1.1 to 1.5 times as long",
    ),
    # X1 decodes five instructions a cycle and issues up to eight from its decoded-operation cache.
    Core(
        "x1",
        "Snapdragon 888",
        2.84,
        "neoverse-v1",
        (5, 8),
        "neoverse-n1",
        Caches(65536, 4, 1048576, 8),
        9,
        324,
    ),
    # The analyser's own models of this generation are not sane (a loop of ten instructions takes twelve cycles); V1 has SMMLA.
    Core(
        "x2",
        "Snapdragon 8 Gen 1",
        3.0,
        "neoverse-v1",
        (5, 8),
        "max,sve=off",
        Caches(65536, 4, 1048576, 8),
        9,
        342,
        stands_for="no chip that was compared with; a Cortex-X4 is about a tenth slower",
    ),
    Core(
        "a72",
        "Raspberry Pi 4",
        1.8,
        "cortex-a72",
        (3, 3),
        "cortex-a72",
        Caches(32768, 2, 1048576, 16),
        16,
        205,
        approximate="a real Cortex-A72 (Raspberry Pi 4, RK3399) takes 1.4 to 1.7 times the modelled time",
    ),
    # In-order cores: QEMU 7.2 has no Cortex-A55; the A76 model has the same instructions.
    Core(
        "a55",
        "Snapdragon 888",
        1.8,
        "cortex-a55",
        (2, 2),
        "cortex-a76",
        Caches(32768, 4, 131072, 4),
        8,
        205,
        ordering_only=True,
    ),
    Core(
        "a53",
        "Raspberry Pi 3",
        1.2,
        "cortex-a53",
        (2, 2),
        "cortex-a53",
        Caches(32768, 4, 524288, 16),
        13,
        137,
        ordering_only=True,
    ),
):
    CORES.register(_core.target)(_core)
