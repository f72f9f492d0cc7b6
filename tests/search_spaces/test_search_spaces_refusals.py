"""What spaces, dimensions and samplers refuse, in a line that says what to do."""

from __future__ import annotations

import pytest

from foundation.errors import UserError
from foundation.plan import TemperatureSchedule
from search_spaces.dimensions.components import Components
from search_spaces.dimensions.temperature import Temperature
from search_spaces.parameters import FixedParameters


@pytest.mark.parametrize("shapes", [[], ["cosine", "cosine"], ["square"]])
def test_shapes_of_a_temperature(shapes: list[str]) -> None:
    with pytest.raises(UserError, match="choose some of constant, exponential, cosine, each once"):
        Temperature(shapes)


def test_a_temperature_is_a_schedule() -> None:
    with pytest.raises(UserError, match=r"temperature 0\.5: give a TemperatureSchedule"):
        Temperature.check(0.5, {})
    Temperature.check(TemperatureSchedule(), {})


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
