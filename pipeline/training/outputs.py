"""What a classifier must answer: one tensor (N, classes). Said in one place, to whoever brings one that answers otherwise."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.factories import article, story

PROBES = 3  # images; not 1 or 2, which an axis of something else may well be


def as_logits(output: object, images: int, classes: int | None = None) -> Tensor:
    """The logits [N, classes] in what a network gave for a batch; (N, classes, 1, 1) is flattened.

    Args:
        output: whatever the network's forward returned.
        images: N, how many images it was given.
        classes: how many values there must be for each; None takes any number.

    Raises:
        UserError: it is not one floating-point tensor of that shape; the message says what it is.
    """
    wanted = f"it must be one tensor of shape (N, {classes or 'classes'})"
    if not isinstance(output, Tensor):
        raise UserError(f"the network's output is {_described(output)}; {wanted}{_unwrapping(output)}")
    if not output.is_floating_point():
        raise UserError(f"the network's output is of {output.dtype}; {wanted}, a score for each class")
    shape = tuple(output.shape)
    if output.ndim < 2 or shape[0] != images or any(side != 1 for side in shape[2:]):
        raise UserError(f"the network's output has shape {shape} for {images} images; {wanted}")
    if classes is not None and shape[1] != classes:
        raise UserError(
            f"the network gives {shape[1]} values for an image, and the data set has {classes} classes; {wanted}: "
            "give the last layer as many outputs as there are classes"
        )
    return output.flatten(1)


def answers(network: nn.Module, images: Tensor, classes: int | None = None) -> Tensor:
    """The logits [N, classes] of a network in evaluation mode for images [N, 3, H, W].

    A single image is shown twice: a forward with ``squeeze()`` takes a batch of one for something else.
    """
    shown = images.expand(2, -1, -1, -1) if len(images) == 1 else images
    return as_logits(network(shown), len(shown), classes)[: len(images)]


@torch.no_grad()
def check_outputs(network: nn.Module, input_shape: tuple[int, int, int], classes: int) -> None:
    """Refuse a network that does not answer as :func:`as_logits` wants it, in evaluation or in training.

    Args:
        network: on any device; it is not changed.
        input_shape: (channels, height, width) of an image.

    Raises:
        UserError: it raises, for such images, or answers otherwise; the message says what and in which mode.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(PROBES, *input_shape, generator=generator)
    try:
        probed = copy.deepcopy(network)
    except Exception as error:  # a network of someone else's may hold anything
        raise UserError(f"the network cannot be copied, which every trial does: {story(error)}") from error
    images = images.to(next((p.device for p in probed.parameters()), images.device))
    for training in (False, True):
        probed.train(training)
        with torch.random.fork_rng(devices=[]), _while(input_shape, probed, training=training):
            torch.manual_seed(0)
            output = probed(images)
        try:
            found = as_logits(output, PROBES, classes)
        except UserError as error:
            raise UserError(f"{error} (in training mode)" if training else str(error)) from error
        if not training and found.isnan().any():
            raise UserError("the network answers NaN; its weights, or its forward, are broken")


@contextmanager
def _while(shape: tuple[int, int, int], network: nn.Module, *, training: bool) -> Iterator[None]:
    """Turns what a forward raises into one line."""
    try:
        yield
    except Exception as error:  # it raises as it likes
        mode = "training" if training else "evaluation"
        raise UserError(
            f"the network fails in {mode} mode on images (N, {', '.join(map(str, shape))}): {story(error)}"
            f"{_channels(network, shape[0])}"
        ) from error


def _channels(network: nn.Module, given: int) -> str:
    """A hint where the first convolution wants other images than there are."""
    first = next(((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first[1].in_channels == given:
        return ""
    wanted = first[1].in_channels
    hint = f"; layer {first[0] or 'conv'} takes {wanted} channel{'s' if wanted > 1 else ''}, and images have {given} (RGB)"
    return f"{hint}: begin the forward with x.mean(1, keepdim=True)" if wanted == 1 else hint


def _described(output: object) -> str:
    if isinstance(output, Mapping):
        return f"{article(output)} of {', '.join(map(repr, list(output)[:5]))}"
    if isinstance(output, (tuple, list)):
        return f"{article(output)} of {len(output)}"
    return article(output)


def _unwrapping(output: object) -> str:
    """How to get at the tensor, where there is one."""
    if isinstance(output, Mapping):
        keys = [key for key, value in output.items() if isinstance(value, Tensor)]
        return f", such as its {keys[0]!r}: wrap the network so that only that is returned" if keys else ""
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return ": wrap the network so that only the logits are returned"
    return ""
