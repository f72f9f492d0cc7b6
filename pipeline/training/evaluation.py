"""What a network answers: predictions and errors, and batch-norm statistics that fit its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.modes import evaluating
from pipeline.datasets.augmentations.base import augment
from pipeline.datasets.images import Images, normalize
from pipeline.training.outputs import answers

PIXELS = 16 * 224 * 224  # of a batch: what a layer gives for it is a fraction of a gigabyte
FEW = 256  # images of a batch


def batches(
    images: Images,
    mean: Sequence[float],
    std: Sequence[float],
    batch: int,
    device: torch.device,
    indices: Tensor | None = None,
    augmentation: str = "none",
) -> Iterator[Tensor]:
    """Normalized float32 batches [n, 3, H, W] of ``images`` (or of those at ``indices``), in order, on ``device``.

    ``augmentation`` is an entry of ``AUGMENTATIONS``, the same for equal arguments each time.
    """
    indices = torch.arange(len(images)) if indices is None else indices
    generator = torch.Generator().manual_seed(0)
    for part in indices.split(batch):
        yield normalize(augment(images.batch(part), augmentation, generator).to(device), mean, std)


@torch.no_grad()
def predictions(
    network: nn.Module,
    images: Images,
    mean: Sequence[float],
    std: Sequence[float],
    batch: int = 256,
    indices: Tensor | None = None,
) -> Tensor:
    """Predicted classes, int64 [N] on the CPU. The network is used in evaluation mode, on the device where it lies."""
    with evaluating(network):
        found = [
            answers(network, x).argmax(1).cpu()
            for x in batches(images, mean, std, batch, device_of(network), indices)
        ]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def error_of(
    network: nn.Module, images: Images, mean: Sequence[float], std: Sequence[float], batch: int = 256
) -> float:
    """Share of ``images`` (0..1) whose most likely class is not their label."""
    return float((predictions(network, images, mean, std, batch) != images.labels).double().mean())


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters or buffers lie; the CPU when it has none."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


@torch.no_grad()
def reestimate_batch_norm(
    network: nn.Module,
    images: Images,
    count: int,
    mean: Sequence[float],
    std: Sequence[float],
    batch: int = 256,
    augmentation: str = "none",
) -> None:
    """Replace the running statistics of every batch-norm by plain averages over ``count`` of ``images``.

    The images must be varied as they were in training: statistics of plain CIFAR-10 images, given to a ResNet-20 that was
    trained on shifted and mirrored ones, cost it 3 points of accuracy.

    Weights that were quantized, or that moved since the statistics were collected, need this: the running averages
    belong to other weights. Everything else stays in evaluation mode. The same images are taken each time.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    count = min(count, len(images))
    batch = min(batch, count)
    # Whole batches only: the average weighs every batch alike.
    chosen = fixed_sample(len(images), count - count % batch)
    for x in batches(images, mean, std, batch, device_of(network), chosen, augmentation):
        network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def few_batches(images: Images, chosen: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[Tensor]:
    """The images at ``chosen``, normalized, in batches whose activations are of bounded size; none is much smaller than the
    others: some networks cannot do with one image."""
    height, width = images.image_size
    count = -(-len(chosen) // max(2, min(FEW, PIXELS // (height * width))))
    count = max(1, min(count, len(chosen) // 2))
    return [normalize(images.batch(part), mean, std) for part in chosen.tensor_split(count)]


def drawn(images: Images, count: int, mean: Sequence[float], std: Sequence[float]) -> list[Tensor]:
    """So many of the images, all where there are fewer, as ``few_batches``: the same ones each time."""
    return few_batches(images, fixed_sample(len(images), count), mean, std)


def limited(images: Images, limit: int | None) -> Images:
    """So many of the images, in their order, drawn from all of them, the same ones each time; all where there are no more. (The
    first ones are as many of each class, or of the first classes.)"""
    if limit is None or limit >= len(images):
        return images
    return images.subset(fixed_sample(len(images), limit).sort().values)


def fixed_sample(total: int, count: int) -> Tensor:
    """``count`` different indices below ``total``, the same ones each time."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]
