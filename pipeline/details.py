"""What was learned and packed, layer by layer: written beside a candidate for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from pipeline.files import json_text
from pipeline.report.data import LayerDetail
from quantizers.codebook import Codebook
from quantizers.network import quantizers_of

FILE = "layers.json"


def layer_details(network: nn.Module, codebooks: Mapping[str, Codebook]) -> dict[str, LayerDetail]:
    """Of every quantized layer: histogram of the latent weights, the mixture's components, the codebook and its shares."""
    details = {}
    for name, quantizer, weight in quantizers_of(network):
        book = codebooks[name]
        mixture = quantizer.components()
        levels = [(int(level), float(level * book.scale[0])) for level in book.levels] if mixture else []
        latent = weight.detach().float().cpu().numpy()
        details[name] = LayerDetail.from_arrays(
            book.integers, np.array(levels), weights=latent, mixture=mixture
        )
    return details


def dump_details(details: Mapping[str, LayerDetail]) -> str:
    """As JSON text."""
    return json_text({name: dataclasses.asdict(detail) for name, detail in details.items()})


@cache
def zero_share_mean(candidate: Path) -> float | None:
    """Share of all packed weights of a candidate folder that are exactly zero; None where it was not kept."""
    details = read_details(candidate).values()
    weights = sum(detail.weights for detail in details)
    return sum(d.weights * d.zero_share for d in details) / weights if weights else None


def read_details(candidate: Path) -> dict[str, LayerDetail]:
    """Of a candidate folder; empty where it was not kept."""
    path = candidate / FILE
    if not path.is_file():
        return {}
    return {name: LayerDetail.from_dict(record) for name, record in json.loads(path.read_text()).items()}
