"""A Gaussian process over layers tied in groups, asked for the largest expected gain in hypervolume (log-EHVI: Ament et al.,
NeurIPS 2023), with limits as constraints."""

from __future__ import annotations

from optuna.samplers import GPSampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import seed_of
from search_spaces.samplers.tied import TiedSampler


class Gp(TiedSampler):
    """Optuna's GPSampler."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, GPSampler(seed=seed_of(context)))
