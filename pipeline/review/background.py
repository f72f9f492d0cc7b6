"""MLflow in the background: a search hands over what is to be written there and goes on at once.

One thread writes, and one job at most waits for it: each tells all that the one before it would have, so it takes its place.
A server that is down is asked again, ever more seldom; what it lacks at the end is in the study, and can be sent later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from foundation.errors import UserError
from foundation.foreign_files import first_line
from foundation.show import counted, show_seconds

if TYPE_CHECKING:
    from mlflow import MlflowClient

Opened = TypeVar("Opened")

STEP = 0.1  # seconds between two looks at the thread
LONGEST_PAUSE = 60.0
LAST_TRIES, LAST_PAUSE = (
    2,
    1.0,
)  # of a store that fails when everything else is done, and seconds between them


@dataclass(frozen=True)
class Patience:
    """Seconds that the end of a search waits, without an answer and in all; and the first pause between two tries."""

    silent: float
    total: float
    pause: float = 1.0


SERVER = Patience(30.0, 180.0)
FILE = Patience(180.0, 900.0)  # nobody but the disk can be slow; another process may hold the lock


class Background(Generic[Opened]):
    """Writes to MLflow while a search goes on. A job may be repeated, and then does no more than once.

    Args:
        opened: makes what jobs are handed, a study's tracker, in the thread; it gets what is to be called after every answer, and
            is called again after it has failed.
        say: is told of trouble once, and when it is over.
    """

    def __init__(
        self,
        opened: Callable[[Callable[[], None]], Opened],
        say: Callable[[str], None],
        patience: Patience = SERVER,
    ) -> None:
        self._opened, self._say, self._patience = opened, say, patience
        self._changed = threading.Condition()
        self._waiting: Callable[[Opened], object] | None = None
        self._busy = self._closing = self._left_alone = False
        self._trouble: str | None = None
        self._failures = self._answers = 0
        self._last_tries = LAST_TRIES
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def __enter__(self) -> Background[Opened]:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        missing = self.close()
        if missing is not None and error is not None:
            self._say(f"MLflow lacks what ended last ({missing}); the study has it, and a resume writes it")

    def put(self, job: Callable[[Opened], object]) -> None:
        """Have it written, in place of what waits; returns at once."""
        with self._changed:
            if not self._closing:
                self._waiting = job
                self._changed.notify_all()

    def close(
        self,
        job: Callable[[Opened], object] | None = None,
        waiting: Callable[[Callable[[], str]], None] = lambda text: None,
    ) -> str | None:
        """Write what waits, or ``job``, and end; None, or why MLflow does not have everything. Ctrl-C ends the waiting.

        Args:
            waiting: is told what is waited for; the text changes by itself.
        """
        begun = time.monotonic()
        with self._changed:
            if job is not None and not self._closing:
                self._waiting = job
            self._closing, self._last = True, begun
            self._changed.notify_all()
        waiting(lambda: f"writing to MLflow: {counted(self._answers, 'answer')}")
        why = None
        try:
            while self._thread.is_alive() and why is None:
                self._thread.join(STEP)
                why = self._out_of_patience(begun)
        except KeyboardInterrupt:
            why = "interrupted"
        with self._changed:
            self._left_alone = True
            if self._waiting is None and not self._busy:
                return None
            return self._trouble or why or "it was not written"

    def _out_of_patience(self, begun: float) -> str | None:
        now = time.monotonic()
        if now - self._last > self._patience.silent:
            return f"no answer for {show_seconds(self._patience.silent)}"
        if now - begun > self._patience.total:
            return f"it had not taken everything after {show_seconds(self._patience.total)}"
        return None

    def _run(self) -> None:
        tracker: Opened | None = None
        while (job := self._next()) is not None:
            try:
                if tracker is None:
                    tracker = self._opened(self._heard)
                job(tracker)
            except Exception as error:  # whatever it is, the search goes on, and a person is told
                if not self._again(job, error):
                    return
            else:
                self._written()

    def _next(self) -> Callable[[Opened], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            job, self._waiting = self._waiting, None
            self._busy = job is not None
            return job

    def _heard(self) -> None:
        self._answers += 1
        self._last = time.monotonic()

    def _written(self) -> None:
        with self._changed:
            self._busy = False
            over, self._trouble, self._failures = self._trouble is not None, None, 0
            if over and not self._left_alone:
                self._say("MLflow can be written again")

    def _again(self, job: Callable[[Opened], object], error: Exception) -> bool:
        """Wait until another try is due; False where that was the last."""
        with self._changed:
            self._busy, self._waiting = False, self._waiting or job
            known, self._trouble = self._trouble, _told(error)
            if known is None and not self._left_alone:
                self._say(f"warning: {self._trouble}; nothing is lost, it is tried again")
            self._failures += 1
            if not self._closing:
                pause = min(LONGEST_PAUSE, self._patience.pause * 2.0 ** min(self._failures, 10))
                self._changed.wait_for(lambda: self._closing, pause)
                return True
            self._last_tries -= 1
            if self._last_tries > 0:
                self._changed.wait(self._patience.pause)
            return self._last_tries > 0


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else first_line(error)


class Heard:
    """MLflow's client; each of its answers is told."""

    def __init__(self, client: MlflowClient, told: Callable[[], None]) -> None:
        self._client, self._told = client, told

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def answered(*args: Any, **named: Any) -> Any:
            answer = call(*args, **named)
            self._told()
            return answer

        return answered


def heard(client: MlflowClient, told: Callable[[], None] | None) -> MlflowClient:
    """The client; where ``told`` is given, it is called after each answer."""
    return client if told is None else cast("MlflowClient", Heard(client, told))
