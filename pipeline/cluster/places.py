"""What a person calls the processes that run trials: by the node, where that is not the driver's own, and a small number."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pipeline.study.work import Piece


class Workers:
    """Names of workers, each given once: ``worker 2``, on other nodes ``HOST worker 2``. A process keeps its name; one that began
    after another had died takes that one's, so that there are as many names as trials ran at a time.

    Args:
        own: the driver's node.
        host: how a person calls a node.
    """

    def __init__(self, own: str, host: Callable[[str], str]) -> None:
        self._own, self._host = own, host
        self._names: dict[tuple[str, int], str] = {}
        self._prefixes: dict[str, str] = {}
        self._at_work: dict[int, tuple[str, int]] = {}  # by trial

    def name(self, trial: int, node: str, process: int, running: Collection[int]) -> str:
        """Of the process that works on a trial.

        Args:
            running: the trials in flight; what works on none of them may have died.
        """
        place = (node, process)
        self._at_work = {t: p for t, p in self._at_work.items() if t in running and t != trial}
        if place not in self._names:
            busy = {self._names[other] for other in self._at_work.values()}
            prefix = self._prefix(node)
            for number in range(1, len(self._names) + 2):
                if (name := f"{prefix}worker {number}") not in busy:
                    break
            self._names = {p: n for p, n in self._names.items() if n != name}
            self._names[place] = name
        self._at_work[trial] = place
        return self._names[place]

    def _prefix(self, node: str) -> str:
        """Of two nodes with one host's name the second gets a number."""
        if node == self._own:
            return ""
        if node not in self._prefixes:
            host, taken = self._host(node), set(self._prefixes.values())
            names = (host if n == 1 else f"{host} ({n})" for n in range(1, len(taken) + 2))
            self._prefixes[node] = next(f"{name} " for name in names if f"{name} " not in taken)
        return self._prefixes[node]


def on_worker(name: str, seconds: float, now: float) -> Piece:
    """A piece that took so long and has just ended: times of other nodes' clocks are not compared."""
    return Piece("trial", name, now - seconds, now)
