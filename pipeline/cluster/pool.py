"""The pool of ARM CPUs as trials and commands see it.

Where the Ray cluster has ARM nodes (label ``arch=aarch64``, resource ``arm_cpu``), every such node is a device and its
figures are measured. Where it has none, or a kind of device is named that is no node's own, there are that kind's devices: boards
that were added, or emulated ones, whose figures are modelled. Measured and modelled are never mixed in one pool.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from pipeline.cluster.broker import LIMITS, Broker, PoolLimits
from pipeline.cluster.nodes import arm_nodes
from pipeline.cluster.work import DeviceError, DeviceWork, NoDevice, Wanted, WorkOutcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy_arm.devices.base import Profile
    from pipeline.candidate.devices import Devices
    from pipeline.study.work import Piece


class _Called(ABC):
    """``pipeline.candidate.devices.Devices``, by the methods of one object."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Of all figures: ``measured`` or ``modelled``."""

    @abstractmethod
    def _profile(self, program: bytes, blob: bytes, *rest: Any, anew: bool, urgent: bool) -> str:
        """As JSON text."""

    @abstractmethod
    def _run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...

    def profile(
        self,
        program: bytes,
        blob: bytes,
        image: NDArray[np.uint8],
        layers: Sequence[str] = (),
        *,
        anew: bool = False,
        urgent: bool = False,
    ) -> Profile:
        """What one inference costs.

        Raises:
            DeviceError: the program fails.
            NoDevice: there is no device to run it, for long.
        """
        from deploy_arm.devices.base import Profile

        return Profile.from_json(self._profile(program, blob, image, list(layers), anew=anew, urgent=urgent))

    def run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs float32 [N, K] for uint8 images [N, H, W, C]; raises as ``profile`` does."""
        return self._run(program, blob, images)


class DevicePool(_Called):
    """The pool as a trial or a driver sees it; may be sent to other processes."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._kept: dict[str, Any] = {}
        self._work: list[Piece] = []

    def __reduce__(self) -> tuple[type[DevicePool], tuple[Any]]:
        return DevicePool, (self._actor,)

    @classmethod
    def start(
        cls, target: str, kind: str | None = None, modules: Path | None = None, limits: PoolLimits = LIMITS
    ) -> DevicePool:
        """Start the pool in the Ray cluster this process is connected to; see ``Wanted``.

        Raises:
            DeviceError: there is no such device, or no ARM node and no emulator.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's own node: it must outlive any device's, and knows of the boards that this user added.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
        forever = {"max_restarts": -1, "max_task_retries": -1}
        pool = cls(
            ray.remote(Broker).options(**options, **forever).remote(Wanted(target, kind, modules), limits)
        )
        pool._call("start")
        return pool

    def devices(self) -> list[dict[str, str]]:
        """Name, source and state of each device, and the reason where it is not used."""
        return list(self._call("devices"))

    @property
    def source(self) -> str:
        """``measured`` or ``modelled``: one pool never mixes them."""
        return str(self._call("source"))

    def taken(self) -> list[Piece]:
        """What devices have done for this object since it was asked last; what was remembered, they did not do."""
        done, self._work = self._work, []
        return done

    def _profile(self, program: bytes, blob: bytes, *rest: Any, anew: bool, urgent: bool) -> str:
        import ray

        image, layers = rest
        parts = (program, blob, image.tobytes(), repr((image.shape, layers)).encode())
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        arguments = [self._put(program), ray.put(blob), image, layers]
        text, work = self._call("profile", key, arguments, anew=anew, urgent=urgent)
        self._work.extend(work)
        return str(text)

    def _run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import ray

        # A program is run where a network is finished, which may enter the front.
        arguments = [self._put(program), ray.put(blob), ray.put(images)]
        outputs: NDArray[np.float32]
        outputs, work = self._call("run", arguments, urgent=True)
        self._work.extend(work)
        return outputs

    def _put(self, program: bytes) -> Any:
        """A search has one program: it travels to each node once, from here."""
        import ray

        digest = hashlib.sha256(program).hexdigest()
        if digest not in self._kept:
            self._kept = {digest: ray.put(program)}
        return self._kept[digest]

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments, **named))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DeviceError):
                raise (NoDevice if isinstance(error.cause, NoDevice) else DeviceError)(
                    str(error.cause)
                ) from None
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            raise NoDevice(f"the device pool has died: {error}") from None


class LocalDevice(_Called):
    """Devices that are reached from this machine, without Ray, one after another where one fails; see ``Wanted``."""

    def __init__(self, target: str, kind: str | None = None, modules: Path | None = None) -> None:
        self._wanted = Wanted(target, kind, modules)
        self._entry = self._wanted.entry()
        self._names = self._entry.names(target)
        self._work: DeviceWork | None = None
        self._open()

    @property
    def source(self) -> str:
        return self._open().device.source

    def _open(self) -> DeviceWork:
        while self._work is None:
            try:
                self._work = DeviceWork(self._wanted.open(self._names[0]))
            except UserError as error:
                self._pass_over(error)
        return self._work

    def _pass_over(self, error: UserError | DeviceError) -> None:
        """Go on to the next device; raises the error where there is none."""
        failed = self._names.pop(0)
        self._entry.report(failed, str(error))
        self._work = None
        if not self._names:
            self._names = [failed]
            raise error

    def _profile(self, program: bytes, blob: bytes, *rest: Any, anew: bool, urgent: bool) -> str:
        return str(self._do("profile", program, blob, *rest, anew=anew))

    def _run(self, program: bytes, blob: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._do("run", program, blob, images)
        return outputs

    def _do(self, method: str, *arguments: Any, **named: Any) -> Any:
        while True:
            outcome: WorkOutcome = self._open().do(method, LIMITS.patience, *arguments, **named)
            if outcome.kind == "done":
                return outcome.value
            if outcome.kind == "fault" and outcome.of_the_device:
                self._pass_over(NoDevice(str(outcome.value)))
                continue
            raise (DeviceError if outcome.kind == "failed" else NoDevice)(str(outcome.value))


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
