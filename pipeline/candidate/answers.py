"""Where a candidate answers otherwise than the fp32 network: how often which class became which, and the images on which they
are furthest apart."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from pipeline.training.judges import Judge

TABLED = 20  # classes at most of which every pair is counted
SHOWN = 12  # images
SIDE = 64  # pixels at most of a picture in the report


def compare_answers(
    judge: Judge, network: nn.Module, classes: Sequence[str], *, labelled: bool = True
) -> dict[str, Any]:
    """What ``answers.json`` holds: ``images`` seen, ``changed`` answers, ``classes`` by name, ``confusion`` [fp32's answer][the
    candidate's] in images (only of up to ``TABLED`` classes), and ``differing``: the images with the largest divergence from fp32
    (Kullback-Leibler, nats), the largest first, each a PNG.

    Args:
        network: hard-quantized, in evaluation mode.
        labelled: whether the images say what they show.
    """
    wanted, given = (outputs.log_softmax(1) for outputs in judge.answers(network))
    before, after = wanted.argmax(1), given.argmax(1)
    off = (wanted.double().exp() * (wanted.double() - given.double())).sum(1)
    count = wanted.shape[1]
    table = torch.bincount(before * count + after, minlength=count * count).reshape(count, count)
    order = [int(place) for place in off.argsort(descending=True, stable=True)[:SHOWN]]
    labels = judge.labels
    pictures = judge.pixels(order)
    differing = [
        {
            "index": judge.index(place),
            "label": int(labels[place]) if labelled and labels[place] >= 0 else None,
            "fp32": int(before[place]),
            "fp32_share": float(wanted[place].max().exp()),
            "given": int(after[place]),
            "share": float(given[place].max().exp()),
            "divergence": float(off[place]),
            "png": _png(picture.numpy()),
        }
        for place, picture in zip(order, pictures)
    ]
    tabled = count <= TABLED
    shown = {int(k) for place in order for k in (before[place], after[place])}
    named = list(classes) if tabled else {k: classes[k] for k in sorted(shown)}
    return {
        "images": len(judge),
        "changed": int((before != after).sum()),
        "classes": named,
        "confusion": table.tolist() if tabled else [],
        "differing": differing,
    }


def _png(pixels: Any) -> str:
    """As an address that holds the picture itself; large ones become smaller."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
