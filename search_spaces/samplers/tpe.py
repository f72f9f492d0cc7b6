"""Tree-structured Parzen estimators of good and of other plans (Bergstra et al., NeurIPS 2011), several objectives at
a time (Ozaki et al., 2022), all parameters jointly; a running trial counts as a bad one, so that it is not repeated."""

from __future__ import annotations

from optuna.samplers import TPESampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import hush, seed_of
from search_spaces.samplers.tied import TiedSampler


class Tpe(TiedSampler):
    """Optuna's TPESampler, on layers tied in groups."""

    def __init__(self, context: Context) -> None:
        hush()  # groups are new to Optuna
        sampler = TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed_of(context))
        super().__init__(context, sampler)
