"""Plans for one core beside those for another: whose is lower where."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.search_cores import height, main, own_wins
from foundation.errors import UserError
from search_spaces.samplers.metropolis import BETA


def test_a_core_s_own_plan_is_compared_with_the_others_on_that_core() -> None:
    rows = [
        {"sampler": "tpe", "core": "a76", "seed": "0", "height_on_a76": "0.10", "height_on_x1": "0.30"},
        {"sampler": "tpe", "core": "x1", "seed": "0", "height_on_a76": "0.15", "height_on_x1": "0.20"},
        {"sampler": "tpe", "core": "a76", "seed": "1", "height_on_a76": "0.12", "height_on_x1": "0.10"},
        {"sampler": "tpe", "core": "x1", "seed": "1", "height_on_a76": "0.11", "height_on_x1": "0.10"},
        {"sampler": "random", "core": "x1", "seed": "0", "height_on_a76": "0.1", "height_on_x1": "0.1"},
    ]
    found = own_wins(rows, ("a76", "x1"))
    assert found[("tpe", "a76")] == pytest.approx([0.05, -0.01]) and found[("tpe", "x1")] == pytest.approx(
        [0.1, 0.0]
    )
    assert ("random", "x1") not in found  # nobody searched for the other core


def test_a_time_of_one_e_th_is_worth_beta() -> None:
    assert height(0.08, 1.0, 1.0) == 0.08
    assert height(0.08, 1 / math.e, 1.0) == pytest.approx(0.08 - BETA)


def test_a_table_without_trials_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv has no rows; run python -m benchmarks\.record_trials"):
        main(["--data", "none", "--weights", "none", "--table", str(tmp_path / "none.csv")])
