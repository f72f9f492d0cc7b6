"""A network that was trained by a plan, from which that of another plan may start where the two are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from foundation.plan import Plan
from quantizers.network import quantizers_of


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's state, on the CPU, that stays what it is when the network is trained on."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


@dataclass(frozen=True)
class Incumbent:
    """The plan, and the ``state_of`` the network that was trained by it: latent weights, levels, norms, activation steps."""

    plan: Plan
    state: Mapping[str, Tensor]

    def given_to(self, plan: Plan, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of a network of another plan: its ``own`` in layers that have another choice, else the incumbent's; its own
        throughout where the plans differ in what holds of the whole network, such as the bits of activations."""
        if self.plan.replace(layers=plan.layers) != plan:
            return dict(own)
        changed = tuple(f"{name}." for name, layer in plan.layers.items() if layer != self.plan.layers[name])
        return {name: value if name.startswith(changed) else self.state[name] for name, value in own.items()}

    def give(self, plan: Plan, network: nn.Module) -> None:
        """Let a network of another plan, whose weights are held, take over what it shares, as at the end of the training.

        Shares of zeros are held too: else they would grow again from what they were before the first step.
        """
        network.load_state_dict(self.given_to(plan, state_of(network)))
        for _, quantizer, latent in quantizers_of(network):
            if quantizer.zero_target is not None:
                quantizer.set_progress(1.0)
                quantizer.hold(latent)
