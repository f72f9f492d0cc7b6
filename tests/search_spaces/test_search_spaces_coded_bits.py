"""Bits of a coded index as a search chooses them, and what a person may type."""

from __future__ import annotations

import json

import pytest

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from pipeline.study.searched import searched_space
from pipeline.study.settings import Settings
from search_spaces.dimensions import asked
from search_spaces.space import Space


def space(*typed: str, bits: tuple[int, ...] = (2, 3, 4, 8)) -> Space:
    return Space(["a", "b", "c"], bits=bits, dimensions=asked(typed))


def found(space: Space) -> set[tuple[int, int | None, float | None]]:
    plans = (space.plan_at(index) for index in range(0, space.size(), max(1, space.size() // 5000)))
    return {
        (layer.bits, layer.components, layer.coded_bits) for plan in plans for layer in plan.layers.values()
    }


def test_it_is_searched_with_the_most_components_below_what_they_can_have() -> None:
    assert {case for case in found(space()) if case[2] is not None} == {
        (2, 4, 1.0), (2, 4, 1.5), (3, 8, 1.0), (3, 8, 1.5), (3, 8, 2.0), (3, 8, 2.5),
        (4, 16, 1.0), (4, 16, 1.5), (4, 16, 2.0), (4, 16, 2.5), (4, 16, 3.0),
    }  # fmt: skip
    assert not {case for case in found(space("coded_bits=natural")) if case[2] is not None}
    fewer = Space(["a"], bits=(2, 4), components={2: (3,), 4: (9, 12)})
    assert {case[:2] for case in found(fewer) if case[2] is not None} == {(2, 3), (4, 12)}


@pytest.mark.parametrize("bits", [(4,), (4, 8), (2, 3, 4, 8)])
def test_a_value_alone_is_every_layers_that_can_have_it(bits: tuple[int, ...]) -> None:
    own = space("coded_bits=2.5", bits=bits)
    assert own.warm_starts() and own.params(own.plan_at(own.size() - 1))
    assert {coded for width, components, coded in found(own) if width == 4 and components == 16} >= {2.5}
    assert {coded for width, _, coded in found(own) if width in (2, 8)} <= {None}


@pytest.mark.parametrize("typed", ["4", "5", "nan", "x", "true", "0", "-1", "", "2.5,4", "natural,inf"])
def test_what_no_bits_can_have_is_refused_in_a_line(typed: str) -> None:
    with pytest.raises(
        UserError,
        match=r"^coded_bits .*: give a number above 0 and below 4, the most that an index of 4 bits",
    ):
        space(f"coded_bits={typed}")
    with pytest.raises(UserError, match="below 2, the most that an index of 2 bits"):
        space("coded_bits=3", bits=(2, 8))
    with pytest.raises(
        UserError, match=r"below 3\.17, the most that an index of 4 bits and 9 components can"
    ):
        Space(["a"], dimensions=asked(["components=3,5,9", "coded_bits=natural,3.5"]))
    with pytest.raises(UserError, match="a layer of 8 bits is plain int8: leave coded_bits out"):
        space("coded_bits=2", bits=(8,))


@pytest.mark.parametrize("record", ["abc", [1], 10**400, "2", None, True, {}])
def test_what_a_plan_file_has_is_named(record: object) -> None:
    text = json.dumps({"layers": {"a": {"bits": 4, "components": 16, "coded_bits": record}}})
    if record is None:
        assert Plan.from_json(text).layers["a"].coded_bits is None
        return
    with pytest.raises(UserError, match="coded_bits"):
        Plan.from_json(text)


def test_more_than_components_can_have_is_refused_and_two_and_2_0_are_one() -> None:
    with pytest.raises(
        UserError, match=r"below 1, the most that an index of 4 bits and 2 components can have"
    ):
        LayerPlan(4, 2, coded_bits=1.0)
    assert (
        Plan({"a": LayerPlan(4, 16, coded_bits=2)}).hash == Plan({"a": LayerPlan(4, 16, coded_bits=2.0)}).hash
    )


def test_bits_are_not_named_among_dimensions() -> None:
    """Their flag would have its way without a word."""
    with pytest.raises(UserError, match="--dimensions bits: say which by --bits"):
        searched_space(Settings(dimensions=("bits=4",)), [Layer("a")])
