"""Live comparisons: the conductor decides runs, their epochs are those that it lets trials go, shares are of all trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.search_live import LiveOutcome, LiveVolumes, RunName, Setting, row_of, run
from foundation.plan import Plan
from pipeline.candidate.cost_fit import FittedCost
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.settings import Settings
from pipeline.training.rung import Rung
from search_spaces.samplers.base import Prior
from search_spaces.space import Space

SPACE = Space(("conv1", "conv2", "fc"))
EPOCHS = 2.0


def estimate(plan: Plan) -> dict[str, float]:
    zeros = sum(layer.zero_share or 0.1 for layer in plan.layers.values())
    return {"latency": 10 - zeros, "size": 100.0 * sum(layer.bits for layer in plan.layers.values())}


def harm(plan: Plan) -> float:
    return sum(4.0**-layer.bits + 0.1 * (layer.zero_share or 0.0) for layer in plan.layers.values())


class MadeUp:
    """What every plan comes to, without any training."""

    def __init__(self) -> None:
        self.known: dict[str, LiveOutcome] = {}

    def __call__(self, plan: Plan) -> LiveOutcome:
        cost, error = estimate(plan), 0.05 + harm(plan)
        known = Figures(None, cost["latency"], source="modelled", size_bytes=round(cost["size"]))
        curve = tuple(
            Rung(epochs, error + more, 0.0, 10.0 + epochs, stage, error + more)
            for stage, epochs, more in (("rebuilt", 0.0, 0.02), ("held", 0.0, 0.01), ("free", EPOCHS, 0.0))
        )
        figures = Figures(error, cost["latency"], source="modelled", size_bytes=round(cost["size"]))
        record = TrialRecord(0, plan, "finished", figures, curve=curve)
        return self.known.setdefault(plan.hash, LiveOutcome(known, record, error))


def setting(budget: int) -> Setting:
    settings = Settings(epochs_per_trial=EPOCHS, rungs=3)
    workspace: Any = SimpleNamespace(settings=settings, data=SimpleNamespace(classes=range(10)))
    prior = Prior(cost=FittedCost(estimate), proxy=harm, error=0.05, images=1000)
    return Setting(workspace, SPACE, prior, (), MadeUp(), budget)  # type: ignore[arg-type]


def test_what_a_run_is_called() -> None:
    assert RunName.of("tpe+halving") == RunName("tpe+halving", "tpe", halving=True, filtered=True)
    assert RunName.of("gp-filter") == RunName("gp-filter", "gp", halving=False, filtered=False)
    assert RunName.of("tpe-before").sampler == "tpe-before"


def test_halving_lets_fewer_epochs_go_and_the_rest_is_counted(tmp_path: Path) -> None:
    whole, halved = setting(14), setting(14)
    plain = run(whole, RunName.of("random-filter"), 0, tmp_path)
    assert {each["end"] for each in plain} == {"finished"} and plain[-1]["epochs"] == pytest.approx(
        14 * EPOCHS
    )
    stopped = run(halved, RunName.of("random+halving"), 0, tmp_path)
    ended = {each["plan"]: each for each in stopped}
    finished = sum(each["end"] == "finished" for each in ended.values())
    assert 0 < finished < 14 and stopped[-1]["epochs"] == pytest.approx(finished * EPOCHS)
    assert stopped[-1]["spent"] <= 14 < stopped[-1]["spent"] + len(ended)

    trials = {**whole.trials.known, **halved.trials.known}
    volumes = LiveVolumes(trials, (0.5, 11.0, 2500.0))
    assert volumes.of(list(trials)) == pytest.approx(1.0)
    for name, log in (("random-filter", plain), ("random+halving", stopped)):
        row = row_of(name, 0, log, volumes, EPOCHS)
        shares = [float(row[f"share_{mark}"]) for mark in (3, 5, 8) if row[f"share_{mark}"]]
        assert shares == sorted(shares) and 0 < float(row["share"]) <= 1
        assert row["finished"] == str(
            sum(e["end"] == "finished" for e in {x["plan"]: x for x in log}.values())
        )


def test_an_outcome_is_kept_as_a_row(tmp_path: Path) -> None:
    uniform = run(setting(14), RunName.of("uniform"), 0, tmp_path)
    assert len(uniform) == 4 and uniform[-1]["spent"] == 4
    made = MadeUp()(SPACE.warm_starts()[1])
    found = LiveOutcome.from_row(made.as_row())
    assert found == LiveOutcome(made.known, made.record, pytest.approx(made.report_error))  # type: ignore[arg-type]
