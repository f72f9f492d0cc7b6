"""What spaces, dimensions and samplers refuse, in a line that says what to do."""

from __future__ import annotations

import pytest

from foundation.dimension import Dimension
from foundation.errors import UserError
from foundation.plan import TemperatureSchedule
from search_spaces.dimensions.components import Components
from search_spaces.dimensions.temperature import Temperature
from search_spaces.dimensions.zero_share import ZeroShare
from search_spaces.parameters import FixedParameters


@pytest.mark.parametrize("shapes", [[], ["cosine", "cosine"], ["square"]])
def test_shapes_of_a_temperature(shapes: list[str]) -> None:
    with pytest.raises(UserError, match="choose some of constant, exponential, cosine, each once"):
        Temperature(shapes)


def test_a_temperature_is_a_schedule() -> None:
    with pytest.raises(UserError, match=r"temperature 0\.5: give a TemperatureSchedule"):
        Temperature.check(0.5, {})
    Temperature.check(TemperatureSchedule(), {})


@pytest.mark.parametrize(
    ("dimension", "value", "bits", "said"),
    [
        (Components, 16, 8, "a layer of 8 bits is plain int8: leave components out"),
        (Components, 9, 3, "components 9: 3 bits allow 2 to 8"),
        (Components, 1, 2, "components 1: 2 bits allow 2 to 4"),
        (ZeroShare, 0.5, 8, "a layer of 8 bits is plain int8: leave zero_share out"),
        (ZeroShare, 1.0, 2, r"zero_share 1\.0: give a share in \[0, 1\), or leave it out for natural"),
        (ZeroShare, -0.1, 4, r"zero_share -0\.1: give a share in \[0, 1\)"),
    ],
)
def test_what_a_layer_of_so_many_bits_cannot_have(
    dimension: type[Dimension], value: float, bits: int, said: str
) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        dimension.check(value, {"bits": bits})


def test_numbers_of_components_go_to_the_bits_that_can_tell_them_apart() -> None:
    found = Components([3, 4, 6, 16])
    assert found.counts == {2: (3, 4), 3: (6,), 4: (16,)}


def test_given_answers_are_within_what_is_asked() -> None:
    given = FixedParameters({"bits": 5, "start": 2.0})
    with pytest.raises(UserError, match="bits 5: allowed are 2, 4"):
        given.suggest_categorical("bits", (2, 4))
    with pytest.raises(UserError, match="components None: allowed are 3"):
        given.suggest_categorical("components", (3,))
    with pytest.raises(UserError, match=r"start 2\.0: allowed are numbers from 0 to 1"):
        given.suggest_float("start", 0, 1)
    with pytest.raises(UserError, match="end nan: allowed are numbers"):
        given.suggest_float("end", 0, 1)
    assert given.suggest_float("start", 0, 3) == 2.0


def test_a_share_of_zeros_is_said_short() -> None:
    said = [ZeroShare.say(value, {"bits": bits}) for value, bits in ((None, 8), (None, 2), (0.85, 2))]
    assert said == ["-", "nat.", "85 %"]
