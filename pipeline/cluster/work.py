"""Pieces of work on one device, and how each of them ended. Knows nothing of queues, and of Ray only that a task may stream.

Programs, blobs and images travel as bytes and arrays and profiles as JSON text, with checksums, so that nodes of different
processors need to agree on nothing else.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deploy_arm.devices.kinds import DEVICES, kind_here, open_device
from deploy_arm.target.fault import DeviceBusy, DeviceFault
from foundation.errors import UserError
from foundation.factories import look_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy_arm.devices.base import Device


class DeviceError(Exception):
    """A program could not be run or profiled; the text says why."""


class NoDevice(DeviceError):
    """No device was there to do it, for longer than one was ready to wait: nothing that the program could help."""


class Wanted(NamedTuple):
    """Which devices: for which ``target``, of which ``kind`` (None: what is at hand) and in which folder that is looked up."""

    target: str
    kind: str | None = None
    modules: Path | None = None

    def open(self, name: str | None = None) -> Device:
        """Such a device, here; ``name`` is one of the kind's, by default the first."""
        look_in(self.modules)
        return open_device(self.target, self.kind, name)

    def entry(self) -> type[Device]:
        """The kind, as it is chosen here."""
        look_in(self.modules)
        return DEVICES[self.kind or kind_here(self.target)]

    def of_the_nodes(self) -> bool:
        """Whether each ARM node of a cluster has such a device."""
        look_in(self.modules)
        return self.kind is None or DEVICES[self.kind].of_the_node


class WorkOutcome(NamedTuple):
    """How a piece of work ended.

    Attributes:
        kind: ``done``; ``failed`` where the program fails; ``fault`` where the device does; ``busy`` where others have it.
        value: what was asked for, or the reason.
        of_the_device: of a fault, whether the device also fails on what is known to be good.
        drift: what is wrong with a profile of a device that did not stay as fast as it was.
    """

    kind: Literal["done", "failed", "fault", "busy"]
    value: Any
    of_the_device: bool = False
    drift: str = ""


class DeviceWork:
    """One open device. Before and after each piece of work a real one proves that it computes.

    What it runs lies in a folder of that piece of work: Ray ends processes without asking them to tidy up, and one that kept its
    files would leave them behind after every search.
    """

    def __init__(self, device: Device) -> None:
        self.device = device

    def do(
        self, method: str, patience: float, program: bytes, blob: bytes, *rest: Any, **named: Any
    ) -> WorkOutcome:
        """``profile`` (JSON text) or ``run`` (outputs float32 [N, K]).

        Args:
            patience: seconds to wait for others who use the device.
        """
        with tempfile.TemporaryDirectory(prefix="device-") as folder:
            paths = _written(Path(folder), program, blob)
            try:
                return self._done(method, patience, paths, _checksums(program, blob), *rest, **named)
            except DeviceBusy as error:
                return WorkOutcome("busy", str(error))
            except DeviceFault as error:
                return WorkOutcome("fault", str(error), of_the_device=bool(self.failure(paths[0])))
            except UserError as error:
                return WorkOutcome("failed", str(error))

    def _done(
        self,
        method: str,
        patience: float,
        paths: tuple[Path, Path],
        expected: dict[str, str],
        *rest: Any,
        **named: Any,
    ) -> WorkOutcome:
        from deploy_arm.devices import canary

        proves = self.device.exclusive
        if method == "profile" and (known := self._remembered(paths, *rest, **named)) is not None:
            return WorkOutcome("done", known)
        with self.device.reserved(patience):
            if proves:
                canary.prove(self.device, paths[0])
            done = getattr(self, f"_{method}")(paths, expected, *rest, **named)
            if proves:
                canary.prove(self.device, paths[0])
            return done if isinstance(done, WorkOutcome) else WorkOutcome("done", done)

    def failure(self, program: Path) -> str:
        """Why the device does not compute what it should; empty where it does."""
        from deploy_arm.devices import canary

        try:
            canary.prove(self.device, program)
        except UserError as error:
            return str(error)
        return ""

    def trouble(self, program: bytes) -> str:
        """``failure`` with a program that lies nowhere yet."""
        with tempfile.TemporaryDirectory(prefix="device-") as folder:
            return self.failure(_written(Path(folder), program, b"")[0])

    def _remembered(
        self, paths: tuple[Path, Path], image: NDArray[np.uint8], layers: Sequence[str], *, anew: bool = False
    ) -> str | None:
        from deploy_arm.devices.base import with_layers

        known = None if anew else self.device.remembered(*paths)
        return None if known is None else with_layers(known, layers).to_json()

    def _profile(
        self,
        paths: tuple[Path, Path],
        expected: dict[str, str],
        image: NDArray[np.uint8],
        layers: Sequence[str],
        *,
        anew: bool = False,
    ) -> WorkOutcome:
        profile = self.device.profile(*paths, image, layers=layers, expected=expected, cached=not anew)
        return WorkOutcome("done", profile.to_json(), drift="" if profile.steady else profile.warning)

    def _run(
        self, paths: tuple[Path, Path], expected: dict[str, str], images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        return self.device.run(*paths, images, expected=expected)


def _written(folder: Path, program: bytes, blob: bytes) -> tuple[Path, Path]:
    """The files of a piece of work; the program may be executed."""
    paths = folder / "program", folder / "weights.blob"
    for path, content in zip(paths, (program, blob)):
        path.write_bytes(content)
    paths[0].chmod(0o700)
    return paths


def _checksums(program: bytes, blob: bytes) -> dict[str, str]:
    return {"program": hashlib.sha256(program).hexdigest(), "blob": hashlib.sha256(blob).hexdigest()}


_open: dict[
    tuple[Wanted, str | None], DeviceWork
] = {}  # of this process: a worker does one piece of work after another


def opened(wanted: Wanted, name: str | None) -> DeviceWork:
    """The device, opened once in a process. Raises UserError where it cannot be."""
    if (wanted, name) not in _open:
        _open[wanted, name] = DeviceWork(wanted.open(name))
    return _open[wanted, name]


def serve(
    wanted: Wanted, name: str | None, beat: float, method: str, *arguments: Any, **named: Any
) -> Iterator[WorkOutcome | None]:
    """What a task does: None as a sign of life every ``beat`` seconds, and then how the work ended.

    ``method`` is one of ``DeviceWork.do``, or ``describe``: the device's name and source, once it has proved that it computes
    where a program is given.
    """
    found: list[WorkOutcome] = []
    thread = threading.Thread(
        target=lambda: found.append(_outcome(wanted, name, method, *arguments, **named)), daemon=True
    )
    thread.start()
    yield None
    while thread.is_alive():
        thread.join(beat)
        yield None
    yield found[0]


def describe(wanted: Wanted) -> WorkOutcome:
    """Name and source of the device of the node that this runs on, or why there is none; nothing is run on it."""
    return _outcome(wanted, None, "describe", None)


def _outcome(wanted: Wanted, name: str | None, method: str, *arguments: Any, **named: Any) -> WorkOutcome:
    try:
        work = opened(wanted, name)
        if method != "describe":
            return work.do(method, *arguments, **named)
        [program] = arguments
        proves = program is not None and work.device.exclusive
        if proves and (reason := work.trouble(program)):
            return WorkOutcome("fault", reason, of_the_device=True)
        return WorkOutcome("done", (work.device.name, work.device.source))
    except UserError as error:
        _open.pop((wanted, name), None)
        return WorkOutcome("fault", str(error), of_the_device=True)
    except Exception as error:
        return WorkOutcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
