"""The data sets by name. Naming one needs no torch; loading it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.factories import article, call, find_factory, is_factory
from foundation.registry import Registry

if TYPE_CHECKING:
    from pipeline.datasets.base import ImageData, Size

Loader = Callable[[str, "Size | None", "Size"], "ImageData"]


def _is_loader(value: Any) -> bool:
    """a function of image_size that returns a pipeline.datasets.ImageData"""
    return callable(value)


DATA: Registry[Loader] = Registry("data set", "pipeline.datasets", _is_loader)
"""Functions of a place (what follows the colon), the size asked for, and the size where nothing else decides."""


@dataclass(frozen=True)
class DataSet:
    """A data set that was found by its ``spec`` and is not loaded yet."""

    spec: str
    loader: Callable[[Size | None, Size], ImageData]

    def load(self, image_size: int | Size | None = None, *, fallback: int | Size = 224) -> ImageData:
        """The images.

        Args:
            image_size: side, or (height, width), to resize to; None keeps the data set's own size.
            fallback: the size where None was given and the images have no common size of their own (imagefolder).

        Raises:
            UserError: files that are missing or not what they should be.
        """
        if image_size is not None and min(_pair(image_size)) < 1:
            raise UserError(f"image size {image_size}: give at least 1 pixel")
        return self.loader(None if image_size is None else _pair(image_size), _pair(fallback))


def find_data(spec: str) -> DataSet:
    """The data set that ``digits``, ``cifar10:DIR``, ``imagefolder:DIR``, ``npz:FILE`` or ``package.module:function`` means; the
    function is called with ``image_size`` (None or (height, width)) and returns an ImageData.

    Raises:
        UserError: there is none of that name.
    """
    kind, _, place = spec.partition(":")
    if kind in DATA or not is_factory(spec) or ("." not in kind and not _is_module(kind)):
        registered = DATA[kind]
        return DataSet(spec, lambda size, fallback: registered(place, size, fallback))
    function = find_factory(spec)

    def load(size: Size | None, fallback: Size) -> ImageData:
        from pipeline.datasets.base import ImageData

        data = call(function, spec, image_size=size)
        if not isinstance(data, ImageData):
            raise UserError(f"{spec!r} gave {article(data)}; it must give a pipeline.datasets.ImageData")
        return data

    return DataSet(spec, load)


def load_data(spec: str, image_size: int | Size | None = None, *, fallback: int | Size = 224) -> ImageData:
    """Find a data set and load it: see ``find_data`` and ``DataSet.load``."""
    return find_data(spec).load(image_size, fallback=fallback)


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # "." and the like
        return False


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
