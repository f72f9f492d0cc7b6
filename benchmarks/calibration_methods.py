"""The methods of the calibration benchmark: from the fp32 network and few images to a network with few weight values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from benchmarks.calibration_data import FewImages, central, varied
from foundation.plan import LayerPlan, Plan, TemperatureSchedule
from pipeline.datasets.base import ImageData
from pipeline.datasets.images import ArrayImages, normalize
from pipeline.training.cotuning import Cotuning
from pipeline.training.settings import TrainSettings
from quantizers.calibration.channel_scale import with_even_channels
from quantizers.calibration.reconstruction import Reconstruction, reconstruct
from quantizers.network import Hardened, harden, layer_names

BATCH = 32  # images at once where nothing is learned


@dataclass(frozen=True)
class Recipe:
    """What a method does.

    Attributes:
        quantizer: of the weights, by its registered name.
        even_channels: give output channels one size first (``quantizers.calibration.channel_scale``).
        match_norms: give batch-norms the statistics that keep the fp32 network's outputs
            (``quantizers.calibration.reconstruction``).
        layer_steps: steps of reconstruction for each layer (the same).
        steps: of distillation through the whole network, each with ``batch`` views.
        learning_rate: its peak, for weights.
        temperature: of both soft-maxes in the distillation.
        mix: largest share of another image in a view.
        start: the mixtures' first temperature.
    """

    quantizer: str = "gaussian_mixture"
    even_channels: bool = True
    match_norms: bool = True
    layer_steps: int = 0
    steps: int = 0
    batch: int = 16
    learning_rate: float = 0.01
    temperature: float = 4.0
    mix: float = 0.0
    start: float = 0.2

    @property
    def random(self) -> bool:
        """Whether a seed makes a difference."""
        return bool(self.layer_steps or self.steps)


OURS = Recipe(layer_steps=300)
ADAROUND = Recipe("adaptive_rounding", layer_steps=1000)
KMEANS = Recipe("differentiable_kmeans")
METHODS = {
    "ours": OURS,
    "ours_then_distilled": replace(OURS, steps=60),
    "distilled_only": replace(OURS, layer_steps=0, steps=60),
    "ours_uneven": replace(OURS, even_channels=False),
    "adaround": replace(ADAROUND, even_channels=False, match_norms=False),
    "adaround_even": ADAROUND,
    "kmeans": replace(KMEANS, even_channels=False),
    "kmeans_even": KMEANS,
    "int8": Recipe(match_norms=False),
}


class FewImageCotuning(Cotuning):
    """Co-tuning by distillation on random views of few images. Batch-norm statistics are not those of a batch: they stay where
    calibration put them for the hard weights, while scales and shifts learn."""

    def __init__(
        self, model: nn.Module, plan: Plan, data: ImageData, settings: TrainSettings, mean: Any, std: Any, *,
        stored: ArrayImages, mix: float,
    ) -> None:  # fmt: skip
        super().__init__(model, plan, data, settings, mean, std)
        self.stored, self.mix = stored, mix
        self.norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.stored), generator=self._generator("order", epoch))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        views = varied(
            self.stored.batch(chosen), self.data.image_size[0], self.mix, self._generator("augment", step)
        )
        return normalize(views, self.mean, self.std), self.stored.labels[chosen]

    def before_step(self, share: float) -> None:
        super().before_step(share)
        for norm in self.norms:
            norm.eval()

    def _hard(self) -> Hardened:
        return harden(self.network)


def plan_of(recipe: Recipe, bits: int, names: list[str]) -> Plan:
    """The plan for layers ``names``; the first and the last have 8 bits."""
    layer = LayerPlan(8) if bits == 8 else LayerPlan(bits, 2**bits)
    layers = dict.fromkeys(names, layer) | {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    schedule = TemperatureSchedule(recipe.start, min(recipe.start, 0.02))
    return Plan(layers, recipe.quantizer, temperature=schedule)


def compress(
    model: nn.Module, recipe: Recipe, bits: int, seed: int, few: FewImages, size: int, classes: int, mean: Any, std: Any
) -> Hardened:  # fmt: skip
    """The network that a recipe makes. Only ``few.calibration`` is looked at, and no label.

    Args:
        size: side of the images that the network sees.
    """
    images = central(few.calibration, size)
    batches = [normalize(images.batch(part), mean, std) for part in torch.arange(len(images)).split(BATCH)]
    original = with_even_channels(model) if recipe.even_channels else model
    data = ImageData(
        "few images", tuple(map(str, range(classes))), (size, size), images, images, images, "none"
    )
    batch = min(recipe.batch, len(images))
    settings = TrainSettings(
        epochs=max(recipe.steps, 1) / (len(images) // batch), batch_size=batch, learning_rate=recipe.learning_rate,
        weight_decay=0.0, distillation=1.0, distillation_temperature=recipe.temperature, seed=seed, calibration_images=64,
        kept_images=0,
        form="posterior" if recipe.quantizer == "gaussian_mixture" else TrainSettings.form,
    )  # fmt: skip
    plan = plan_of(recipe, bits, layer_names(model))
    run = FewImageCotuning(original, plan, data, settings, mean, std, stored=few.calibration, mix=recipe.mix)
    if recipe.layer_steps or recipe.match_norms:
        how = Reconstruction(
            recipe.layer_steps, solve=False, positions=64, seed=seed, match_norms=recipe.match_norms
        )
        reconstruct(cast(fx.GraphModule, run.network), original, batches, how)
    if recipe.steps:
        run.run_until(settings.epochs)
    return run.hardened()
