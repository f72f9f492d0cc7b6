"""Work that goes on beside the caller until it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """One piece of work at a time, in a thread that does not keep the process from ending."""

    def __init__(self) -> None:
        self._future: Future[Result] | None = None

    def start(self, work: Callable[[], Result]) -> None:
        """Begin; what went on before is waited for, and its result is lost."""
        self.take()
        future: Future[Result] = Future()

        def go() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._future = future
        threading.Thread(target=go, name="ahead", daemon=True).start()

    def take(self) -> Result | None:
        """What the work came to, once it is done; None where none was begun since. Raises what the work raised."""
        future, self._future = self._future, None
        return None if future is None else future.result()
