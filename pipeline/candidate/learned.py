"""What a search has learned for others, in its folder, and what another takes up of it (``--like``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.files import write_atomically
from foundation.plan import Plan
from pipeline.candidate.cost_fit import FittedCost
from pipeline.study.paths import LIKE
from pipeline.study.sensitivity import read_sensitivity
from pipeline.study.study import Study
from search_spaces.error_model import ErrorModel
from search_spaces.samplers.base import Context, Prior
from search_spaces.samplers.programme import Programme
from search_spaces.sensitivity import Sensitivity
from search_spaces.space import Space
from search_spaces.transfer import Learned, kind_of, matched, moved, moved_sensitivity, usable

LEARNED = "learned.json"  # in a study's folder: for others


@dataclass(frozen=True)
class TakenUp:
    """What a search takes up of an earlier one.

    Attributes:
        errors, costs: see ``Learned``.
        plans: of the earlier front, on this network's layers.
        sensitivity: the earlier one's for these layers, where it is known.
        matched: of this network's layers those whose kind the other one has, of how many.
    """

    errors: ErrorModel | None = None
    costs: Mapping[str, tuple[float, float]] | None = None
    plans: tuple[Plan, ...] = ()
    sensitivity: Sensitivity | None = None
    matched: tuple[int, int] = (0, 0)


def write_learned(study: Study, prior: Prior, cost: FittedCost, layers: Sequence[Layer]) -> None:
    """Keep it in the study's folder; each time anew."""
    space = study.space
    sampler = Programme(Context(space, study.objectives, study.records, prior=prior))
    found = Learned(
        tuple((layer.name, kind_of(layer)) for layer in layers),
        sampler.learned(),
        cost.shares((space.warm_starts() or [study.front()[0].plan])[0]) if study.front() else None,
        tuple(record.plan for record in study.front()),
    )
    write_atomically(study.folder / LEARNED, found.to_json())


def take_up(folder: Path, own: Path, layers: Sequence[Layer], space: Space) -> TakenUp:
    """What the study in ``folder`` has learned, for a search with these layers whose own folder is ``own``.

    Raises:
        UserError: it has kept nothing, or what it kept cannot be read.
    """
    kept = own / LIKE
    source = kept if kept.is_file() else folder / LEARNED
    try:
        text = source.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--like {folder}: it has no {LEARNED}, which a search writes when it ends; resume it once with --name {folder}, or "
            "name another study"
        ) from error
    try:
        found = Learned.from_json(text)
    except UserError as error:
        raise UserError(f"--like {folder}: {source.name}: {error}") from error
    own.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, text)
    if not found.layers:
        raise UserError(f"--like {folder}: {source.name} names no layers")
    match = matched(found.layers, layers)
    kinds = {kind for _, kind in found.layers}
    plans = (moved(plan, match, space) for plan in found.plans)
    distinct = {plan.hash: plan for plan in plans if plan is not None}
    theirs, sensitivity = read_sensitivity(folder), None
    if theirs is not None:
        try:
            sensitivity = moved_sensitivity(theirs, match, space)
        except UserError:  # of another version of the study
            sensitivity = None
    return TakenUp(
        found.errors if usable(found.errors) else None,
        found.costs,
        tuple(distinct.values()),
        sensitivity,
        (sum(kind_of(layer) in kinds for layer in layers), len(layers)),
    )
