"""Dimensions: each of the project's and the example keep to what all must; and what several in one space do to each other."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
import search_spaces.space
from foundation.codebook import Codebook
from foundation.command import Parser
from foundation.dimension import DIMENSIONS, Dimension, Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline import search
from pipeline.study.command_line import parse
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from quantizers.network import harden, quantize, quantizers_of, set_progress, synthetic
from search_spaces.dimensions import asked
from search_spaces.layers import layers_of
from search_spaces.space import Space
from tests.conformance.dimensions import DimensionConformance

ROOT = Path(__file__).resolve().parents[2]
EXTENDING = ROOT / "examples" / "extending"
sys.path.append(str(EXTENDING))
KEPT = "kept_inputs:KeptInputs"


@pytest.mark.parametrize(("name", "value"), [("kept_blocks", 0.5), ("kept_channels", 0.5), ("taps", "plus")])
def test_where_no_level_is_zero_nothing_is_left_out_of_drawn_weights(name: str, value: Any) -> None:
    weight = np.ones((8, 16, 3, 3), np.float32)
    levels = np.array([-3, -1, 1, 3], np.int8)
    book = Codebook(np.zeros(weight.shape, np.uint8), levels, np.ones(1, np.float32), 2)
    assert DIMENSIONS[name].synthesize(book, weight, value, np.random.default_rng(0)) is book


@pytest.mark.parametrize("dimension", [*DIMENSIONS, KEPT])
class TestDimensions(DimensionConformance):
    pass


class Even(Dimension):
    """Of layers with an even place in the network, unless another stands there already."""

    values = (None, "a", "b")
    after = ("bits", "zero_share")
    excludes = ("zero_share",)

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if value not in ("a", "b"):
            raise UserError(f"{cls.name} {value!r}: a or b")

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return layer.index % 2 == 0

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[Any]:
        return ["b"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    ).eval()  # fmt: skip


def test_dimensions_apply_layer_by_layer_and_exclude_each_other() -> None:
    space = Space(
        ["a", "b", "c"],
        bits=(2, 8),
        zero_share=(None, 0.8),
        components={2: (4,)},
        coded_bits=(None,),
        dimensions=[Even()],
    )
    # 2 bits with zeros; or Even's three at 2 and at 8 bits, where it applies.
    assert space.size() == (1 + 3 + 3) ** 2 * (1 + 1 + 1) * 2 * 36
    for index in range(0, space.size(), 97):
        plan = space.plan_at(index)
        assert space.params(plan) and plan.layers["b"][Even.name] is None
        assert all(layer[Even.name] is None or layer.zero_share is None for layer in plan.layers.values())
    starts = Space(["a", "b", "c", "d"], bits=(2, 8), dimensions=[Even()]).warm_starts()
    assert [plan.layers["c"][Even.name] for plan in starts if plan.layers["b"].zero_share is None][-1] == "b"
    with pytest.raises(UserError, match=r"'a' and zero_share 0.8 exclude each other"):
        LayerPlan(2, 4, zero_share=0.8, **{Even.name: "a"})
    foreign = Plan.uniform(space.layers, LayerPlan(8, **{Even.name: "a"}))
    with pytest.raises(UserError, match=r"asks for what this search has not: .*Even 'a' of b"):
        space.params(foreign)
    with pytest.raises(UserError, match=r"asks for what this search has not: .*Even 'a' of a"):
        Space(space.layers).params(foreign)


def test_dimensions_that_wait_for_each_other_are_named() -> None:
    class Egg(Dimension):
        values, after = (None, 1), ("hen",)

        @classmethod
        def check(cls, value: Any, chosen: Mapping[str, Any]) -> None: ...

    class Hen(Egg):
        after = ("egg",)

    Egg.name, Hen.name = "egg", "hen"
    with pytest.raises(UserError, match=r"^the dimensions egg, hen are each chosen after another of them$"):
        search_spaces.space.in_order([Egg(), Hen()])


def test_a_plan_with_an_unknown_dimension_names_it_and_says_how_to_make_it_known() -> None:
    def read(name: str) -> Plan:
        return Plan.from_json(json.dumps({"layers": {"conv1": {"bits": 2, "components": 4, name: 1}}}))

    with pytest.raises(
        UserError, match=r"layer 'conv1': unknown dimension 'zero_shares'; .*Did you mean 'zero_share'"
    ):
        read("zero_shares")
    with pytest.raises(UserError, match=r"there is no module 'absent' here; .* --modules"):
        read("absent:Kept")
    with pytest.raises(
        UserError, match=r"'json:dumps' is a function, not a dimension; it should be a subclass"
    ):
        read("json:dumps")
    with pytest.raises(UserError, match=r"temperature .*the network has one, its layers none"):
        read("temperature")
    with pytest.raises(UserError, match="zero_share 1: each layer has its own"):
        Plan.from_json('{"layers":{},"zero_share":1}')
    with pytest.raises(AttributeError):
        LayerPlan(8).zero_shares  # noqa: B018


def test_what_a_person_types_is_refused_at_once_and_by_name() -> None:
    found = asked([KEPT, "zero_share=natural,0.5"])
    assert [one.name for one in found] == [KEPT, "zero_share"] and found[1].values == (None, 0.5)
    for typed, said in (
        (["zero_share=natural,1.5"], r"zero_share 1\.5: give a share"),
        (["zero_share=half"], "zero_share 'half'"),
        (["zero_share=0.5,0.5"], "zero_share 0.5, 0.5: .* each once"),
        (["zero_share=natural,natural"], "zero_share natural, natural: .* each once"),
        (["zero_share", "zero_share=0.5"], "zero_share is named twice"),
        (["temperature=cosine"], "temperature cosine: a schedule cannot be typed"),
        (["zero-share=0.5"], "unknown dimension 'zero-share'"),
        ([f"{KEPT}=2"], r"KeptInputs 2: give a share"),
    ):
        with pytest.raises(UserError, match=said):
            Space(layers_of(network(), (3, 8, 8)), dimensions=asked(typed))
    with pytest.raises(UserError, match="learned_step has no share of zeros to aim at"):
        Space(["a"], quantizer="learned_step", declared=(), dimensions=asked(["zero_share=0.5"]))
    nothing = Space(
        ["a"], quantizer="learned_step", declared=(), dimensions=asked(["zero_share=natural"])
    )  # is asked for
    assert "zero_share" not in nothing.dimensions


def zero_inputs(weight: np.ndarray) -> int:
    return int((np.abs(weight).sum(axis=tuple(i for i in range(weight.ndim) if i != 1)) == 0).sum())


def tuned(quantizer: str, model: nn.Module, images: torch.Tensor) -> nn.Module:
    """After a few steps of training."""
    kept = LayerPlan(4, 9, **{KEPT: 0.5})
    layers = {"0": LayerPlan(8), "2": LayerPlan(2, 3), "4": kept, "8": LayerPlan(8, **{KEPT: 0.75})}
    plan = Plan(layers, quantizer)
    made = quantize(model, plan, images).train()
    assert zero_inputs(synthetic(made, plan).codebooks["4"].integers) == 8
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for step in range(5):
        set_progress(made, step / 5)
        optimizer.zero_grad()
        made(images).square().mean().backward()
        optimizer.step()
    return made


@pytest.mark.parametrize("quantizer", ["gaussian_mixture", "learned_step"])
def test_what_a_dimension_does_to_weights_holds_in_training_and_when_hardened(quantizer: str) -> None:
    images, model = torch.randn(8, 3, 8, 8), network()
    original = model[4].weight.clone()
    made = tuned(quantizer, model, images)
    latent = {name: weight for name, _, weight in quantizers_of(made)}
    assert zero_inputs(latent["4"].detach().numpy()) < 8  # a step of training undoes it
    hardened = harden(made)
    assert zero_inputs(hardened.codebooks["4"].integers) == 8
    assert zero_inputs(hardened.codebooks["8"].integers) == 3
    assert torch.equal(hardened.network(images), made.eval()(images))
    assert torch.equal(model[4].weight, original)


@pytest.mark.parametrize("quantizer", ["differentiable_kmeans", "element_wise_scaling"])
def test_a_quantizer_that_cannot_store_what_a_dimension_wants_is_not_hardened(quantizer: str) -> None:
    """These have no level that is, or stays, at zero."""
    with pytest.raises(UserError, match=r"layer 4: \w+ has no level .* choose another quantizer"):
        harden(tuned(quantizer, network(), torch.randn(8, 3, 8, 8)))


def test_the_docstring_of_a_space_does_what_it_says() -> None:
    assert doctest.testmod(search_spaces.space).failed == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["absent:Kept"], "'absent:Kept': there is no module 'absent' here; .* --modules"),
        (["zero_shear=0.5", KEPT], "unknown dimension 'zero_shear'.* Did you mean 'zero_share'"),
        ([KEPT, KEPT], "KeptInputs is named twice"),
        (["=0.5"], "--dimensions =0.5: give NAME or NAME=VALUE,VALUE, separated by spaces"),
    ],
)
def test_a_search_refuses_them_before_it_looks_at_anything(
    typed: list[str], said: str, tmp_path: Path
) -> None:
    command = [
        "--modules",
        str(EXTENDING),
        "--out",
        str(tmp_path),
        "--model",
        "absent",
        "--dimensions",
        *typed,
    ]
    with pytest.raises(UserError, match=said):
        search.main(command)
    assert not [*tmp_path.iterdir()]


def test_the_folder_of_a_dimension_is_kept_with_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a study goes on from anywhere."""
    monkeypatch.chdir(tmp_path)
    settings, _ = parse(["--dimensions", f"{KEPT}=0.5", "zero_share=natural"], Parser())
    assert settings.dimensions == (f"{KEPT}=0.5", "zero_share=natural") and settings.modules == tmp_path
    assert Settings.from_dict(settings.as_dict()) == settings
    (tmp_path / "s.yaml").write_text("dimensions: zero_share=natural components\n")
    settings, _ = parse(["--config", "s.yaml"], Parser())
    assert settings.dimensions == ("zero_share=natural", "components") and settings.modules is None


