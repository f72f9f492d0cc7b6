"""A whole search of tiny trials, as `python tiny_search.py FOLDER BUDGET [KEY=VALUE ...]`: the study, Ray, the storage, MLflow
and the front are the real ones, and so is the way of a trial through them; training and profiling are a table. It is there to
be killed. FOLDER/steps.log says what each process did."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from foundation.command import main_guard
from foundation.files import folder_atomically, json_text, sha256
from foundation.plan import Plan
from pipeline.candidate.folder import FORMAT, candidate_path, sourced
from pipeline.cluster.node import Place
from pipeline.cluster.trial import CotuneTrial
from pipeline.study.checkpoints import KEPT, forget_checkpoints, save_record
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.storage import DamagedFile
from pipeline.training.rung import Rung
from pipeline.training.stages import Stage
from search_spaces.space import Space
from tests.system.lines import Lines

HERE = Path(__file__).resolve().parent
SPACE = Space(("conv1", "conv2", "fc"))
FP32 = Figures(0.01, 8.0, 7.9, 8.1, "modelled", "table", 100_000)


def figures_of(plan: Plan, rungs: int | None) -> Figures:
    """From the plan alone; errors are above fp32's, so that nothing keeps a plan out of the front before it was tried."""
    bits = sum(layer.bits for layer in plan.layers.values())
    zeros = sum(layer.zero_share or 0.1 for layer in plan.layers.values())
    error = None if rungs is None else 0.02 + 0.5 / bits + 0.01 * zeros + 0.1 / (1 + rungs)
    return Figures(error, 10 - zeros, 9 - zeros, 11 - zeros, "modelled", "table", bits * 100)


class TinyRun:
    """Has what ``CandidateRun`` has for a trial, and keeps the same files in the same order."""

    def __init__(self, place: Place, plan: Plan, number: int) -> None:
        self.storage, self.folder, self.plan, self.number = place.storage, place.settings.folder, plan, number
        self.damaged: tuple[str, ...] = ()
        self.curve: tuple[Rung, ...] = ()
        names = [n for n in self.storage.names(f"trials/{plan.hash}") if "checkpoint-" in n]
        for name in reversed(names):
            try:
                self.curve = tuple(Rung(**rung) for rung in json.loads(self.storage.read(name)))
                break
            except DamagedFile as error:
                self.damaged = (*self.damaged, str(error))
        self.note("begins", len(self.curve))

    def note(self, what: str, rung: int) -> None:
        """One write, so that lines of several processes do not mix."""
        with (self.folder / "steps.log").open("a") as log:
            log.write(f"{self.plan.hash} {what} {rung} {os.getpid()}\n")

    def profile(self) -> Figures:
        return figures_of(self.plan, None)

    def reach(self, place: int, stage: Stage) -> Rung:
        if place < len(self.curve):
            return self.curve[place]
        self.note("works", place)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0.1")))
        error = figures_of(self.plan, place).error or 0.0
        self.curve = (*self.curve, Rung(stage.epochs, error, 1.0, 1.0, stage.name))
        kept = json_text([dataclasses.asdict(rung) for rung in self.curve]).encode()
        self.storage.write(f"trials/{self.plan.hash}/checkpoint-{len(self.curve):04d}.pt", kept)
        for number in range(1, len(self.curve) - KEPT + 1):
            self.storage.remove(f"trials/{self.plan.hash}/checkpoint-{number:04d}.pt")
        self.note("kept", place)
        return self.curve[-1]

    def given_up(self, figures: Figures) -> None:
        """Never."""

    def finish(self) -> TrialRecord:
        figures = figures_of(self.plan, len(self.curve))
        with folder_atomically(candidate_path(self.folder, self.plan)) as new:
            (new / "plan.json").write_text(self.plan.to_json() + "\n")
            (new / "weights.blob").write_bytes(self.plan.hash.encode() * 8)
            files = {name: sha256(new / name) for name in ("plan.json", "weights.blob")}
            manifest = {"format": FORMAT, "hash": self.plan.hash, "files": files, "figures": sourced(figures)}
            (new / "manifest.json").write_text(json_text(manifest))
        record = TrialRecord(self.number, self.plan, "finished", figures, curve=self.curve)
        save_record(self.storage, record)
        forget_checkpoints(self.storage, self.plan)
        return record


class TinyTrial(CotuneTrial):
    """``CotuneTrial`` whose candidates come from a table."""

    def _opened(self, place: Place, plan: Plan) -> Any:
        return TinyRun(place, plan, self._number)


def search(folder: Path, budget: int, **rest: Any) -> bool:
    """As ``pipeline.search`` does, with the table in the place of network and data."""
    from pipeline.cluster import engine
    from pipeline.report import publish
    from pipeline.search import in_background
    from pipeline.study.study import Study

    uri, storage = os.environ.get("TRACKING_URI"), os.environ.get("STORAGE")
    settings = Settings(name=folder.name, out=folder.parent, budget=budget, epochs_per_trial=1.0, rungs=1,
                        sampler="random", tracking_uri=uri, storage=storage, **rest)  # fmt: skip
    references = [Reference("fp32", FP32), Reference("int8", dataclasses.replace(FP32, latency_ms=9.0))]
    weights = dict.fromkeys(SPACE.layers, 100)
    with Study(folder, SPACE, identity={"model": "table"}, sampler="random", seed=settings.seed) as study:
        print("recovered", *dataclasses.astuple(study.recovered), flush=True)
        with in_background(settings, weights, "table", Lines()) as mlflow:  # type: ignore[arg-type]  # lines are enough

            def after_trial() -> None:
                publish.check_folders(settings.folder, study.front())
                front = [record.hash for record in study.front()]
                mlflow.put(partial(publish.track, settings.folder, study.records(), front))

            after_trial()
            complete = engine.run(
                settings, study, Lines(), after_trial, references=references, trainable=TinyTrial
            )
            review = publish.write_front(settings, study, references, weights)
            last = partial(publish.send, settings.folder, study.records(), review, complete=complete)
            missing = mlflow.close(last)
    print("MLflow lacks" if missing else "MLflow has all", missing or "", flush=True)
    return complete


def main() -> int:
    options = {key: int(value) for key, _, value in (word.partition("=") for word in sys.argv[3:])}
    complete = search(Path(sys.argv[1]), int(sys.argv[2]), **options)
    print("complete" if complete else "incomplete", flush=True)
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main_guard(main))
