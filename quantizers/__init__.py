"""How weights and activations become few values.

Quantize a network by a plan, train the result as any other (or ``reconstruct`` it from a few images), and harden it: a copy
that computes as it is deployed, and each layer's codebook.

>>> import torch
>>> from quantizers import LayerPlan, Plan, harden, layer_names, parameter_groups, quantize, set_progress
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
>>> images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 10
>>> plan = Plan.uniform(layer_names(model), LayerPlan(bits=2, components=4, zero_share=0.8))
>>> network = quantize(model, plan, images)
>>> optimizer = torch.optim.SGD(parameter_groups(network, lr=0.01, weight_decay=1e-4))
>>> for step in range(5):
...     set_progress(network, (step + 1) / 5)
...     torch.nn.functional.cross_entropy(network(images), labels).backward()
...     optimizer.step()
>>> {name: (book.bits, round(book.zeros, 1)) for name, book in harden(network).codebooks.items()}
{'0': (2, 0.8), '3': (2, 0.8)}

What is not named here is private and may move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.public import finder

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, Plan
    from quantizers.calibration.reconstruction import Reconstruction, reconstruct
    from quantizers.core.base import WeightQuantizer
    from quantizers.network import harden, layer_names, parameter_groups, quantize, set_progress
    from quantizers.registry import QUANTIZERS

__all__ = [
    "QUANTIZERS",
    "LayerPlan",
    "Plan",
    "Reconstruction",
    "WeightQuantizer",
    "harden",
    "layer_names",
    "parameter_groups",
    "quantize",
    "reconstruct",
    "set_progress",
]

__getattr__ = finder(
    __name__,
    {
        **dict.fromkeys(("LayerPlan", "Plan"), "foundation.plan"),
        **dict.fromkeys(("Reconstruction", "reconstruct"), "quantizers.calibration.reconstruction"),
        **dict.fromkeys(
            ("harden", "layer_names", "parameter_groups", "quantize", "set_progress"), "quantizers.network"
        ),
        "QUANTIZERS": "quantizers.registry",
        "WeightQuantizer": "quantizers.core.base",
    },
)
