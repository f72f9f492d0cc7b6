"""Who gets a device first, what is asked for twice, and what becomes of work whose device is lost; without Ray and devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.cluster.broker import Broker, PoolLimits, Slot
from pipeline.cluster.work import DeviceError, Wanted, WorkOutcome

LIMITS = PoolLimits(patience=20.0, rest=0.01, look=60.0)
Answer = Callable[[str, str], WorkOutcome]


def good(device: str, what: str) -> WorkOutcome:
    return WorkOutcome("done", f"profile of {what}")


class Bench(Broker):
    """Devices that answer as a test says, once its ``gate`` is open; ``log`` has what each was given."""

    def __init__(self, *names: str, answer: Answer = good) -> None:
        super().__init__(Wanted("a76", "emulated"), LIMITS)
        self._names, self._answer = names, answer
        self.gate, self.log = asyncio.Event(), list[tuple[str, str]]()

    def _look(self) -> None:
        for name in self._names:
            self._slots["node", name] = Slot("node", "desk", name)
            self._keep(self._serve(self._slots["node", name]))

    def _alive(self, slot: Slot) -> bool:
        return True

    async def _call(self, slot: Slot, method: str, *arguments: Any, **named: Any) -> WorkOutcome:
        if method == "describe":
            return WorkOutcome("done", (slot.device, "modelled"))
        _, what = arguments
        self.log.append((str(slot.device), what))
        await self.gate.wait()
        return self._answer(str(slot.device), what)


async def asked(bench: Bench, what: str, *, urgent: bool = False, anew: bool = False) -> Any:
    """Ask for a profile, and let everybody do what can be done without an answer."""
    task = asyncio.ensure_future(bench.profile(what, [what], anew=anew, urgent=urgent))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


def test_candidates_of_the_front_come_first_and_equals_in_their_order() -> None:
    async def run() -> None:
        bench = Bench("one")
        await bench.start()
        tasks = [await asked(bench, what) for what in ("first", "second", "third")]
        tasks += [await asked(bench, what, urgent=True) for what in ("front 1", "front 2")]
        assert [row["state"] for row in await bench.devices()] == ["busy"]
        bench.gate.set()
        assert (await asyncio.gather(*tasks))[3][0] == "profile of front 1"
        assert [what for _, what in bench.log] == ["first", "front 1", "front 2", "second", "third"]

    asyncio.run(run())


def test_what_is_known_or_being_found_out_is_not_done_again() -> None:
    async def run() -> None:
        bench = Bench("one", "two")
        await bench.start()
        tasks = [await asked(bench, "same") for _ in range(5)] + [await asked(bench, "other")]
        bench.gate.set()
        told = [text for text, _ in await asyncio.gather(*tasks)]
        assert told == ["profile of same"] * 5 + ["profile of other"]
        assert (await (await asked(bench, "same")))[0] == "profile of same"
        assert sorted(what for _, what in bench.log) == ["other", "same"]
        await (await asked(bench, "same", anew=True))
        assert [what for _, what in bench.log].count("same") == 2

    asyncio.run(run())


def test_a_failure_is_told_to_all_who_asked_and_not_remembered() -> None:
    async def run() -> None:
        answers = iter([WorkOutcome("failed", "it divides by zero"), WorkOutcome("done", "now it works")])
        bench = Bench("one", answer=lambda device, what: next(answers))
        await bench.start()
        tasks = [await asked(bench, "same") for _ in range(2)]
        bench.gate.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, DeviceError) and "divides by zero" in str(result)
        assert (await (await asked(bench, "same")))[0] == "now it works"

    asyncio.run(run())


def test_work_whose_device_is_lost_goes_on_elsewhere_before_what_came_later() -> None:
    async def run() -> None:
        def answer(device: str, what: str) -> WorkOutcome:
            return (
                good(device, what) if device == "two" else WorkOutcome("fault", "on fire", of_the_device=True)
            )

        bench = Bench("one", "two", answer=answer)
        bench._limits = LIMITS._replace(rest=60.0)
        await bench.start()
        tasks = [await asked(bench, what) for what in ("first", "second", "third", "fourth")]
        bench.gate.set()
        assert len(await asyncio.gather(*tasks)) == 4
        done = [what for device, what in bench.log if device == "two"]
        lost = [what for device, what in bench.log if device == "one"]
        assert len(lost) == 1 and sorted(done) == ["first", "fourth", "second", "third"]
        assert done.index(lost[0]) <= 1 and done[-1] == "fourth"
        states = {row["name"]: (row["state"], row.get("reason")) for row in await bench.devices()}
        assert states == {"one": ("quarantine", "on fire"), "two": ("free", None)}

    asyncio.run(run())


def test_a_program_under_which_every_device_is_lost_fails_with_the_reason() -> None:
    async def run() -> None:
        bench = Bench(
            "one", answer=lambda device, what: WorkOutcome("fault", "no answer", of_the_device=True)
        )
        bench.gate.set()
        with pytest.raises(DeviceError, match=r"3 devices were lost one after another .* no answer"):
            await bench.profile("x", ["x"], anew=False, urgent=False)

    asyncio.run(run())


def test_whoever_asked_is_told_which_devices_worked_for_it_and_when() -> None:
    async def run() -> None:
        def answer(device: str, what: str) -> WorkOutcome:
            return (
                good(device, what) if device == "two" else WorkOutcome("fault", "on fire", of_the_device=True)
            )

        bench = Bench("one", "two", answer=answer)
        await bench.start()
        bench.gate.set()
        began = time.time()
        tasks = [await asked(bench, what) for what in ("first", "second", "first")]
        told = [await task for task in tasks]
        places = [[piece.place for piece in work] for _, work in told]
        assert sorted(place for each in places for place in each) == ["one", "two", "two"]
        assert places[2] == [], "it waited for the answer to the first"
        pieces = [piece for _, work in told for piece in work]
        assert all(p.kind == "profile" and began <= p.begun <= p.ended <= time.time() for p in pieces)
        again = await bench.profile("first", ["first"], anew=False, urgent=False)
        assert again == (told[0][0], []), "what is remembered costs no device"

    asyncio.run(run())


def test_devices_of_other_nodes_and_those_that_do_several_things_are_told_apart() -> None:
    assert Slot("n", "desk", "board", name="pi").called(0) == "pi"
    assert Slot("n", "desk", name="emulated a76").called(2) == "emulated a76, 2"
    assert Slot("n", "rack", name="pi", elsewhere=True).called(0) == "pi on rack"
    assert Slot("n", "rack", name="rack cpu3", elsewhere=True).called(0) == "rack cpu3", "it says so itself"


def test_a_device_that_has_not_said_its_name_yet_is_called_by_its_host() -> None:
    assert Slot("4f2c" * 14, "desk").row()["name"] == "of desk"
    assert Slot("4f2c" * 14, "desk", "board").row()["name"] == "board"
