"""``--like``: what a search leaves for others, and what another network's search takes up of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.factories import look_in
from foundation.files import write_atomically
from foundation.plan import Plan
from pipeline.candidate.beforehand import first_plans
from pipeline.candidate.cost_fit import FittedCost
from pipeline.candidate.learned import LEARNED, take_up, write_learned
from pipeline.networks.registry import load_model
from pipeline.study.paths import LIKE
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.sensitivity import FILE
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from search_spaces.layers import layers_of
from search_spaces.samplers.base import Context, Prior
from search_spaces.samplers.programme import Programme
from search_spaces.sensitivity import Harm, Sensitivity
from search_spaces.space import Space
from search_spaces.warm_starts import uniform_starts

SHORT, LONG = (
    layers_of(load_model(name, classes=10, image_size=(8, 8)), (3, 8, 8)) for name in ("resnet8", "resnet20")
)


OWN = """
class Untold:
    def __init__(self, context): ...
    def propose(self): ...

class Told(Untold):
    starts_from_prior = True
"""


def harms_of(space: Space) -> Sensitivity:
    return Sensitivity({
        name: {plan: Harm(0.02 * 4.0**-plan.bits, 0.01 * (plan.zero_share or 0.0)) for plan in plans}
        for name, plans in space.layer_plans().items()
    })  # fmt: skip


def estimate(plan: Plan) -> dict[str, float]:
    bits = [layer.bits for layer in plan.layers.values()]
    zeros = sum(layer.zero_share or 0.0 for layer in plan.layers.values())
    return {"latency": 0.1 * len(bits) - 0.05 * zeros, "size": 100.0 * sum(bits)}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished search of the shorter network, whose programs take a tenth more than their layers."""
    space = Space(SHORT)
    harms = harms_of(space)
    folder = tmp_path / "earlier"
    done: list[tuple[Plan, Figures]] = []
    cost = FittedCost(estimate)
    cost.learn_from(lambda: done)
    prior = Prior(tuple(SHORT), cost, harms, error=0.08, images=2000)
    with Study(folder, space, identity={}, sampler="programme", prior=prior) as study:
        for _ in range(6):
            candidate = study.ask()
            assert candidate is not None
            real = estimate(candidate.plan)
            figures = Figures(
                0.08 + 0.9 * harms(candidate.plan) ** 0.6,
                1.1 * real["latency"],
                source="modelled",
                size_bytes=round(real["size"]),
            )
            study.tell(candidate.number, TrialRecord(candidate.number, candidate.plan, "finished", figures))
            done.append((candidate.plan, figures))
        write_learned(study, prior, cost, SHORT)
    write_atomically(folder / FILE, harms.to_json())
    return folder


def test_a_longer_network_begins_with_what_a_shorter_one_s_search_learned(
    earlier: Path, tmp_path: Path
) -> None:
    space, own = Space(LONG), tmp_path / "later"
    found = take_up(earlier, own, LONG, space)
    assert found.matched == (20, 20) and found.errors is not None and found.sensitivity is not None
    assert found.plans and all(space.params(plan) for plan in found.plans)
    cost = FittedCost(estimate, found.costs)
    plan = space.warm_starts()[0]
    blind = FittedCost(estimate).foresee(plan)["latency"]
    foreseen, real = cost.foresee(plan)["latency"], 1.1 * estimate(plan)["latency"]
    assert abs(foreseen.point - real) < 0.5 * abs(blind.point - real)
    assert foreseen.low < real < foreseen.high and foreseen.high - foreseen.low < 0.5 * (
        blind.high - blind.low
    )

    prior = Prior(
        tuple(LONG), cost, found.sensitivity, error=0.08, images=2000, errors=found.errors, plans=found.plans
    )
    context = Context(space, ("error", "latency", "size"), list, prior=prior)
    learned = Programme(context).learned()
    assert learned is not None and learned.mean == pytest.approx(found.errors.mean), (
        "with no trial of its own yet"
    )
    begins = first_plans(space, prior, "tpe")
    assert begins is not None and {plan.hash for plan in found.plans[:4]} <= {plan.hash for plan in begins}
    (tmp_path / "own_samplers.py").write_text(OWN)
    look_in(tmp_path)
    for sampler in ("programme", "own_samplers:Told"):
        assert first_plans(space, prior, sampler) == uniform_starts(space), (
            "they find the others by themselves"
        )
    assert first_plans(space, prior, "own_samplers:Untold") == begins
    assert Programme(context).propose() is not None

    shutil.rmtree(earlier)  # a search goes on when the earlier study is gone
    assert take_up(earlier, own, LONG, space).errors is not None and (own / LIKE).is_file()


def test_a_study_that_kept_nothing_is_refused_with_what_to_do(earlier: Path, tmp_path: Path) -> None:
    space = Space(LONG)
    with pytest.raises(UserError, match=r"nowhere: it has no learned.json, .*; resume it once with --name"):
        take_up(tmp_path / "nowhere", tmp_path / "own", LONG, space)
    kept = (earlier / LEARNED).read_text()
    for damaged in ("{", kept.replace('"format": 1', '"format": 2'), kept.replace('"layers"', '"others"')):
        (earlier / LEARNED).write_text(damaged)
        with pytest.raises(UserError, match="this is not what a search has learned"):
            take_up(earlier, tmp_path / "own", LONG, space)
    assert not (tmp_path / "own").exists(), "nothing is left of it"
    (earlier / LEARNED).write_text(kept)
    (earlier / FILE).unlink()  # an older one without: the rest is of use all the same
    assert take_up(earlier, tmp_path / "own", LONG, space).sensitivity is None


def test_the_earlier_study_is_named_by_its_path_or_as_in_the_output_folder(
    earlier: Path, tmp_path: Path
) -> None:
    settings = Settings(like=earlier, out=tmp_path / "elsewhere", name="later")
    assert Settings().like_folder is None and settings.like_folder == earlier
    by_name = Settings(like=Path("/nowhere") / earlier.name, out=earlier.parent, name="later")
    assert by_name.like_folder == earlier
    gone = Settings(like=tmp_path / "gone", out=tmp_path, name="later")
    with pytest.raises(UserError, match=r"--like .*gone: there is no such folder, nor a study 'gone' in"):
        _ = gone.like_folder
    write_atomically(tmp_path / "later" / LIKE, "{}")  # it has taken up what it needs
    assert gone.like_folder is None
