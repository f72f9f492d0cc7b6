"""The accuracy table as a file: what a cell is, its row, reading rows and adding one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import text_of


@dataclass(frozen=True)
class Cell:
    """One row's conditions."""

    network: str
    method: str
    bits: int
    activation_bits: int | None  # None: float activations
    zero_share: float | None  # None: natural
    epochs: float
    learning_rate: float
    distillation: float  # share of the loss
    distillation_temperature: float
    seed: int
    bfloat16: bool
    device: str
    data: str

    def record(self) -> dict[str, str]:
        """As the file has it."""
        return {name: text_of(value) for name, value in asdict(self).items()}


CONDITIONS = tuple(f.name for f in fields(Cell))


@dataclass(frozen=True)
class Answers:
    """Which images were answered rightly, one bool for each image of a half, in the half's order: by the cell's network and by
    the fp32 network that it started from. They make differences comparable image by image."""

    search: NDArray[np.bool_]
    report: NDArray[np.bool_]
    fp32_search: NDArray[np.bool_]
    fp32_report: NDArray[np.bool_]

    def record(self) -> dict[str, str]:
        """As the file has it: the number of images and their bits in hexadecimal, the first image in the highest bit."""
        halves = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: f"{len(right)}:{np.packbits(right).tobytes().hex()}" for name, right in halves.items()}

    @classmethod
    def of(cls, record: dict[str, str]) -> Answers:
        """What ``record`` gave."""
        return cls(**{f.name: _bits(record[f.name]) for f in fields(cls)})


def _bits(said: str) -> NDArray[np.bool_]:
    count, _, digits = said.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=int(count)).astype(np.bool_)


@dataclass(frozen=True)
class Row:
    """A cell and what came out; accuracies are shares of images, 0..1. ``answers`` go to a file of their own."""

    cell: Cell
    report_top1: float
    search_top1: float
    fp32_report_top1: float
    zeros: float
    bytes: int
    steps: int
    seconds: float
    torch: str
    answers: Answers = field(repr=False, compare=False)

    def record(self) -> dict[str, str]:
        """As the file has it."""
        rest = {f.name: text_of(getattr(self, f.name)) for f in fields(self)[1:-1]}
        return {**self.cell.record(), **rest}


def key(record: dict[str, str]) -> tuple[str, ...]:
    """What tells rows apart: the conditions as text."""
    return tuple(record[f.name] for f in fields(Cell))
