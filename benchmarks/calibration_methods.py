"""The methods of the calibration benchmark: from the fp32 network and few images to a network with few weight values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calibration_data import FewImages, central, varied
from pipeline.data import ImageData
from pipeline.images import ArrayImages, normalize
from pipeline.training.cotuning import Cotuning
from pipeline.training.settings import TrainSettings
from quantizers.channel_scale import with_even_channels
from quantizers.lockstep import match_batch_norm
from quantizers.network import Hardened, harden, layer_names
from quantizers.reconstruction import Reconstruction, reconstruct
from search_spaces.plan import LayerPlan, Plan, TemperatureSchedule

BATCH = 32  # images at once where nothing is learned
QUANTIZER = {
    "ours": "gaussian_mixture",
    "kmeans": "differentiable_kmeans",
    "adaround": "adaptive_rounding",
    "int8": "gaussian_mixture",
}
METHODS = tuple(QUANTIZER)


@dataclass(frozen=True)
class Recipe:
    """What a method does; see ``benchmarks.calibration``.

    Attributes:
        even_channels: give output channels one size first.
        match_norms: give batch-norms the statistics that keep the fp32 network's outputs.
        layer_steps: steps of reconstruction per layer, 0 for none.
        steps: of distillation through the whole network, 0 for none.
        mix: largest share of another image in a training view.
    """

    method: str
    bits: int
    seed: int
    even_channels: bool
    match_norms: bool
    layer_steps: int
    steps: int
    batch: int
    learning_rate: float
    temperature: float
    mix: float
    start: float


class FewImageCotuning(Cotuning):
    """Co-tuning by distillation on random views of few images. Batch-norm statistics are not those of a batch: they stay where
    ``match_batch_norm`` put them for the hard weights, while scales and shifts learn."""

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

    def match_norms(self, original: nn.Module, batches: list[Tensor]) -> None:
        """Take the statistics that fit the hard weights of this moment."""
        hard: Any = harden(self.network).network
        match_batch_norm(hard, original, batches)
        state = {key: value for key, value in hard.state_dict().items() if "running_" in key}
        self.network.load_state_dict(state, strict=False)


def plan_of(recipe: Recipe, names: list[str]) -> Plan:
    """The recipe's plan for layers ``names``; the first and the last have 8 bits."""
    layer = LayerPlan(8) if recipe.bits == 8 else LayerPlan(recipe.bits, 2**recipe.bits)
    layers = dict.fromkeys(names, layer) | {names[0]: LayerPlan(8), names[-1]: LayerPlan(8)}
    schedule = TemperatureSchedule(recipe.start, min(recipe.start, 0.02))
    return Plan(layers, schedule, quantizer=QUANTIZER[recipe.method])


def compress(
    model: nn.Module, recipe: Recipe, few: FewImages, size: int, classes: int, mean: Any, std: Any,
    show: Callable[[str], None] = lambda said: None,
) -> Hardened:  # fmt: skip
    """The recipe's network. Only ``few.calibration`` is looked at, and no label.

    Args:
        size: side of the images that the network sees.
    """
    images = central(few.calibration, size)
    batches = [normalize(images.batch(part), mean, std) for part in torch.arange(len(images)).split(BATCH)]
    original = with_even_channels(model) if recipe.even_channels else model
    data = ImageData("few images", tuple(map(str, range(classes))), (size, size), images, images, images, "none")
    batch = min(recipe.batch, len(images))
    settings = TrainSettings(
        epochs=max(recipe.steps, 1) / (len(images) // batch), batch_size=batch, learning_rate=recipe.learning_rate or 0.01,
        weight_decay=0.0, distillation=1.0, distillation_temperature=recipe.temperature or 1.0, seed=recipe.seed,
    )  # fmt: skip
    run = FewImageCotuning(
        original, plan_of(recipe, layer_names(model)), data, settings, mean, std, stored=few.calibration, mix=recipe.mix
    )
    if recipe.layer_steps:
        network: Any = run.network
        reconstruct(network, original, batches, Reconstruction(steps=recipe.layer_steps, seed=recipe.seed))
        show("layers reconstructed")
    if recipe.match_norms:
        run.match_norms(original, batches)
    if recipe.steps:
        run.run_until(settings.epochs)
        show(f"distilled, mean loss {run.take_loss():.4g}")
    return run.hardened()
