"""Figures as people read them: no digits that mean nothing, no unit that carries over, a dash for what is not known."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundation.show import (
    counted,
    show_bytes,
    show_interval,
    show_latency,
    show_milliseconds,
    show_percent,
    show_points,
    show_seconds,
    ticks,
)


def test_one_and_many() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2, 12345)] == [
        "0 trials",
        "1 trial",
        "2 trials",
        "12,345 trials",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (277_914, "271.4 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_bytes(count: int | None, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


def test_latencies_have_three_digits_and_their_source() -> None:
    assert show_latency(None) == "-" and show_latency(1.934) == "1.93 ms"
    assert show_latency(0.06712, "modelled") == "0.0671 ms modelled" and show_latency(1234.5) == "1234 ms"
    assert show_latency(99.96) == "100 ms" and show_latency(99.94) == "99.9 ms"
    assert (
        show_milliseconds(0.1) == "0.1 ms"
        and show_milliseconds(1.9341, 1.81, 2.3) == "1.934 ms (1.81 to 2.3)"
    )
    assert show_interval(1.809, 2.3) == "1.81..2.30 ms"
    assert show_interval(None, 2.3) == show_interval(1.8, None) == "-"


def test_shares_have_the_decimals_that_their_error_leaves() -> None:
    assert show_percent(None) == "-" and show_percent(0.0836) == "8.36 %"
    assert show_percent(0.0836, 0.009) == "8.4 +- 0.9 %" and show_percent(0.0836, 0.0004) == "8.36 +- 0.04 %"
    assert show_percent(0.0836, digits=0) == "8 %" and show_percent(0.5, digits=1) == "50.0 %"
    assert show_points(0.0053) == "0.53" and show_points(0.0053, 0.004) == "0.5 +- 0.4"


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(5, 9))
@example(0.4, 8.9, 5)
@example(8.5, 3.6, 8)
@example(0.0, 97.0, 8)
def test_ticks_are_few_round_even_and_inside(low: float, span: float, at_most: int) -> None:
    found = ticks(low, low + span, at_most)
    step = found[1] - found[0]
    slack = 1e-9 * (abs(low) + span)
    assert 2 <= len(found) <= at_most and low - slack <= found[0] and found[-1] <= low + span + slack
    assert found == pytest.approx([found[0] + i * step for i in range(len(found))], abs=slack)
    digits = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(digits - round_one) for round_one in (1, 2, 2.5, 5)) < 1e-3
    assert found[0] - step < low + slack and found[-1] + step > low + span - slack  # none is left out
