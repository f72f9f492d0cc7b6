"""Networks that learn with more branches than they are compressed and deployed with (structural re-parameterization)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.networks.weights import fit_weights

ENTRIES = ()


class Reparameterized(nn.Module, ABC):
    """A network as it is deployed, which is another one while it learns."""

    @abstractmethod
    def branched(self) -> nn.Module:
        """The network that learns, with first weights that follow from these; chance has no part in it."""

    @abstractmethod
    def fuse(self, branched: nn.Module) -> None:
        """Compute from now on what that network does in evaluation, up to rounding."""


def learning(network: nn.Module) -> nn.Module:
    """What is trained from nothing where ``network`` is wanted: itself, or the one with branches."""
    return network.branched() if isinstance(network, Reparameterized) else network


def learned(network: nn.Module, trained: nn.Module) -> nn.Module:
    """``network`` once what ``learning`` gave is trained: that one itself, or with its branches fused."""
    if not isinstance(network, Reparameterized):
        return trained
    network.fuse(trained)
    return network


def load_weights(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """As ``fit_weights``; the state may also be that of the network with branches, which are then fused.

    Raises:
        UserError: as ``fit_weights``.
    """
    branched = learning(network)
    if branched is network or _found(network, state) >= _found(branched, state):
        fit_weights(network, state, what)
        return
    fit_weights(branched, state, what)
    learned(network, branched)


def _found(network: nn.Module, state: Mapping[str, Tensor]) -> int:
    """How many tensors of the network the state has, perhaps behind a prefix."""
    keys = {f".{key}" for key in state}
    return sum(any(key.endswith(f".{own}") for key in keys) for own in network.state_dict())
