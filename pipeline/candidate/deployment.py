"""From a quantized network to its candidate folder: compiled, compared with the reference, profiled, written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.candidate.details import LayerDetail, dump_details
from pipeline.candidate.folder import candidate_path, write_candidate
from pipeline.training.incumbent import state_of
from quantizers.network import quantizers_of

if TYPE_CHECKING:
    from torch import nn

    from foundation.codebook import Codebook
    from foundation.plan import Plan
    from pipeline.candidate.bench import Bench
    from pipeline.candidate.devices import Devices
    from pipeline.study.records import Figures, Reference
    from quantizers.network import Hardened


def deploy(
    bench: Bench,
    plan: Plan,
    network: nn.Module,
    hardened: Hardened,
    devices: Devices,
    answers: Figures,
    references: Sequence[Reference],
    beside: str | None = None,
) -> Figures:
    """Write the folder, in one move, and give the figures in its manifest.

    Args:
        network: from which ``hardened`` was made; the report draws its weights, and other trials may start from them.
        answers: what is known of its answers: error, where there are labels, and divergence.
        beside: where it answers otherwise than fp32, JSON text.

    Raises:
        ProgramDiffers: on some image some output differs from the reference's.
    """
    hardened = hardened._replace(network=hardened.network.cpu())
    compiled = bench.checked(hardened, devices, answers, references)
    details = dump_details(layer_details(network, hardened.codebooks))
    place = candidate_path(bench.settings.folder, plan)
    latent = state_of(network) if bench.settings.inherits else None
    write_candidate(place, bench.origin, plan, hardened, compiled, details, beside, latent)
    return compiled.figures


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
