"""Studies of any size without a search: trials whose figures come from estimates, written as a search would have left them."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.files import json_text

if TYPE_CHECKING:
    from foundation.plan import Plan
    from pipeline.candidate.cost_fit import FittedCost
    from pipeline.study.records import Figures, TrialRecord
    from pipeline.study.study import Study
    from search_spaces.samplers.base import Prior
    from search_spaces.space import Space

FP32_ERROR, CLASSES, SEED = 0.08, 10, 0
DATE = "2026-01-01 00:00:00.000000"


@dataclass(frozen=True)
class SimulatedSearch:
    """What a search of one network knows before its trials."""

    network: str
    space: Space
    prior: Prior
    cost: FittedCost
    layers: int

    @classmethod
    def of(cls, network: str, size: int, folder: Path) -> SimulatedSearch:
        """Of a network with random weights and images, which cost as much to look at as others."""
        import numpy as np
        import torch

        from pipeline.candidate.cost_fit import FittedCost
        from pipeline.candidate.plan_cost import PlanCost
        from pipeline.candidate.sensitivity import sensitivity_of
        from pipeline.candidate.workspace import Workspace
        from pipeline.datasets.base import ImageData
        from pipeline.datasets.images import ArrayImages
        from pipeline.networks.registry import find_network, load_model
        from pipeline.study.searched import searched_space
        from pipeline.study.settings import Settings
        from quantizers.core.producers import producers_of
        from search_spaces.layers import layers_of
        from search_spaces.samplers.base import Prior

        pixels = np.random.default_rng(SEED).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
        images = ArrayImages(torch.from_numpy(pixels), torch.arange(64) % CLASSES)
        names = tuple(map(str, range(CLASSES)))
        data = ImageData("noise", names, (size, size), images, images, images, "none")
        spec = find_network(network)
        model = load_model(spec, classes=CLASSES, image_size=size)
        settings = Settings(model=network, name="study", out=folder)
        workspace = Workspace(settings, data, model, *spec.normalized()[:2], normalization="")
        layers = layers_of(model, workspace.input_shape, producers_of(model))
        space = searched_space(settings, layers)
        harms = sensitivity_of(model, images, workspace.mean, workspace.std, space, count=8)
        cost = FittedCost(PlanCost(workspace, harms.harms))
        prior = Prior(tuple(layers), cost, harms, error=FP32_ERROR, images=1000)
        return cls(network, space, prior, cost, len(layers))

    def figures(self, plan: Plan, rung: int | None, chance: random.Random) -> Figures:
        """Of a trial at a rung (None: before the first): near what is foreseen of it."""
        from pipeline.study.records import Figures

        assert self.prior.proxy is not None
        foreseen = self.cost(plan)
        harm = self.prior.proxy(plan)
        error = None
        if rung is not None:
            error = min(0.9, FP32_ERROR + 0.02 * harm / (1 + rung) + abs(chance.gauss(0, 0.01)))
        ms = foreseen["latency"] * chance.uniform(1.0, 1.05)
        return Figures(
            error, ms, 0.9 * ms, 1.1 * ms, "modelled", "simulated", round(foreseen["size"]), 100_000
        )

    def ended(self, number: int, plan: Plan, rungs: int, chance: random.Random) -> TrialRecord:
        """A trial that went through all its rungs."""
        from pipeline.study.records import TrialRecord
        from pipeline.training.rung import Rung

        curve = tuple(
            Rung(float(place), self.figures(plan, place, chance).error or 0.0, 1.0, 60.0 * (place + 1))
            for place in range(rungs)
        )
        figures = dataclasses.replace(self.figures(plan, rungs, chance), error=curve[-1].error)
        started = 1.7e9 + 60.0 * number
        return TrialRecord(
            number, plan, "finished", figures, curve=curve, started=started, ended=started + 60
        )

    def random_plans(self, count: int) -> Iterator[Plan]:
        """As they are drawn, each once."""
        chance, seen = random.Random(SEED), set[str]()
        while len(seen) < count:
            plan = self.space.random(chance)
            if plan.hash not in seen:
                seen.add(plan.hash)
                yield plan


def filled(
    study: Study,
    records: Sequence[TrialRecord],
    waiting: Sequence[Plan] = (),
    objectives: tuple[str, ...] = ("error", "latency", "size"),
) -> None:
    """Give a new study, which must be closed, trials that ended, and plans that wait, all in one transaction: its own way takes
    a tenth of a second for each."""
    from pipeline.study.study import FILE

    rows: list[tuple[int, TrialRecord, tuple[Any, ...]]] = [
        (number, dataclasses.replace(record, number=number), record.figures.objectives(objectives) or ())
        for number, record in enumerate(records)
    ]
    with closing(sqlite3.connect(study.folder / FILE)) as database, database:
        for table in ("trials", "trial_user_attributes", "trial_values"):
            database.execute(f"delete from {table}")
        database.executemany(
            "insert into trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
            "values (?, ?, 1, 'COMPLETE', ?, ?)",
            [(number + 1, number, DATE, DATE) for number, _, _ in rows],
        )
        database.executemany(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, ?, ?)",
            [
                (number + 1, key, json_text(text))
                for number, record, _ in rows
                for key, text in (("plan", record.plan.to_json()), ("record", record.to_json()))
            ],
        )
        database.executemany(
            "insert into trial_values (trial_id, objective, value, value_type) values (?, ?, ?, 'FINITE')",
            [(number + 1, place, value) for number, _, values in rows for place, value in enumerate(values)],
        )
        database.executemany(
            "insert into trials (trial_id, number, study_id, state) values (?, ?, 1, 'WAITING')",
            [(len(rows) + place + 1, len(rows) + place) for place in range(len(waiting))],
        )
        database.executemany(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, 'plan', ?)",
            [(len(rows) + place + 1, json_text(plan.to_json())) for place, plan in enumerate(waiting)],
        )
