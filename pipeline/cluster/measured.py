"""Memory of trials as it is measured: how many fit beside one another into the nodes that train."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from foundation.show import show_bytes
from pipeline.cluster.nodes import host_memory


class TrialMemory:
    """The most that a trial of this search was seen to hold, and how many of that fit. Before the first has told, nothing is
    known: then processors alone say how many run.

    Args:
        say: told once each time fewer fit than there are processors for.
    """

    def __init__(
        self, say: Callable[[str], None], hosts: Callable[[], Iterable[float]] = host_memory
    ) -> None:
        self._say, self._hosts = say, hosts
        self._held = 0
        self._told: int | None = None

    def note(self, held: int) -> None:
        """Bytes that a trial's process held at most."""
        self._held = max(self._held, held)

    def limited(self, room: int) -> int:
        """How many of ``room`` trials run at a time, at least one."""
        if not self._held:
            return room
        fits = max(1, fitting(self._hosts(), self._held))
        if fits >= room:
            self._told = None
        elif fits != self._told:
            self._told = fits
            self._say(
                f"trials hold up to {show_bytes(self._held)} of memory: {fits} at a time instead of {room}"
            )
        return min(room, fits)


def fitting(hosts: Iterable[float], held: int) -> int:
    """How many processes of ``held`` bytes fit into hosts with so many bytes each; none is on two."""
    return sum(int(memory // held) for memory in hosts)
