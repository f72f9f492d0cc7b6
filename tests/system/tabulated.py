"""A search that needs no training: its trials take their figures from the plan. Used by the engine's tests, also as
`python tabulated.py FOLDER BUDGET [KEY=VALUE ...]`, so that a whole driver process can be killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ray import tune

from pipeline import engine
from pipeline.config import Settings
from pipeline.records import Figures, Reference, Rung, TrialRecord
from pipeline.study import Study
from search_spaces.plan import Plan
from search_spaces.space import Space

SPACE = Space(("conv1", "conv2", "fc"))


def figures_of(plan: Plan, epochs: float | None) -> Figures:
    bits = sum(layer.bits for layer in plan.layers.values())
    zeros = sum(layer.zero_share or 0.1 for layer in plan.layers.values())
    error = None if epochs is None else 0.5 / bits + 0.01 * zeros + 0.1 / epochs
    return Figures(error, 10 - zeros, 9 - zeros, 11 - zeros, "modelled", "table", bits * 100)


class TabulatedTrial(tune.Trainable):
    """Speaks as CotuneTrial does. A file HASH.raise, .kill or .hang in the study's folder makes that trial do so."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan, self.stage = Plan.from_json(new_config["plan"]), -1
        self.folder = new_config["settings"].folder
        return True

    def step(self) -> dict[str, Any]:
        self.stage += 1
        number, budgets = self.config["number"], self.config["budgets"]
        with (self.folder / "steps.log").open("a") as log:
            log.write(f"{self.plan.hash} {self.stage} {os.getpid()}\n")
        for wanted in ("raise", "kill", "hang"):
            mark = self.folder / f"{self.plan.hash}.{wanted}"
            if mark.exists() and self.stage == 1:
                if wanted == "raise":
                    record = TrialRecord(number, self.plan, "failed", Figures(None), "ValueError: told to")
                    return {"phase": "ended", "record": record.to_json(), "done": True}
                if wanted == "kill":
                    left = int(mark.read_text())
                    if left:
                        mark.write_text(str(left - 1))
                        os.kill(os.getpid(), signal.SIGKILL)
                while wanted == "hang":
                    time.sleep(0.1)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        if self.stage == 0:
            known = dataclasses.asdict(figures_of(self.plan, None))
            return {"phase": "profiled", "figures": json.dumps(known)}
        epochs = budgets[self.stage - 1]
        figures = figures_of(self.plan, epochs)
        assert figures.error is not None
        rung = Rung(epochs, figures.error, 1.0, 1.0)
        if self.stage == len(budgets):
            curve = tuple(Rung(e, figures_of(self.plan, e).error or 0.0, 1.0, 1.0) for e in budgets)
            record = TrialRecord(number, self.plan, "finished", figures, curve=curve)
            return {"phase": "ended", "record": record.to_json(), "done": True}
        return {
            "phase": "rung",
            "rung": json.dumps(dataclasses.asdict(rung)),
            "figures": json.dumps(dataclasses.asdict(figures)),
        }


class Lines:
    """Progress as plain lines on stdout."""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def status(self, text: str) -> None:
        pass

    def trial(self, record: TrialRecord, done: int) -> None:
        print("ended", record.hash, record.status, done, flush=True)


def search(folder: Path, budget: int, **rest: Any) -> tuple[bool, list[TrialRecord]]:
    hoped = rest.pop("hoped", 0.01)
    settings = Settings(
        name=folder.name, out=folder.parent, budget=budget, epochs_per_trial=3.0, rungs=2, **rest
    )
    with Study(folder, SPACE, identity={"model": "table"}, seed=settings.seed) as study:
        print("recovered", *dataclasses.astuple(study.recovered), flush=True)
        references = [Reference("fp32", Figures(hoped))]
        complete = engine.run(settings, study, Lines(), references=references, trainable=TabulatedTrial)
        return complete, study.records()


if __name__ == "__main__":
    options: dict[str, Any] = {}
    for option in sys.argv[3:]:
        key, value = option.split("=")
        options[key] = float(value) if "." in value else int(value)
    complete, records = search(Path(sys.argv[1]), int(sys.argv[2]), **options)
    print("complete" if complete else "incomplete", len(records), flush=True)
