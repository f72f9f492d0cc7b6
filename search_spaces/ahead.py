"""Work that goes on beside the caller until it is asked for."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """One piece of work after another, in a thread. When the process ends, it does so after the piece that is worked on: a solver
    that is left in the middle takes the process down."""

    def __init__(self) -> None:
        self._future: Future[list[Result]] | None = None

    def start(self, pieces: Iterable[Result]) -> None:
        """Begin to take them; what went on before is waited for, and its results are lost."""
        self.take()
        future: Future[list[Result]] = Future()
        ending = threading.Event()

        def go() -> None:
            found = []
            try:
                for piece in pieces:
                    found.append(piece)
                    if ending.is_set():
                        break
                future.set_result(found)
            except BaseException as error:
                future.set_exception(error)

        self._future = future
        thread = threading.Thread(target=go, name="ahead", daemon=True)
        thread.start()

        def end() -> None:
            ending.set()
            thread.join()

        atexit.register(end)
        future.add_done_callback(lambda _: atexit.unregister(end))

    def take(self) -> list[Result] | None:
        """What the pieces came to, once all are done; None where none were begun since. Raises what one of them raised."""
        future, self._future = self._future, None
        return None if future is None else future.result()
