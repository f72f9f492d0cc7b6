"""One driver per study in a storage that several machines reach: drivers that live, die, lose the network, or begin at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.files import json_text
from pipeline.study.lease import FILE, Holder, LeaseLimits, holder_of, leased
from pipeline.study.storage import LocalStorage

QUICK = LeaseLimits(beat=0.05, patience=0.6, settle=0.0)


def elsewhere(storage: LocalStorage, **changes: object) -> Holder:
    """The word of a driver on another machine."""
    holder = dataclasses.replace(Holder.here(), host="other", boot="other", **changes)  # type: ignore[arg-type]
    storage.write(FILE, json_text(dataclasses.asdict(holder)).encode())
    return holder


def goes_on(storage: LocalStorage) -> None:
    """Wait until its driver has written again."""
    before, end = holder_of(storage), time.monotonic() + 60
    while (now := holder_of(storage)) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert before is not None and now is not None and now.beats > before.beats


def test_a_second_driver_is_refused_as_long_as_the_first_lives_and_then_taken(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with leased(storage, limits=QUICK) as held:
        with (
            pytest.raises(UserError, match=r"is being run by process \d+ on .*; wait for it"),
            leased(storage),
        ):
            pytest.fail("two drivers")
        held.check()
    assert holder_of(storage) is None
    with leased(storage, pytest.fail, QUICK):
        pass


def test_who_died_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from pipeline.study.lease import leased\n"
        "from pipeline.study.storage import LocalStorage\n"
        "held = leased(LocalStorage(Path(sys.argv[1]))); held.__enter__(); os._exit(9)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root).returncode == 9
    left = holder_of(storage)
    assert left is not None and left.gone
    with leased(storage, pytest.fail):  # at once, though nobody has given it back
        pass
    # Another process that was given the dead one's number is not it.
    elsewhere(storage)
    same = dataclasses.replace(Holder.here(), started=1.0)
    storage.write(FILE, json_text(dataclasses.asdict(same)).encode())
    with leased(storage, pytest.fail):
        pass


def test_on_another_machine_a_driver_lives_as_long_as_its_word_changes(tmp_path: Path) -> None:
    storage, told = LocalStorage(tmp_path), list[str]()
    elsewhere(storage)
    beats = iter(range(1, 100))

    def waiting(text: str) -> None:
        told.append(text)
        elsewhere(storage, word="w", beats=next(beats))

    with (
        pytest.raises(UserError, match=r"is being run by process .* on other"),
        leased(storage, waiting, QUICK),
    ):
        pytest.fail("two drivers")
    assert "on other, which ran this study, still does" in told[0]
    with leased(storage, told.append, QUICK) as held:  # silent for long enough: its machine is gone
        held.check()
    elsewhere(storage)
    given = threading.Timer(0.1, storage.remove, [FILE])
    given.start()
    with leased(
        storage, told.append, LeaseLimits(beat=0.05, patience=60.0, settle=0.0)
    ):  # given back while one watches
        pass


def test_who_was_taken_over_learns_it_and_writes_no_more(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with leased(storage, limits=QUICK._replace(beat=60.0)) as held:
        other = elsewhere(storage)
        held.beat()
        with pytest.raises(UserError, match=r"on other has taken the study in --storage .* over"):
            held.check()
    assert holder_of(storage) == other  # not removed by who has lost it


def test_of_two_that_begin_at_once_one_gives_way(tmp_path: Path) -> None:
    class Beside(LocalStorage):
        """Another driver's word arrives right after ours."""

        def write(self, name: str, content: bytes) -> None:
            super().write(name, content)
            holder = dataclasses.replace(Holder.here(), host="other", boot="other")
            super().write(name, json_text(dataclasses.asdict(holder)).encode())

    with pytest.raises(UserError, match="on other"), leased(Beside(tmp_path), limits=QUICK):
        pytest.fail("two drivers")


def test_a_storage_that_is_down_for_a_while_ends_nothing(tmp_path: Path) -> None:
    class Down(LocalStorage):
        down = False

        def read(self, name: str) -> bytes:
            if self.down:
                raise OSError("the network is gone")
            return super().read(name)

    storage = Down(tmp_path)
    with leased(storage, limits=QUICK) as held:
        storage.down = True
        threading.Event().wait(0.2)
        held.check()
        storage.down = False
        goes_on(storage)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"word": 1}', b"\xff"])
def test_rubbish_is_nobody_s_word(tmp_path: Path, content: bytes) -> None:
    LocalStorage(tmp_path).write(FILE, content)
    assert holder_of(LocalStorage(tmp_path)) is None
    (tmp_path / FILE).write_bytes(content)
    assert holder_of(LocalStorage(tmp_path)) is None
