"""What is known of a training run at one point of it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """One point of a trial's curve: the end of one of its stages (``pipeline.training.stages``).

    Attributes:
        epochs: of co-tuning with free weights that lie behind it.
        error: share of the first images of the search half (0..1) that the network gets wrong here.
        loss: mean training loss since the rung before; of a rebuilt network the divergence on the images it was rebuilt from.
        seconds: of rebuilding and training since the start.
        stage: the stage that ends here.
        divergence: of the network's answers from the fp32 network's on the same images, in nats.
        divergence_standard_error: of that mean over images.
        kept_divergence: the same on training images from which nothing was learned here; the fp32 network has learned them, so
            they are no judge of small differences, and are noted alone.
        moved: share of the weights that changed their level in this stage.
        flipped: share that changed it again later in this stage: they oscillate.
    """

    epochs: float
    error: float
    loss: float
    seconds: float
    stage: str = "free"
    divergence: float | None = None
    divergence_standard_error: float | None = None
    kept_divergence: float | None = None
    moved: float | None = None
    flipped: float | None = None

    @property
    def place(self) -> tuple[str, float]:
        """Which point of a trial it is: the same for all trials that get there."""
        return (self.stage, self.epochs)

    @property
    def where(self) -> str:
        """The place in words."""
        if self.stage == "free":
            return f"at {self.epochs:.3g} epochs"
        words = {
            "small": "rebuilt from few images",
            "rebuilt": "rebuilt",
            "held": "with levels held",
            "inherited": "with inherited weights",
        }
        return words.get(self.stage, self.stage)


def best_of(curve: tuple[Rung, ...]) -> int:
    """Index of the rung whose network a trial keeps: the least divergence, the first of equal ones; the last where none is
    known."""
    found = [(rung.divergence, place) for place, rung in enumerate(curve) if rung.divergence is not None]
    known = [(divergence, place) for divergence, place in found if math.isfinite(divergence)]
    return min(known)[1] if known else len(curve) - 1
