"""torchvision's classification networks."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from torch import nn

from foundation.errors import UserError
from pipeline.datasets.normalization import CENTRED, IMAGENET
from pipeline.networks.base import ModelSpec

# The published weights of these two expect pixels in -1..1.
NORMALIZATION = {"googlenet": CENTRED, "inception_v3": CENTRED}
IMAGE_SIZE = {"inception_v3": 299}


@cache
def torchvision_names() -> tuple[str, ...]:
    """Every torchvision classification network, sorted."""
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))


def find(name: str) -> ModelSpec:
    """The network of this name, one of ``torchvision_names()``."""
    return ModelSpec(
        partial(_build, name),
        IMAGE_SIZE.get(name, 224),
        NORMALIZATION.get(name, IMAGENET),
        name=name,
        declared=f"that of torchvision's {name}",
        published=True,
    )


def _build(name: str, classes: int, size: tuple[int, int]) -> nn.Module:
    import torchvision.models

    options: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):
        if size[0] != size[1] or size[0] % 16:
            raise UserError(
                f"{name} needs square images of a multiple of 16 pixels, not {size[0]} x {size[1]}"
            )
        options["image_size"] = size[0]
    elif name.startswith("maxvit_"):
        options["input_size"] = size
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network
