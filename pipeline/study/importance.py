"""Which layers' choices set the best trials apart, for each objective by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from pipeline.study.records import TrialRecord
from search_spaces.samplers.by_optuna import hush

LEAST = 20  # finished trials; with fewer there are no five best ones to set apart
BEST = 0.25  # share of the trials that count as good
ABSENT = "absent"  # of a dimension that a layer's other choices leave nothing to choose in


def importance(records: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """By objective, each layer's share (they sum to 1) of what distinguishes the best quarter of the finished trials from all
    (PED-ANOVA, Watanabe et al., IJCAI 2023, arXiv:2304.10255), over all that is chosen for the layer; a layer that every trial
    has alike is left out. Empty where too few trials have finished."""
    finished = [r for r in records if r.status == "finished" and r.figures.objectives(tuple(objectives))]
    if len(finished) < LEAST:
        return {}
    dimensions = sorted({name for r in finished for layer in r.plan.layers.values() for name in layer.values})
    chosen = [_chosen(record, dimensions) for record in finished]
    seen: dict[str, list[Any]] = {}
    for row in chosen:
        for name, value in row.items():
            seen.setdefault(name, [])
            if value not in seen[name]:
                seen[name].append(value)
    spread: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in seen.items() if len(values) > 1
    }
    if not spread:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    hush()
    found: dict[str, Mapping[str, float]] = {}
    for place, objective in enumerate(objectives):
        study = optuna.create_study()
        for row, record in zip(chosen, finished):
            point = record.figures.objectives(tuple(objectives))
            assert point is not None
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: row[name] for name in spread}, distributions=spread, value=point[place]
                )
            )
        if len({trial.value for trial in study.get_trials(deepcopy=False)}) == 1:
            continue  # nobody is better than anybody
        shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST))
        layers: dict[str, float] = {}
        for name, share in shares.items():
            layer = name.rpartition("/")[0]
            layers[layer] = layers.get(layer, 0.0) + share
        found[objective] = layers
    return found


def _chosen(record: TrialRecord, dimensions: Sequence[str]) -> dict[str, Any]:
    """What a plan says of each layer, by layer and dimension."""
    return {
        f"{layer}/{name}": values.values.get(name, ABSENT)
        for layer, values in record.plan.layers.items()
        for name in dimensions
    }
