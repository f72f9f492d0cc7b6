"""Data sets by name, images decoded and resized. ``ImageData`` is what the function of a data set of one's own returns."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.datasets.base import ImageData

__all__ = ["ImageData"]


def __getattr__(name: str) -> Any:
    if name == "ImageData":  # needs torch, which whoever reads settings does not wait for
        from pipeline.datasets.base import ImageData

        return ImageData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
