"""Who gives pieces of work to devices: a Ray actor with a queue, and per device a loop that takes from it.

Every piece of work is an ordinary Ray task on the device's node, which shows signs of life. It keeps the device for itself only
meanwhile, so that several searches share one. When a device fails or is lost the work goes to the front of the queue again, and
the device rests (quarantine) until it proves that it computes. The actor itself may die: Ray starts it again, and its state is
made anew from what there is.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from foundation.errors import UserError
from pipeline.cluster.nodes import arm_nodes, host_nodes, node_name
from pipeline.cluster.work import DeviceError, NoDevice, Wanted, WorkOutcome, serve
from pipeline.study.work import Piece

KNOWN = 4096  # profiles that are remembered, by program
FRONT, OTHER = 0, 1  # priorities: candidates that may enter the front are waited for by all


class PoolLimits(NamedTuple):
    """Seconds, but ``attempts``.

    Attributes:
        patience: to wait for some device that can be used, and on a device for others who use it.
        silence: without a sign of life, after which a task is ended.
        beat: between two signs of life.
        rest: of a device in quarantine, before it is tried again.
        look: between two looks at which nodes there are.
        attempts: devices that may be lost under one piece of work.
    """

    patience: float = 600.0
    silence: float = 120.0
    beat: float = 5.0
    rest: float = 60.0
    look: float = 10.0
    attempts: int = 3


LIMITS = PoolLimits()


@dataclass
class Slot:
    """A device's place: its node, that node's name, and how it is (waiting, free, busy, quarantine, lost, refused)."""

    node: str
    host: str
    device: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    source: str = "unknown"
    state: str = "waiting"
    reason: str = ""
    at_work: int = 0
    elsewhere: bool = False  # than on the node of whoever asks
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    def row(self) -> dict[str, str]:
        state = "busy" if self.state == "free" and self.at_work else self.state
        return {
            "name": self.name or self.device or f"of {self.host}",
            "source": self.source,
            "state": state,
            **({"reason": self.reason} if self.reason else {}),
        }

    def called(self, place: int) -> str:
        """How a person calls it in a list of all; ``place`` is one of those where several pieces are done at a time, from 1 on; 0
        where only one is."""
        name = self.name or self.device or "device"
        here = f"{name} on {self.host}" if self.elsewhere and self.host not in name else name
        return f"{here}, {place}" if place else here


@dataclass(order=True)
class DeviceJob:
    """A piece of work; who has the lower priority, then number, comes first."""

    priority: int
    number: int
    method: Literal["profile", "run"] = field(compare=False)
    arguments: list[Any] = field(compare=False)
    named: dict[str, Any] = field(compare=False)
    result: asyncio.Future[Any] = field(compare=False)
    attempts: int = field(compare=False, default=0)
    done: list[Piece] = field(compare=False, default_factory=list)


class Broker:
    """The actor."""

    def __init__(self, wanted: Wanted, limits: PoolLimits) -> None:
        self._wanted, self._limits = wanted, limits
        self._queue: asyncio.PriorityQueue[DeviceJob] = asyncio.PriorityQueue()
        self._slots: dict[tuple[str, str | None], Slot] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun: asyncio.Task[None] | None = None
        self._source: str | None = None
        self._number = 0
        self._known: OrderedDict[str, str] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._program: Any = None

    async def start(self) -> None:
        """Find the devices, and wait for the first that is ready; called again, as after a death, it does no more."""
        if self._begun is None or (self._begun.done() and self._begun.exception()):
            self._begun = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._begun)

    async def devices(self) -> list[dict[str, str]]:
        """Name, source, state and, where it is not used, reason of each device."""
        await self.start()
        return [slot.row() for slot in self._slots.values()]

    async def source(self) -> str:
        """Of every figure of this pool."""
        await self.start()
        assert self._source is not None
        return self._source

    async def profile(
        self, key: str, arguments: list[Any], *, anew: bool, urgent: bool
    ) -> tuple[str, list[Piece]]:
        """JSON text, and what devices did to have it. ``key`` says what is profiled: what is known, or being found out, is not
        done again."""
        if anew:
            return await self._work("profile", arguments, urgent=urgent, anew=True)
        while key not in self._known and (asked := self._asked.get(key)) is not None:
            try:
                return str((await asyncio.shield(asked))[0]), []
            except _Orphaned:
                await asyncio.sleep(0)
        if key not in self._known:
            task = asyncio.ensure_future(self._work("profile", arguments, urgent=urgent))
            self._asked[key] = task
            try:
                self._known[key], work = await task
            finally:
                del self._asked[key]
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
            return self._known[key], work
        return self._known[key], []

    async def run(self, arguments: list[Any], *, urgent: bool) -> tuple[Any, list[Piece]]:
        """Outputs, and what devices did for them."""
        return await self._work("run", arguments, urgent=urgent)

    async def _work(
        self, method: Literal["profile", "run"], arguments: list[Any], *, urgent: bool, **named: Any
    ) -> tuple[Any, list[Piece]]:
        await self.start()
        self._number += 1
        self._program = arguments[0]
        result = asyncio.get_running_loop().create_future()
        job = DeviceJob(FRONT if urgent else OTHER, self._number, method, arguments, named, result)
        self._queue.put_nowait(job)
        since: float | None = None
        while not (await asyncio.wait({result}, timeout=min(1.0, self._limits.patience)))[0]:
            usable = any(slot.state == "free" for slot in self._slots.values())
            since = None if usable else since or time.monotonic()
            if since is not None and time.monotonic() - since > self._limits.patience:
                result.cancel()
                raise NoDevice(f"no device for {self._limits.patience:.0f} s: {self._story()}")
        return result.result(), job.done

    def _story(self) -> str:
        return (
            "; ".join(
                f"{row['name']} is {row['state']}{': ' + row['reason'] if 'reason' in row else ''}"
                for row in (slot.row() for slot in self._slots.values())
            )
            or "there is none"
        )

    async def _begin(self) -> None:
        self._on_nodes = self._wanted.of_the_nodes() and bool(arm_nodes())
        try:
            self._look()
        except UserError as error:
            raise DeviceError(str(error)) from None
        end = time.monotonic() + self._limits.patience
        while self._source is None:
            if all(slot.reason for slot in self._slots.values()) or time.monotonic() > end:
                self._end()
                raise NoDevice(self._story())
            await asyncio.sleep(0.05)
        self._keep(self._keep_looking())

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._slots = {slot: found for slot, found in self._slots.items() if found.reason}

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._limits.look)
            self._look()

    def _look(self) -> None:
        """A slot, and loops that serve it, for every device that is new; what is gone says so itself."""
        import ray

        if self._on_nodes:
            places: dict[tuple[str, str | None], int] = dict.fromkeys(
                ((node, None) for node in arm_nodes()), 1
            )
        elif not self._wanted.entry().exclusive:
            places = {(node, None): processors for node, processors in host_nodes().items()}
        else:
            here, names = (
                ray.get_runtime_context().get_node_id(),
                self._wanted.entry().names(self._wanted.target),
            )
            places = dict.fromkeys(((here, name) for name in names), 1)
        for place, at_a_time in places.items():
            if place not in self._slots:
                self._slots[place] = self._slot(*place)
                for number in range(1, at_a_time + 1):
                    self._keep(self._serve(self._slots[place], number if at_a_time > 1 else 0))

    def _slot(self, node: str, device: str | None) -> Slot:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Only while it works: the next piece of work on the board may be another search's.
        of_the_node = {"resources": {"arm_cpu": 1}} if self._on_nodes else {}
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"scheduling_strategy": strategy, **of_the_node}
        own = ray.get_runtime_context().get_node_id()
        return Slot(node, node_name(node), device, options, elsewhere=node != own)

    async def _serve(self, slot: Slot, place: int = 0) -> None:
        """Take from the queue whenever the device is usable, as long as its node lives; ``place`` as in ``Slot.called``."""
        while await self._ready(slot):
            while slot.state == "free":
                job = await self._queue.get()
                if job.result.done():
                    continue
                if slot.state != "free":  # another loop of it found out meanwhile
                    self._queue.put_nowait(job)
                    break
                slot.at_work += 1
                begun = time.time()
                try:
                    outcome = await self._call(
                        slot, job.method, self._limits.patience, *job.arguments, **job.named
                    )
                finally:
                    slot.at_work -= 1
                if outcome.kind != "busy":
                    job.done.append(Piece(job.method, slot.called(place), begun, time.time()))
                self._settle(slot, job, outcome)
            if slot.state == "refused":
                return
            await asyncio.sleep(1.0 if slot.state == "lost" else self._limits.rest)

    async def _ready(self, slot: Slot) -> bool:
        """Wait until the device proves that it works; False where its node is gone."""
        async with slot.opening:
            return await self._opened(slot)

    async def _opened(self, slot: Slot) -> bool:
        while slot.state != "free":
            outcome = await self._call(slot, "describe", self._program)
            if outcome.kind == "done":
                slot.name, slot.source = outcome.value
                self._source = self._source or slot.source
                if (
                    slot.source != self._source
                ):  # an emulator on a node that calls itself ARM, beside real ones: never mixed
                    slot.state, slot.reason = (
                        "refused",
                        f"its times are {slot.source}, the others' {self._source}",
                    )
                    return False
                self._let_go(slot)
                break
            self._quarantine(slot, outcome)
            if not self._alive(slot):
                slot.state = "lost"
                return False
            await asyncio.sleep(1.0 if slot.state == "lost" else self._limits.rest)
        return True

    def _alive(self, slot: Slot) -> bool:
        import ray

        return any(node["NodeID"] == slot.node and node["Alive"] for node in ray.nodes())

    def _settle(self, slot: Slot, job: DeviceJob, outcome: WorkOutcome) -> None:
        """Tell who waits, or let another device do it."""
        others = any(other is not slot and other.state == "free" for other in self._slots.values())
        if isinstance(outcome, _Gone):
            _tell(job, _Orphaned("who asked for this work is gone"))
        elif outcome.kind == "done" and not (
            outcome.drift and others and job.attempts + 1 < self._limits.attempts
        ):
            if not job.result.done():
                job.result.set_result(outcome.value)
        elif outcome.kind == "failed":
            _tell(job, DeviceError(str(outcome.value)))
        elif outcome.kind == "busy":
            self._queue.put_nowait(job)
        else:
            job.attempts += 1
            reason = outcome.drift or outcome.value
            if job.attempts >= self._limits.attempts:
                text = f"{job.attempts} devices were lost one after another while they ran this program"
                _tell(job, DeviceError(f"{text}; the last: {reason}"))
            else:
                self._queue.put_nowait(job)  # with its old number: before all that came later
            if outcome.of_the_device or outcome.drift:
                self._quarantine(slot, outcome)

    def _quarantine(self, slot: Slot, outcome: WorkOutcome) -> None:
        slot.state = "lost" if isinstance(outcome, _Lost) else "quarantine"
        slot.reason = " ".join(str(outcome.drift or outcome.value).split())[:300]
        if slot.device is not None and slot.state == "quarantine":
            self._wanted.entry().report(slot.device, slot.reason)

    def _let_go(self, slot: Slot) -> None:
        if slot.reason and slot.device is not None:
            self._wanted.entry().report(slot.device, "")
        slot.state, slot.reason = "free", ""

    async def _call(self, slot: Slot, method: str, *arguments: Any, **named: Any) -> WorkOutcome:
        """A task on the slot's node, ended when it gives no sign of life."""
        import ray

        options = {**slot.options}
        if method == "describe":  # which others at work there need not keep from saying what it is
            options.pop("resources", None)
        task = ray.remote(serve).options(num_cpus=0, max_retries=0, num_returns="streaming", **options)
        stream = task.remote(self._wanted, slot.device, self._limits.beat, method, *arguments, **named)
        limit = self._limits.patience  # until others let it begin
        try:
            while True:
                outcome = await asyncio.wait_for(_next(stream), limit)
                if outcome is not None:
                    return outcome
                limit = self._limits.silence
        except StopAsyncIteration:
            return _Lost("fault", "its task ended without an answer", of_the_device=True)
        except TimeoutError:
            ray.cancel(stream, force=True)  # ends a process that is stopped, too, after some seconds
            if limit != self._limits.silence:
                return WorkOutcome("busy", f"others use it, for {limit:.0f} s")
            return WorkOutcome("fault", f"it gave no sign of life for {limit:.0f} s", of_the_device=True)
        except ray.exceptions.ObjectLostError:
            return _Gone("failed", "")
        except ray.exceptions.RayError as error:
            return _Lost("fault", str(error).strip().splitlines()[0], of_the_device=True)
        except asyncio.CancelledError:
            ray.cancel(stream, force=True)
            raise


async def _next(stream: Any) -> WorkOutcome | None:
    reference = await stream.__anext__()
    outcome: WorkOutcome | None = await reference
    return outcome


class _Lost(WorkOutcome):
    """The process or the node died."""


class _Gone(WorkOutcome):
    """The process that asked has died, and what it gave with it."""


class _Orphaned(DeviceError):
    """See ``_Gone``."""


def _tell(job: DeviceJob, error: Exception) -> None:
    if not job.result.done():
        job.result.set_exception(error)
