"""Tree-structured Parzen estimators of good and of other plans (Bergstra et al., NeurIPS 2011), several objectives at
a time (Ozaki et al., 2022), all parameters jointly; a running trial counts as a bad one, so that it is not repeated."""

from __future__ import annotations

from optuna.samplers import TPESampler

from search_spaces.samplers.base import Context
from search_spaces.samplers.by_optuna import OptunaSampler, seed_of


class Tpe(OptunaSampler):
    """Optuna's TPESampler."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, TPESampler(multivariate=True, constant_liar=True, seed=seed_of(context)))
