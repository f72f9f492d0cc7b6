"""Running the searches of a sweep: so many at a time, each by the search's own command, wherever a ``Runner`` runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from foundation.command import DONE, FAULT, INCOMPLETE, MISTAKE, REFUSED
from foundation.show import show_seconds
from pipeline.sweeps.asked import Asked

WORDS = {DONE: "complete", MISTAKE: "mistake", INCOMPLETE: "incomplete", FAULT: "fault"}
PAUSE = 0.2  # seconds between looks at what runs


class Running(Protocol):
    """A search that was started."""

    where: str

    def status(self) -> int | None:
        """The exit status of the search; None while it runs."""

    def stop(self, *, at_once: bool = False) -> None:
        """Let it end in good order, or at once."""

    def why(self) -> str:
        """What it said last, where it did not come to its end."""


class Runner(Protocol):
    """Runs searches, wherever that is."""

    def start(self, asked: Asked) -> Running:
        """Start a search, or find the one that runs already.

        Raises:
            UserError: it cannot be started.
        """


@dataclass(frozen=True)
class SearchEnd:
    """What became of a search: ``status`` is its command's, ``why`` what it said where that is not 0."""

    study: str
    status: int
    seconds: float = 0.0
    why: str = ""

    @property
    def word(self) -> str:
        return WORDS.get(self.status, WORDS[INCOMPLETE])


def run_all(
    searches: Iterable[Asked], runner: Runner, at_a_time: int, say: Callable[[str], None]
) -> Iterator[SearchEnd]:
    """Run the searches, at most ``at_a_time`` at a time; each outcome as it comes. On an interruption what runs is ended in good
    order, its outcomes are given, and KeyboardInterrupt is raised; a second interruption ends it at once."""
    waiting, count = list(searches), 0
    total, began, ended = len(waiting), time.monotonic(), 0
    running: dict[str, tuple[Running, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                asked, count = waiting.pop(0), count + 1
                started = time.monotonic()
                one = runner.start(asked)
                running[asked.study] = (one, started)
                say(f"[{count}/{total}] {asked.study} started; {one.where}")
            for outcome in _ended(running):
                ended += 1
                left = (time.monotonic() - began) / ended * (total - ended)
                rest = f"; about {show_seconds(left)} left" if ended < total else ""
                story = f" ({outcome.why})" if outcome.why else ""
                say(
                    f"[{ended}/{total}] {outcome.study} {outcome.word} after {show_seconds(outcome.seconds)}{story}{rest}"
                )
                yield outcome
            if running:
                time.sleep(PAUSE)
    except BaseException:
        yield from _stopped(running)
        raise


def _ended(running: dict[str, tuple[Running, float]]) -> Iterator[SearchEnd]:
    for study, (one, started) in list(running.items()):
        status = one.status()
        if status is not None:
            del running[study]
            status = status if status in WORDS else INCOMPLETE  # a signal's: it can be gone on with
            yield SearchEnd(study, status, time.monotonic() - started, "" if status == DONE else one.why())


def _stopped(running: dict[str, tuple[Running, float]]) -> Iterator[SearchEnd]:
    for one, _ in running.values():
        one.stop()
    while running:
        try:
            yield from _ended(running)
            time.sleep(PAUSE)
        except KeyboardInterrupt:
            for one, _ in running.values():
                one.stop(at_once=True)


def overall(statuses: Iterable[int]) -> int:
    """The exit status of a sweep: what a person must put right comes first, then what is not complete, then a gate that said no.
    A fault of a search's program is such a thing as a person must see to."""
    found = set(statuses)
    if found & {MISTAKE, FAULT}:
        return MISTAKE
    return next((status for status in (INCOMPLETE, REFUSED) if status in found), DONE)
