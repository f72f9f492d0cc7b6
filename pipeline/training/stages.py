"""The stages of a trial: rebuilt from few images, then tuned with its weights held at their levels, then free.

A layer that is rebuilt and then trained freely loses what rebuilding gained, since many of its weights lie near a threshold and
flip; so the first steps after it move levels, norms and activation steps alone, and only then may weights go elsewhere. Where a
trial inherits, it looks between the two at what another has trained already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundation.errors import UserError

Name = Literal["small", "rebuilt", "held", "inherited", "free"]
SMALL: Name = "small"
REBUILT: Name = "rebuilt"
HELD: Name = "held"
INHERITED: Name = "inherited"
FREE: Name = "free"
ETA = 3  # between the epochs of free stages
MANY_ZEROS = 0.65  # of all weights: who wants so many lets them grow in training, and for that so many
LONG = 50  # steps must be free
FEW_BITS = 2.5  # on average: of more the rebuilt network is near enough to go on from


def begins_anew(zeros: float, steps: int, bits: float) -> bool:
    """Whether free training starts from the fp32 network's weights, not from rebuilt ones.

    Which weights are zero is settled layer by layer in rebuilding, all at once, and training hardly changes it; where most are
    to be, letting their share grow while the others make up for it comes out better, given the steps (docs/trial.md).

    Args:
        zeros: share of all weights that a plan wants to be zero.
        steps: of free training, planned.
        bits: of the weights of which a share is to be zero, on average.
    """
    return zeros >= MANY_ZEROS and steps >= LONG and bits < FEW_BITS


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: ``small`` and ``rebuilt`` rebuild layers from few and from more images, without labels; ``held`` trains with every
            weight at its level; ``inherited`` takes over the layers that another candidate has trained by the same choice;
            ``free`` trains everything.
        epochs: of training with free weights that lie behind its end.
    """

    name: Name
    epochs: float = 0.0

    @property
    def place(self) -> tuple[str, float]:
        """The ``Rung.place`` of its end."""
        return (self.name, self.epochs)


def stages(epochs: float, rungs: int) -> tuple[Stage, ...]:
    """The stages of a trial that ends after ``epochs`` of free training, and is compared with others at its last ``rungs``
    ends.

    Up to three rungs are the ends of the rebuilt, the held and the free network; four begin with rebuilding from fewer images;
    more divide the free training, each part ``ETA`` times the one before.

    >>> [stage.place for stage in stages(3.0, 5)]
    [('small', 0.0), ('rebuilt', 0.0), ('held', 0.0), ('free', 1.0), ('free', 3.0)]

    Raises:
        UserError: no epochs, or no rung.
    """
    if epochs <= 0 or rungs < 1:
        raise UserError(f"{epochs} epochs in {rungs} rungs: both must be above 0")
    free = max(1, rungs - 3)
    first = (Stage(SMALL),) if rungs > 3 else ()
    return (
        *first,
        Stage(REBUILT),
        Stage(HELD),
        *(Stage(FREE, epochs / ETA ** (free - 1 - place)) for place in range(free)),
    )


def with_inherited(found: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of a trial that inherits: it does so before weights are free.

    >>> [stage.name for stage in with_inherited(stages(3.0, 3))]
    ['rebuilt', 'held', 'inherited', 'free']
    """
    before = [stage for stage in found if stage.name != FREE]
    return (*before, Stage(INHERITED), *found[len(before) :])


def places(found: Sequence[Stage]) -> tuple[tuple[str, float], ...]:
    """The places of stages' ends."""
    return tuple(stage.place for stage in found)
