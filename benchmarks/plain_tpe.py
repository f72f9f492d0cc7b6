"""TPE as searches had it before layers were tied: to compare with."""

from __future__ import annotations

from optuna.samplers import TPESampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import OptunaSampler, hush, seed_of


class PlainTpe(OptunaSampler):
    """Over every parameter of the space by itself; jointly over those alone that every trial has."""

    def __init__(self, context: Context) -> None:
        hush()
        super().__init__(context, TPESampler(multivariate=True, constant_liar=True, seed=seed_of(context)))
