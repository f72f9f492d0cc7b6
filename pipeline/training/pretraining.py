"""A trained fp32 network where no weights were given: trained once, then read from the cache."""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from foundation.errors import UserError
from foundation.files import cache_home, json_text, write_atomically
from pipeline.datasets.base import ImageData
from pipeline.networks.branches import learned, learning
from pipeline.networks.weights import fit_weights, read_weights
from pipeline.training.evaluation import error_of
from pipeline.training.loop import Diverged, Loop, OnStep
from pipeline.training.settings import OF_TRIALS, TrainSettings, pretraining_settings


class Pretrained(NamedTuple):
    """A trained network (evaluation mode, CPU), its error on the search half, its file, whether that was there already."""

    network: nn.Module
    error: float
    path: Path
    cached: bool


def default_cache() -> Path:
    """Where trained networks are kept."""
    return cache_home() / "pretrained"


def pretrain(
    model: nn.Module,
    data: ImageData,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    name: str,
    cache: Path | None = None,
    settings: TrainSettings | None = None,
    device: str | torch.device = "cpu",
    progress: OnStep | None = None,
) -> Pretrained:
    """Train a copy of ``model`` on ``data.train``, or read it from the cache. Branches that it learns with are in the file, and
    fused in what is given back.

    Args:
        name: the model's name; with its shape, its first weights, the data and the settings it is the cache's key.
        cache: folder; None is ``default_cache()``.
        settings: None chooses ``pretraining_settings`` for the number of training images.

    Raises:
        UserError: the cached file is damaged, or training fails for good.
    """
    wanted = copy.deepcopy(model)
    network = learning(wanted)
    settings = settings or pretraining_settings(len(data.train))
    cache = default_cache() if cache is None else cache
    path = pretrained_file(model, data, mean, std, name, settings, cache)
    cached = path.is_file()
    if cached:
        fit_weights(network, read_weights(path), f"{path} (remove this cached file)")
    else:
        where = torch.device(device)
        network.to(where)
        groups = parameter_groups(network, settings)
        loop = Loop(network, data, settings, mean, std, groups, device=where, progress=progress)
        try:
            loop.run_until(settings.epochs)
        except Diverged as error:
            rate = f"at a rate of {settings.learning_rate:g}"
            raise UserError(
                f"{name} cannot be trained here from nothing {rate}: {error}; give trained weights"
            ) from error
        network.cpu()
        content = io.BytesIO()
        torch.save(network.state_dict(), content)
        write_atomically(path, content.getvalue())
    network = learned(wanted, network).eval()
    return Pretrained(
        network, error_of(network, data.search, mean, std, settings.evaluation_batch), path, cached
    )


def pretrained_file(
    model: nn.Module,
    data: ImageData,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
    settings: TrainSettings,
    cache: Path | None = None,
) -> Path:
    """Where the trained network lies, or will lie; the arguments are those of ``pretrain``."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return (cache or default_cache()) / f"{stem}-{_key(model, data, mean, std, name, settings)}.pt"


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, object]]:
    """Weights, which decay, and everything else, which does not."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _key(
    network: nn.Module,
    data: ImageData,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
    settings: TrainSettings,
) -> str:
    weights = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        weights.update(f"{key} {tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    record = {
        "model": name,
        "weights": weights.hexdigest(),
        "data": [data.train.content(), data.classes, data.image_size, data.augment],
        "normalization": [list(mean), list(std)],
        "settings": {key: value for key, value in settings.as_dict().items() if key not in OF_TRIALS},
    }
    return hashlib.sha256(json_text(record, sort_keys=True).encode()).hexdigest()[:16]
