"""`python -m pipeline.evaluate CANDIDATE`: the accuracy of a candidate folder, so that anyone can check a claim."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import Parser, is_quiet, main_guard
from foundation.errors import UserError
from foundation.files import json_text
from foundation.show import show_percent
from pipeline.cluster.pool import devices_at_hand
from pipeline.devices import add_flags, named_devices
from pipeline.study import paths
from pipeline.study.confidence import standard_error
from pipeline.study.values import metric_typed
from pipeline.training.settings import ACCURACY, AP50

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.candidate.devices import AtHand
    from pipeline.candidate.folder import CandidateFolder
    from pipeline.datasets.base import ImageData
    from pipeline.datasets.images import Images
    from pipeline.training.task import Task

WAYS = ("torch", "arm", "reference")
SPLITS = ("report", "search", "train")
BATCH = 250
DETECTED = 16  # images of a detector at once
Answer = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of one candidate; ``standard_error`` in the same share of 1."""

    candidate: str
    on: str
    split: str
    images: int
    correct: int
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class Precision:
    """Average precision of one detector's candidate at an overlap of one half, mean over the classes that occur, 0..1, with its
    standard error."""

    candidate: str
    on: str
    split: str
    images: int
    boxes: int
    average_precision: float
    standard_error: float


@dataclass(frozen=True)
class Goodness:
    """What a person's own metric says of one candidate, 0..1, and the standard error of that."""

    candidate: str
    on: str
    split: str
    images: int
    metric: str
    goodness: float
    standard_error: float


@contextmanager
def answering(candidate: CandidateFolder, on: str, at_hand: AtHand = devices_at_hand) -> Iterator[Answer]:
    """The candidate's network as a function from uint8 images [N, H, W, C] to outputs float32 [N, K].

    ``torch`` runs the quantized network in PyTorch, ``reference`` the integer reference, ``arm`` the compiled program: on an
    ARM node of the Ray cluster at RAY_ADDRESS, natively on an aarch64 machine, emulated elsewhere; or on
    other devices ``at_hand``.
    """
    if on == "arm":
        program, blob = candidate.program.read_bytes(), candidate.blob.read_bytes()
        with at_hand(candidate.manifest["target"]) as devices:
            yield lambda images: devices.run(program, blob, images)
        return
    hardened = candidate.hardened()
    if on == "reference":
        from deploy_arm.compiler.frontend import compile_graph
        from deploy_arm.ir.reference import run

        graph = compile_graph(hardened, (3, *candidate.image_size), candidate.mean, candidate.std)
        yield lambda images: run(graph, images)
        return
    import torch

    from pipeline.datasets.images import normalize
    from pipeline.networks.registry import find_network
    from pipeline.training.outputs import answers

    classes, detects = len(candidate.manifest["classes"]), find_network(candidate.manifest["model"]).detects

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = normalize(torch.from_numpy(images), candidate.mean, candidate.std)
            if detects:  # channels last, as programs answer
                found = hardened.network(x).permute(0, 2, 3, 1).flatten(1)
            else:
                found = answers(hardened.network, x, classes)
            outputs: NDArray[np.float32] = found.numpy()
            return outputs

    yield answer


def outputs_on(
    candidate: CandidateFolder,
    images: Images,
    on: str = "torch",
    at_hand: AtHand = devices_at_hand,
    task: Task | None = None,
) -> Tensor:
    """Outputs [n, ...] for the images, as the candidate's task, or this one, has them; progress goes to a terminal's stderr."""
    import torch

    count, task = len(images), task or task_of_candidate(candidate)
    batch = BATCH if task.classifies else DETECTED
    given = []
    with answering(candidate, on, at_hand) as answer:
        for start in range(0, count, batch):
            end = min(start + batch, count)
            pixels = images.batch(torch.arange(start, end)).numpy()
            given.append(task.of_program(torch.from_numpy(answer(pixels)).reshape(len(pixels), -1)))
            if sys.stderr.isatty() and not is_quiet():
                print(f"\r{end}/{count} images", end="" if end < count else "\r", file=sys.stderr)
    return torch.cat(given)


def task_of_candidate(candidate: CandidateFolder, metric: str | None = None) -> Task:
    """What is asked of it, judged by its own metric, or by another one of its kind.

    Raises:
        UserError: no such metric, or one of another kind.
    """
    from pipeline.detection.task import Detection
    from pipeline.networks.registry import find_network
    from pipeline.training.task import task_of

    made = candidate.manifest.get("metric")
    if find_network(candidate.manifest["model"]).detects:
        if metric not in (None, AP50):
            raise UserError(f"--metric {metric}: judges classifiers; a detector is judged by {AP50}")
        return Detection(len(candidate.manifest["classes"]), candidate.image_size)
    chosen = made if metric is None else metric_typed(metric)
    if chosen == AP50:
        raise UserError(
            f"--metric {AP50}: judges detectors, and {candidate.manifest['model']} is a classifier"
        )
    return task_of(chosen)


