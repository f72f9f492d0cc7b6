"""What a search decides while it runs: who is proposed, who goes on, how a trial ended. Knows nothing of Ray.

The study remembers, ``pipeline.study.halving`` and ``pipeline.study.pareto`` judge; this joins them.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from foundation.errors import UserError
from foundation.plan import Plan
from pipeline.study import pareto
from pipeline.study.checkpoints import forget
from pipeline.study.halving import Decision, Rungs
from pipeline.study.memory import Death
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.remaining import State, usual_seconds
from pipeline.study.storage import LocalStorage, Storage
from pipeline.study.study import Candidate, Study
from pipeline.study.work import Piece
from pipeline.training.early import HOPELESS, given_up
from pipeline.training.rung import Rung

RETRIES = 2  # times a candidate is tried again after its process died, nobody knows why, and it got no further in between
TROUBLES = 4  # times in a row that trials may be ended by what is around them before that is given up
PAUSE = 5.0  # seconds until the memory of a process that was killed is certainly given back
ALIKE = 5  # trials that may fail one after another for the same reason
DOMINATED_PER_BUDGET = 20  # a search ends when so many times its budget were not worth training
WORSE = "worse than others"
CANNOT_ENTER = "slower and larger than the front even with the best error so far"
# What a stage of a trial reports; ``waited``: for a device, in vain.
PROFILED, RUNG, ENDED, DIED, WAITED = "profiled", "rung", "ended", "died", "waited"


class Interval(Protocol):
    """A figure that is known nearly."""

    @property
    def low(self) -> float: ...


Foresee = Callable[[Plan], Mapping[str, Interval]]


@dataclass(frozen=True)
class Outlook:
    """What is known before a trial.

    Attributes:
        hoped_error: the best that any can have.
        foresee: what a plan will cost, each objective with its interval; a plan that cannot enter the front at the lower ends is
            not started.
        guessed: how good guessing is, 0..1; a trial that hardly does better is ended at its first rung.
    """

    hoped_error: float | None = None
    foresee: Foresee | None = None
    guessed: float | None = None


UNSEEN = Outlook()


class Listener(Protocol):
    """Who is told what happens."""

    def line(self, text: str) -> None: ...

    def status(self, text: str | Callable[[], str]) -> None: ...

    def trial(self, record: TrialRecord, done: int) -> None: ...


def nothing_left(study: Study, budget: int) -> bool:
    """Whether the budget is spent, or so much was not worth training that there is hardly anything left that is."""
    dominated = sum(record.status == "dominated" for record in study.records())
    return study.spent >= budget or dominated >= DOMINATED_PER_BUDGET * budget


class Conductor:
    """Decides for Tune, with the study's and the pure rules' words. Knows nothing of Ray.

    As many trials run at a time as ``concurrency`` says (asked again and again where it is a function, since nodes join and
    leave), fewer once their processes have died, and none is started for ``pause`` seconds after a kill for memory; whoever sets
    ``stop`` ends the search in good order.
    """

    def __init__(
        self,
        study: Study,
        rungs: Rungs,
        budget: int,
        concurrency: int | Callable[[], int],
        progress: Listener,
        after_trial: Callable[[], None] = lambda: None,
        *,
        deadline: float | None = None,
        outlook: Outlook = UNSEEN,
        stop: threading.Event | None = None,
        pause: float = PAUSE,
        storage: Storage | None = None,
    ) -> None:
        self.study, self.rungs, self.budget, self._capacity = study, rungs, budget, concurrency
        self._fewer = 0  # than there is room for
        self.progress, self.after_trial, self.deadline = progress, after_trial, deadline
        self.hoped_error, self.foresee, self.guessed = outlook.hoped_error, outlook.foresee, outlook.guessed
        self.stop = stop or threading.Event()
        self.storage = storage or LocalStorage(study.folder)
        self.exhausted = False
        self._stopped: dict[int, str] = {}  # trials that are ended from here, and why
        self._paused: dict[int, int] = {}  # trials held back at a rung, by its index, that may go on later
        self._resumed: set[int] = set()
        self._last_reason: str | None = None
        self._alike = 0
        self._began = time.time()
        self._again: list[Candidate] = []  # whose process died, to be started again before any other
        self._deaths: Counter[int] = Counter()
        self._deaths_alone: Counter[int] = Counter()
        self._pause, self._resumes = pause, 0.0
        self._troubles = 0  # in a row
        self._accompanied: set[int] = set()  # of the trials in flight those beside which another ran

    @property
    def complete(self) -> bool:
        """Nothing is left to do: the budget is spent, or the space holds nothing more that is worth it."""
        return self.exhausted or nothing_left(self.study, self.budget)

    @property
    def concurrency(self) -> int:
        """How many trials may run at a time now."""
        room = self._capacity if isinstance(self._capacity, int) else self._capacity()
        return max(min(1, room), room - self._fewer)

    @property
    def closing(self) -> bool:
        """No more candidates are to be proposed."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return self.stop.is_set() or late or self.complete

    def propose(self) -> Candidate | None:
        """The next candidate; None when there is none now. Who was in flight when its process died comes first."""
        running = {record.number for record in self.study.running()}
        flying = running - {candidate.number for candidate in self._again} - self._paused.keys()
        if self.stop.is_set() or len(flying) >= self.concurrency or time.monotonic() < self._resumes:
            return None
        if self._again:
            candidate: Candidate | None = self._again.pop(0)
        elif not self.closing and (resumed := self._worth_resuming()) is not None:
            candidate = resumed
        elif self.closing or self.study.spent + len(running) >= self.budget:
            candidate = None
        else:
            candidate = self._worth_starting()
            self.exhausted = candidate is None and not flying and not self.closing
        if candidate is None:
            if not flying:  # nobody comes who could make more of them worth it
                self._end_paused()
            return None
        self._accompanied.discard(candidate.number)
        if flying:
            self._accompanied |= {*flying, candidate.number}
        self._say()
        return candidate

    def _worth_starting(self) -> Candidate | None:
        """The next candidate of the study that may enter the front by what it will cost; others are told so and cost nothing."""
        while not self.closing:
            candidate = self.study.ask()
            if candidate is None or self.foresee is None:
                return candidate
            cost = {name: interval.low for name, interval in self.foresee(candidate.plan).items()}
            points = [self._point(r.figures) for r in self.study.front()]
            hoped = self._best_error()
            if pareto.can_enter(cost.get("latency"), cost.get("size"), hoped, points, self.study.objectives):
                return candidate
            self._stopped[candidate.number] = CANNOT_ENTER
            self.end(candidate.number, None)
        return None

    def _worth_resuming(self) -> Candidate | None:
        """The first of the trials held back that goes on as the trials stand by now."""
        for number, index in self._paused.items():
            record = self._running(number)
            if self._decide(record, index, record.curve[-1], record.figures) == "go on":
                del self._paused[number]
                self._resumed.add(number)
                return Candidate(number, record.plan)
        return None

    def _end_paused(self) -> None:
        """End what is held back for good."""
        for number in list(self._paused):
            del self._paused[number]
            self._stopped[number] = WORSE
            self.end(number, None)

    def _decide(self, record: TrialRecord, index: int, rung: Rung, figures: Figures) -> Decision:
        """What halving says of a trial at a rung, beside all that reached it."""
        on: list[tuple[float, ...]] = []
        off: list[tuple[float, ...]] = []
        for other in [*self.study.records(), *self.study.running()]:
            if other.hash != record.hash:
                for place, reached in enumerate(other.curve):
                    if reached.place == rung.place:
                        held = other.number in self._paused or other.status == "stopped"
                        went = place + 1 < len(other.curve) or not held
                        found = self._point(dataclasses.replace(other.figures, error=reached.error))
                        (on if went else off).append(found)
        return self.rungs.decide(index, self._point(figures), on, off)

    def worked(self, number: int, work: Sequence[Piece]) -> None:
        """Note where a trial in flight was worked on."""
        if any(record.number == number for record in self.study.running()):
            self.study.note_work(number, work)

    def judge(self, number: int, phase: str, figures: Figures, rung: Rung | None = None) -> bool:
        """Whether a trial goes on after a stage; its figures and its rung are noted in the study."""
        record = self._running(number)
        if phase == PROFILED:
            self.study.report_figures(number, figures)
            on = pareto.can_enter(
                figures.latency_ms,
                figures.size_bytes,
                self._best_error(),
                [self._point(r.figures) for r in self.study.front()],
                self.study.objectives,
            )
        else:
            assert rung is not None
            if all(reached.place != rung.place for reached in record.curve):
                self._deaths[number] = self._troubles = (
                    0  # it got further: what stood in its way is behind it
                )
            self.study.report_rung(number, rung, figures)
            # What only some trials come to, such as inherited weights, is no place to compare them.
            places = self.rungs.places
            on = rung.place not in places or self._goes_on(record, places.index(rung.place), rung, figures)
        if not on and phase == PROFILED:
            self._stopped[number] = CANNOT_ENTER
        self._say()
        return on

    def _goes_on(self, record: TrialRecord, index: int, rung: Rung, figures: Figures) -> bool:
        """Whether a trial goes on at a rung; if not, it is noted whether it is held back or ended."""
        number = record.number
        curve = (*(known for known in record.curve if known.place != rung.place), rung)
        if self.guessed is not None and given_up(curve, self.hoped_error, self.guessed):
            self._stopped[number] = HOPELESS
        elif (
            (number in self._resumed and any(known.place == rung.place for known in record.curve))
            or self._decide(record, index, rung, figures) == "go on"
            or record.hash in self.study.warm_starts
        ):
            return True
        elif math.isnan(rung.error):
            self._stopped[number] = WORSE
        else:
            self._paused[number] = index
        return False

    def end(self, number: int, record: TrialRecord | None) -> None:
        """A trial has left Tune: with its own record, or stopped by ``judge``.

        One that Tune dropped since the search is ending stays as it is: the study will queue it again.
        """
        running = next((r for r in self.study.running() if r.number == number), None)
        if running is None:
            return
        if record is None and number in self._stopped:
            status: Any = "stopped" if running.curve else "dominated"
            reason = self._stopped[number]
            if running.curve:
                reason = f"{WORSE if reason == CANNOT_ENTER else reason} {running.curve[-1].where}"
            record = dataclasses.replace(running, status=status, reason=reason)
        if record is not None:
            self._tell(number, record)

    def died(self, number: int, death: Death) -> None:
        """A trial's process has died, or was refused memory, or what is around it failed. The trial is started again from its
        last rung, before any other; beside one trial fewer where memory is the likely cause, else after a pause that grows.

        Raises:
            UserError: it was killed for memory again although nothing ran beside it; or what is around trials keeps failing.
        """
        running = next((r for r in self.study.running() if r.number == number), None)
        if running is None or any(candidate.number == number for candidate in self._again):
            return
        if death.trouble:
            self._wait_out(number, running, death)
            return
        alone = number not in self._accompanied
        self._deaths[number] += 1
        self._deaths_alone[number] += alone
        if death.memory and self._deaths_alone[number] > 1:
            raise UserError(
                f"one trial alone does not fit into the memory: {running.hash} {death}, and wanted more. Nothing that ended is "
                "lost; give a smaller --batch-size or --image-size with a new --name, or resume where there is more memory"
            )
        if not death.memory and self._deaths[number] > RETRIES:
            reason = f"its process died {self._deaths[number]} times (out of memory, or killed)"
            self._tell(number, dataclasses.replace(running, status="failed", reason=reason))
            return
        if death.memory and death.asked is None:
            self._resumes = time.monotonic() + self._pause
        self._again.append(Candidate(number, running.plan))
        if self.concurrency > 1:
            self._fewer += 1
        self.progress.line(f"{running.hash} {death}: queued again, {self.concurrency} at a time from now on")
        self._say()

    def _wait_out(self, number: int, running: TrialRecord, death: Death) -> None:
        self._troubles += 1
        if self._troubles > TROUBLES:
            raise UserError(
                f"trials cannot go on here: {death.trouble}, {self._troubles} times in a row. Nothing that ended is lost, and "
                "none of the budget was spent on it; put that right, and the same command goes on"
            )
        wait = self._pause * 2 ** (self._troubles - 1)
        self._resumes = time.monotonic() + wait
        self._again.append(Candidate(number, running.plan))
        self.progress.line(f"{running.hash} {death}: queued again, in {wait:.0f} s")
        self._say()

    def _tell(self, number: int, record: TrialRecord) -> None:
        self._stopped.pop(number, None)
        self._troubles = 0
        self.study.tell(number, record)
        forget(self.study.folder, self.storage, record.plan)
        told = next(r for r in self.study.records() if r.number == number)
        self.progress.trial(told, self.study.spent)
        self.after_trial()
        self._say()
        self._refuse_to_waste(told)

    def _refuse_to_waste(self, record: TrialRecord) -> None:
        """End the search when trial after trial fails alike: what is wrong is not the candidates.

        Raises:
            UserError: the last ``ALIKE`` trials of this run failed for the same reason, and none of the study ever finished.
        """
        self._alike = self._alike + 1 if record.reason == self._last_reason else 1
        self._last_reason = record.reason
        if record.status == "failed" and self._alike >= ALIKE and not self.study.front():
            raise UserError(
                f"{ALIKE} trials one after another failed alike: {record.reason}. The search was ended to save its budget; put "
                f"the cause right and use a new --name. Stack traces are in {self.study.folder / 'failures.log'}"
            )

    def _best_error(self) -> float | None:
        """The error to hope for: the fp32 network's, or better if anyone was. Without it, a first bad trial would keep
        every larger candidate out."""
        if self.hoped_error is None:
            return None
        best = self.study.best_error()
        return self.hoped_error if best is None else min(self.hoped_error, best)

    def _point(self, figures: Figures) -> tuple[float, ...]:
        point = figures.objectives(self.study.objectives)
        if point is None:
            raise ValueError(f"figures without all of {', '.join(self.study.objectives)}: {figures}")
        return point

    def _running(self, number: int) -> TrialRecord:
        return next(record for record in self.study.running() if record.number == number)

    def _say(self) -> None:
        records = self.study.records()
        state = State(
            done=self.study.spent,
            budget=self.budget,
            best_error=self.study.best_error(),
            front=len(self.study.front()),
            started=tuple(record.started or self._began for record in self.study.running()),
            concurrency=self.concurrency,
            usual=usual_seconds(records, self._began),
            deadline=None if self.deadline is None else time.time() + self.deadline - time.monotonic(),
        )
        self.progress.status(lambda: state.line(time.time()))
