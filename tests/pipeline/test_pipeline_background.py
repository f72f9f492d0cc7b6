"""What is written beside a search: never waited for while it runs, whole at its end, or said to be missing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import UserError
from pipeline.review.background import LAST_TRIES, SERVER, Background, Patience
from pipeline.review.store import TrackingError
from pipeline.review.tracking import Tracker
from tests.pipeline.test_pipeline_tracking import record

LONG = 60.0  # seconds after which a test fails that waits for what should have come


class Store:
    """Stands for a tracker: keeps what it was told, and does before each what a test asks for."""

    def __init__(self, before: Callable[[int], object] = lambda number: None) -> None:
        self.told: list[Any] = []
        self.calls, self.before = 0, before
        self.opened = 0

    def open(self, heard: Callable[[], None]) -> Any:
        self.opened += 1
        self.heard = heard
        return self

    def job(self, what: Any) -> Callable[[Any], None]:
        def write(store: Any) -> None:
            assert store is self
            self.calls += 1
            self.before(self.calls)
            self.told.append(what)
            self.heard()

        return write


def quickly(store: Store, said: list[str] | None = None, patience: Patience = SERVER) -> Background[Any]:
    patience = replace(patience, pause=0.01)
    return Background(store.open, (said if said is not None else []).append, patience)


def test_a_store_that_hangs_is_neither_waited_for_nor_forgotten() -> None:
    let_go, reached = threading.Event(), threading.Event()

    def hang(number: int) -> None:
        reached.set()
        assert let_go.wait(LONG)

    store, said = Store(hang), list[str]()
    background = quickly(store, said, Patience(silent=0.3, total=LONG))
    background.put(store.job("first"))
    assert reached.wait(LONG)
    for number in range(
        1000
    ):  # each returns at once, though nothing is ever written; what waits does not grow
        background.put(store.job(number))
    why = background.close(store.job("last"))
    assert why is not None and "no answer" in why and store.told == []
    let_go.set()
    background._thread.join(LONG)
    assert store.told == ["first", "last"]  # a thread that is left alone still ends, and quietly
    assert said == []


def test_the_newest_takes_the_place_of_what_waits_and_the_last_is_always_written() -> None:
    gate, reached = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        reached.set()
        assert gate.wait(LONG)

    store = Store(wait)
    with quickly(store) as background:
        background.put(store.job(0))
        assert reached.wait(LONG)
        for number in range(1, 50):
            background.put(store.job(number))
        gate.set()
        assert background.close(store.job("all")) is None
        background.put(store.job("too late"))
        assert background.close() is None
    assert store.told in ([0, "all"], [0, 49, "all"]) and store.opened == 1


def test_trouble_is_said_once_and_that_it_is_over_once() -> None:
    def fail_thrice(number: int) -> None:
        if number <= 3:
            raise TrackingError(f"MLflow, writing trials: refused at 0x{number}")

    store, said, over = Store(fail_thrice), list[str](), threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if "warning" not in text:
            over.set()

    background = Background(store.open, say, replace(SERVER, pause=0.01))
    background.put(store.job("a"))
    assert over.wait(LONG)
    assert background.close() is None
    assert len(said) == 2 and said[0].startswith("warning: MLflow, writing trials: refused at 0x1")
    assert store.told == ["a"] and store.opened == 1


@pytest.mark.parametrize("kind", [TrackingError, UserError, RuntimeError])
def test_a_store_that_fails_to_the_end_is_said_to_lack_it(kind: type[Exception]) -> None:
    def fail(number: int) -> None:
        raise kind("it is down")

    store = Store(fail)
    background = quickly(store)
    assert background.close(store.job("all")) == "it is down"
    assert store.calls == LAST_TRIES and store.told == []


def test_a_store_that_cannot_be_opened_is_tried_again() -> None:
    tries = []

    def opened(heard: Callable[[], None]) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise UserError("nothing answers")
        return "tracker"

    told: list[Any] = []
    background = Background(opened, lambda text: None, replace(SERVER, pause=0.01))
    assert background.close(told.append) is None
    assert told == ["tracker"] and len(tries) == 2


def test_a_slow_store_is_left_when_patience_ends_but_one_that_answers_is_waited_for() -> None:
    stop = threading.Event()

    def trickle(number: int) -> None:
        while not stop.wait(0.05):
            store.heard()

    store = Store(trickle)
    background = quickly(store, None, Patience(silent=LONG, total=0.5))
    assert "not taken everything" in str(background.close(store.job("all")))
    stop.set()
    background._thread.join(LONG)

    answers = iter(range(10))

    def steady(number: int) -> None:
        for _ in answers:  # longer in all than it may ever be silent
            stop.clear()
            stop.wait(0.1)
            store.heard()

    store = Store(steady)
    assert quickly(store, None, Patience(silent=0.6, total=LONG)).close(store.job("all")) is None


def test_an_error_of_the_search_loses_nothing_that_was_handed_over() -> None:
    store, said = Store(), list[str]()
    with pytest.raises(UserError), quickly(store, said) as background:
        background.put(store.job("ended"))
        raise UserError("the disk is full")
    assert store.told == ["ended"] and said == []

    def fail(number: int) -> None:
        raise TrackingError("it is down")

    store = Store(fail)
    with pytest.raises(UserError), quickly(store, said) as background:
        background.put(store.job("ended"))
        raise UserError("the disk is full")
    assert "MLflow lacks what ended last (it is down)" in said[-1]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_accepts_and_never_answers(silent_server: str, tmp_path: Path) -> None:
    said: list[str] = []
    opened = partial(Tracker, silent_server, tmp_path, "hanging")
    background = Background(lambda told: opened(told=told), said.append, Patience(0.5, 0.5))
    background.put(lambda tracker: tracker.sync([record(0)]))
    why = background.close(lambda tracker: tracker.sync([record(0)]))
    assert why is not None and background._thread.daemon  # the process may end while it hangs
