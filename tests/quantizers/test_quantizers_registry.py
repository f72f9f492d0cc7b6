"""Quantizers by name: one is loaded without the others, and told what it can be told."""

from __future__ import annotations

import subprocess
import sys

import pytest

import quantizers
from foundation.errors import UserError
from foundation.plan import Plan, TemperatureSchedule
from quantizers.weights.gaussian_mixture import GaussianMixture


@pytest.mark.parametrize(
    ("code", "loaded", "not_loaded"),
    [
        ("import quantizers; assert 'int8' in quantizers.QUANTIZERS", "foundation.registry", "torch numpy"),
        (
            "import quantizers; quantizers.QUANTIZERS['learned_step']",
            "quantizers.weights.learned_step torch",
            "quantizers.weights.gaussian_mixture quantizers.network quantizers.mixture.kmeans",
        ),
        (
            "import quantizers; quantizers.QUANTIZERS['gaussian_mixture']",
            "quantizers.weights.gaussian_mixture",
            "quantizers.weights.learned_step",
        ),
    ],
)
def test_only_what_is_asked_for_is_loaded(code: str, loaded: str, not_loaded: str) -> None:
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = set(done.stdout.split())
    assert set(loaded.split()) <= there and not set(not_loaded.split()) & there


def test_options_are_the_quantizers_own_and_the_plans_dimensions_are_the_plans() -> None:
    plan = Plan({}, temperature=TemperatureSchedule(0.3, 0.3))
    told = quantizers.QUANTIZERS["gaussian_mixture"].options_for(plan, {"form": "paper"})
    assert told == GaussianMixture.Options(temperature=plan.temperature, form="paper")
    for name, given, said in (
        ("gaussian_mixture", {"form": "linear"}, "form 'linear': allowed are straight, hard_finish"),
        ("gaussian_mixture", {"ramp_end": 2}, "ramp_end 2: give a number from 0 to 1"),
        ("gaussian_mixture", {"rate": float("inf")}, "rate inf: give a number of at least 0"),
        ("gaussian_mixture", {"revive_every": 0}, "revive_every 0: give a number above 0"),
        (
            "gaussian_mixture",
            {"temperature": 1},
            "temperature 1: no option of gaussian_mixture; .* form, ramp",
        ),
        ("learned_step", {"form": "paper"}, "form 'paper': no option of learned_step; its options: none"),
        (
            "element_wise_scaling",
            {"from": 1},
            "from 1: no option of element_wise_scaling; its options: delta",
        ),
    ):
        with pytest.raises(UserError, match=said):
            quantizers.QUANTIZERS[name].options_for(Plan({}, quantizer=name), given)
