"""One file for each dimension; ``foundation.dimension.DIMENSIONS`` finds them."""

from __future__ import annotations

from collections.abc import Iterable

from foundation.dimension import DIMENSIONS, Dimension
from foundation.errors import UserError


def asked(texts: Iterable[str]) -> list[Dimension]:
    """The dimensions that a person typed as ``NAME`` or ``NAME=VALUE,VALUE``; a value is as its dimension reads it, ``natural``
    none.

    Raises:
        UserError: no such dimension, one twice, or a value that is none of it; the message names it.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        name, given, values = text.partition("=")
        kind = DIMENSIONS[name]
        if kind.name in found:
            raise UserError(f"dimension {text}: {name} is named twice; give all its values once")
        found[kind.name] = kind([kind.typed(value) for value in values.split(",")]) if given else kind()
    return list(found.values())
