"""Plans drawn choice by choice, whatever happened before."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import OptunaSampler, seed_of


class Random(OptunaSampler):
    """Optuna's RandomSampler."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, RandomSampler(seed=seed_of(context)))
