"""Generations of plans that mate, chosen by non-domination and crowding (Deb et al., 2002)."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import OptunaSampler, seed_of


class Nsga2(OptunaSampler):
    """Optuna's NSGAIISampler."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, NSGAIISampler(population_size=20, seed=seed_of(context)), takes_notes=True)
