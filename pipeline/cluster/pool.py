"""The pool of ARM CPUs: Ray actors, one per device, each used by one program at a time.

Where the Ray cluster has ARM nodes (label ``arch=aarch64``, resource ``arm_cpu``), every such node is a device and its
figures are measured. Where it has none there is one device on the driver's node, usually an emulated one, whose figures are
modelled; so it is where a kind of device is named that is no node's own. Measured and modelled are never mixed in one pool.
Programs, blobs and images travel as bytes and arrays and profiles as JSON text, with checksums, so that nodes of different
processors need to agree on nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy_arm.devices.kinds import DEVICES, open_device
from foundation.errors import UserError
from foundation.factories import look_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy_arm.devices.base import Device, Profile
    from pipeline.candidate.devices import Devices

LABELS = {"arch": "aarch64"}
HOSTS = {key: f"!{value}" for key, value in LABELS.items()}  # as Ray selects the nodes that train
HERE = "here"  # the key of a device that is no ARM node's
ATTEMPTS = 3  # devices that may be lost under one piece of work
PATIENCE = 600.0  # seconds to wait for a device that is free


class DeviceError(Exception):
    """A program could not be run or profiled; the text says why."""


class Wanted(NamedTuple):
    """Which devices: for which ``target``, of which ``kind`` (None: what is at hand) and in which folder that is looked up."""

    target: str
    kind: str | None = None
    modules: Path | None = None

    def open(self) -> Device:
        """Such a device, here."""
        look_in(self.modules)
        return open_device(self.target, self.kind)

    def of_the_nodes(self) -> bool:
        """Whether each ARM node of a cluster has such a device."""
        look_in(self.modules)
        return self.kind is None or DEVICES[self.kind].of_the_node


class DeviceActor:
    """One device. Ray runs one call of an actor at a time: that is what makes it exclusive."""

    def __init__(self, wanted: Wanted) -> None:
        self._device = wanted.open()
        self._files = tempfile.TemporaryDirectory(prefix="device-")

    def describe(self) -> tuple[str, str]:
        """The device's name and the source of its figures, as the device itself says it."""
        return self._device.name, self._device.source

    def profile(
        self,
        program: bytes,
        blob: bytes,
        image: NDArray[np.uint8],
        layers: Sequence[str],
        *,
        anew: bool = False,
    ) -> str:
        """Profile as JSON text; ``anew`` does not take a remembered one."""
        paths, expected = self._paths(program, blob), _checksums(program, blob)
        return self._device.profile(
            *paths, image, layers=layers, expected=expected, cached=not anew
        ).to_json()

    def run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs float32 [N, K]."""
        return self._device.run(*self._paths(program, blob), images, expected=_checksums(program, blob))

    def _paths(self, program: bytes, blob: bytes) -> tuple[Path, Path]:
        """The program is kept under its checksum; of blobs, which are many, only the last."""
        folder = Path(self._files.name)
        kept = folder / f"program-{hashlib.sha256(program).hexdigest()}"
        if not kept.exists():
            kept.write_bytes(program)
            kept.chmod(0o755)
        path = folder / "weights.blob"
        path.write_bytes(blob)
        return kept, path


class PoolActor:
    """Gives each piece of work to a free device; when a device dies under it, to another."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._free: asyncio.Queue[str] = asyncio.Queue()
        self._actors: dict[str, Any] = {}
        self._states: dict[str, dict[str, str]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._source: str | None = None

    async def start(self) -> list[dict[str, str]]:
        """Take every ARM node of the cluster, or make one device here; its failure to start is raised."""
        nodes = arm_nodes() if self._wanted.of_the_nodes() else []
        for node in nodes:
            self._begin(node)
        if not nodes:
            await self._add(HERE)
        elif not await self._first(PATIENCE):
            raise DeviceError(f"no ARM node gave its device within {PATIENCE:.0f} s: {self.devices()}")
        return self.devices()

    def devices(self) -> list[dict[str, str]]:
        """Name, source and state (waiting, free, busy, lost, refused) of each device."""
        return list(self._states.values())

    def source(self) -> str:
        """Of every figure of this pool."""
        assert self._source is not None
        return self._source

    async def _first(self, patience: float) -> bool:
        """Wait until some device is ready or all have failed."""
        pending = set(self._starting)
        while pending and self._source is None:
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
        return self._source is not None

    async def profile(
        self, program: bytes, blob: bytes, image: Any, layers: Sequence[str], *, anew: bool = False
    ) -> str:
        return str(await self._work("profile", program, blob, image, layers, anew=anew))

    async def run(self, program: bytes, blob: bytes, images: Any) -> Any:
        return await self._work("run", program, blob, images)

    async def _work(self, method: str, *arguments: Any, **named: Any) -> Any:
        import ray

        for _ in range(ATTEMPTS):
            try:
                key = await asyncio.wait_for(self._free.get(), PATIENCE)
            except TimeoutError as error:
                raise DeviceError(
                    f"no device became free within {PATIENCE:.0f} s: {self.devices()}"
                ) from error
            self._states[key]["state"] = "busy"
            try:
                result = await getattr(self._actors[key], method).remote(*arguments, **named)
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
                self._states[key]["state"] = "lost"
                self._renew(key)
                continue
            except ray.exceptions.RayTaskError as error:
                self._release(key)
                raise DeviceError(str(error.cause or error).strip().splitlines()[-1]) from None
            self._release(key)
            return result
        raise DeviceError(f"{ATTEMPTS} devices were lost one after another while they ran this program")

    def _release(self, key: str) -> None:
        self._states[key]["state"] = "free"
        self._free.put_nowait(key)

    def _renew(self, lost: str) -> None:
        """A new actor in the place of a dead one, and whatever ARM nodes have joined meanwhile."""
        for node in [HERE] if lost == HERE else arm_nodes():
            if self._states.get(node, {}).get("state", "lost") == "lost":
                self._begin(node)

    def _begin(self, key: str) -> None:
        self._states[key] = {"name": key, "source": "unknown", "state": "waiting"}
        task = asyncio.ensure_future(self._add(key))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _add(self, key: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._states[key] = {"name": key, "source": "unknown", "state": "waiting"}
        # No restarts: a restarting actor refuses calls at once and would burn all attempts. A dead one is replaced.
        node = ray.get_runtime_context().get_node_id() if key == HERE else key
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": strategy}
        if key != HERE:
            options["resources"] = {"arm_cpu": 1}
        actor: Any = ray.remote(DeviceActor).options(max_restarts=0, **options).remote(self._wanted)
        try:
            name, source = await actor.describe.remote()
        except ray.exceptions.RayError as error:
            self._states[key]["state"] = "lost"
            if key == HERE:
                raise DeviceError(str(error).strip().splitlines()[-1]) from None
            return
        self._actors[key] = actor
        self._states[key] = {"name": name, "source": source, "state": "waiting"}
        self._source = self._source or source
        if source == self._source:
            self._release(key)
        else:  # an emulator on a node that calls itself ARM beside real ones: never both in one pool
            self._states[key]["state"] = "refused"


class _Called(ABC):
    """``pipeline.candidate.devices.Devices``, by the methods of one object."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Of all figures: ``measured`` or ``modelled``."""

    @abstractmethod
    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What this method of the device, or of the actor that stands for several, gives."""

    def profile(
        self,
        program: bytes,
        blob: bytes,
        image: NDArray[np.uint8],
        layers: Sequence[str] = (),
        *,
        anew: bool = False,
    ) -> Profile:
        """What one inference costs.

        Raises:
            DeviceError: no device in the pool, or the program fails on it.
        """
        from deploy_arm.devices.base import Profile

        return Profile.from_json(self._call("profile", program, blob, image, list(layers), anew=anew))

    def run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs float32 [N, K] for uint8 images [N, H, W, C]; raises DeviceError as ``profile`` does."""
        outputs: NDArray[np.float32] = self._call("run", program, blob, images)
        return outputs


class DevicePool(_Called):
    """The pool as a trial or a driver sees it; may be sent to other processes."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, target: str, kind: str | None = None, modules: Path | None = None) -> DevicePool:
        """Start the pool in the Ray cluster this process is connected to; see ``Wanted``.

        Raises:
            DeviceError: there is no such device, or no ARM node and no emulator.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's own node: it must outlive any device's.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
        pool = cls(ray.remote(PoolActor).options(**options).remote(Wanted(target, kind, modules)))
        pool._call("start")
        return pool

    def devices(self) -> list[dict[str, str]]:
        """Name, source and state of each device."""
        return list(self._call("devices"))

    @property
    def source(self) -> str:
        """``measured`` or ``modelled``: one pool never mixes them."""
        return str(self._call("source"))

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments, **named))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DeviceError):
                raise DeviceError(str(error.cause)) from None
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            raise DeviceError(f"the device pool has died: {error}") from None


