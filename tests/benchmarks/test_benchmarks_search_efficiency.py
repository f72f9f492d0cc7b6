"""Recorded trials and what samplers find on them: rows are made once and follow from number and seed; the surrogate foresees what
it has not seen."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record_trials, search_efficiency
from benchmarks.rows import append
from foundation.errors import UserError
from foundation.plan import Plan
from pipeline.networks.registry import load_model
from search_spaces.layers import layers_of
from search_spaces.programme import ChoiceTable
from search_spaces.samplers.base import Prior
from search_spaces.sensitivity import Harm, Sensitivity
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


SPACE = Space(
    layers_of(load_model("resnet8", classes=10, image_size=(8, 8)), (3, 8, 8)),
    coded_bits=(None,),  # as the recorded trials, which are from before it was there
)


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


@pytest.mark.slow
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


def test_plans_as_rows_of_numbers_cost_and_harm_what_they_do_one_by_one() -> None:
    harms = {
        name: {plan: Harm(2.0**-plan.bits, plan.zero_share or 0.0) for plan in plans}
        for name, plans in SPACE.layer_plans().items()
    }

    def cost(plan: Plan) -> dict[str, float]:
        zeros = sum((layer.zero_share or 0.0) * n for n, layer in enumerate(plan.layers.values()))
        return {"latency": 9 - zeros - (plan.activation_bits == 7), "size": 100 + bits_of(plan)}

    coded = search_efficiency.Coded(SPACE, Sensitivity(harms), cost)
    rng = random.Random(0)
    plans = [*SPACE.warm_starts(), *(SPACE.random(rng) for _ in range(5))]
    rows = coded.rows(plans)
    assert coded.costs(rows) == pytest.approx(np.array([[*cost(plan).values()] for plan in plans]))
    for plan, found in zip(plans, coded.raw(rows)):
        pairs = [harms[name][layer][:2] for name, layer in plan.layers.items()]
        sums = [sum(first for first, _ in pairs), sum(second for _, second in pairs)]
        wanted = [*(value for pair in pairs for value in pair), *sums, sum(sums)]
        assert found == pytest.approx([*np.log(1e-5 + np.array(wanted)), plan.activation_bits])


def test_samplers_are_compared_with_the_one_that_matters() -> None:
    row = {
        "seed": "0",
        **{f"{kind}_{mark}": "" for kind in ("share", "useful") for mark in search_efficiency.MARKS},
    }
    rows = [
        {**row, "sampler": name, "share_8": str(value + shift)}
        for name, shift in (("programme", 0.5), ("tpe", 0.0), ("twin", 0.5))
        for value in (0.1, 0.2, 0.3, 0.4)
    ]
    found = {each["sampler"]: each for each in search_efficiency.compared(rows)}
    assert found.keys() == {"tpe", "twin"} and {each["trials"] for each in found.values()} == {"8"}
    assert found["tpe"]["median"] == "0.2500" and found["tpe"]["programme"] == "0.7500"
    assert float(found["tpe"]["p"]) < 0.05 < float(found["twin"]["p"])


def test_a_search_on_it_tries_each_plan_once_and_begins_as_a_search_does() -> None:
    tried: list[Plan] = []

    def judge(plan: Plan) -> tuple[float, ...]:
        tried.append(plan)
        return (harm_of(plan), 1.0, bits_of(plan))

    prior = Prior(proxy=harm_of, cost=lambda plan: {"latency": 1.0, "size": bits_of(plan)}, error=0.0)
    for name in ("random-bare", "metropolis", "tpe-before"):
        tried.clear()
        assert len(search_efficiency.searched(name, 0, 9, SPACE, prior, judge)) == 9
        assert len({plan.hash for plan in tried}) == 9
    assert tried[:2] == SPACE.warm_starts()[:2], "as before: with many nearly uniform plans"
    search_efficiency.searched("metropolis", 0, 3, SPACE, prior, judge)
    assert tried[-3:] == uniform_starts(SPACE)
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
        append(folder / "table.csv", {"number": str(number), "plan": plan.to_json(), "error": str(error)})
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
    assert said["trials"] == "30" and 0 <= float(said["fronts_differ_share"]) < 1
    assert 0 < float(said["off_median"]) < 0.1 and 0.5 < float(said["proxy_rank"]) <= 1
    before = out.read_bytes()
    assert search_efficiency.main([*words, "--samplers", "uniform"]) == 0
    assert out.read_bytes() == before
    rows_of = (folder / "table.csv").read_text().splitlines()
    (folder / "fewer.csv").write_text("\n".join(rows_of[:26]) + "\n")
    words[words.index("--table") + 1] = str(folder / "fewer.csv")
    with pytest.raises(UserError, match="has searches of a table of 30 trials, this one has 25"):
        search_efficiency.main([*words, "--samplers", "uniform"])
