"""What every weight quantizer can do."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.dimension import DIMENSIONS
from foundation.errors import UserError
from quantizers.core.grid import WeightGrid

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, Plan

RATE = 0.1  # of a quantizer's own parameters, in units of the weights' learning rate


@dataclass(frozen=True)
class Rebuilding:
    """What of a layer learns when it is rebuilt from a few images (``quantizers.calibration.reconstruction``).

    Attributes:
        like_weights: parameters measured as weights are; they take the rate in units of the weights' standard deviation.
        others: parameters without a unit; they take the rate as it is.
        cosine: whether the rate falls to 0 on a cosine; else it stays.
        penalty: what to add to the loss at a progress of 0..1, summed over the weights; None adds nothing.
    """

    like_weights: Sequence[nn.Parameter] = ()
    others: Sequence[nn.Parameter] = ()
    cosine: bool = True
    penalty: Callable[[float], Tensor] | None = None


class WeightQuantizer(nn.Module, ABC):
    """A parametrization of one layer's weight: what the layer multiplies by, given the latent float weight.

    In training it is differentiable; in eval it is exactly ``codebook(weight).dequantize()``, bit for bit. All that changes
    during training lives in parameters and buffers, so ``state_dict`` resumes exactly.

    Args:
        layer: the layer's plan, which the quantizer can do (``check``).
        shape: of the weight.
        options: of the class's own ``Options``.

    Attributes:
        widths: bits of an index that it can store (8 bits in a plan mean plain int8, whatever the quantizer).
        dimensions: which of those that want declaring (``foundation.dimension``) it has; a search leaves the others out.
        fine: whether its values lie so close that the nearest one is good enough for each weight: a rebuilding solves which value
            weights take only where it is told to.
        effect: what the plan's dimensions make of the latent weight before it gets here, also at a progress of 0..1 of the
            training; None: they leave it as it is.
        effect_progress: the progress that training has told.
    """

    widths: ClassVar[tuple[int, ...]] = (2, 3, 4)
    dimensions: ClassVar[frozenset[str]] = frozenset()
    fine: ClassVar[bool] = False
    effect: Callable[..., Tensor] | None = None
    effect_progress: float = 1.0

    @dataclass(frozen=True)
    class Options:
        """What a quantizer can be told beside a layer's plan. One that has choices of its own derives a class of this name,
        each field with a default. A field named like one of its ``dimensions`` is filled from the plan."""

    options: Options

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__()
        self.bits, self.options = layer.bits, options

    @classmethod
    def check(cls, name: str, layer: LayerPlan) -> None:
        """Refuse what this quantizer, registered as ``name``, cannot do. Components it has no use for do no harm.

        Raises:
            UserError: other bits than it stores, no components where it needs some, or a value of a dimension that it has not.
        """
        if layer.bits not in cls.widths:
            allowed = " or ".join(map(str, cls.widths))
            raise UserError(f"{name} with {layer.bits} bits: it stores weights in {allowed} bits only")
        if "components" in cls.dimensions and layer.components is None:
            raise UserError(
                f"{name} with {layer.bits} bits needs components: give a number from 2 to {2**layer.bits}"
            )
        for key, value in layer.values.items():
            dimension = DIMENSIONS[key]
            if dimension.declared and not dimension.harmless and key not in cls.dimensions:
                raise UserError(f"{key} {value}: {name} has no {dimension.noun}; leave it out of the plan")

    @classmethod
    def options_for(cls, plan: Plan, given: Mapping[str, Any]) -> Options:
        """The options as ``given``, and the plan's own where a dimension of the plan is one.

        Raises:
            UserError: an option that it has not, or with a value it cannot have.
        """
        names = [field.name for field in dataclasses.fields(cls.Options)]
        planned = {name: plan[name] for name in names if name in cls.dimensions}
        free = [name for name in names if name not in planned]
        for name, value in given.items():
            if name not in free:
                allowed = ", ".join(free) or "none"
                raise UserError(f"{name} {value!r}: no option of {plan.quantizer}; its options: {allowed}")
        try:
            return cls.Options(**planned, **given)
        except TypeError as error:  # text where a number belongs, say
            told = ", ".join(f"{name} {value!r}" for name, value in given.items())
            raise UserError(f"{told}: not what {plan.quantizer} takes ({error})") from error

    @classmethod
    def for_layer(
        cls, weight: Tensor, layer: LayerPlan, options: Any, *, initialise: bool
    ) -> WeightQuantizer:
        """A quantizer for a layer of this latent weight. Without ``initialise`` the state is only shaped, to be loaded."""
        quantizer = cls(layer, weight.shape, options)
        if initialise:
            with torch.no_grad():
                quantizer.start(weight.detach())
        return quantizer.to(weight.device)

    def start(self, weight: Tensor) -> None:
        """Take first values that suit the latent weight."""

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Latent weight to quantized weight of the same shape."""

    @abstractmethod
    def codebook(self, weight: Tensor) -> Codebook:
        """The compressed form of the latent weight, as deployed."""

    def set_progress(self, progress: float) -> None:
        """Tell how much of the training lies behind, 0 to 1."""

    @classmethod
    def prepare(cls, layers: Sequence[tuple[Any, Tensor]]) -> None:
        """Do for many layers together (quantizers of this class, each with its latent weight) what each would do by itself in
        the forward pass of training that comes next."""

    def components(self) -> list[tuple[float, float, float]]:
        """(weight, mean, scale) of each component of a mixture; empty for other quantizers."""
        return []

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that want a rate of their own, ``rate``, and no weight decay."""
        return list(self.parameters())

    @property
    def rate(self) -> float:
        """Learning rate of ``own_parameters`` in co-tuning, in units of the weights' rate."""
        return RATE

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding | None:
        """What learns when the layer is rebuilt from a few images; None leaves the layer alone. Asked before the first step,
        then ``forward`` is called in training mode with ``latent``, with ``set_progress`` from 0 to 1."""
        return Rebuilding([latent], self.own_parameters())

    def clip(self, latent: Tensor) -> None:
        """Let the range of values end where the weights' squared error is least, where the largest weight decides otherwise."""

    def suit(self, wanted: Tensor) -> None:
        """Before ``grid``: take values that suit these weights, from which the layer would give what it is to give, where those
        of the latent ones would not do. Of the latent weight's shape; 0 where a weight has to be."""

    def grid(self, latent: Tensor) -> WeightGrid | None:
        """The values that weights may take, where that is a list of levels to choose from: then a layer can be solved from a
        few images (``quantizers.calibration.assignment``). Its scale has one entry for each output channel, [1, O]."""
        return None

    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        """Take over the solution of a layer: from now on ``codebook(latent)`` gives every weight the value of its own level, up
        to the rounding of levels to integers. ``grid`` is the one that ``grid`` gave, with other free values; ``owner`` holds the
        index of each weight's level, int64 [G, O, K]."""
        raise NotImplementedError(f"{type(self).__name__} has a grid but does not adopt solutions")

    def assigned(self, latent: Tensor) -> Tensor:
        """Which level each weight has, uint8, the weight's shape: equal numbers for equal levels, also of later calls."""
        return torch.from_numpy(self.codebook(latent.detach()).indices)

    def hold(self, latent: nn.Parameter) -> bool:
        """From now on every weight keeps the level that it has, whatever the levels' values become in training, until
        ``release``. The latent weights rest at their values. Returns whether the quantizer can do that; if not, nothing
        changes."""
        return False

    def release(self, latent: nn.Parameter, towards: Tensor | None = None) -> None:
        """Let weights change their level again. Each starts from the value that it has, or half way from there ``towards``
        another, as far as it keeps its level."""

    @property
    def zero_target(self) -> float | None:
        """The share of zeros that the plan asks for; None where it asks for none."""
        return None

    @staticmethod
    def state_key(*tensors: Tensor) -> tuple[object, ...]:
        """Changes whenever one of the tensors is written to or replaced; for caches of what is computed from them."""
        return tuple((tensor.data_ptr(), tensor._version, tensor.device, tensor.dtype) for tensor in tensors)
