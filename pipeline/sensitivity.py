"""`python -m pipeline.sensitivity`: which layer hurts, before anything is trained.

For every layer and everything that a search may choose for it: how far the network's answers move from fp32 if this layer alone
is stored so, and what that saves. From a few training images, without their labels; in the cache the second time.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.factories import find_factory, look_in, story
from foundation.files import json_text
from foundation.plan import LayerPlan
from foundation.show import aligned, show_bytes, show_percent
from pipeline.review.progress import Progress
from pipeline.study import paths
from pipeline.study.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.images import Images
    from quantizers.calibration.fisher import Score
    from search_spaces.sensitivity import Sensitivity
    from search_spaces.space import Space

FLAGS = (
    ("model", "network, as in pipeline.search, or fastestdet"),
    (
        "data",
        "data set, as in pipeline.search; for a detector coco:DIR; of images without labels unlabelled:DIR",
    ),
    ("weights", "trained weights; without, the network is trained first, as in pipeline.search"),
    ("image-size", "side of the input images in pixels"),
    ("mean", "normalization, as in pipeline.search"),
    ("std", "likewise"),
    ("target", "ARM CPU that times are for"),
    ("quantizer", "what stores weights below 8 bits, as in pipeline.search"),
    ("bits", "bit-widths to choose from, as in pipeline.search"),
)
ChoiceRow = dict[str, Any]
Costs = Callable[[str, LayerPlan], tuple[float, float]]


class Subject(NamedTuple):
    """What is looked at; ``workspace`` where it can be compiled."""

    model: nn.Module
    images: Images
    mean: Sequence[float]
    std: Sequence[float]
    score: Score | None
    workspace: Workspace | None


class Found(NamedTuple):
    """What was found of it; ``costs`` where they are known. ``typed`` names the dimensions that were asked for."""

    space: Space
    sensitivity: Sensitivity
    costs: Costs | None
    typed: Sequence[str] = ()


def main(argv: list[str] | None = None) -> int:
    """The command; see ``--help``."""
    parser = Parser(prog="python -m pipeline.sensitivity", description=__doc__)
    for name, text in FLAGS:
        default = getattr(Settings, name.replace("-", "_"), None)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            help=text + ("" if default is None else f" (default {shown})"),
        )
    parser.add_argument(
        "--dimensions",
        nargs="+",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="further dimensions, as in pipeline.search",
    )
    parser.add_argument(
        "--modules",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder that package.module:name is looked up in",
    )
    parser.add_argument(
        "--loss",
        metavar="package.module:function",
        help="what a network that is no classifier is judged by: a function of outputs and labels; without, classifiers are "
        "judged by their own answers and detectors by their own boxes",
    )
    parser.add_argument(
        "--images", type=int, default=200, metavar="N", help="training images that are shown (default 200)"
    )
    parser.add_argument(
        "--format", choices=("text", "json", "csv"), default="text", help="how to print the result"
    )
    args = parser.parse_args(argv)
    if args.images < 2:
        raise UserError(f"--images {args.images}: give 2 or more")
    given = {key: value for key, value in vars(args).items() if key not in ("loss", "images", "format")}
    settings = Settings.from_dict(paths.settled(given), "flag")
    with Progress(1) as progress:
        found = measured(settings, args.loss, args.images, progress)
    if args.format == "json":
        told = {"images": found.sensitivity.images, "unit": "nats", "rows": rows_of(found)}
        print(json_text(told, indent=1))
    else:
        print(as_csv(rows_of(found)) if args.format == "csv" else as_text(found))
    return 0


def measured(settings: Settings, loss: str | None, count: int, progress: Progress) -> Found:
    """What each layer's choices do and cost.

    Raises:
        UserError: an unknown name, unreadable data, or a network whose layers cannot be looked at.
    """
    from pipeline.candidate.sensitivity import sensitivity_of
    from pipeline.study.searched import searched_space
    from quantizers import QUANTIZERS
    from quantizers.core.producers import producers_of
    from search_spaces.dimensions import asked
    from search_spaces.layers import layers_of

    look_in(settings.modules)
    QUANTIZERS[settings.quantizer]  # what is not known is refused now, not after minutes
    typed = [dimension.name for dimension in asked(settings.dimensions)]
    progress.status("looking at the model and the data")
    subject = opened(settings, loss, count, progress)
    space = searched_space(
        settings, layers_of(subject.model, (3, *subject.images.image_size), producers_of(subject.model))
    )
    sensitivity = sensitivity_of(
        subject.model, subject.images, subject.mean, subject.std, space, progress.status,
        score=subject.score, count=count,
    )  # fmt: skip
    progress.status("estimating what layers cost")
    return Found(space, sensitivity, costs(subject, sensitivity, progress), typed)


def opened(settings: Settings, loss: str | None, count: int, progress: Progress) -> Subject:
    """The network that the settings name, classifier or not, its training images, and how it is judged."""
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model

    network = find_network(settings.model)
    if loss is None:
        labelled = settings.weights is None and not network.detects
        workspace = Workspace.open(settings, progress.line, labelled=labelled)
        model, data, score = workspace.model, workspace.data, workspace.task.drawn()
        return Subject(model, data.train, workspace.mean, workspace.std, score, workspace)
    judge = find_factory(loss)
    if settings.weights is None:
        raise UserError(
            f"--loss {loss}: a network with a loss of its own is not trained here; give its --weights"
        )
    data = load_data(settings.data, settings.image_size, fallback=network.image_size)
    size = data.image_size
    model = load_model(
        network, classes=len(data.classes), image_size=size, weights=settings.weights, seed=settings.seed
    )
    mean, std, _ = network.normalized(settings.mean, settings.std)
    return Subject(model, data.train, mean, std, judged_by(judge, loss, data.train, count), None)


def judged_by(judge: Callable[..., Any], name: str, images: Images, count: int) -> Score:
    """A person's loss as what Fisher information is of. It is asked for one image at a time; signs are drawn, so that the square
    of a batch's gradient is on average the sum of its images' squares.

    Raises:
        UserError: when it is called: it fails, or gives no number.
    """
    import torch

    from pipeline.candidate.sensitivity import shown_images

    parts = shown_images(len(images), count)

    def score(outputs: Any, number: int) -> Tensor:
        labels = images.labels[parts[number]]
        generator = torch.Generator().manual_seed(number)
        values = []
        for index in range(len(labels)):
            try:
                value = judge(one_of(outputs, index), labels[index : index + 1])
            except Exception as error:  # it is a person's own
                raise UserError(f"--loss {name} failed: {story(error)}") from error
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise UserError(f"--loss {name} gave {value!r:.60}; it must give one number, as a tensor")
            sign = 1 if torch.rand(1, generator=generator) < 0.5 else -1
            values.append(sign * value.reshape(()))
        return torch.stack(values).sum()

    score.__wrapped__ = judge  # type: ignore[attr-defined]  # whose file decides the answer
    return score


def one_of(outputs: Any, index: int) -> Any:
    """The part of one image in a batch's outputs, kept as a batch of one."""
    if isinstance(outputs, Mapping):
        return {key: one_of(value, index) for key, value in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        return [one_of(value, index) for value in outputs]
    return outputs[index : index + 1]


def costs(subject: Subject, found: Sensitivity, progress: Progress) -> Costs | None:
    """Milliseconds and bytes of a layer's plan; None where the network is not compiled."""
    from pipeline.candidate.plan_cost import PlanCost

    if subject.workspace is None:
        return None
    cost = PlanCost(subject.workspace, found.harms)
    try:
        cost.prepare()
    except UserError as error:
        progress.line(f"what layers cost is not known: {error}")
        return None
    return cost.layer


def rows_of(found: Found) -> list[ChoiceRow]:
    """A row for each layer and choice, in the network's order. What is saved is against 8 bits, where they are a choice."""
    rows = []
    for place in found.space.places:
        for layer, harm in found.sensitivity.harms[place.name].items():
            added = found.sensitivity.of(place.name, layer)
            rows.append(
                {
                    "layer": place.name,
                    "weights": place.parameters,
                    "macs": place.macs,
                    **layer.record(),
                    "error_added": added,
                    **harm._asdict(),
                    **_costs_of(found, place.name, layer),
                }
            )
    return rows


def _costs_of(found: Found, name: str, layer: LayerPlan) -> dict[str, float]:
    """What a layer's plan costs, and what it saves against 8 bits."""
    if found.costs is None:
        return {}
    milliseconds, size = found.costs(name, layer)
    cost = {"ms": milliseconds, "bytes": size}
    if (eight := LayerPlan(8)) in found.sensitivity.harms[name]:
        before = found.costs(name, eight)
        cost |= {"ms_saved": before[0] - milliseconds, "bytes_saved": before[1] - size}
    return cost


def as_csv(rows: Sequence[ChoiceRow]) -> str:
    """Every row; what a choice has not stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().rstrip("\n")


def as_text(found: Found) -> str:
    """A line for each layer, the one that hurts most first: the best choice of each bit-width, and what the fewest bits save."""
    sensitivity, widths = found.sensitivity, sorted(found.space["bits"].values, reverse=True)
    best = {place.name: sensitivity.gentlest(place.name) for place in found.space.places}
    saved = {name: _costs_of(found, name, plans[widths[-1]]) for name, plans in best.items()}
    saves = all("bytes_saved" in cost for cost in saved.values())
    head = ["layer", "weights", *(f"{bits} bits" for bits in widths)]
    table = [head + (["bytes saved", "time saved"] if saves else [])]
    worst = sorted(
        found.space.places, key=lambda place: -sensitivity.of(place.name, best[place.name][widths[-1]])
    )
    for place in worst:
        added = [f"{sensitivity.of(place.name, best[place.name][bits]):.2g}" for bits in widths]
        cost = saved[place.name]
        more = [show_bytes(cost["bytes_saved"]), f"{1000 * cost['ms_saved']:.1f} us"] if saves else []
        table.append([place.name, f"{place.parameters:,}", *added, *more])
    lines = [aligned(table)]
    notes = [
        "error added: divergence from fp32, in nats, if this layer alone is stored so, untrained; from "
        f"{sensitivity.images} images"
    ]
    if saves:
        notes.append(f"saved: by {widths[-1]} instead of 8 bits; time is modelled, for one image")
    layers_own = {name: own for name, own in found.space.dimensions.items() if not own.of_network}
    searched = (name for name, own in layers_own.items() if any(value is not None for value in own.values))
    for name in (name for name in searched if name in found.typed):
        own_table, what = _of_dimension(found, name, [place.name for place in worst])
        lines += ["", aligned(own_table)]
        of_it = f", and the {what} that it saves of the layer's" if what else ""
        notes.append(f"{name}: error added at the most bits that have it{of_it}")
    choices = sum(map(len, sensitivity.harms.values()))
    chosen = ", ".join(own.noun for name, own in layers_own.items() if name != "bits")
    notes.append(f"{choices:,} choices in all{f' ({chosen})' if chosen else ''}: --format csv or json")
    return "\n".join([*lines, *notes])


def _of_dimension(found: Found, name: str, layers: Sequence[str]) -> tuple[list[list[str]], str]:
    """A line for each layer that has a choice of a dimension, a column for each of its values, at the most bits that have it; and
    what the shares in it are of that are saved: time, where any layer's is, else bytes."""
    own, harms = found.space[name], found.sensitivity.harms
    values = [value for value in own.values if value is not None]
    added: dict[tuple[str, Any], float] = {}
    saved: dict[tuple[str, Any], tuple[float, float]] = {}
    for place in layers:
        for value in values:
            there = [layer for layer in harms[place] if layer[name] == value]
            if not there:
                continue
            gentlest = min(there, key=lambda layer: (-layer.bits, found.sensitivity.of(place, layer)))
            added[place, value] = found.sensitivity.of(place, gentlest)
            without = gentlest.replace(**{name: None})
            if found.costs is not None and without in harms[place]:
                pairs = zip(found.costs(place, without), found.costs(place, gentlest))
                time, size = (1 - part / whole if whole else 0.0 for whole, part in pairs)
                saved[place, value] = time, size
    what = "" if not saved else "time" if any(time for time, _ in saved.values()) else "bytes"
    table = [[name, *(own.say(value, {}) for value in values)]]
    for place in dict.fromkeys(place for place, _ in added):
        cells = [f"{added[place, value]:.2g}" if (place, value) in added else "-" for value in values]
        for column, value in enumerate(values):
            if (place, value) in saved:
                share = saved[place, value][what == "bytes"]
                cells[column] += f" {show_percent(share, digits=0):>5}"
        table.append([place, *cells])
    return table, what


if __name__ == "__main__":
    sys.exit(main_guard(main))
