"""Samplers of Optuna as ours: each sees the records as the trials of a study in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from foundation.errors import UserError
from foundation.plan import Plan
from search_spaces.samplers.base import Context, Record, Sampler


def outcome(record: Record, objectives: tuple[str, ...]) -> tuple[TrialState, Sequence[float] | None]:
    """How Optuna's storage is told: only a finished trial has values; one stopped or dominated is pruned."""
    if record.status == "finished":
        return TrialState.COMPLETE, record.figures.objectives(objectives)
    return (TrialState.FAIL if record.status == "failed" else TrialState.PRUNED), None


def shown(record: Record, objectives: tuple[str, ...]) -> tuple[TrialState, Sequence[float] | None]:
    """How one of Optuna's samplers is told: as ``outcome``, but a trial that was stopped at a rung has what it came to there,
    which says more than that it was worse than others."""
    found = record.figures.objectives(objectives) if record.status == "stopped" else None
    if found is not None and all(map(math.isfinite, found)):
        return TrialState.COMPLETE, found
    return outcome(record, objectives)


def hush() -> None:
    """No lines of Optuna's between those of a search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class OptunaSampler(Sampler):
    """Proposes what a sampler of Optuna does.

    Args:
        sampler: the sampler, seeded with ``seed_of(context)``.
        takes_notes: it notes something with every trial it is asked for, as evolutionary ones do their generations; so it
            is asked for those of the records too, although their plans are given.
    """

    def __init__(
        self, context: Context, sampler: optuna.samplers.BaseSampler, *, takes_notes: bool = False
    ) -> None:
        super().__init__(context)
        hush()
        self._sampler = sampler
        self._replaying = sampler if takes_notes else optuna.samplers.RandomSampler(seed=0)
        self._study = optuna.create_study(directions=["minimize"] * len(context.objectives))
        self._seen: set[str] = set()
        self._open: dict[str, list[optuna.Trial]] = {}  # by plan, the trials whose outcome is not known yet

    def propose(self) -> Plan:
        self._catch_up()
        self._study.sampler = self._sampler
        trial = self._study.ask()
        plan = self.suggest(trial)
        self._note(plan.hash, trial)
        return plan

    def suggest(self, trial: optuna.Trial) -> Plan:
        """The plan that a trial's answers make."""
        return self.context.space.suggest(trial)

    def params(self, plan: Plan) -> Mapping[str, Any]:
        """The answers that make a plan, or one like it.

        Raises:
            UserError: none do.
        """
        return self.context.space.params(plan)

    def _catch_up(self) -> None:
        """Bring the study in memory up to the records, one after another."""
        records = {record.plan.hash: record for record in self.context.records()}
        self._study.sampler = self._replaying
        for name, record in records.items():
            if name not in self._seen:
                self._add(record.plan)
            if record.status != "running":
                self._close(name, *shown(record, self.context.objectives))
        for name in [*self._open]:
            if name not in records:  # nobody took it up
                self._close(name, TrialState.FAIL, None)
                self._seen.discard(name)

    def _add(self, plan: Plan) -> None:
        """A trial of a plan that was proposed by someone else, or before the search went on."""
        self._seen.add(plan.hash)
        try:
            self._study.enqueue_trial(dict(self.params(plan)))
        except UserError:  # a plan of an older space
            return
        trial = self._study.ask()
        trial.relative_params  # noqa: B018  whose answers are all given asks the sampler for nothing by itself
        self.suggest(trial)
        self._note(plan.hash, trial)

    def _note(self, name: str, trial: optuna.Trial) -> None:
        self._seen.add(name)
        self._open.setdefault(name, []).append(trial)

    def _close(self, name: str, state: TrialState, values: Sequence[float] | None) -> None:
        for trial in self._open.pop(name, ()):
            for objective, over in self._overruns(values).items():
                trial.set_constraint(objective, over)
            self._study.tell(trial.number, values, state)

    def _overruns(self, values: Sequence[float] | None) -> dict[str, float]:
        """By how much of it a plan is over each limit, at most 0 where it is within; 0 where that is not known."""
        found = dict(zip(self.context.objectives, values or ()))
        return {
            name: found[name] / limit - 1 if name in found else 0.0
            for name, limit in self.context.prior.limits.items()
            if name in self.context.objectives and limit > 0
        }


def seed_of(context: Context) -> int:
    """A seed for one of Optuna's samplers: another when a search goes on, so that it does not repeat its first draws."""
    return context.seed + 7919 * len(context.records())
