"""What every part of a search starts from: the data and the trained fp32 network that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from foundation.command import typed
from foundation.errors import UserError
from foundation.factories import look_in
from foundation.modes import evaluating
from foundation.show import show_bytes, show_percent
from pipeline.datasets.base import ImageData, needs_labels, split_manifest
from pipeline.datasets.images import normalize
from pipeline.datasets.normalization import described
from pipeline.datasets.registry import load_data
from pipeline.detection.dataset import detection_data
from pipeline.detection.task import Detection
from pipeline.networks.base import ModelSpec
from pipeline.networks.registry import classes_of, find_network, load_model
from pipeline.study.records import Figures
from pipeline.study.settings import Settings
from pipeline.training.judges import Judgement, Judges
from pipeline.training.outputs import check_outputs
from pipeline.training.pretraining import pretrain
from pipeline.training.settings import AP50, pretraining_settings
from pipeline.training.task import Task, task_of

CHECKED = 32  # images on whose answers a metric is tried


def as_figures(judgement: Judgement) -> Figures:
    """What a judgement tells, as figures without any cost."""
    return Figures(
        judgement.error,
        divergence=judgement.divergence,
        divergence_standard_error=judgement.standard_error,
        discordant=judgement.discordant,
        error_standard_error=judgement.error_standard_error,
    )


@dataclass(frozen=True)
class Workspace:
    """Data and network of one search. ``mean`` and ``std`` normalize pixels in 0..1; ``normalization`` says in words how, and
    where that comes from."""

    settings: Settings
    data: ImageData
    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalization: str

    @classmethod
    def open(
        cls,
        settings: Settings,
        say: Callable[[str], None] = lambda text: None,
        *,
        trained: bool = True,
        labelled: bool = True,
    ) -> Workspace:
        """Load both; a network without weights is trained first, once, and cached.

        Args:
            say: gets a line about what takes long.
            trained: False leaves a network without weights untrained.
            labelled: False takes images without labels too; the network's weights then say how many classes there are.

        Raises:
            UserError: an unknown name, unreadable data, weights that do not fit, or a network that does not answer (N, classes).
        """
        look_in(settings.modules)
        network = find_network(settings.model)
        if network.detects:
            return cls._detecting(settings, network, labelled=labelled)
        if settings.metric == AP50:
            raise UserError(f"--metric {AP50}: judges detectors, and {settings.model} is a classifier")
        data = load_data(settings.data, settings.image_size, fallback=network.image_size)
        if labelled:
            needs_labels(data, f"{typed('pipeline.quantize')} --images-from DIR does without them")
        if not data.labelled:
            if settings.weights is None:
                raise UserError(f"{data.name} has no labels to train with: give trained --weights")
            count = classes_of(network, settings.weights, data.image_size)
            data = replace(data, classes=tuple(map(str, range(count))))
        model = load_model(
            network,
            classes=len(data.classes),
            image_size=data.image_size,
            weights=settings.weights,
            seed=settings.seed,
        )
        check_outputs(model, (3, *data.image_size), len(data.classes))
        mean, std, declared = network.normalized(settings.mean, settings.std)
        if settings.weights is None and trained:
            recipe = replace(pretraining_settings(len(data.train)), seed=settings.seed)
            say(
                f"no --weights: training {settings.model} on {settings.data} first, or taking it from the cache"
            )
            trained_network = pretrain(model, data, mean, std, name=settings.model, settings=recipe)
            what = "was trained before" if trained_network.cached else "is trained"
            say(
                f"{settings.model} {what}: {show_percent(1 - trained_network.error)} right on the images that guide the "
                f"search ({trained_network.path})"
            )
            model = trained_network.network
        return cls(settings, data, model, mean, std, described(mean, std, declared))

    @classmethod
    def _detecting(cls, settings: Settings, network: ModelSpec, *, labelled: bool) -> Workspace:
        """A detector, its settings naming the metric that it is judged by."""
        if settings.weights is None:
            raise UserError(
                f"{settings.model} is a detector, and detectors are not trained here: give trained --weights"
            )
        if settings.metric not in (None, AP50):
            raise UserError(f"--metric {settings.metric}: judges classifiers; a detector is judged by {AP50}")
        side = settings.image_size or network.image_size
        data = detection_data(settings.data, (side, side))
        if labelled and not data.labelled:
            raise UserError(f"{data.name} has no boxes to judge by; give --data coco:DIR")
        classes = data.classes or tuple(map(str, range(classes_of(network, settings.weights, side))))
        model = load_model(network, classes=len(classes), image_size=side, weights=settings.weights)
        mean, std, declared = network.normalized(settings.mean, settings.std)
        of_classes = data.of_classes(classes)
        settings = replace(settings, metric=AP50)
        return cls(settings, of_classes, model, mean, std, described(mean, std, declared))

    def __reduce__(self) -> tuple[Any, ...]:
        """To another node go the data and the network's values; the network itself is made there, from its name."""
        values = {name: value.detach() for name, value in self.model.state_dict().items()}
        return _arrived, (self.settings, self.data, values, self.mean, self.std, self.normalization)

    def packed(self, room: int) -> Workspace:
        """With image files as bytes in memory, so that a node needs not see their folder.

        Raises:
            UserError: they are more than ``room`` bytes.
        """
        found = {name: getattr(self.data, name) for name in ("train", "search", "report")}
        wanted = sum(images.size() for images in found.values())
        if wanted > room:
            raise UserError(
                f"--data {self.settings.data}: {show_bytes(wanted)} of image files would have to travel to nodes, whose object "
                f"stores have {show_bytes(room)} for them; start Ray with a larger --object-store-memory, or give fewer images"
            )
        packed: dict[str, Any] = {name: images.packed() for name, images in found.items()}
        return replace(self, data=replace(self.data, **packed))

    @cached_property
    def task(self) -> Task:
        """What is asked of the networks."""
        if self.settings.metric == AP50:
            return Detection(len(self.data.classes), self.data.image_size)
        return task_of(self.settings.metric)

    @cached_property
    def judges(self) -> Judges:
        """Those of the search's trials; what the fp32 network answers is computed once for all of them."""
        settings = self.settings.training()
        return Judges.of(self.model, self.data, settings, self.mean, self.std, task=self.task)

    def check_metric(self) -> None:
        """Refuse a person's metric that cannot judge the answers to the search half, from those to a few of the images.

        Raises:
            UserError: there is no such function, it fails or gives something else; or the data has no labels.
        """
        if self.settings.metric in (None, AP50):
            return
        if not self.data.labelled:
            raise UserError(
                f"--metric {self.settings.metric}: judges by labels, and {self.data.name} has none"
            )
        images, batch = self.data.search, torch.arange(min(CHECKED, len(self.data.search)))
        with torch.no_grad(), evaluating(self.model):
            few = self.task.outputs(self.model, normalize(images.batch(batch), self.mean, self.std))
        # As many as there will be, in the shape that they will have: some metrics need every class.
        self.task.scores(few[torch.arange(len(images)) % len(few)], images.labels)

    def fp32_figures(self) -> Figures:
        """What the fp32 network's answers to the search half are like, without any cost; no error where there are no labels."""
        if not self.data.labelled:
            return Figures(None, divergence=0.0)
        found = self.judges.search.fp32
        return Figures(found.error, divergence=0.0, error_standard_error=found.error_standard_error)

    def judged(self, network: nn.Module) -> Figures:
        """What a compressed network's answers to the search half are like, as figures without any cost; nothing where there
        are no labels."""
        return as_figures(self.judges.search(network)) if self.data.labelled else Figures(None)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (3, *self.data.image_size)

    def data_record(self) -> dict[str, Any]:
        """What a manifest says about the data: the specification, how an image file becomes the network's input, and which
        images were which."""
        how = self.data.report.preprocessing
        return {
            "spec": self.settings.data,
            "name": self.data.name,
            "preprocessing": how and how.as_dict(),
            "splits": split_manifest(self.data),
            **({} if self.data.labelled else {"labelled": False}),
        }


def _arrived(
    settings: Settings,
    data: ImageData,
    values: dict[str, Tensor],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    normalization: str,
) -> Workspace:
    network = find_network(settings.model)
    model = load_model(network, classes=len(data.classes), image_size=data.image_size, seed=settings.seed)
    model.load_state_dict(values)
    return Workspace(settings, data, model, mean, std, normalization)
