"""How pixels are normalized before a network sees them, and who says so. Plain values, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from foundation.errors import UserError

ENTRIES: tuple[str, ...] = ()  # helps data sets, is none
Statistics = tuple[float, float, float]
Normalization = tuple[Statistics, Statistics]

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR: Normalization = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
UNIT: Normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CENTRED: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BYTES: Normalization = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
LARGEST = 10.0  # above it, a value was meant for pixels in 0..255
FORM = "give three numbers separated by commas, or one for all channels, of pixels in 0..1"


def channel_means(text: Any) -> Statistics:
    """The means in ``0.5`` or ``0.485,0.456,0.406`` or a list.

    Raises:
        ValueError: says what is allowed.
    """
    return _three(text, "means")


def channel_deviations(text: Any) -> Statistics:
    """The standard deviations, likewise; they are above 0.

    Raises:
        ValueError: says what is allowed.
    """
    values = _three(text, "deviations")
    if min(values) <= 0:
        raise ValueError(f"deviations must be above 0; {FORM}")
    return values


def checked(declared: Any, who: str) -> Normalization:
    """(means, deviations) as something declares it.

    Raises:
        UserError: it is none.
    """
    try:
        mean, std = declared
        return channel_means(mean), channel_deviations(std)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{who} declares normalization = {declared!r}; it must be (means, deviations), three numbers each, of pixels in "
            "0..1, the deviations above 0"
        ) from error


def show(values: Sequence[float]) -> str:
    """As it is typed."""
    short = [f"{value:.6g}" for value in values]
    return short[0] if len(set(short)) == 1 else ",".join(short)


def described(mean: Sequence[float], std: Sequence[float], source: str) -> str:
    """In words; ``source`` says where it comes from."""
    return f"pixels / 255 are normalized by mean {show(mean)}, std {show(std)} ({source})"


def _three(text: Any, what: str) -> Statistics:
    parts = text.split(",") if isinstance(text, str) else text if isinstance(text, (list, tuple)) else [text]
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError) as error:
        raise ValueError(FORM) from error
    if len(values) not in (1, 3) or not all(math.isfinite(value) for value in values):
        raise ValueError(FORM)
    if max(map(abs, values)) > LARGEST:
        raise ValueError(f"these are {what} of pixels in 0..255: divide them by 255; {FORM}")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third