class LocalDevice(_Called):
    """One device of this machine, without Ray; see ``Wanted``."""

    def __init__(self, target: str, kind: str | None = None, modules: Path | None = None) -> None:
        self._device = DeviceActor(Wanted(target, kind, modules))

    @property
    def source(self) -> str:
        return self._device.describe()[1]

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return getattr(self._device, method)(*arguments, **named)


@contextlib.contextmanager
def devices_at_hand(target: str, kind: str | None = None, modules: Path | None = None) -> Iterator[Devices]:
    """What a search would profile on: the ARM nodes of the cluster at RAY_ADDRESS if it has any, else this machine's own
    device, or one of the ``kind`` that is named; see ``Wanted``.

    Raises:
        UserError: unknown target or kind, no emulator, or the cluster does not answer.
    """
    if Wanted(target, kind, modules).of_the_nodes() and os.environ.get("RAY_ADDRESS"):
        from pipeline.cluster.ray_cluster import cluster

        with cluster():
            if arm_nodes():
                try:
                    pool = DevicePool.start(target, kind, modules)
                except DeviceError as error:
                    raise UserError(f"no device to run on: {error}") from error
                yield pool
                return
    yield LocalDevice(target, kind, modules)


def arm_nodes() -> list[str]:
    """The ids of the cluster's living ARM nodes that offer an ``arm_cpu``."""
    import ray

    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("arm_cpu", 0) >= 1 and is_arm(node)
    ]


def is_arm(node: Mapping[str, Any]) -> bool:
    """Whether a node, as ``ray.nodes()`` tells of it, is an ARM board: it measures, and nothing is trained there."""
    return all(node.get("Labels", {}).get(key) == value for key, value in LABELS.items())


def _checksums(program: bytes, blob: bytes) -> dict[str, str]:
    return {"program": hashlib.sha256(program).hexdigest(), "blob": hashlib.sha256(blob).hexdigest()}
