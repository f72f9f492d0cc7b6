"""Where and when the pieces of a trial's work were done: plain values that its record keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["trial", "profile", "run"]
KINDS = ("trial", "profile", "run")
NEAR = 2.0  # seconds between two pieces of one place that count as one


@dataclass(frozen=True)
class Piece:
    """One piece.

    Attributes:
        kind: ``trial`` trained and judged on a worker; ``profile`` and ``run`` (a comparison with the reference) were done on a
            device.
        place: the worker or the device, as a person calls it.
        begun, ended: seconds since the epoch, by the clock of whoever ran the search.
    """

    kind: Kind
    place: str
    begun: float
    ended: float

    def as_list(self) -> list[Any]:
        """As a record keeps it."""
        return [self.kind, self.place, round(self.begun, 2), round(self.ended, 2)]

    @classmethod
    def of_list(cls, values: Sequence[Any]) -> Piece:
        """The inverse.

        Raises:
            ValueError, TypeError: it holds something else.
        """
        kind, place, begun, ended = values
        if kind not in KINDS or not isinstance(place, str):
            raise ValueError(f"no piece of work: {values!r}")
        return cls(kind, place, float(begun), float(ended))


def joined(before: Iterable[Piece], more: Iterable[Piece]) -> tuple[Piece, ...]:
    """All pieces by when they began; what a worker did one right after the other is one."""
    found: list[Piece] = []
    last: dict[str, int] = {}  # of each worker, where its last piece is
    for piece in sorted((*before, *more), key=lambda each: (each.begun, each.ended)):
        at = last.get(piece.place) if piece.kind == "trial" else None
        if at is not None and piece.begun - found[at].ended < NEAR:
            found[at] = Piece("trial", piece.place, found[at].begun, max(found[at].ended, piece.ended))
            continue
        if piece.kind == "trial":
            last[piece.place] = len(found)
        found.append(piece)
    return tuple(found)
