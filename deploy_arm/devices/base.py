"""What a device is, and what a program costs on one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from deploy_arm.emulate import emulator
from foundation.errors import UserError
from foundation.files import cache_directory, json_text, sha256, write_atomically
from foundation.show import show_milliseconds

Source = Literal["measured", "modelled"]
PATIENCE = 600.0  # seconds to wait for somebody else's work on the device to end
HERE = "here"  # what the one device of a kind that has one is called
PROFILE_VERSION = 1  # counts among the cache's key: raise it when a figure's meaning changes


@dataclass(frozen=True)
class LayerProfile:
    """One operation's part.

    ``kind`` is the operation, ``kernel`` what computes it (convolutions only), ``layer`` the model's name for it,
    ``multiplications`` those of a direct convolution.
    """

    operation: int
    kind: str
    kernel: str
    layer: str
    ms: float
    low_ms: float
    high_ms: float
    instructions: int | None
    multiplications: int


@dataclass(frozen=True)
class Profile:
    """What one inference costs on one device.

    Attributes:
        latency_ms, low_ms, high_ms: for one image, one thread, and its interval: of the model where ``source`` is
            ``modelled`` (``deploy_arm.cycles.estimate`` says what its ends mean), the 95 % confidence interval of the median
            where it is ``measured``.
        device: the device's name.
        instructions: executed per inference; None where they were not counted.
        peak_memory_bytes: what the program holds for the network: blob, activations, scratch, prepared weights.
        size_bytes: length of the blob.
        layers: the latency per operation; empty where the device cannot tell.
        details: conditions: board, clock, model, caches, repetitions, temperature and so on.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    source: Source
    device: str
    instructions: int | None
    peak_memory_bytes: int
    size_bytes: int
    layers: tuple[LayerProfile, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def steady(self) -> bool:
        """Whether the device stayed as fast as it was while it measured; a model always does."""
        return bool(self.details.get("steady", True))

    @property
    def warning(self) -> str:
        """What a person must know before relying on the latency; empty where that is nothing."""
        if self.steady:
            return str(self.details.get("caution", ""))
        canary = self.details["canary"]
        before, after = show_milliseconds(canary["before_ms"]), show_milliseconds(canary["after_ms"])
        return (
            f"not steady: a fixed network took {before} before and {after} after, "
            f"more than {canary['allowed']:.0%} apart, in each of {canary['attempts']} attempts; let the device cool, stop "
            "what else runs there, and measure again"
        )

    def to_json(self) -> str:
        return json_text(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Raises ValueError, KeyError or TypeError where the text is no profile."""
        record = json.loads(text)
        record["layers"] = tuple(LayerProfile(**layer) for layer in record["layers"])
        return cls(**record)


def verify(path: Path, expected: str | None) -> None:
    """Raises UserError when ``path`` does not have the SHA-256 ``expected`` (None: nothing is expected)."""
    if expected is not None and (found := sha256(path)) != expected:
        raise UserError(
            f"{path} has the checksum {found}, not {expected}: it is damaged or another file; build it again"
        )


class Device(ABC):
    """One ARM CPU that runs programs, one at a time. A kind of device is a subclass, made with the target that programs are
    compiled for.

    ``expected`` holds SHA-256 checksums under ``program`` and ``blob``; files that differ are not run.

    Attributes:
        name: of this device, as it stands beside its figures.
        exclusive: whether only one program at a time may run on it, and it may fail; an emulated one is never short.
        of_the_node: whether it is the CPU of the machine it is opened on: then each ARM node of a Ray cluster has one.
    """

    name: str
    target: str
    exclusive: ClassVar[bool] = True
    of_the_node: ClassVar[bool] = False
    _reserved = False

    @abstractmethod
    def __init__(self, target: str) -> None:
        """Raises UserError where there is no such device."""

    @classmethod
    def names(cls, target: str) -> list[str]:
        """The devices of this kind that may be used here at the same time. Raises UserError where there is none."""
        return [HERE]

    @classmethod
    def named(cls, target: str, name: str) -> Device:
        """One of ``names``."""
        return cls(target)

    @classmethod  # noqa: B027  # most have nobody to tell
    def report(cls, name: str, reason: str) -> None:
        """Keep for others why one of ``names`` is not to be used; with an empty reason, that it may be again."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """Whether the times in its profiles are measured on a real CPU or modelled; it is the device itself that knows. A kind
        declares it for all its devices: ``source: Source = "measured"``."""

    def ready(self) -> None:  # noqa: B027  # most need nothing
        """Raises UserError where a tool that it needs is not installed; the message says how to get it."""

    @contextlib.contextmanager
    def reserved(self, patience: float = PATIENCE) -> Iterator[None]:
        """The device for oneself alone, among all processes; within, once more costs nothing. An emulated one is never short.

        Raises:
            DeviceBusy: somebody else has it, for ``patience`` seconds and longer.
            DeviceFault: it is gone.
        """
        if self._reserved:
            yield
            return
        with self._hold(patience):
            self._reserved = True
            try:
                yield
            finally:
                self._reserved = False

    @contextlib.contextmanager
    def _hold(self, patience: float) -> Iterator[None]:
        """What ``reserved`` takes and gives back."""
        yield

    def run(
        self,
        program: Path,
        blob: Path,
        images: NDArray[np.uint8],
        *,
        expected: Mapping[str, str] | None = None,
    ) -> NDArray[np.float32]:
        """Outputs float32 [N, K] for uint8 images [N, H, W, C].

        Raises:
            UserError: a checksum differs, or the program fails; its message is in the text.
        """
        self.check(program, blob, expected)
        given = emulator.checked_images(images)
        seconds = emulator.SECONDS_PER_IMAGE * max(1, len(images))
        with self.reserved():
            answer = self.execute(program, ["run", str(blob)], given, seconds)
        return emulator.float_rows(answer, len(images), program.name)

    def profile(
        self,
        program: Path,
        blob: Path,
        image: NDArray[np.uint8],
        *,
        layers: Sequence[str] = (),
        expected: Mapping[str, str] | None = None,
        cached: bool = True,
    ) -> Profile:
        """What one inference of a uint8 image [H, W, C] costs.

        ``layers`` names the model's layer of each operation. Profiles are kept in the cache directory by the hash of program,
        blob and device, except those that are not steady; ``cached=False`` does it again (a measurement depends on the moment).

        Raises:
            UserError: as ``run``.
        """
        self.check(program, blob, expected)
        profile = self.remembered(program, blob) if cached else None
        if profile is None:
            with self.reserved():
                profile = self.measure(program, blob, image)
            if profile.source != self.source:
                raise ValueError(
                    f"{self.name} says its figures are {self.source} and gave {profile.source} ones"
                )
            if profile.steady:
                write_atomically(self._cache_file(program, blob), profile.to_json())
        return with_layers(profile, layers)

    def remembered(self, program: Path, blob: Path) -> Profile | None:
        """The profile that is kept, None where there is none."""
        return read_cached(self._cache_file(program, blob))

    def _cache_file(self, program: Path, blob: Path) -> Path:
        return cache_directory("profiles") / f"{self.cache_key(program, blob)}.json"

    def check(self, program: Path, blob: Path, expected: Mapping[str, str] | None) -> None:
        """Raises UserError where a file is missing or is not the expected one."""
        for path, name in ((program, "program"), (blob, "blob")):
            if not path.is_file():
                raise UserError(f"the {name} {path} does not exist")
            verify(path, (expected or {}).get(name))

    def cache_key(self, program: Path, blob: Path) -> str:
        parts = [str(PROFILE_VERSION), self.identity(), sha256(program), sha256(blob)]
        return hashlib.sha256(json_text(parts).encode()).hexdigest()[:32]

    def information(self, program: Path, blob: Path) -> dict[str, Any]:
        """What ``program info`` says of a blob."""
        record: dict[str, Any] = json.loads(self.execute(program, ["info", str(blob)], b"", 60.0))
        return record

    @abstractmethod
    def identity(self) -> str:
        """Everything about the device that a profile depends on."""

    @abstractmethod
    def execute(self, program: Path, arguments: list[str], given: bytes, timeout: float) -> bytes:
        """Standard output of ``program ARGUMENTS``. Raises UserError when it fails."""

    @abstractmethod
    def measure(self, program: Path, blob: Path, image: NDArray[np.uint8]) -> Profile:
        """Profiles anew."""


def read_cached(path: Path) -> Profile | None:
    """A cached profile; None when there is none or the file is not one."""
    try:
        return Profile.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None


def with_layers(profile: Profile, layers: Sequence[str]) -> Profile:
    """The same profile with its operations' layers named.

    Raises:
        ValueError: the numbers of names and operations differ.
    """
    if not layers or not profile.layers:
        return profile
    if len(layers) != len(profile.layers):
        raise ValueError(f"{len(layers)} layer names for {len(profile.layers)} operations")
    named = (dataclasses.replace(part, layer=name) for part, name in zip(profile.layers, layers))
    return dataclasses.replace(profile, layers=tuple(named))
