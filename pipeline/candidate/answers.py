"""Where a candidate answers otherwise than the fp32 network: how often which class became which, or what one of them detects
and the other does not; and the images on which they are furthest apart."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.detection.beside import CERTAIN, CLEAR, boxes_beside
from pipeline.detection.decode import decode
from pipeline.detection.task import Detection
from pipeline.training.judges import Judge

TABLED = 20  # classes at most of which every pair is counted
SHOWN = 12  # images
SIDE = 64  # pixels at most of a picture in the report
SCENES, SCENE_SIDE = 4, 256  # likewise where boxes are drawn
BOXES = 12  # of a kind on one picture at most: more hide it


def compare_answers(
    judge: Judge, network: nn.Module, classes: Sequence[str], *, labelled: bool = True
) -> dict[str, Any]:
    """What ``answers.json`` holds: ``images`` seen, ``agreement`` with fp32 (0..1, the mean over them), ``classes`` by name and
    ``differing``, the images on which both differ most, the most first, each with a picture. Of classifiers also how many
    answers ``changed`` and ``confusion`` [fp32's answer][the candidate's] in images (only of up to ``TABLED`` classes).

    Args:
        network: hard-quantized, in evaluation mode.
        labelled: whether the images say what they show.
    """
    wanted, given = judge.answers(network)
    agreement = float(judge.task.agreements(given, wanted).mean())
    detects = isinstance(judge.task, Detection)
    told = (
        _detected(judge, wanted, given, classes)
        if detects
        else _classified(judge, wanted, given, classes, labelled=labelled)
    )
    return {"images": len(judge), "agreement": agreement, **told}


def _classified(
    judge: Judge, wanted: Tensor, given: Tensor, classes: Sequence[str], *, labelled: bool
) -> dict[str, Any]:
    """Of logits; both differ most where the divergence (Kullback-Leibler, nats) is largest."""
    off = judge.task.divergences(given, wanted)
    wanted, given = wanted.log_softmax(1), given.log_softmax(1)
    before, after = wanted.argmax(1), given.argmax(1)
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
            "png": _address(picture, SIDE, "png", optimize=True),
        }
        for place, picture in zip(order, pictures)
    ]
    tabled = count <= TABLED
    shown = {int(k) for place in order for k in (before[place], after[place])}
    return {
        "changed": int((before != after).sum()),
        "classes": list(classes) if tabled else {k: classes[k] for k in sorted(shown)},
        "confusion": table.tolist() if tabled else [],
        "differing": differing,
    }


def _detected(judge: Judge, wanted: Tensor, given: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Of raw outputs; both differ most where what only one of them detects has the largest scores together."""
    beside = [boxes_beside(*two) for two in zip(decode(wanted), decode(given), strict=True)]
    apart = torch.tensor([sum(row[1] for key in ("fp32", "given") for row in one[key]) for one in beside])
    order = [int(place) for place in apart.argsort(descending=True, stable=True)[:SCENES] if apart[place] > 0]
    pictures = judge.pixels(order).flip(3)  # from blue, green, red
    differing: list[dict[str, Any]] = [
        {
            "index": judge.index(place),
            **{key: rows[:BOXES] for key, rows in beside[place].items()},
            "undrawn": sum(len(rows[BOXES:]) for rows in beside[place].values()),
            "jpeg": _address(picture, SCENE_SIDE, "jpeg", quality=80),
        }
        for place, picture in zip(order, pictures)
    ]
    shown = {row[0] for one in differing for key in ("both", "fp32", "given") for row in one[key]}
    return {
        "scores": [CLEAR, CERTAIN],
        "classes": {k: classes[k] for k in sorted(shown)},
        "differing": differing,
    }


def _address(pixels: Tensor, side: int, kind: str, **how: Any) -> str:
    """Of a picture uint8 [H, W, 3] that holds the picture itself; large ones become smaller."""
    image = Image.fromarray(pixels.numpy())
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, kind.upper(), **how)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
