"""What an augmentation is: a function of images and a source of chance that gives varied copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

Augmentation = Callable[["Tensor", "Generator"], "Tensor"]
"""Of pixels uint8 [n, H, W, C]; gives as many of the same size. The generator decides everything: equal states, equal results."""


def _is_augmentation(value: Any) -> bool:
    """a function (pixels uint8 [n, H, W, C], torch.Generator) -> pixels"""
    return callable(value) and not isinstance(value, type)


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation", "pipeline.datasets.augmentations", _is_augmentation
)


def augment(pixels: Tensor, kind: str, generator: Generator) -> Tensor:
    """Varied copies of images, uint8 [n, H, W, C], by the augmentation called ``kind``.

    Raises:
        UserError: there is none of that name, or it gave something else than so many images of that size.
    """
    varied = AUGMENTATIONS[kind](pixels, generator)
    given, wanted = (
        f"{getattr(each, 'dtype', None)} {tuple(getattr(each, 'shape', ()))}" for each in (varied, pixels)
    )
    if given != wanted:
        raise UserError(
            f"the augmentation {kind!r} made {given} of images {wanted}; it must keep type and shape"
        )
    return varied
