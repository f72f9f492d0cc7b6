"""What is compared: one figure per network, runtime, configuration and core; and the ratios that are aimed at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

OURS, ORT, NCNN = "ours", "ONNX Runtime", "ncnn"


@dataclass(frozen=True)
class Figure:
    """One modelled latency and its conditions.

    Attributes:
        cycles, low_cycles, high_cycles: the cycle model's point and interval for one image, one thread.
        multiplications: of the network as direct convolutions, the same for every runtime.
        top1_agreement, correlation, checked_images: see ``Sanity``.
    """

    model: str
    runtime: str
    configuration: str
    core: str
    latency_ms: float
    low_ms: float
    high_ms: float
    cycles: float
    low_cycles: float
    high_cycles: float
    instructions: int
    multiplications: int
    cycles_per_multiplication: float
    model_bytes: int
    top1_agreement: float | None
    correlation: float | None
    checked_images: int
    source: str
    version: str
    settings: str
    weights: str
    images: str
    emulator: str
    cycle_model: str
    clock_ghz: float
    caches: str
    threads: int = 1
    batch: int = 1

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Sanity:
    """Whether a runtime computes the network: share of ``images`` with the same top class as the float32 network in PyTorch,
    and correlation of the outputs. Unknown (None) for plans without training, which cost what trained ones cost and compute
    nothing of use."""

    top1_agreement: float | None = None
    correlation: float | None = None
    images: int = 0


COLUMNS = tuple(field.name for field in fields(Figure))


@dataclass(frozen=True)
class Goal:
    """At least ``wanted`` times as fast as a peer.

    ``peer`` lists runtimes with a configuration, all settings of which count (``int8`` means also ``int8 s8s8``); the fastest
    is compared with.
    """

    model: str
    ours: str
    peer: tuple[tuple[str, str], ...]
    wanted: float
    core: str = "a76"


DENSE4, SPARSE80 = "4-bit, 8-bit activations", "2-bit, 80 % zeros, 7-bit activations"
ORT_FP32, NCNN_FP32 = ((ORT, "fp32"),), ((NCNN, "fp32"),)
INT8 = ((ORT, "int8"), (NCNN, "int8"))
TARGETS = (
    Goal("resnet18", DENSE4, ORT_FP32, 4.0),
    Goal("resnet18", DENSE4, NCNN_FP32, 1.5),
    Goal("resnet18", DENSE4, INT8, 1.0),
    Goal("resnet18", SPARSE80, ORT_FP32, 7.46),
    Goal("resnet18", SPARSE80, NCNN_FP32, 3.0),
    Goal("resnet18", SPARSE80, INT8, 2.0),
    Goal("resnet18", DENSE4, ORT_FP32, 7.0, core="x2"),
    Goal("resnet20", DENSE4, ((ORT, "int8"),), 1.3),
    Goal("mobilenet_v2", DENSE4, INT8, 1.0),
)


@dataclass(frozen=True)
class Outcome:
    """A target and what was reached: the fastest peer's cycles over ours; None where a figure is missing."""

    target: Goal
    peer: str
    reached: float | None

    @property
    def met(self) -> bool | None:
        return None if self.reached is None else self.reached >= self.target.wanted

    def record(self) -> dict[str, Any]:
        return {
            "model": self.target.model,
            "core": self.target.core,
            "ours": self.target.ours,
            "peer": self.peer,
            "wanted": self.target.wanted,
            "reached": None if self.reached is None else round(self.reached, 3),
            "met": self.met,
        }


def outcome(target: Goal, figures: Iterable[Figure]) -> Outcome:
    """What was reached of a target. Every peer of the target must be there: the better of two needs both."""
    here = [figure for figure in figures if (figure.model, figure.core) == (target.model, target.core)]
    ours = [figure.cycles for figure in here if (figure.runtime, figure.configuration) == (OURS, target.ours)]
    found: list[Figure] = []
    for runtime, configuration in target.peer:
        settings = [
            figure
            for figure in here
            if figure.runtime == runtime and f"{figure.configuration} ".startswith(f"{configuration} ")
        ]
        if not settings or not ours:
            return Outcome(target, " / ".join(" ".join(peer) for peer in target.peer), None)
        found += settings
    fastest = min(found, key=lambda figure: figure.cycles)
    return Outcome(target, f"{fastest.runtime} {fastest.configuration}", fastest.cycles / ours[0])


def agreement(outputs: Any, reference: Any) -> tuple[float, float]:
    """Share of rows with the same largest output, and the correlation of all outputs. Arrays are [N, K].

    The rows' means are taken out first: a bias that all rows share would look like agreement.
    """
    import numpy as np

    same = float((outputs.argmax(1) == reference.argmax(1)).mean())
    if len(outputs) > 1:
        outputs, reference = outputs - outputs.mean(0), reference - reference.mean(0)
    return same, float(np.corrcoef(outputs.ravel(), reference.ravel())[0, 1])
