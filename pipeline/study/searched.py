"""The space that a search's settings describe, and whether their sampler does what they ask of it."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.plan import BITS
from pipeline.study.settings import Settings
from quantizers import QUANTIZERS
from search_spaces.dimensions import asked
from search_spaces.samplers.base import SAMPLERS, has_incumbent
from search_spaces.space import Space


def searched_space(settings: Settings, layers: Sequence[Layer]) -> Space:
    """The plans to choose from for a network with these layers.

    Raises:
        UserError: no such quantizer or dimension, or values that they have not.
    """
    sort, dimensions = QUANTIZERS[settings.quantizer], asked(settings.dimensions)
    if any(dimension.name == "bits" for dimension in dimensions):
        raise UserError("--dimensions bits: say which by --bits, as in --bits 2,4, and leave it out there")
    return Space(
        layers,
        quantizer=settings.quantizer,
        declared=sort.dimensions,
        dimensions=dimensions,
        bits=searched_bits(settings.bits, settings.quantizer, sort.widths),
    )


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
