"""The space that a search's settings describe, and whether their sampler does what they ask of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from foundation.dimension import DIMENSIONS, Layer
from foundation.errors import UserError
from foundation.plan import BITS
from pipeline.study import tables
from pipeline.study.settings import Settings
from quantizers import QUANTIZERS
from search_spaces.dimensions import asked
from search_spaces.samplers.base import SAMPLERS, has_incumbent
from search_spaces.space import Space

LATER = (
    "coded_bits",
)  # dimensions that all searches have, of which studies of earlier versions know nothing


def searched_space(settings: Settings, layers: Sequence[Layer]) -> Space:
    """The plans to choose from for a network with these layers. A study that is there already goes on without a dimension that
    it is from before, unless that is asked for.

    Raises:
        UserError: no such quantizer or dimension, or values that they have not.
    """
    sort, dimensions = QUANTIZERS[settings.quantizer], asked(settings.dimensions)
    if any(dimension.name == "bits" for dimension in dimensions):
        raise UserError("--dimensions bits: say which by --bits, as in --bits 2,4, and leave it out there")
    named = {dimension.name for dimension in dimensions}
    dimensions += [DIMENSIONS[name]([None]) for name in _unknown_then(settings) & sort.dimensions - named]
    return Space(
        layers,
        quantizer=settings.quantizer,
        declared=sort.dimensions,
        dimensions=dimensions,
        bits=searched_bits(settings.bits, settings.quantizer, sort.widths),
    )


def _unknown_then(settings: Settings) -> set[str]:
    """Dimensions that the study of these settings is from before; none where there is no study, or it cannot be read."""
    if settings.name is None:
        return set()
    path = settings.folder / tables.FILE
    try:
        identity = tables.attribute(path, "identity") if path.is_file() else None
    except sqlite3.DatabaseError:  # which is told where the study is opened
        identity = None
    return set() if identity is None else {name for name in LATER if name not in identity["space"]}


def check_sampler(settings: Settings) -> None:
    """See that there is such a sampler, and that it says whose weights are inherited, if any are.

    Raises:
        UserError: there is none, or it does not.
    """
    if not has_incumbent(settings.sampler) and settings.inherits:
        known = ", ".join(filter(has_incumbent, SAMPLERS))
        raise UserError(
            f"--inherit-weights on: --sampler {settings.sampler} does not say from which trial; choose {known} or a sampler of "
            "your own that has incumbent(), or leave it off"
        )


def searched_bits(wanted: tuple[int, ...], quantizer: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    """The bit-widths to search: those asked for, or those of the quantizer and int8 where all (the default) are.

    Raises:
        UserError: one was asked for that the quantizer has not.
    """
    allowed = tuple(sorted({*widths, 8}))
    known = tuple(bits for bits in wanted if bits in allowed)
    if known != wanted and wanted != BITS:
        given, may = (",".join(map(str, bits)) for bits in (wanted, allowed))
        raise UserError(f"--bits {given}: --quantizer {quantizer} allows {may}")
    return known
