"""Every quantizer of the registry keeps to what a quantizer must, and what does not keep to it is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers import QUANTIZERS
from quantizers.core.base import Rebuilding
from quantizers.weights.gaussian_mixture import GaussianMixture
from quantizers.weights.learned_step import LearnedStep
from tests.conformance.quantizers import QuantizerConformance


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
class TestQuantizers(QuantizerConformance):
    """All that the project brings."""


class Random(LearnedStep):
    """Training sees noise."""

    def forward(self, weight: Tensor) -> Tensor:
        seen = super().forward(weight)
        return seen + 1e-3 * torch.randn_like(seen) if self.training else seen


class Softened(LearnedStep):
    """Evaluation is not what is deployed."""

    def forward(self, weight: Tensor) -> Tensor:
        return super().forward(weight) if self.training else weight


class Narrow(LearnedStep):
    """Stores fewer bits than it says."""

    def codebook(self, weight: Tensor) -> Codebook:
        book = super().codebook(weight)
        return Codebook(book.indices // 4 * 4, book.levels, book.scale, book.bits)


class Boasting(LearnedStep):
    """Declares what it does not have."""

    dimensions = frozenset({"temperature"})


class Secretive(LearnedStep):
    """Has what it does not declare."""

    def __init__(self, layer: LayerPlan, *rest: Any) -> None:
        super().__init__(layer, *rest)
        self.share = 1 if layer.components is None else 2

    def start(self, weight: Tensor) -> None:
        super().start(self.share * weight)


class Forgetful(LearnedStep):
    """Counts its steps where no checkpoint looks."""

    count = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.count += self.training
        return super().forward(weight) * (1 + 0.01 * self.count if self.training else 1)


class Shrinking(LearnedStep):
    """Learns something else than the layer's output."""

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding:
        return Rebuilding([latent], penalty=lambda progress: 1e3 * latent.square().sum())


class Greedy(GaussianMixture):
    """Makes more zeros than it is asked for."""

    def codebook(self, weight: Tensor) -> Codebook:
        book = super().codebook(weight)
        zero = int((book.levels == 0).argmax())
        indices = book.indices.copy()
        indices[:4] = zero
        return Codebook(indices, book.levels, book.scale, book.bits)


class Sticky(LearnedStep):
    """Holds something that cannot be pickled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.hook = lambda: None


class Exploding(LearnedStep):
    """Its gradients are no numbers."""

    def forward(self, weight: Tensor) -> Tensor:
        seen = super().forward(weight)
        return seen + (weight - weight.detach()).abs().sqrt() if self.training else seen


class Half(LearnedStep):
    """Under autocast training sees another type."""

    def forward(self, weight: Tensor) -> Tensor:
        seen = super().forward(weight)
        return seen.bfloat16() if torch.is_autocast_enabled("cpu") else seen


@pytest.mark.parametrize(
    ("sort", "test", "more", "said"),
    [
        (Random, "test_equal_runs_are_equal", (), AssertionError),
        (Softened, "test_evaluation_is_the_codebook", ("normal",), AssertionError),
        (Narrow, "test_the_declared_widths_are_used_and_others_refused", (), AssertionError),
        (Boasting, "test_dimensions_do_what_is_declared", (), AssertionError),
        (Secretive, "test_dimensions_do_what_is_declared", (), AssertionError),
        (Forgetful, "test_training_resumes_exactly", (), AssertionError),
        (Shrinking, "test_a_layer_rebuilt_from_images_is_not_worse", (), AssertionError),
        (Greedy, "test_a_share_of_zeros_is_reached", (0.3,), AssertionError),
        (Sticky, "test_it_can_be_pickled_and_copied", (), AttributeError),
        (Exploding, "test_gradients_are_finite_and_something_learns", (), AssertionError),
        (Half, "test_training_sees_the_weights_shape_and_type", (), AssertionError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_found_out(sort: type, test: str, more: tuple[Any, ...], said: type[Exception]) -> None:
    name = f"{__name__}:{sort.__name__}"
    with pytest.raises(said):
        getattr(QuantizerConformance(), test)(name, *more)
