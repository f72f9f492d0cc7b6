"""What a sampler is, and what it is told.

A sampler is made from a ``Context`` and proposes one plan after another. All that happened lies in the context's records, so
a search that goes on makes a new sampler from the same context; whatever a sampler keeps besides is a convenience. Where
several plans are evaluated at a time it is asked several times, and sees those in flight among the records as ``running``.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from foundation.errors import UserError
from foundation.factories import article, is_factory, story
from foundation.plan import Plan
from foundation.registry import Registry

if TYPE_CHECKING:
    from foundation.dimension import Layer
    from search_spaces.error_model import ErrorModel
    from search_spaces.space import Space


class Figures(Protocol):
    """What is known of a plan's objectives."""

    def objectives(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        """The objectives of these names, all to be made small; None while one of them is not known."""


class Record(Protocol):
    """One trial as a sampler sees it.

    ``status`` is ``running``; ``finished``; ``stopped`` at a rung as worse than others; ``dominated``, for it could not have
    entered the front, and was never trained; or ``failed``.
    """

    @property
    def number(self) -> int: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def status(self) -> str: ...

    @property
    def figures(self) -> Figures: ...


@dataclass(frozen=True)
class Prior:
    """What is known before any trial; what nobody knows is None or empty.

    Attributes:
        layers: shapes and work of the layers that plans speak of.
        cost: estimates of a plan's objectives that follow from the plan alone, by name: ``latency`` in milliseconds, ``size``
            in bytes. They are no figures: a plan's are known once its program is profiled.
        proxy: ranks plans by the error to be expected, smaller is better; in no unit.
        error: the fp32 network's (share of wrong answers, 0..1).
        images: how many images an error is a share of.
        limits: by objective, more than which a plan is of no use.
        errors: the rule from harm to error that an earlier search of a network like this one arrived at.
        plans: what was good there, on this network's layers.
    """

    layers: tuple[Layer, ...] = ()
    cost: Callable[[Plan], Mapping[str, float]] | None = None
    proxy: Callable[[Plan], float] | None = None
    error: float | None = None
    images: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    errors: ErrorModel | None = None
    plans: tuple[Plan, ...] = ()


UNKNOWN = Prior()


@dataclass(frozen=True)
class Context:
    """What a sampler is told.

    Attributes:
        space: of which it proposes plans.
        objectives: names of what is made small, in the order of ``Figures.objectives``.
        records: every trial by its number, ended and running, as of now; each plan once.
        seed: equal contexts with equal seeds have equal proposals.
    """

    space: Space
    objectives: tuple[str, ...]
    records: Callable[[], Sequence[Record]]
    seed: int = 0
    prior: Prior = UNKNOWN

    def finished(self) -> list[tuple[Plan, tuple[float, ...]]]:
        """The plans that ran to their end, with their objectives."""
        values = (
            (record.plan, record.figures.objectives(self.objectives))
            for record in self.records()
            if record.status == "finished"
        )
        return [(plan, found) for plan, found in values if found is not None]


class Sampler(ABC):
    """Proposes plans. ``rng`` is its own source of chance, another one when a search goes on.

    Attributes:
        starts_from_prior: whether it finds by itself which plans are good by what is known beforehand. A search then begins with
            uniform plans alone; else also with ``Prior.plans``, and with those that programmes find for a few budgets.
    """

    starts_from_prior: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.rng = random.Random(f"{context.seed}/{len(context.records())}")

    @abstractmethod
    def propose(self) -> Plan | None:
        """The next plan to evaluate; None for none before a running trial has ended, or, where none runs, for none at all.

        A plan that is known already is allowed: its outcome is in the records, and the sampler is asked again; when it goes on
        so, a plan not seen yet is drawn in its stead.
        """

    def incumbent(self) -> Plan | None:
        """The finished plan whose trained weights the trial of the next proposal may start from; None: rebuilt ones alone.

        It follows from the records, so that a search that goes on says the same.
        """
        return None


def _is_sampler(value: Any) -> bool:
    """a class that is made from a search_spaces.samplers.base.Context and has propose() -> Plan"""
    return isinstance(value, type) and callable(getattr(value, "propose", None))


SAMPLERS: Registry[Callable[[Context], Sampler]] = Registry("sampler", "search_spaces.samplers", _is_sampler)


def asking(name: str, context: Context) -> Callable[[], Plan | None]:
    """How the sampler of this name is asked for plans of the context's space.

    Raises:
        UserError: there is no such sampler; or, now and when it is asked, one from outside fails or proposes what is no plan of
            the space.
    """
    make, outside = SAMPLERS[name], is_factory(name)
    sampler: Sampler = _guarded(name, lambda: make(context))

    def ask() -> Plan | None:
        plan: Plan | None = _guarded(name, sampler.propose)
        if plan is None or not outside:
            return plan
        if not isinstance(plan, Plan):
            raise UserError(f"the sampler {name!r} proposed {article(plan)}; it must propose a Plan, or None")
        try:
            context.space.params(plan)
        except UserError as error:
            raise UserError(
                f"the sampler {name!r} proposed what is no plan of this search: {error}"
            ) from error
        return plan

    return ask


def incumbent(name: str, context: Context) -> Plan | None:
    """The ``Sampler.incumbent`` of the sampler of this name, made for this question, so that it sees nothing but the context.

    Raises:
        UserError: there is no such sampler; or one from outside fails, or gives what is no plan.
    """
    found = _guarded(name, lambda: SAMPLERS[name](context).incumbent())
    if found is not None and not isinstance(found, Plan):
        raise UserError(
            f"the incumbent of the sampler {name!r} is {article(found)}; it must be a Plan, or None"
        )
    return found


def has_incumbent(name: str) -> bool:
    """Whether the sampler of this name ever says so.

    Raises:
        UserError: there is no such sampler.
    """
    return getattr(SAMPLERS[name], "incumbent", Sampler.incumbent) is not Sampler.incumbent


def starts_from_prior(name: str) -> bool:
    """The ``Sampler.starts_from_prior`` of the sampler of this name.

    Raises:
        UserError: there is no such sampler.
    """
    return bool(getattr(SAMPLERS[name], "starts_from_prior", Sampler.starts_from_prior))


def _guarded(name: str, work: Callable[[], Any]) -> Any:
    """What ``work`` gives; what fails in a sampler from outside is its maker's to hear of."""
    try:
        return work()
    except Exception as error:
        if not is_factory(name) or isinstance(error, UserError):
            raise
        raise UserError(f"the sampler {name!r} failed: {story(error)}") from error
