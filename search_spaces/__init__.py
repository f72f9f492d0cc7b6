"""What can be searched: the layers of a model, dimensions, and spaces of plans.

A space holds plans; a trial of Optuna's draws one, and every plan has its parameters and its name:

>>> from search_spaces import Plan, Space
>>> space = Space(["conv1", "conv2", "fc"], bits=(2, 4, 8), zero_share=(None, 0.8))
>>> space.size()
419904
>>> plan = space.warm_starts()[-1]
>>> plan.layers["conv1"].bits, plan.layers["conv2"].bits, plan.layers["conv2"]["zero_share"]
(8, 2, 0.8)
>>> space.params(plan)["conv2.components.2"]
4
>>> plan.replace(activation_bits=7).hash == plan.hash
False
>>> Plan.from_json(plan.to_json()).hash == plan.hash
True

``layers_of(model, (3, 32, 32))`` gives the layers of a network, for dimensions that look at shapes. A dimension of your own is a
subclass of ``Dimension``: ``Space(layers, dimensions=[Mine()])``. What is not named here is private and may move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundation.public import finder

if TYPE_CHECKING:
    from foundation.dimension import DIMENSIONS, Dimension, Layer
    from foundation.plan import LayerPlan, Plan, TemperatureSchedule
    from search_spaces.layers import layers_of
    from search_spaces.samplers.base import SAMPLERS, Sampler
    from search_spaces.space import Space

__all__ = [
    "DIMENSIONS",
    "SAMPLERS",
    "Dimension",
    "Layer",
    "LayerPlan",
    "Plan",
    "Sampler",
    "Space",
    "TemperatureSchedule",
    "layers_of",
]

__getattr__ = finder(
    __name__,
    {
        **dict.fromkeys(("DIMENSIONS", "Dimension", "Layer"), "foundation.dimension"),
        **dict.fromkeys(("LayerPlan", "Plan", "TemperatureSchedule"), "foundation.plan"),
        **dict.fromkeys(("SAMPLERS", "Sampler"), "search_spaces.samplers.base"),
        "Space": "search_spaces.space",
        "layers_of": "search_spaces.layers",
    },
)
