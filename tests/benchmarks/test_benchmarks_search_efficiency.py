"""Recorded trials and what samplers find on them: rows are made once and follow from number and seed; the surrogate foresees what
it has not seen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record_trials, search_efficiency
from foundation.errors import UserError
from foundation.plan import Plan
from pipeline.networks.registry import load_model
from search_spaces.layers import layers_of
from search_spaces.programme import ChoiceTable
from search_spaces.samplers.base import Prior
from search_spaces.space import Space
from search_spaces.warm_starts import uniform_starts


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder, and the words that both commands need."""
    import torch

    folder = tmp_path_factory.mktemp("recorded")
    torch.manual_seed(0)
    model = load_model("resnet8", classes=10, image_size=(8, 8))
    torch.save(model.state_dict(), folder / "net.pt")
    return folder, ["--network", "resnet8", "--data", "digits", "--weights", str(folder / "net.pt")]


SPACE = Space(layers_of(load_model("resnet8", classes=10, image_size=(8, 8)), (3, 8, 8)))


def bits_of(plan: Plan) -> float:
    return float(sum(layer.bits for layer in plan.layers.values()))


def harm_of(plan: Plan) -> float:
    return sum(2.0 ** -(2 * layer.bits) + (layer.zero_share or 0.0) for layer in plan.layers.values())


def table() -> ChoiceTable:
    def latency(plan: Plan) -> float:
        return 10 - sum(layer.zero_share or 0.0 for layer in plan.layers.values())

    measures = {"harm": harm_of, "latency": latency, "size": bits_of}
    return ChoiceTable.of(SPACE, SPACE.warm_starts()[0], measures).undominated()


def test_a_row_s_plan_follows_from_its_number_and_the_seed() -> None:
    choices, starts = table(), len(SPACE.warm_starts())
    made = [record_trials.plan_at(number, 0, SPACE, choices) for number in range(starts + 12)]
    assert made == [record_trials.plan_at(number, 0, SPACE, choices) for number in range(starts + 12)]
    assert [kind for kind, _ in made[:starts]] == ["start"] * starts
    assert {kind for kind, _ in made[starts:]} == {"random", "tied", "front"}
    for kind, plan in made:
        SPACE.params(plan)  # it is of this space
        inner = [*plan.layers.values()][1:-1]
        if kind == "tied":
            assert len(set(inner)) <= record_trials.GROUPS
    assert record_trials.plan_at(starts, 1, SPACE, choices)[1] != made[starts][1]


def test_trials_are_recorded_once(place: tuple[Path, list[str]]) -> None:
    folder, words = place
    small = ["--steps", "2", "--images", "16", "--judged", "40", "--out", str(folder / "trials.csv")]
    assert record_trials.main([*words, *small, "--count", "2", "--part", "1/2"]) == 0
    with (folder / "trials.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["number"] == "1" and Plan.from_json(row["plan"]) == SPACE.warm_starts()[1]
    assert 0 <= float(row["error"]) <= 1 and float(row["divergence"]) > 0 and float(row["size_bytes"]) > 0
    before = (folder / "trials.csv").read_bytes()
    assert record_trials.main([*words, *small, "--count", "2", "--part", "1/2"]) == 0
    assert (folder / "trials.csv").read_bytes() == before
    with pytest.raises(UserError, match="--part 2/2: give the number of a part"):
        record_trials.main([*words, *small, "--part", "2/2"])


def test_the_surrogate_foresees_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(240, 6))
    errors = 1 / (1 + np.exp(-(np.sin(inputs[:, 0]) + inputs[:, 1] - 0.5 * inputs[:, 2] * inputs[:, 3])))
    found = search_efficiency.cross_validated(inputs, errors, 4.0, 0.03)
    assert np.abs(found - errors).mean() < 0.25 * np.abs(errors - errors.mean()).mean()
    whole = search_efficiency.Surrogate.fit(inputs, errors, 4.0, 0.03)
    assert np.abs(whole(inputs) - errors).max() < 0.03


def test_a_search_on_it_tries_each_plan_once_and_begins_as_a_search_does() -> None:
    tried: list[Plan] = []

    def judge(plan: Plan) -> tuple[float, ...]:
        tried.append(plan)
        return (harm_of(plan), 1.0, bits_of(plan))

    prior = Prior(proxy=harm_of, cost=lambda plan: {"latency": 1.0, "size": bits_of(plan)}, error=0.0)
    for name in ("random-bare", "metropolis"):
        tried.clear()
        assert len(search_efficiency.searched(name, 0, 9, SPACE, prior, judge)) == 9
        assert len({plan.hash for plan in tried}) == 9
    assert tried[:3] == uniform_starts(SPACE)
    assert len(search_efficiency.searched("uniform", 0, 9, SPACE, prior, judge)) == 3


def test_shares_of_a_near_exact_front_by_trials(
    place: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = place
    monkeypatch.setattr(search_efficiency, "EVOLVED", 200)
    choices = table()
    for number in range(30):
        plan = record_trials.plan_at(number, 0, SPACE, choices)[1]
        error = 0.02 + 0.3 * harm_of(plan) / len(plan.layers)
        record_trials.add(
            folder / "table.csv", {"number": str(number), "plan": plan.to_json(), "error": str(error)}
        )
    out = folder / "efficiency.csv"
    words = [*words, "--table", str(folder / "table.csv"), "--out", str(out), "--seeds", "1", "--trials", "5"]
    assert search_efficiency.main([*words, "--samplers", "uniform", "random"]) == 0
    assert "30 trials; held out: the surrogate is off by" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = {row["sampler"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        assert 0 < float(row["share_3"]) <= float(row["share_5"]) <= 1.0
    assert float(rows["random"]["share_5"]) >= float(rows["uniform"]["share_5"]), (
        "it begins with the same plans"
    )
    with out.with_name("efficiency_surrogate.csv").open(newline="") as file:
        [said] = csv.DictReader(file)
    assert said["trials"] == "30" and 0 <= float(said["fronts_differ"]) < 1
    assert 0 < float(said["off_median"]) < 0.1 and 0.9 < float(said["proxy_rank"]) <= 1
    before = out.read_bytes()
    assert search_efficiency.main([*words, "--samplers", "uniform"]) == 0
    assert out.read_bytes() == before
