"""Who is given up early: a network that hardly does better than guessing although it has been trained a little (EvoNorms,
arXiv:2004.02967, section 4, reject theirs after so many steps). Numbers in, decisions out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.training.rung import Rung
from pipeline.training.stages import FREE

STEPS = 100  # of training after which that is looked at
HOPELESS = "hardly better than guessing"


def hopeless(error: float, hoped: float | None, guessed: float) -> bool:
    """Whether an error is of no use: less than twice as good as guessing is (``guessed``, 0..1), where the fp32 network is far
    better than that; or no number at all."""
    if not math.isfinite(error):
        return True
    guessing = 2 * guessed
    return hoped is not None and 1 - hoped > 2 * guessing and 1 - error < guessing


def given_up(curve: Sequence[Rung], hoped: float | None, guessed: float) -> bool:
    """Whether a trial ends here. What is only rebuilt, or has its levels held, may yet recover; and a trial keeps the best of its
    rungs, so one that was of use once still is."""
    return bool(curve) and curve[-1].stage == FREE and all(hopeless(r.error, hoped, guessed) for r in curve)
