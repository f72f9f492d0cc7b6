"""Which layer hurts: the sensitivity of the network of a search, measured once and kept."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import quantizers
import search_spaces
from foundation.errors import UserError
from foundation.files import cache_directory, json_text, write_atomically
from foundation.plan import LayerPlan
from foundation.show import show_seconds
from pipeline.candidate.identity import tensors_checksum
from pipeline.datasets.images import Images, normalize
from pipeline.training.evaluation import fixed_sample
from pipeline.training.outputs import as_logits
from quantizers.calibration.choice_errors import choice_errors
from quantizers.calibration.fisher import Score, diagonal_fisher, drawn_answers
from search_spaces.sensitivity import Harm, Sensitivity
from search_spaces.space import Space

IMAGES = 200
BATCH = 4  # images that share a backward pass

Say = Callable[[str], None]


def sensitivity_of(
    model: nn.Module,
    images: Images,
    mean: Sequence[float],
    std: Sequence[float],
    space: Space,
    status: Say = lambda text: None,
    *,
    score: Score | None = None,
    count: int = IMAGES,
    cache: Path | None = None,
) -> Sensitivity:
    """What every plan of every layer adds to the divergence from the fp32 network; from the cache, where the same network,
    images, choices and code have been asked for before.

    Args:
        images: of which ``count`` are shown; their labels are not read, unless ``score`` does.
        status: told what goes on, with how long it still takes.
        score: of outputs that are no logits, or of a loss of its own; see ``quantizers.calibration.fisher``.
        cache: folder; None is the usual one.

    Raises:
        UserError: the network has no gradient, or the quantizer cannot do what the space holds.
    """
    parts = shown_images(len(images), count)
    shown = [normalize(images.batch(part), mean, std).contiguous() for part in parts]
    plans = space.layer_plans()
    labels = torch.cat([images.labels[part] for part in parts]).tolist() if score else []
    key = _key(model, shown, space, plans, f"{_source(score)} {labels}")
    file = (cache or cache_directory("sensitivity")) / f"{key}.json"
    if file.is_file():
        try:
            return Sensitivity.from_json(file.read_text())
        except (UserError, UnicodeDecodeError):  # damaged: it is made again
            file.unlink()
    seen = sum(map(len, shown))
    fisher = diagonal_fisher(
        model,
        space.layers,
        shown,
        score or _answers(),
        remaining(status, "sensitivity: images"),
    )
    harms: dict[str, Mapping[LayerPlan, Harm]] = {}
    told = remaining(status, "sensitivity: layers")
    for name in space.layers:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        found = choice_errors(weight.detach(), fisher[name], plans[name], space.quantizer)
        harms[name] = {plan: Harm(*harm) for plan, harm in zip(plans[name], found)}
        told(len(harms), len(plans))
    result = Sensitivity(harms, images=seen)
    write_atomically(file, result.to_json())
    return result


def shown_images(total: int, count: int = IMAGES) -> list[Tensor]:
    """Which of ``total`` images are shown, batch by batch. A single one, which a forward with squeeze() takes for something else,
    is left out."""
    chosen = fixed_sample(total, min(count, total))
    return [part for part in chosen.split(BATCH) if len(part) > 1]


def _answers() -> Score:
    """``drawn_answers`` of whatever ``as_logits`` takes for logits."""
    drawn = drawn_answers()
    return lambda outputs, number: drawn(as_logits(outputs, len(outputs)), number)


def remaining(status: Say, what: str) -> Callable[[int, int], None]:
    """A callback that says how much is done and how long the rest takes."""
    began = time.monotonic()

    def tell(done: int, total: int) -> None:
        left = (time.monotonic() - began) / done * (total - done)
        status(f"{what} {done} of {total}, {show_seconds(left)} left")

    return tell


def _key(
    model: nn.Module,
    shown: Sequence[Tensor],
    space: Space,
    plans: Mapping[str, Sequence[LayerPlan]],
    judged: str,
) -> str:
    """Changes with the network, the images as it sees them, the choices, what judges, and the code that decides the answer."""
    digest = hashlib.sha256(f"{tensors_checksum(model)} {space.quantizer} {_code()} {judged}".encode())
    for x in shown:
        digest.update(x.numpy().tobytes())
    records = {name: [layer.record() for layer in layers] for name, layers in plans.items()}
    digest.update(json_text(records).encode())
    for dimension in space.dimensions.values():
        digest.update(_source(type(dimension)).encode())
    return digest.hexdigest()[:24]


def _code() -> str:
    """Of the packages that measure."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in (quantizers, search_spaces):
        for file in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _source(thing: Any) -> str:
    """What something does, which may be someone else's: its name and the file that it is from."""
    if thing is None:
        return ""
    origin = inspect.unwrap(thing)
    name = getattr(origin, "__qualname__", repr(origin))
    try:
        return f"{name} {Path(inspect.getfile(origin)).read_text()}"
    except (TypeError, OSError):
        return str(name)
