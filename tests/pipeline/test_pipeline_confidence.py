"""Standard errors and the paired interval: what they promise is tried out by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.study.confidence import Paired, Z, loss_interval, show_error, standard_error


def test_the_interval_is_the_one_of_the_likelihood() -> None:
    """Tango's closed form against his definition: the likelihood's maximum under each difference, found by trying."""
    lost, gained, images = 12, 2, 50
    low, high = loss_interval(lost, gained, images)
    for end, sign in ((low, 1), (high, -1)):
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]
        with np.errstate(divide="ignore"):
            likelihood = lost * np.log(shares + end) + gained * np.log(shares)
            likelihood += (images - lost - gained) * np.log(1 - 2 * shares - end)
        share = shares[likelihood.argmax()]
        deviation = (images * (2 * share + end - end**2)) ** 0.5
        assert (lost - gained - images * end) / deviation == pytest.approx(sign * Z, abs=1e-3)


@pytest.mark.parametrize("images", [20, 50, 299, 2500])
@pytest.mark.parametrize(
    ("lost", "gained"), [(0.0005, 0.0), (0.01, 0.01), (0.03, 0.01), (0.1, 0.02), (0.3, 0.1)]
)
def test_the_interval_covers_the_truth(images: int, lost: float, gained: float) -> None:
    """At least 94 % of 95, with a simulation's own chance off; a rule that forgets the pairing, or that trusts the normal
    approximation where the networks never disagree, does not."""
    draws = np.random.default_rng(images).multinomial(images, [lost, gained, 1 - lost - gained], size=1500)
    covered = 0
    for (a, b), times in zip(*np.unique(draws[:, :2], axis=0, return_counts=True), strict=True):
        low, high = loss_interval(float(a), float(b), images)
        covered += times if low <= lost - gained <= high else 0
    assert covered / len(draws) > 0.94 - 3 * (0.06 * 0.94 / len(draws)) ** 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_holds_the_loss_and_mirrors(images: int, discordant: float, share: float) -> None:
    lost = round(images * discordant * share)
    gained = round(images * discordant) - min(lost, round(images * discordant))
    low, high = loss_interval(lost, gained, images)
    assert (
        -1 <= low <= (lost - gained) / images + 1e-9 and (lost - gained) / images <= high + 1e-9 <= 1 + 1e-6
    )
    assert loss_interval(gained, lost, images) == pytest.approx((-high, -low), abs=1e-9)


def test_three_images_tell_nothing_and_many_tell_much() -> None:
    assert loss_interval(0, 0, 3)[1] > 0.5
    assert loss_interval(0, 0, 100_000)[1] < 0.0001
    assert Paired(3, 3, 0, 0).verdict(0.01) == "open"


def test_the_images_that_settle_it_do() -> None:
    for images, (lost, gained), bound in itertools.product(
        (30, 299), ((1, 0), (3, 2), (0, 0)), (0.005, 0.01, 0.03)
    ):
        paired = Paired(images, images - lost - gained, lost, gained)
        wanted = paired.images_to_settle(bound)
        assert wanted is not None and wanted >= images
        times = wanted / images
        low, high = loss_interval(times * lost, times * gained, wanted)
        assert high <= bound + 1e-9 or low > bound
        if wanted > images:
            assert paired.verdict(bound) == "open"
            times *= 0.98
            low, high = loss_interval(times * lost, times * gained, 0.98 * wanted)
            assert low <= bound < high
    assert Paired(100, 97, 2, 1).images_to_settle(0.01) is None


def test_pairs_are_counted_on_the_same_images() -> None:
    new, old, labels = np.array([1, 2, 3, 4, 5]), np.array([1, 2, 0, 0, 0]), np.array([1, 0, 3, 0, 5])
    paired = Paired.of(new, old, labels)
    assert paired == Paired(5, both=1, lost=1, gained=2)
    assert (paired.accuracy, paired.before, paired.loss) == pytest.approx((0.6, 0.4, -0.2))


def test_errors_show_no_more_digits_than_they_have() -> None:
    assert show_error(0.02341, 299) == "2.3 +- 0.9 %"
    assert show_error(0.0836, 25_000) == "8.4 +- 0.2 %"
    assert show_error(0.0836, 250_000) == "8.36 +- 0.06 %"
    assert show_error(0.0836, None) == "8.36 %" and show_error(None, 299) == "-"
    assert show_error(0.0, 299) == "0.0 +- 0.2 %"  # no error among 299 is not certainty
    assert standard_error(0.25, 300) == pytest.approx(0.025)
