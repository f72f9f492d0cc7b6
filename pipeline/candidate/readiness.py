"""Whether a network and a data set can be searched: the checks that a search makes, but all of them, each as far as it can go.

A search is refused by the first thing that is wrong. Here what depends on something broken goes on with a substitute (images of
noise, random weights), so that a person hears of everything at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from deploy_arm.compiler.frontend import check_operators
from deploy_arm.devices.kinds import DEVICES
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import complete_route, install_command, preferred_route
from foundation.errors import UserError
from foundation.factories import look_in
from foundation.show import show_percent
from pipeline.candidate.first_check import first_check
from pipeline.candidate.fp32 import judged
from pipeline.candidate.workspace import Workspace
from pipeline.datasets.base import ImageData, needs_labels
from pipeline.datasets.image_check import look
from pipeline.datasets.images import ArrayImages, Images
from pipeline.datasets.normalization import described
from pipeline.datasets.registry import load_data
from pipeline.networks.base import ModelSpec
from pipeline.networks.registry import classes_of, find_network, load_model
from pipeline.study.confidence import standard_error
from pipeline.study.searched import searched_space
from pipeline.study.settings import Settings
from pipeline.training.loop import check_rungs
from pipeline.training.outputs import check_outputs
from pipeline.training.stages import FREE
from quantizers import QUANTIZERS
from quantizers.core.producers import producers_of
from search_spaces.dimensions import asked
from search_spaces.layers import layers_of

FEW = 100  # images that guide, below which an error is hardly known
SIDE, CLASSES = (
    32,
    10,
)  # of images that stand in where nothing says how large they are, or how many kinds there are
SHOWN = 5  # classes that are named


@dataclass(frozen=True)
class Remark:
    """One thing that was found; the text says what to do."""

    about: str
    text: str


@dataclass
class Readiness:
    """What was found. ``problems`` keep a search from being of any use, ``notes`` are worth knowing."""

    problems: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)

    def problem(self, about: str, text: str) -> None:
        remark = Remark(about, text)
        if text not in {one.text for one in self.problems}:  # what two checks stumble over is one problem
            self.problems.append(remark)

    def note(self, about: str, text: str) -> None:
        self.notes.append(Remark(about, text))

    @contextlib.contextmanager
    def about(self, what: str) -> Iterator[None]:
        """What is refused within is a problem of ``what``."""
        try:
            yield
        except UserError as error:
            self.problem(what, str(error))

    def as_dict(self) -> dict[str, Any]:
        return {
            "ready": not self.problems,
            "problems": [asdict(one) for one in self.problems],
            "notes": [asdict(one) for one in self.notes],
        }


def readiness(
    settings: Settings, seconds: float, status: Callable[[str], None] = lambda text: None
) -> Readiness:
    """Everything that stands in the way of a search with these settings.

    Args:
        seconds: for which images are decoded, and for which the network is evaluated.
        status: is told what is being looked at.
    """
    found = Readiness()
    _names(settings, found)
    status("looking at the network")
    spec = None
    with found.about("network"):
        look_in(settings.modules)
        spec = find_network(settings.model)
    if spec is not None and spec.detects:
        _detector(settings, seconds, found, status)
        return found
    status("looking at the data")
    data = _data(settings, spec, seconds, found)
    status("looking at the weights")
    network, weighted = _network(settings, spec, data, found)
    if spec is not None and network is not None:
        mean, std, declared = spec.normalized(settings.mean, settings.std)
        if settings.mean is None and "declares none" in declared:
            found.note("normalization", f"{described(mean, std, declared)}; --mean and --std say otherwise")
        status("walking the whole way to the program")
        _compiled(
            settings, network, data, mean, std, found, trained=weighted and settings.weights is not None
        )
        if data is not None and weighted and settings.weights is not None:
            status("evaluating fp32")
            workspace = Workspace(settings, data, network, mean, std, described(mean, std, declared))
            with found.about("metric"):
                workspace.check_metric()
            _judged(workspace, seconds, found)
    return found


def _detector(settings: Settings, seconds: float, found: Readiness, status: Callable[[str], None]) -> None:
    """The same of a detector, whose network, weights and data are opened together."""
    status("looking at the network, the weights and the data")
    workspace: Workspace | None = None
    with found.about("network"):
        workspace = Workspace.open(settings)
    if workspace is None:
        return
    with found.about("images"):
        found.note("images", str(look(workspace.data, seconds)))
    status("walking the whole way to the program")
    model, data = workspace.model, workspace.data
    _compiled(workspace.settings, model, data, workspace.mean, workspace.std, found, trained=True)
    status("evaluating fp32")
    _judged(workspace, seconds, found)


def _judged(workspace: Workspace, seconds: float, found: Readiness) -> None:
    with found.about("accuracy"):
        right, why = judged(workspace, seconds)
        if why:
            found.problem("accuracy", why)
        else:
            found.note("accuracy", f"fp32: {right}")


def _names(settings: Settings, found: Readiness) -> None:
    for about, registry, name in (
        ("target", TARGETS, settings.target),
        ("quantizer", QUANTIZERS, settings.quantizer),
        ("devices", DEVICES, settings.devices),
    ):
        with found.about(about):
            if name is not None:
                look_in(settings.modules)
                registry[name]
    with found.about("dimensions"):
        asked(settings.dimensions)
    with found.about("tools"):
        if complete_route() is None:
            found.problem(
                "tools", f"the tools for ARM programs are not complete: {install_command(preferred_route())}"
            )


def _data(settings: Settings, spec: ModelSpec | None, seconds: float, found: Readiness) -> ImageData | None:
    data = None
    with found.about("data"):
        data = load_data(settings.data, settings.image_size, fallback=spec.image_size if spec else SIDE)
        needs_labels(data, "a search judges by labels; quantize --images-from DIR does without them")
    if data is None:
        return None
    with found.about("images"):
        found.note("images", str(look(data, seconds)))
    for split in ("search", "report"):
        images: Images = getattr(data, split)
        counts = torch.bincount(images.labels, minlength=len(data.classes)).tolist()
        if without := [name for name, count in zip(data.classes, counts) if not count]:
            named = ", ".join(without[:SHOWN]) + (
                f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
            )
            found.note(
                "data", f"no image of {named} in {split}: nothing is known of how well such images are told"
            )
    if len(data.search) < FEW:
        spread = show_percent(standard_error(0.1, len(data.search)))
        found.note(
            "data",
            f"{len(data.search)} images guide the search, {len(data.report)} report: an error of 10 % is known to +- {spread}; "
            "add validation images",
        )
    with found.about("data"):
        check_rungs(
            [stage.epochs for stage in settings.stages if stage.name == FREE],
            settings.training(),
            len(data.train),
        )
    return data


def _network(
    settings: Settings, spec: ModelSpec | None, data: ImageData | None, found: Readiness
) -> tuple[nn.Module | None, bool]:
    """The network, and whether it has the weights that it is to have; random ones where those do not fit."""
    if spec is None:
        return None, False
    classes = len(data.classes) if data is not None else None
    size = data.image_size if data is not None else settings.image_size
    if classes is None and settings.weights is not None:
        with contextlib.suppress(UserError):
            classes = classes_of(spec, settings.weights, size)
    network, weighted = None, settings.weights is None
    with found.about("network"):
        network = load_model(spec, classes=classes or CLASSES, image_size=size)
    if network is None:
        return None, False
    if settings.weights is None:
        found.note(
            "weights", "no --weights: the network is trained first, on the training images, and cached"
        )
    else:
        with found.about("weights"):
            network = load_model(spec, classes=classes or CLASSES, image_size=size, weights=settings.weights)
            weighted = True
    with found.about("network"):
        check_outputs(network, (3, *_size(spec, data, settings)), classes or CLASSES)
        return network, weighted
    return network, False


def _compiled(
    settings: Settings, network: nn.Module, data: ImageData | None, mean: tuple[float, ...], std: tuple[float, ...],
    found: Readiness, *, trained: bool,
) -> None:  # fmt: skip
    size = data.image_size if data is not None else (settings.image_size or SIDE,) * 2
    noise = torch.randint(
        0, 256, (8, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images: Images = ArrayImages(noise, torch.zeros(8))
    if data is not None:
        with contextlib.suppress(UserError):  # said already
            data.search.batch([0, 1, 2, 3])
            images = data.search
    with found.about("compiler"):
        check_operators(network, (3, *size))
    with found.about("compiler"):
        first_check(
            network, images, mean, std, trained=trained,
            say=lambda text: found.note("training", text.removeprefix("note: ")),
        )  # fmt: skip
    with found.about("search space"):
        searched_space(settings, layers_of(network, (3, *size), producers_of(network)))


def _size(spec: ModelSpec, data: ImageData | None, settings: Settings) -> tuple[int, int]:
    if data is not None:
        return data.image_size
    side = settings.image_size or spec.image_size
    return (side, side) if isinstance(side, int) else (side[0], side[1])
