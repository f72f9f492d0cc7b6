"""What every weight quantizer can do, and where they are registered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import COMPONENTS, ZERO_SHARE
from foundation.registry import Registry

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, TemperatureSchedule


class WeightQuantizer(nn.Module, ABC):
    """A parametrization of one layer's weight: what the layer multiplies by, given the latent float weight.

    In training it is differentiable; in eval it is exactly ``codebook(weight).dequantize()``, bit for bit. All that changes
    during training lives in parameters and buffers, so ``state_dict`` resumes exactly.

    Attributes:
        widths: bits of an index that it can store (8 bits in a plan mean plain int8, whatever the quantizer).
        dimensions: which of ``foundation.plan.DIMENSIONS`` change what it does; a search leaves the others out.
    """

    widths: ClassVar[tuple[int, ...]] = (2, 3, 4)
    dimensions: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def check(cls, name: str, layer: LayerPlan) -> None:
        """Refuse what this quantizer, registered as ``name``, cannot do. Components it has no use for do no harm.

        Raises:
            UserError: other bits than it stores, no components where it needs some, or a share of zeros it would not reach.
        """
        if layer.bits not in cls.widths:
            allowed = " or ".join(map(str, cls.widths))
            raise UserError(f"{name} with {layer.bits} bits: it stores weights in {allowed} bits only")
        if COMPONENTS in cls.dimensions and layer.components is None:
            raise UserError(
                f"{name} with {layer.bits} bits needs components: give a number from 2 to {2**layer.bits}"
            )
        if layer.zero_share is not None and ZERO_SHARE not in cls.dimensions:
            raise UserError(
                f"zero_share {layer.zero_share}: {name} has no share of zeros to aim at; leave it out of the plan"
            )

    @classmethod
    @abstractmethod
    def for_layer(
        cls,
        weight: Tensor,
        layer: LayerPlan,
        temperature: TemperatureSchedule,
        form: str,
        *,
        initialise: bool,
    ) -> WeightQuantizer:
        """A quantizer for a layer of this latent weight. Without ``initialise`` the state is only shaped, to be loaded."""

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Latent weight to quantized weight of the same shape."""

    @abstractmethod
    def codebook(self, weight: Tensor) -> Codebook:
        """The compressed form of the latent weight, as deployed."""

    def set_progress(self, progress: float) -> None:
        """Tell how much of the training lies behind, 0 to 1."""

    def components(self) -> list[tuple[float, float, float]]:
        """(weight, mean, scale) of each component of a mixture; empty for other quantizers."""
        return []

    def mixture_parameters(self) -> list[nn.Parameter]:
        """Parameters that want their own rate and no weight decay."""
        return [p for p in self.parameters() if isinstance(p, nn.Parameter)]

    @staticmethod
    def state_key(*tensors: Tensor) -> tuple[object, ...]:
        """Changes whenever one of the tensors is written to or replaced; for caches of what is computed from them."""
        return tuple((tensor.data_ptr(), tensor._version, tensor.device, tensor.dtype) for tensor in tensors)


QUANTIZERS: Registry[type[WeightQuantizer]] = Registry("quantizer")
