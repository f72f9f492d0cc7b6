"""A trial that only waits: what is around it is to be measured."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from ray import tune

from foundation.files import json_text
from foundation.plan import Plan
from pipeline.study.records import Figures, TrialRecord
from pipeline.training.rung import Rung
from pipeline.training.stages import Stage
from search_spaces.space import Space

SPACE = Space(tuple(f"layer{number}" for number in range(22)))


class SimulatedTrial(tune.Trainable):
    """Speaks as ``CotuneTrial`` does; takes as many seconds as its settings have epochs, less one."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._plan, self._stage = Plan.from_json(new_config["plan"]), -1
        self._stages = [Stage(*stage) for stage in new_config["stages"]]
        self._curve: tuple[Rung, ...] = ()
        return True

    def step(self) -> dict[str, Any]:
        self._stage += 1
        bits = sum(layer.bits for layer in self._plan.layers.values())
        figures = Figures(None, float(bits), 0.9 * bits, 1.1 * bits, "modelled", "simulated", 100 * bits)
        if self._stage == 0:
            return {"phase": "profiled", "figures": json_text(dataclasses.asdict(figures))}
        time.sleep((self.config["settings"].epochs_per_trial - 1) / len(self._stages))
        stage = self._stages[self._stage - 1]
        rung = Rung(stage.epochs, 0.02 + 1 / bits, 1.0, 1.0, stage.name)
        figures = dataclasses.replace(figures, error=rung.error)
        self._curve = (*self._curve, rung)
        if self._stage == len(self._stages):
            number = self.config["number"]
            record = TrialRecord(number, self._plan, "finished", figures, curve=self._curve)
            return {"phase": "ended", "record": record.to_json(), "done": True}
        told = {"rung": dataclasses.asdict(rung), "figures": dataclasses.asdict(figures)}
        return {"phase": "rung", **{key: json.dumps(value) for key, value in told.items()}}
