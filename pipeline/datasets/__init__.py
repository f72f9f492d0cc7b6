"""Data sets by name, images decoded and resized. ``ImageData`` is what the function of a data set of one's own returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.public import finder

if TYPE_CHECKING:
    from pipeline.datasets.base import ImageData

__all__ = ["ImageData"]

# It needs torch, for which whoever reads settings does not wait.
__getattr__ = finder(__name__, {"ImageData": "pipeline.datasets.base"})
