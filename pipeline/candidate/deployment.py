"""From a quantized network to its candidate folder: compiled, compared with the reference, profiled, written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.candidate.details import dump_details, layer_details
from pipeline.candidate.folder import candidate_path, write_candidate

if TYPE_CHECKING:
    from torch import nn

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
        network: from which ``hardened`` was made; the report draws its weights.
        answers: what is known of its answers: error, where there are labels, and divergence.
        beside: where it answers otherwise than fp32, JSON text.

    Raises:
        ProgramDiffers: on some image some output differs from the reference's.
    """
    hardened = hardened._replace(network=hardened.network.cpu())
    compiled = bench.checked(hardened, devices, answers, references)
    details = dump_details(layer_details(network, hardened.codebooks))
    place = candidate_path(bench.settings.folder, plan)
    write_candidate(place, bench.origin, plan, hardened, compiled, details, beside)
    return compiled.figures
