"""The Optuna study: ask, tell, resume, de-duplicate. It is the only truth about a search's trials.

The storage is one sqlite file in the study's folder, written by one driver at a time (a lock file sees to that) and
readable by anyone. Every trial carries one JSON attribute, its ``TrialRecord``, written *before* Optuna is told how it
ended: a kill between the two loses nothing, since the next start finds the record and tells it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.trial import TrialState

from foundation.dimension import DIMENSIONS
from foundation.errors import UserError
from foundation.factories import is_factory
from foundation.files import json_text
from foundation.foreign_files import first_line
from foundation.plan import Plan
from pipeline.study import pareto, paths, tables
from pipeline.study.changes import differences
from pipeline.study.database import FILE as FILE
from pipeline.study.database import NAME, damaged, open_database
from pipeline.study.lock import lock
from pipeline.study.pruned import read_pruned
from pipeline.study.records import OBJECTIVES, Figures, TrialRecord, sound
from pipeline.study.work import Piece, joined
from pipeline.training.rung import Rung
from search_spaces.samplers.base import SAMPLERS, UNKNOWN, Context, Prior, asking, incumbent
from search_spaces.samplers.by_optuna import outcome
from search_spaces.space import Space

INTERRUPTED = "the search ended while this trial ran"
OTHER_KERNELS = "judged by the figures of a former kernel library"
VOID = (INTERRUPTED, OTHER_KERNELS)  # reasons of records whose plans may be proposed again
METRIC = "metric"  # of a study's identity: the person's own; None: accuracy
KERNELS = "kernel_library"  # of a study's identity: the digest of the program that its figures are of
RENEWING = "renewing"  # attribute of a study while its candidates' folders are of two kernel libraries
TRIES = 8  # proposals by the sampler before one is drawn from the plans not seen yet
ENDED = ("finished", "stopped", "dominated", "failed")


@dataclass(frozen=True)
class Candidate:
    """A plan to evaluate; ``number`` is its trial in the study."""

    number: int
    plan: Plan


@dataclass(frozen=True)
class Recovered:
    """What opening an existing study found: trials that ended well, those put back into the queue, those that failed."""

    finished: int = 0
    requeued: int = 0
    failed: int = 0


class Study:
    """One search's trials. A context manager; leaving it puts trials still running back into the queue.

    ``created`` says whether the study was new, ``recovered`` what an existing one held. ``outdated`` is the kernel library that
    its figures are of, where that, or some candidate's folder, is not of the identity it was opened with; until ``renew`` it
    proposes nothing.
    """

    outdated: str | None = None
    _front: list[TrialRecord] | None = None  # until another trial finishes
    _ended: list[TrialRecord] | None = (
        None  # until another record is written: it is asked for thousands of times between two
    )

    def __init__(
        self,
        folder: Path,
        space: Space,
        *,
        objectives: Sequence[str] = OBJECTIVES,
        identity: Mapping[str, Any],
        sampler: str = "tpe",
        seed: int = 0,
        warm_starts: Sequence[Plan] | None = None,
        prior: Prior = UNKNOWN,
        inherits: bool = False,
    ) -> None:
        """Create the study in ``folder``, or resume the one that is there.

        Args:
            identity: what a resumed study must agree on beside space and objectives: model, data, weights, epochs, ...
            sampler: a name in ``SAMPLERS``, or ``package.module:Name``.
            warm_starts: the first plans to try; by default the space's own.
            prior: what a sampler may know beside space and records.
            inherits: whether it is asked whose weights each of its proposals may start from.

        Raises:
            UserError: another process runs this study; it was created with another space, identity or objectives; or there is no
                such sampler.
        """
        self.folder, self.space, self.objectives = folder, space, tuple(objectives)
        self._ids: dict[int, int] = {}  # of trials in the database, by number
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the study's folder {folder}: {error.strerror}") from error
        self._lock = lock(folder)
        try:
            SAMPLERS[sampler]  # an unknown one before a study is made
            self._storage, self._study = open_database(folder, len(self.objectives))
            self._refuse_changes({**identity, "objectives": list(self.objectives), "space": space.describe()})
            self.created = "warm" not in self._study.user_attrs
            if self.created:
                self._enqueue_once(space.warm_starts() if warm_starts is None else warm_starts)
            self._records = self._load()
            self._pruned = read_pruned(folder)
            context = Context(space, self.objectives, self._told, seed, prior)
            self._asking = partial(asking, sampler, context)
            self._incumbent: Callable[[], Plan | None] = (
                partial(incumbent, sampler, context) if inherits else lambda: None
            )
            self._propose = self._asking()
            self._rng = random.Random(f"{seed}/{len(self._records)}")
            requeued = self.release()
        except BaseException:
            self._lock.close()
            raise
        ended = [r for r in self.records() if not self.created]
        failed = sum(r.status == "failed" for r in ended)
        self.recovered = Recovered(len(ended) - failed, requeued, failed)

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Put running trials back into the queue and give the study free."""
        if not self._lock.closed:
            try:
                self.release()
            finally:
                self._lock.close()

    def ask(self) -> Candidate | None:
        """The next candidate, or None when every plan of the space is known.

        Warm starts and trials put back come first, then the sampler's proposals. Where it proposes a plan that is known already
        it is asked again; when it keeps repeating itself, a plan not seen yet is drawn.
        """
        if self.outdated is not None:
            raise ValueError(f"the study's figures are of the kernel library {self.outdated}: renew it first")
        for attempt in itertools.count():
            if not self._waiting():
                proposed = self._proposal(attempt)
                if proposed is None:
                    return None
                if proposed.hash in self._known():
                    continue
                before = self._incumbent()
                self._queue(proposed, before.hash if before is not None else None)
            trial = self._next()
            text = trial.user_attrs.get(tables.PLAN)  # older studies have a parameter for each choice
            plan = (
                self.space.suggest(trial)
                if text is None
                else self.space.without_surplus(Plan.from_json(text))
            )
            known = self._known().get(plan.hash)
            if known is None:
                start, inherits = time.time(), trial.user_attrs.get(tables.INHERITS)
                record = TrialRecord(
                    trial.number, plan, "running", Figures(None), started=start, inherits=inherits
                )
                self._write(trial.number, record)
                return Candidate(trial.number, plan)
            self._tell_duplicate(trial, known)
        raise AssertionError("unreachable")

    def _next(self) -> optuna.Trial:
        """The next of the queue, as running. Retries come first, in their former order: they have kept their place."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        first = min(waiting, key=lambda t: (t.user_attrs.get("retry_of", math.inf), t.number))
        trial_id = self._id(first.number)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return optuna.Trial(self._study, trial_id)

    def report_rung(self, number: int, rung: Rung, figures: Figures | None = None) -> None:
        """Note a point of a running trial's curve, and what is known of its figures by now."""
        record = self._running(number)
        before = takewhile(lambda reached: reached.place != rung.place, record.curve)
        curve = (*before, rung)
        self._write(number, dataclasses.replace(record, curve=curve, figures=figures or record.figures))

    def report_figures(self, number: int, figures: Figures) -> None:
        """Note what is known of a running trial before its first rung."""
        self._write(number, dataclasses.replace(self._running(number), figures=figures))

    def note_work(self, number: int, work: Iterable[Piece]) -> None:
        """Note where and when a running trial was worked on. It is written with whatever is written of the trial next."""
        running = self._running(number)
        self._records[number] = dataclasses.replace(running, work=joined(running.work, work))

    def tell(self, number: int, record: TrialRecord) -> None:
        """Note how a trial ended.

        Raises:
            ValueError: the trial is not running, or the record is not of its plan or says it still runs.
        """
        running = self._running(number)
        if record.status not in ENDED or record.plan != running.plan:
            raise ValueError(f"trial {number} told {record.status} of plan {record.hash}")
        record = dataclasses.replace(
            record,
            number=number,
            curve=record.curve or running.curve,
            started=running.started,
            ended=max(record.ended or time.time(), running.started or 0.0),  # a clock may be put back
            work=running.work,
            inherits=running.inherits,
        )
        if record.status == "finished" and record.figures.objectives(self.objectives) is None:
            raise ValueError(f"trial {number} finished without all of {', '.join(self.objectives)}")
        record = sound(record, self.objectives)
        self._write(number, record)
        self._close(number, record)

    def records(self, *, interrupted: bool = False) -> list[TrialRecord]:
        """Every trial that ended, by number; duplicates answered from the study are left out.

        Args:
            interrupted: also those whose search ended while they ran; their plans were queued again under a new number.
        """
        if interrupted:
            return [r for _, r in sorted(self._records.items()) if r.status != "running"]
        if self._ended is None:
            self._ended = [r for r in self.records(interrupted=True) if r.reason not in VOID]
        return [*self._ended]

    def running(self) -> list[TrialRecord]:
        """The trials in flight."""
        return [record for _, record in sorted(self._records.items()) if record.status == "running"]

    @property
    def warm_starts(self) -> list[str]:
        """Hashes of the plans that were queued when the study was made."""
        return list(self._study.user_attrs["warm"])

    @property
    def spent(self) -> int:
        """Trials that count toward the budget: finished, stopped at a rung, or failed; a candidate told before training
        that it cannot enter the front, a duplicate and an interrupted trial cost nothing."""
        return sum(record.status in ("finished", "stopped", "failed") for record in self.records())

    def front(self) -> list[TrialRecord]:
        """The finished trials that no finished trial dominates; those whose files were removed (``pruned``) are left out."""
        if self._front is None:
            self._front = front_of([r for r in self.records() if r.hash not in self._pruned], self.objectives)
        return list(self._front)

    def best_error(self) -> float | None:
        """The lowest error at the end or at any rung of any trial."""
        errors = [r.figures.error for r in self._records.values() if r.figures.error is not None]
        errors += [rung.error for r in self._records.values() for rung in r.curve]
        return min(filter(math.isfinite, errors), default=None)

    def release(self) -> int:
        """Put every trial marked as running back into the queue with its parameters and close it as interrupted.

        First the retry is queued, then the trial is told: a kill between the two cannot lose the candidate, and the
        retry's mark keeps it from being queued twice.

        Returns:
            How many were put back.
        """
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        retried = {trial.user_attrs.get("retry_of") for trial in waiting}
        count = 0
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            record = self._records.get(trial.number)
            if (
                record is None
            ):  # ended while it was being proposed: nothing was known of it but half its parameters
                fixed = trial.system_attrs.get("fixed_params", {})
                asked = (tables.PLAN, tables.INHERITS)
                kept = {key: value for key, value in trial.user_attrs.items() if key in asked}
                if (fixed or kept) and trial.number not in retried:
                    self._study.enqueue_trial(fixed, user_attrs={**kept, "retry_of": trial.number})
                self._study.tell(trial.number, state=TrialState.FAIL)
            elif record.status != "running":  # ended, but Optuna was not told any more
                self._close(trial.number, record)
            else:
                if trial.number not in retried and self._has(record.plan):
                    self._queue(record.plan, record.inherits, retry_of=trial.number)
                count += 1
                at = max(time.time(), record.started or 0.0)
                ended = dataclasses.replace(record, status="failed", reason=INTERRUPTED, ended=at)
                self._write(trial.number, ended)
                self._close(trial.number, ended)
        return count

    def renew(self, figures: Mapping[int, Figures]) -> Path:
        """Give the ended trials the figures of the present kernel library, all at once: whoever dies before has changed nothing.

        Candidates that the former figures kept from being trained are free to be proposed again; a failed trial keeps its
        error alone, for its program was never compared with any.

        Args:
            figures: by number, of every trial that is finished or was stopped.

        Returns:
            Where the study lies as it was.

        Raises:
            ValueError: the study is not outdated, or a trial's figures are missing.
        """
        ended = self.records(interrupted=True)
        missing = {r.number for r in ended if r.status in ("finished", "stopped")} - figures.keys()
        if self.outdated is None or missing:
            raise ValueError(f"outdated: {self.outdated}, trials without new figures: {sorted(missing)}")
        renewed = {record.number: _renewed(record, figures.get(record.number)) for record in ended}
        values = {}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            record = renewed[trial.user_attrs.get(tables.DUPLICATE, trial.number)]
            values[trial.number] = outcome(record, self.objectives)[1] or ()
        kept = self.folder / f"study-{self.outdated}.db"
        tables.copy(self.folder / FILE, kept)
        tables.replace(
            self.folder / FILE,
            {number: record.to_json() for number, record in renewed.items()},
            values,
            {"identity": self._identity, RENEWING: False},
        )
        self._storage.remove_session()
        # Optuna remembers how trials ended.
        self._storage, self._study = open_database(self.folder, len(self.objectives))
        self._records, self.outdated, self._front, self._ended = self._load(), None, None, None
        self._propose = self._asking()  # a sampler may have learned from the former figures
        return kept

    def _queue(self, plan: Plan, inherits: str | None = None, **attributes: Any) -> None:
        """A trial to come. Its plan is one text: a parameter for each choice of each layer would be a row each, and nobody asks
        Optuna's storage for them (samplers look at the records)."""
        if inherits is not None:
            attributes[tables.INHERITS] = inherits
        self._study.enqueue_trial({}, user_attrs={tables.PLAN: plan.to_json(), **attributes})

    def _has(self, plan: Plan) -> bool:
        """Whether a plan is of this space; those of older spaces may ask for what their quantizer has not."""
        try:
            self.space.params(plan)
        except UserError:
            return False
        return True

    def _enqueue_once(self, plans: Sequence[Plan]) -> None:
        queued = {t.user_attrs.get("warm") for t in self._study.get_trials(deepcopy=False)}
        for plan in plans:
            if plan.hash not in queued:
                self.space.params(plan)  # refuses what is none of this space
                self._queue(plan, warm=plan.hash)
        self._study.set_user_attr("warm", [plan.hash for plan in plans])

    def _refuse_changes(self, identity: dict[str, Any]) -> None:
        identity = json.loads(json_text(identity, sort_keys=True, default=str))
        before = self._study.user_attrs.get("identity")
        if before is None:
            self._study.set_user_attr("identity", identity)
            return
        # Older studies kept paths as typed, and knew no metric but accuracy.
        before = {METRIC: None, **paths.resolved(before, paths.typed_in(self.folder))}
        # What a study of an older version did not record cannot be contradicted.
        new = {key: value for key, value in identity.items() if key not in before}
        # What is no dimension of the quantizer had no effect when it was one of the space; all others had.
        kept = {key for key in before["space"] if key in identity["space"] or self._had_effect(key)}
        space = {key: value for key, value in before["space"].items() if key in kept}
        before = {**before, **new, "space": space}
        changes = list(differences({**before, KERNELS: identity.get(KERNELS)}, identity))
        if changes:
            raise UserError(
                f"the study in {self.folder} was created with other settings: {'; '.join(changes)}. Repeat the old settings to "
                "resume it, or choose another name for a new study"
            )
        self._identity = identity
        if before.get(KERNELS) != identity.get(KERNELS) or self._study.user_attrs.get(RENEWING):
            self.outdated = before[KERNELS]
            self._study.set_user_attr(RENEWING, value=True)  # some folders may be new ones from here on
        self._study.set_user_attr(
            "identity", {**identity, KERNELS: before[KERNELS]} if self.outdated else identity
        )

    def _had_effect(self, name: str) -> bool:
        """Whether a dimension that is not described now may have been chosen from when the study was created."""
        if name not in DIMENSIONS:
            return is_factory(name)
        return not DIMENSIONS[name].declared or name in self.space.dimensions

    def _load(self) -> dict[int, TrialRecord]:
        return {
            trial.number: sound(TrialRecord.from_json(trial.user_attrs[tables.RECORD]), self.objectives)
            for trial in self._study.get_trials(deepcopy=False)
            if tables.RECORD in trial.user_attrs and tables.DUPLICATE not in trial.user_attrs
        }

    def _id(self, number: int) -> int:
        """Optuna's, of a trial; each is a question to the database."""
        if number not in self._ids:
            study = self._storage.get_study_id_from_name(NAME)
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        return self._ids[number]

    def _write(self, number: int, record: TrialRecord) -> None:
        self._storage.set_trial_user_attr(self._id(number), tables.RECORD, record.to_json())
        self._records[number], self._ended = record, None
        if record.status == "finished":
            self._front = None

    def _close(self, number: int, record: TrialRecord) -> None:
        state, values = outcome(record, self.objectives)
        self._study.tell(number, values, state)

    def _tell_duplicate(self, trial: optuna.Trial, known: TrialRecord) -> None:
        trial.set_user_attr(tables.DUPLICATE, known.number)
        state, values = (
            (TrialState.FAIL, None) if known.status == "running" else outcome(known, self.objectives)
        )
        self._study.tell(trial, values, state)

    def _running(self, number: int) -> TrialRecord:
        record = self._records.get(number)
        if record is None or record.status != "running":
            raise ValueError(f"trial {number} is not running")
        return record

    def _known(self) -> dict[str, TrialRecord]:
        return {r.hash: r for r in self._records.values() if r.reason not in VOID}

    def _told(self) -> list[TrialRecord]:
        """What a sampler sees: each plan once, by number, ended or running."""
        return [r for _, r in sorted(self._records.items()) if r.reason not in VOID]

    def _proposal(self, attempt: int) -> Plan | None:
        """What the sampler proposes; when it keeps repeating itself, a plan not seen yet; None when there is none."""
        if len(self._known()) >= self.space.size():
            return None
        return self._propose() if attempt < TRIES else self._unseen()

    def _waiting(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _unseen(self) -> Plan | None:
        """A plan not known yet, from a random place on: among n known plans at most n + 1 are looked at."""
        known, size = self._known(), self.space.size()
        start = self._rng.randrange(size)
        for offset in range(min(len(known) + 1, size)):
            plan = self.space.plan_at((start + offset) % size)
            if plan.hash not in known:
                return plan
        return None


def read_records(folder: Path, *, interrupted: bool = False, running: bool = False) -> list[TrialRecord]:
    """The ended trials of the study in ``folder``, whether or not a search runs on it; nothing is changed.

    Args:
        interrupted: as ``Study.records``.
        running: also those in flight.

    Raises:
        UserError: there is no study.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no study ({FILE} is missing); studies lie in the output folder by name"
        )
    try:
        records = [TrialRecord.from_json(text) for text in tables.record_texts(path)]
    except UserError:
        raise
    except Exception as error:  # any bytes may lie there
        raise UserError(damaged(path, first_line(error))) from error
    return [
        r for r in records if (running or r.status != "running") and (interrupted or r.reason not in VOID)
    ]


def front_of(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """The finished records that no finished record dominates."""
    names = tuple(objectives)
    finished = [r for r in records if r.status == "finished" and sound(r, names).status == "finished"]
    points = [record.figures.objectives(names) for record in finished]
    return [finished[i] for i in pareto.front(points)]


def _renewed(record: TrialRecord, figures: Figures | None) -> TrialRecord:
    """An ended trial with the figures of another kernel library; None: it has none there."""
    figures = dataclasses.replace(figures or Figures(None), error=record.figures.error)
    reason = OTHER_KERNELS if record.status == "dominated" else record.reason
    return dataclasses.replace(record, figures=figures, reason=reason)
