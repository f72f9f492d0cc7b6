"""A search that needs no training: its trials take their figures from the plan. Used by the engine's tests, also as
`python tabulated.py FOLDER BUDGET [KEY=VALUE ...]`, so that a whole driver process can be killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from foundation.command import main_guard
from foundation.plan import Plan
from pipeline.cluster import engine
from pipeline.study.memory import refused
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from pipeline.training.rung import Rung
from pipeline.training.stages import Stage
from search_spaces.space import Space
from tests.system.lines import Lines

SPACE = Space(("conv1", "conv2", "fc"))


HERE = Path(__file__).resolve().parent


class Driver:
    """A search in a process of its own; its output is read line by line."""

    def __init__(
        self,
        folder: Path,
        budget: int,
        step_seconds: float = 0.0,
        environment: dict[str, str] | None = None,
        **options: float,
    ) -> None:
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "tabulated.py"), str(folder), str(budget)]
            + [f"{key}={value}" for key, value in options.items()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "STEP_SECONDS": str(step_seconds), **(environment or {})},
        )
        self.output: list[str] = []

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.strip())
            yield line.strip()

    def until_ended(self, count: int) -> list[str]:
        """The hashes of the first ``count`` trials that end."""
        ended = []
        for line in self.lines():
            if line.startswith("ended"):
                ended.append(line.split()[1])
                if len(ended) == count:
                    return ended
        raise AssertionError("\n".join(self.output))

    def rest(self) -> list[str]:
        """All further lines; the process must end well."""
        lines = list(self.lines())
        assert self.process.wait(60) == 0, "\n".join(self.output)
        return lines


def figures_of(plan: Plan, epochs: float | None) -> Figures:
    bits = sum(layer.bits for layer in plan.layers.values())
    zeros = sum(layer.zero_share or 0.1 for layer in plan.layers.values())
    error = None if epochs is None else 0.5 / bits + 0.01 * zeros + 0.1 / epochs
    return Figures(error, 10 - zeros, 9 - zeros, 11 - zeros, "modelled", "table", bits * 100)


def eat() -> None:
    eaten = [bytes(2**28) + b"." for _ in range(48)]
    time.sleep(len(eaten))


class TabulatedTrial(tune.Trainable):
    """Speaks as CotuneTrial does. A file HASH.raise, .kill or .hang in the study's folder makes that trial do so, .start makes it
    die while it starts, .eat take 12 GiB (.start_eat while it starts), .greedy ask for more than any machine has; a number in it
    says how often."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)
        if self.marked("start"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.marked("start_eat"):
            eat()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan, self.stage = Plan.from_json(new_config["plan"]), -1
        self.folder = new_config["settings"].folder
        return True

    def marked(self, what: str) -> bool:
        mark = self.folder / f"{self.plan.hash}.{what}"
        left = int(mark.read_text() or 1) if mark.exists() else 0
        if left:
            mark.write_text(str(left - 1))
        return left > 0

    def step(self) -> dict[str, Any]:
        self.stage += 1
        if self.stage == 1 and self.marked("eat"):
            eat()
        if self.stage == 1 and (self.folder / f"{self.plan.hash}.greedy").exists():
            import torch  # which takes seconds that no other trial needs

            try:
                torch.empty(2**42, dtype=torch.uint8)
            except RuntimeError as error:
                return {"phase": "died", "asked": refused(error), "done": True}
        number, stages = self.config["number"], [Stage(*stage) for stage in self.config["stages"]]
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
        figures = figures_of(self.plan, 1.0 + self.stage)
        curve = tuple(
            Rung(stage.epochs, figures_of(self.plan, 2.0 + place).error or 0.0, 1.0, 1.0, stage.name)
            for place, stage in enumerate(stages)
        )
        rung = curve[self.stage - 1]
        if self.stage == len(stages):
            record = TrialRecord(number, self.plan, "finished", figures, curve=curve)
            return {"phase": "ended", "record": record.to_json(), "done": True}
        return {
            "phase": "rung",
            "rung": json.dumps(dataclasses.asdict(rung)),
            "figures": json.dumps(dataclasses.asdict(figures)),
        }


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


def main() -> int:
    options: dict[str, Any] = {}
    for option in sys.argv[3:]:
        key, value = option.split("=")
        options[key] = float(value) if "." in value else int(value)
    complete, records = search(Path(sys.argv[1]), int(sys.argv[2]), **options)
    print("complete" if complete else "incomplete", len(records), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
