"""How many weights change their level while they are trained, and how many go to and fro.

Weights near a threshold oscillate (Nagel et al., "Overcoming Oscillations in Quantization-Aware Training", ICML 2022): each flip
changes a whole level for a step of nearly nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantizers.network import quantizers_of


class Moves:
    """Counts changes of level from look to look, over all quantized layers."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._start = self._last = _levels(network)
        self._changes = {name: torch.zeros_like(level) for name, level in self._start.items()}

    def look(self) -> None:
        """Take in what has changed since the last look."""
        now = _levels(self._network)
        for name, level in now.items():
            self._changes[name] += level != self._last[name]
        self._last = now

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What is known by now."""
        return {"start": self._start, "last": self._last, "changes": self._changes}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from a ``state_dict``."""
        self._start, self._last, self._changes = state["start"], state["last"], state["changes"]

    @property
    def moved(self) -> float:
        """Share of the weights (0..1) with another level than at first."""
        return _share(self._last[name] != level for name, level in self._start.items())

    @property
    def flipped(self) -> float:
        """Share of the weights (0..1) that changed their level more than once."""
        return _share(changes > 1 for changes in self._changes.values())


def _levels(network: nn.Module) -> dict[str, Tensor]:
    return {name: quantizer.assigned(latent) for name, quantizer, latent in quantizers_of(network)}


def _share(parts: Iterable[Tensor]) -> float:
    found = [(int(part.sum()), part.numel()) for part in parts]
    return sum(count for count, _ in found) / max(1, sum(size for _, size in found))
