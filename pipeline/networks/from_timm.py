"""Networks of timm (https://github.com/huggingface/pytorch-image-models), where that package is installed: ``timm:NAME``."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from torch import nn

from foundation.errors import UserError
from pipeline.networks.base import ModelSpec
from pipeline.networks.from_factory import sound

PREFIX = "timm:"


def find(name: str) -> ModelSpec:
    """The network ``timm:NAME``, with the size and the normalization that timm gives for it; a tag behind a dot chooses among its
    published weights, which are not fetched: give their file as the weights.

    Raises:
        UserError: timm is not installed, or has none of that name.
    """
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise UserError(
            f"model {name!r} is one of timm, which cannot be imported ({error}): python -m pip install timm"
        ) from error
    wanted = name.removeprefix(PREFIX)
    if not timm.is_model(wanted):
        close = difflib.get_close_matches(wanted.partition(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(PREFIX + one for one in close)}?" if close else ""
        raise UserError(f"unknown model {name!r}: timm {timm.__version__} has none of that name{hint}")
    known: Any = get_pretrained_cfg(wanted)
    channels, side = (known.input_size[0], known.input_size[-1]) if known else (3, 224)
    if channels != 3:
        raise UserError(f"model {name!r} takes {channels} channels, and images have 3")
    return ModelSpec(
        partial(sound, name, partial(_build, wanted)),
        side,
        (tuple(known.mean), tuple(known.std)) if known else ModelSpec.normalization,
        name=name,
        declared=f"that of timm's {wanted}",
    )


def _build(name: str, classes: int, size: tuple[int, int]) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return network
