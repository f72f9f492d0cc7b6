"""How a network is trained; plain values, no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foundation.errors import UserError
from quantizers.mixture.forms import FORMS

ACCURACY = "accuracy"  # what classifiers are judged by, unless a person has a metric of their own
AP50 = "AP50"  # what detectors are judged by: average precision at an overlap of one half

DETECTORS_RATE = 0.001  # peak learning rate; with that of classifiers a rebuilt detector moves away from fp32


def word_of(metric: str | None) -> str:
    """A metric in a word: of ``package.module:function`` the function."""
    return ACCURACY if metric is None else metric.rpartition(":")[2]


# What settles the stages of a trial; training an fp32 network has none.
OF_TRIALS = frozenset(
    {"rebuild_images", "small_images", "held_steps", "held_rate", "kept_images", "rung_images"}
)


@dataclass(frozen=True)
class TrainSettings:
    """Everything a training run depends on besides its model, plan and data. Good for short co-tuning as it stands.

    Attributes:
        epochs: planned length; the learning rate and the temperature run their course over it. Fractions are fine.
        batch_size: images in a step, over all workers together.
        learning_rate: peak of the one-cycle schedule, for weights; mixture parameters take a tenth.
        warm_up: share of the steps in which the learning rate rises; then it falls to 0 on a cosine.
        weight_decay: for weights only, not for batch-norm, biases, mixtures or activation steps.
        gradient_clip: largest norm of the gradient over all parameters; None leaves it alone.
        distillation: share of the loss that compares with the fp32 network instead of with the labels, 0..1.
        distillation_temperature: of both soft-maxes in that comparison.
        label_smoothing: of the cross-entropy with the labels.
        seed: decides the order of images and their augmentation.
        images_per_epoch: how many training images one epoch takes, others each time; None takes all.
        augment: an entry of ``AUGMENTATIONS``; None does what the data set says.
        form: what training sees of the mixtures, one of ``quantizers.mixture.forms.FORMS``.
        rebuild_images: training images from which a trial rebuilds layers before they are trained, and ``small_images`` before
            that where it has such a stage; see ``pipeline.training.stages``.
        held_steps: steps of the stage in which weights are held at their levels.
        held_rate: peak learning rate of those steps.
        kept_images: training images of which nothing is learned, on which rungs are judged too; at most a tenth of all.
        rung_images: images of the search half on which rungs are judged; None takes all.
        options: further options of the plan's quantizer, by the names of its ``Options``.
        even_channels: give a layer's output channels one size before they share a codebook: a scale for each channel, which the
            batch-norm behind a convolution takes up, so it costs no byte; see ``quantizers.calibration.channel_scale``.
        batch_norm_images: training images on which batch-norm statistics are fitted before each evaluation.
        calibration_images: training images from which first activation steps are taken.
        evaluation_batch: images in a batch where nothing is learned.
        bfloat16: compute convolutions and linear layers in bfloat16 (autocast).
    """

    epochs: float = 2.0
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    warm_up: float = 0.1
    weight_decay: float = 1e-4
    gradient_clip: float | None = 5.0
    distillation: float = 1.0
    distillation_temperature: float = 4.0
    label_smoothing: float = 0.0
    seed: int = 0
    images_per_epoch: int | None = None
    augment: str | None = None
    form: str = "straight"
    even_channels: bool = False
    batch_norm_images: int = 1024
    calibration_images: int = 256
    evaluation_batch: int = 256
    bfloat16: bool = False
    rebuild_images: int = 1024
    small_images: int = 256
    held_steps: int = 24
    held_rate: float = 0.002
    kept_images: int = 512
    rung_images: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _require(0 < self.epochs < math.inf, "epochs", self.epochs, "above 0")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(0 <= self.warm_up < 1, "warm_up", self.warm_up, "in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(
            self.gradient_clip is None or self.gradient_clip > 0,
            "gradient_clip",
            self.gradient_clip,
            "above 0",
        )
        _require(0 <= self.distillation <= 1, "distillation", self.distillation, "in 0..1")
        _require(
            self.distillation_temperature > 0,
            "distillation_temperature",
            self.distillation_temperature,
            "above 0",
        )
        _require(self.form in FORMS, "form", self.form, f"among {', '.join(FORMS)}")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        _require(
            self.images_per_epoch is None or self.images_per_epoch >= 2,
            "images_per_epoch",
            self.images_per_epoch,
            "2 or more",
        )
        _require(self.held_steps >= 0, "held_steps", self.held_steps, "at least 0")
        _require(0 < self.held_rate < math.inf, "held_rate", self.held_rate, "above 0")
        _require(self.kept_images >= 0, "kept_images", self.kept_images, "at least 0")
        _require(
            self.rung_images is None or self.rung_images >= 1, "rung_images", self.rung_images, "1 or more"
        )
        for name in ("rebuild_images", "small_images"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("batch_norm_images", "calibration_images", "evaluation_batch"):
            _require(getattr(self, name) >= 2, name, getattr(self, name), "at least 2")

    def as_dict(self) -> dict[str, object]:
        """Plain values, as JSON holds them; without options where there are none."""
        record = dataclasses.asdict(self)
        return record if self.options else {key: value for key, value in record.items() if key != "options"}

    def of_quantizer(self) -> dict[str, Any]:
        """What the plan's quantizer is told; of its form only what is not the usual, since not every quantizer has forms."""
        return {**({} if self.form == TrainSettings.form else {"form": self.form}), **self.options}


def _require(holds: bool, name: str, value: object, allowed: str) -> None:  # noqa: FBT001  as assert has it
    if not holds:
        raise OutOfRange(name, value, allowed)


def of_detectors(settings: TrainSettings) -> TrainSettings:
    """The same for detectors, whose images are large: 32 have as many pixels as thousands of classifiers'."""
    rate = DETECTORS_RATE
    return dataclasses.replace(settings, learning_rate=rate, held_rate=rate / 2, calibration_images=32)


class OutOfRange(UserError):
    """A setting of training with a value that it cannot have."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} {value!r}: give a value {allowed}")
        self.as_flag = f"--{name.replace('_', '-')} {value}: give a value {allowed}"


def pretraining_settings(images: int) -> TrainSettings:
    """Settings for training an fp32 network from nothing on ``images`` training images."""
    return TrainSettings(
        epochs=16,
        batch_size=32 if images < 10_000 else 128,  # a small set needs the steps more than the speed
        learning_rate=0.1,
        warm_up=0.2,
        weight_decay=5e-4,
        distillation=0.0,
        label_smoothing=0.05,
    )