def data_of(candidate: CandidateFolder, spec: str | None) -> ImageData:
    """The images that ``spec`` means, or that it was made with, for a candidate.

    Raises:
        UserError: unreadable data, or of other classes.
    """
    from pipeline.datasets.registry import load_data
    from pipeline.detection.dataset import detection_data
    from pipeline.networks.registry import find_network

    spec, made = spec or candidate.manifest["data"]["spec"], tuple(candidate.manifest["classes"])
    if not find_network(candidate.manifest["model"]).detects:
        found: ImageData = checked(candidate, load_data(spec, candidate.image_size))
        return found
    data = detection_data(spec, candidate.image_size)
    if not data.labelled:
        raise UserError(f"{spec} has no boxes; name images that have some by --data coco:DIR")
    numbered = tuple(map(str, range(len(made))))  # made from boxes whose classes have no names
    if data.classes and (len(data.classes) != len(made) or made not in (data.classes, numbered)):
        raise UserError(
            f"{spec} has {len(data.classes)} classes, and others than the candidate's {len(made)}"
        )
    return data.of_classes(made)


def accuracy(
    folder: Path, data: Any, on: str = "torch", split: str = "report", limit: int | None = None
) -> Accuracy:
    """Top-1 accuracy of a candidate folder on a split of a loaded data set, or on ``limit`` images drawn from it.

    Raises:
        UserError: the folder is no sound candidate, or the data has other classes than the candidate.
    """
    from pipeline.candidate.folder import load_candidate
    from pipeline.training.evaluation import limited

    candidate = load_candidate(folder)
    images = limited(getattr(checked(candidate, data), split), limit)
    outputs = outputs_on(candidate, images, on, task=task_of_candidate(candidate, ACCURACY))
    return scored(candidate, outputs, images.labels, on, split)


def checked(candidate: CandidateFolder, data: Any) -> Any:
    """``data`` if it has labels, and its classes are the candidate's; where that was made without labels, as many classes."""
    from pipeline.datasets.base import needs_labels

    needs_labels(data, "name a data set that has some by --data, of the same classes in the same order")
    unnamed = candidate.manifest["data"].get("labelled") is False
    if unnamed and len(data.classes) == len(candidate.manifest["classes"]):
        return data
    if list(data.classes) != candidate.manifest["classes"]:
        raise UserError(
            f"data set {data.name} has {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...), the candidate was "
            f"made for {len(candidate.manifest['classes'])} ({', '.join(candidate.manifest['classes'][:3])}, ...); give the "
            "data set it was made for"
        )
    return data


def scored(candidate: CandidateFolder, outputs: Tensor, labels: Tensor, on: str, split: str) -> Accuracy:
    """Count what is right."""
    correct, count = int((outputs.argmax(1) == labels).sum()), len(labels)
    share = correct / count
    return Accuracy(str(candidate.folder), on, split, count, correct, share, standard_error(share, count))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument("candidate", type=paths.absolute, help="candidate folder: STUDY/candidates/HASH")
    parser.add_argument(
        "--data", type=paths.data, help="data set as in pipeline.search (default: the one it was made with)"
    )
    parser.add_argument(
        "--metric",
        metavar="package.module:function",
        help="what judges, of outputs and labels, or accuracy (default: what the candidate was made by)",
    )
    add_flags(parser)
    parser.add_argument(
        "--on", choices=WAYS, default="torch", help="PyTorch network, ARM program or integer reference"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="report", help="which images (default %(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only N images, drawn from the split")
    parser.add_argument(
        "--predictions", type=paths.absolute, metavar="FILE", help="write one predicted class a line"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give 1 or more, or leave it out for all images")

    from foundation.factories import look_in
    from foundation.files import check_place, write_atomically
    from pipeline.candidate.folder import load_candidate
    from pipeline.training.evaluation import limited

    if args.predictions:
        check_place(args.predictions.parent, f"--predictions {args.predictions}")
        if args.predictions.is_dir():
            raise UserError(f"--predictions {args.predictions}: is a folder; name a file")
    look_in(args.modules)
    candidate = load_candidate(args.candidate)
    task = task_of_candidate(candidate, args.metric)
    if args.predictions and not task.classifies:
        raise UserError(f"--predictions {args.predictions}: a detector predicts no classes of images")
    data = data_of(candidate, args.data)
    images = limited(getattr(data, args.split), args.limit)
    outputs = outputs_on(candidate, images, args.on, named_devices(args), task)
    if args.predictions:
        write_atomically(args.predictions, "".join(f"{value}\n" for value in outputs.argmax(1).tolist()))
    labels, on = images.labels, f"{candidate.manifest['hash']} on {args.on}"
    if task.metric == ACCURACY:
        result = scored(candidate, outputs, labels, args.on, args.split)
        share = f"{show_percent(result.accuracy, result.standard_error)} top-1"
        told = f"{share} on {result.images} images of {args.split} ({result.correct} right), {on}"
        print(json_text(asdict(result)) if args.format == "json" else told)
        return 0
    scores = task.scores(outputs, labels)
    spread = float(scores.std()) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    if not task.classifies:
        boxes = int((labels[..., 0] >= 0).sum())
        seen = Precision(
            str(candidate.folder), args.on, args.split, len(scores), boxes, float(scores.mean()), spread
        )
        share = f"AP50 {show_percent(seen.average_precision, spread)}"
        told = f"{share} on {seen.images} images of {args.split} ({boxes} boxes), {on}"
        print(json_text(asdict(seen)) if args.format == "json" else told)
        return 0
    found = Goodness(
        str(candidate.folder), args.on, args.split, len(scores), task.metric, float(scores.mean()), spread
    )
    told = f"{show_percent(found.goodness, spread)} {task.called} ({task.metric}) on {found.images} images of {args.split}, {on}"
    print(json_text(asdict(found)) if args.format == "json" else told)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
