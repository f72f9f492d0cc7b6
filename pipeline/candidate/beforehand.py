"""What a search knows before its first trial: which layer hurts, what plans cost, what an earlier study learned, what to begin
with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy_arm.devices.kinds import calibrations
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from foundation.show import counted
from pipeline.candidate.cost_fit import FittedCost, PriorFactor
from pipeline.candidate.learned import TakenUp, take_up
from pipeline.candidate.plan_cost import PlanCost
from pipeline.candidate.sensitivity import remaining, sensitivity_of
from quantizers.core.producers import producers_of
from search_spaces.layers import layers_of
from search_spaces.samplers.base import Prior, starts_from_prior
from search_spaces.warm_starts import programme_starts, uniform_starts

if TYPE_CHECKING:
    from foundation.dimension import Layer
    from pipeline.candidate.workspace import Workspace
    from pipeline.study.conductor import Listener
    from pipeline.study.records import Figures, Reference
    from pipeline.study.settings import Settings
    from pipeline.study.study import Study
    from search_spaces.sensitivity import Sensitivity
    from search_spaces.space import Space

TAKEN_UP = 4  # plans of an earlier study that a search begins with


@dataclass(frozen=True)
class Beforehand:
    """What is known of a network's plans.

    Attributes:
        layers: shapes and work of those that plans speak of.
        cost: of a plan, by its layers; learns from profiles.
        sensitivity: which layer hurts; None where nobody knows.
        prior: all of it, as samplers are told.
    """

    layers: tuple[Layer, ...]
    cost: FittedCost
    sensitivity: Sensitivity | None
    prior: Prior


def known_beforehand(workspace: Workspace, space: Space, fp32_error: float, progress: Listener) -> Beforehand:
    """Look at the network, and at the earlier study that the settings name.

    Raises:
        UserError: that study has kept nothing, or the network cannot be compiled.
    """
    settings = workspace.settings
    layers = tuple(layers_of(workspace.model, workspace.input_shape, producers_of(workspace.model)))
    like = taken_up(settings, layers, space, progress)
    sensitivity = looked_at(workspace, space, progress) or like.sensitivity
    estimate = PlanCost(workspace, sensitivity.harms if sensitivity else None)
    if sensitivity is not None:
        price(estimate, sensitivity, space, progress)
    known = calibrations(settings.target, settings.devices)
    believed = PriorFactor.of([(one.factor, one.low, one.high) for one in known])
    cost = FittedCost(estimate, like.costs, believed)
    prior = Prior(
        layers, cost, sensitivity, error=fp32_error, images=len(workspace.data.search),
        limits=limits_of(settings, fp32_error), errors=like.errors, plans=like.plans,
    )  # fmt: skip
    return Beforehand(layers, cost, sensitivity, prior)


def looked_at(workspace: Workspace, space: Space, progress: Listener) -> Sensitivity | None:
    """Which layer hurts; None, and why in a line, where that cannot be known."""
    progress.status("looking at which layer hurts")
    try:
        return sensitivity_of(
            workspace.model, workspace.data.train, workspace.mean, workspace.std, space, progress.status,
            score=workspace.task.drawn(),
        )  # fmt: skip
    except UserError as error:
        progress.line(f"which layer hurts is not known beforehand: {error}")
        return None


def taken_up(settings: Settings, layers: Sequence[Layer], space: Space, progress: Listener) -> TakenUp:
    """What the study that this one is ``--like`` has learned; nothing where none was named.

    Raises:
        UserError: it has kept nothing.
    """
    if settings.like is None:
        return TakenUp()
    folder = settings.like_folder or settings.folder  # what it took up stays with it
    found = take_up(folder, settings.folder, layers, space)
    alike, count = found.matched
    rule = "the rule from harm to error, " if found.errors is not None else ""
    costs = "what programs cost beside their layers, " if found.costs else ""
    progress.line(
        f"like {folder}: {rule}{costs}{counted(len(found.plans), 'plan')} of its front; {alike} of {count} layers are of a "
        "kind that it has"
    )
    return found


def price(cost: PlanCost, sensitivity: Sensitivity, space: Space, progress: Listener) -> None:
    """Estimate what every choice of every layer costs, which the first proposal would take its time for."""
    progress.status("estimating what layers cost")
    cost.prepare()
    bits = space["activation_bits"].values if "activation_bits" in space.dimensions else (8,)
    told = remaining(progress.status, "costs of layers:")
    for done, (name, plans) in enumerate(sensitivity.harms.items(), start=1):
        for plan in plans:
            for activation_bits in bits:
                cost.layer(name, plan, activation_bits)
        told(done, len(sensitivity.harms))


def limits_of(settings: Settings, fp32_error: float) -> dict[str, float]:
    """By objective, more than which a person has no use for."""
    drop = settings.max_accuracy_drop
    known = {
        "error": None if drop is None else fp32_error + drop / 100,
        "latency": settings.max_latency,
        "size": settings.max_size,
    }
    return {name: float(limit) for name, limit in known.items() if limit is not None}


def first_plans(space: Space, prior: Prior, sampler: str) -> list[Plan] | None:
    """What a search begins with; None: the space's own warm starts, where nothing better is known.

    Raises:
        UserError: there is no such sampler.
    """
    if prior.proxy is None:
        return None
    if starts_from_prior(sampler):
        return uniform_starts(space)
    plans = [*uniform_starts(space), *programme_starts(space, prior), *prior.plans[:TAKEN_UP]]
    return list({plan.hash: plan for plan in plans}.values())


def profiled(
    study: Study, compared: Sequence[Reference], space: Space
) -> Callable[[], list[tuple[Plan, Figures]]]:
    """The plans whose programs have been profiled: int8's, and those of the trials that finished. It is asked for every plan that
    is priced, and looks at the trials again when more have ended."""
    eight = Plan.uniform(space.layers, LayerPlan(8), quantizer=space.quantizer)
    before = [(eight, reference.figures) for reference in compared if reference.name == "int8"]

    found, ended = before, 0

    def known() -> list[tuple[Plan, Figures]]:
        nonlocal found, ended
        records = study.records()
        if len(records) != ended:
            found = [*before, *((r.plan, r.figures) for r in records if r.status == "finished")]
            ended = len(records)
        return found

    return known
