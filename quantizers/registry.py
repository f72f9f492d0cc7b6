"""Where weight quantizers are found: a file each in ``quantizers.weights``, or a class of someone else's by name. Loads none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundation.registry import Registry

if TYPE_CHECKING:
    from quantizers.core.base import WeightQuantizer


def _is_quantizer(entry: Any) -> bool:
    """a class derived from quantizers.WeightQuantizer"""
    from quantizers.core.base import WeightQuantizer

    return isinstance(entry, type) and issubclass(entry, WeightQuantizer)


QUANTIZERS: Registry[type[WeightQuantizer]] = Registry("quantizer", "quantizers.weights", _is_quantizer)