def test_a_plan_with_a_dimension_from_outside_is_trained_by_the_command(tmp_path: Path) -> None:
    """The folder of its module is known before the plan is read."""
    code = (
        "import json, sys; from foundation.command import main_guard; from pipeline import train\n"
        "assert not any('extending' in place for place in sys.path)\n"
        "sys.exit(main_guard(lambda: train.main(json.loads(sys.argv[1]))))\n"
    )
    (tmp_path / "plan.json").write_text(json.dumps({"layers": {"conv1": {"bits": 8, KEPT: 0.5}}}))
    words = ["--model", "vgg_tiny", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]
    for more, said in (
        ([], "no module 'kept_inputs'"),
        (["--modules", str(EXTENDING)], "the plan does not fit the model"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps([*words, *more])],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_study_is_resumed_with_the_same_values_of_the_same_dimensions_alone(tmp_path: Path) -> None:
    def opened(*typed: str) -> Study:
        return Study(tmp_path, Space(["a", "b"], dimensions=asked(typed)), identity={})

    with opened(f"{KEPT}=natural,0.5") as study:
        assert study.ask() is not None
    with opened(f"{KEPT}=natural,0.5") as study:
        assert not study.created and study.ask() is not None
    for typed in ([f"{KEPT}=natural,0.75"], []):
        with pytest.raises(UserError, match=rf"space\.{KEPT} was \[none, 0\.5\], now"):
            opened(*typed)
