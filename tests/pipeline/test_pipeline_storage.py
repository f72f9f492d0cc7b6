"""Storages: folders, other file systems and an S3 server; what is damaged is noticed; a study is made again from its copy."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from foundation.errors import UserError
from pipeline import search
from pipeline.candidate.folder import FILES, FORMAT, fetch_candidate, send_candidate
from pipeline.shelf.backup import Backup, rebuild
from pipeline.study import paths
from pipeline.study.lease import LeaseLimits, holder_of, leased
from pipeline.study.records import Figures, TrialRecord
from pipeline.study.storage import (
    AnyStorage,
    DamagedFile,
    LocalStorage,
    PostgresStorage,
    below,
    check_storage,
    reaches,
    storage_at,
)
from pipeline.study.study import Study, read_records
from search_spaces.space import Space
from tests.postgres import postgres_server
from tests.s3 import s3_server

Kept = AnyStorage


def tiny_candidate(folder: Path) -> Path:
    """What counts as a candidate's folder for those who only carry it."""
    folder.mkdir(parents=True)
    contents = {name: f"{folder.name} {name}".encode() * 50 for name in FILES}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}))
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["folder", "file", "s3", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    place = {"folder": str(tmp_path / "kept"), "file": f"file://{tmp_path}/kept"}.get(request.param)
    return below(storage_at(place or request.getfixturevalue(request.param)), f"study-{tmp_path.name}")


def test_files_are_read_as_they_were_written_listed_and_removed(storage: Kept) -> None:
    assert storage.names("trials/a") == []
    with pytest.raises(FileNotFoundError):
        storage.read("trials/a/x")
    contents = {"trials/a/x": b"", "trials/a/y": bytes(range(256)) * 999, "trials/b/x": b"other", "top": b"1"}
    for name, content in contents.items():
        storage.write(name, b"before")
        storage.write(name, content)
    travelled = pickle.loads(pickle.dumps(storage))
    assert {name: travelled.read(name) for name in contents} == contents
    assert storage.names("trials/a") == ["trials/a/x", "trials/a/y"] and storage.names("trials") == []
    storage.remove("trials/a")
    storage.remove("trials/a")
    storage.remove("top")
    assert storage.names("trials/a") == [] and storage.names("trials/b") == ["trials/b/x"]
    with pytest.raises(FileNotFoundError):
        storage.read("top")


def test_who_sees_another_place_is_told_apart(storage: Kept, tmp_path: Path) -> None:
    check_storage(storage, "the word")
    assert reaches(storage, "the word") and not reaches(storage, "another")
    assert not reaches(LocalStorage(tmp_path / "nothing"), "the word")


def test_a_lost_connection_is_opened_again_and_a_database_that_is_gone_is_told(postgres: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    storage = PostgresStorage(postgres).below("lost")
    storage.write("a/file", b"1")
    with psycopg.connect(postgres, autocommit=True) as other:
        other.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    assert storage.read("a/file") == b"1" and storage.names("a") == ["a/file"]
    with psycopg.connect(postgres, autocommit=True) as other:
        other.execute(
            "update dgms_arm_search_files set content = content || '\\x00' where name = 'lost/a/file'"
        )
    with pytest.raises(DamagedFile, match="lost/a/file is damaged"):
        storage.read("a/file")
    nobody = PostgresStorage("postgresql://test@127.0.0.1:9/postgres")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9/postgres: .*refused"):
        nobody.write("a", b"")
    with pytest.raises(UserError, match=r"nothing can be kept there \(.*refused"):
        check_storage(nobody, "word")


def test_without_a_client_for_postgresql_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r'no client for PostgreSQL here; pip install "psycopg\[binary\]"'):
        check_storage(storage_at("postgresql://somewhere/studies"), "word")


def test_one_driver_runs_a_study_wherever_it_is_kept(storage: Kept) -> None:
    with leased(storage, pytest.fail, LeaseLimits(beat=0.05, settle=0.0)):
        end = time.monotonic() + 60
        while ((found := holder_of(storage)) is None or found.beats == 0) and time.monotonic() < end:
            time.sleep(0.05)
        assert found is not None and found.beats > 0
        with pytest.raises(UserError, match="is being run by process"), leased(storage):
            pytest.fail("two drivers")
    assert holder_of(storage) is None


def test_one_bit_or_a_missing_end_is_noticed(tmp_path: Path) -> None:
    storage, chance = LocalStorage(tmp_path), random.Random(1)
    storage.write("x", bytes(100))
    whole = (tmp_path / "x").read_bytes()
    for bit in (0, 8 * len(whole) - 1, *(chance.randrange(8 * len(whole)) for _ in range(50))):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        for damaged in (bytes(flipped), whole[: bit // 8], whole + b"\0"):
            (tmp_path / "x").write_bytes(damaged)
            with pytest.raises(DamagedFile, match=r"/x is damaged"):
                storage.read("x")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://key:hidden@bucket/x", "--storage s3://bucket/x: the URL holds a secret"),
        ("s3://bucket/x?secret_key=hidden", "--storage s3://bucket/x: the URL holds a secret"),
        ("ftp://host/x", "--storage ftp://host/x: nothing can be kept there"),
        ("s3://bucket/x?endpoint_override=http://127.0.0.1:9&region=us-east-1", "nothing can be kept there"),
        ("{tmp}/file/x", "nothing can be kept there"),
    ],
)
def test_a_place_where_nothing_can_be_kept_is_refused_before_any_work(
    tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as refused:
        check_storage(storage_at(place.format(tmp=tmp_path)), "word")
    assert said in str(refused.value) and "hidden" not in str(refused.value)


def test_a_typed_folder_is_relative_to_where_it_is_typed(tmp_path: Path) -> None:
    found = paths.resolved({"storage": "kept"}, tmp_path)
    assert found == {"storage": str(tmp_path / "kept")}
    assert paths.resolved({"storage": "s3://bucket/x"}, tmp_path) == {"storage": "s3://bucket/x"}


def test_a_candidate_travels_whole_or_not_at_all(storage: Kept, tmp_path: Path) -> None:
    sent = tiny_candidate(tmp_path / "candidates" / "abc")
    send_candidate(sent, storage)
    got = tmp_path / "there" / "candidates" / "abc"
    assert fetch_candidate(storage, got) and fetch_candidate(storage, got)
    names = {path.name for path in sent.iterdir()}
    assert names == {path.name for path in got.iterdir()} >= set(FILES[:3])
    assert all((sent / name).read_bytes() == (got / name).read_bytes() for name in names)
    assert not fetch_candidate(storage, tmp_path / "there" / "candidates" / "def")
    (sent / "network.pt").write_bytes(b"another")  # than its manifest says
    send_candidate(sent, storage)
    with pytest.raises(UserError, match="checksum differs"):
        fetch_candidate(storage, tmp_path / "elsewhere" / "candidates" / "abc")
    assert not list((tmp_path / "elsewhere").rglob("*.pt"))


def test_a_study_is_made_again_from_its_copy(storage: Kept, tmp_path: Path) -> None:
    folder, space, said = tmp_path / "runs" / "study", Space(("conv", "fc")), list[str]()
    plans = space.warm_starts()[:3]
    figures = Figures(0.1, 1.0, 1.0, 2.0, "modelled", "x", 9)
    with Study(folder, space, identity={"model": "table"}, warm_starts=plans) as study:
        (folder / paths.SETTINGS).write_text(
            yaml.safe_dump({"model": "table", "out": str(folder.parent), "name": "study"})
        )
        backup = Backup(folder, storage, said.append)
        for plan in plans:
            asked = study.ask()
            assert asked is not None
            tiny_candidate(folder / "candidates" / plan.hash)
            study.tell(asked.number, TrialRecord(asked.number, plan, "finished", figures))
            backup.now()
            backup.now_and_then()  # is no copy: the last is fresh
        known = study.records()
    assert not said and len(storage.names("database")) == 2

    out = tmp_path / "other" / "again"
    assert rebuild(storage, out) == 3
    assert read_records(out) == known
    assert yaml.safe_load((out / paths.SETTINGS).read_text()) == {
        "model": "table",
        "out": str(out.parent),
        "name": "again",
    }
    assert {path.name for path in (out / "candidates").iterdir()} == {plan.hash for plan in plans}
    with Study(out, space, identity={"model": "table"}, warm_starts=plans) as again:
        assert not again.created and again.recovered.finished == 3
    with pytest.raises(UserError, match="holds a study; move it away"):
        rebuild(storage, out)


def test_damaged_copies_are_told_and_left_out(tmp_path: Path) -> None:
    folder, space, said = tmp_path / "study", Space(("conv", "fc")), list[str]()
    storage = LocalStorage(tmp_path / "kept")
    with Study(folder, space, identity={"model": "table"}) as study:
        backup = Backup(folder, storage, said.append)
        (folder / paths.SETTINGS).write_text("model: table\n")
        tiny_candidate(folder / "candidates" / "abc")
        backup.now()
        study.ask()
        backup.now()
    first, last = (tmp_path / "kept" / name for name in storage.names("database"))
    last.write_bytes(last.read_bytes()[:-1])
    archive = tmp_path / "kept" / "candidates" / "abc.tar"
    archive.write_bytes(archive.read_bytes() + b"1")
    assert rebuild(storage, tmp_path / "again", said.append) == 0
    assert "the copy before it is taken" in said[0] and "candidate abc: " in said[1] and len(said) == 2
    with sqlite3.connect(tmp_path / "again" / "study.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    first.write_bytes(b"")
    with pytest.raises(UserError, match="holds no whole copy of a study"):
        rebuild(storage, tmp_path / "third")
    with pytest.raises(UserError, match="holds no copy of a study; a study's copy lies below its name"):
        rebuild(LocalStorage(tmp_path / "nowhere"), tmp_path / "third")


def test_a_storage_that_is_down_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "kept").touch()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / paths.SETTINGS).write_text("model: table\n")
    Backup(tmp_path / "study", LocalStorage(tmp_path / "kept"), said.append).now()
    assert (
        len(said) == 1
        and said[0].startswith("warning: no copy of the study in ")
        and "tried again" in said[0]
    )


def test_a_secret_in_an_address_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    flags = ["--out", str(tmp_path / "runs"), "--name", "study", "--storage", "s3://me:hidden@bucket/x"]
    with pytest.raises(UserError, match="the URL holds a secret"):
        search.main(flags)
    assert not list(tmp_path.rglob("*"))


def test_candidates_of_a_former_kernel_library_are_sent_anew(tmp_path: Path) -> None:
    folder, storage = tmp_path / "study", LocalStorage(tmp_path / "kept")
    with Study(folder, Space(("conv", "fc")), identity={"model": "table"}):
        candidate = tiny_candidate(folder / "candidates" / "abc")
        Backup(folder, storage, pytest.fail).now()
        record = json.loads((candidate / "manifest.json").read_text())
        (candidate / "manifest.json").write_text(json.dumps({**record, "figures": "renewed"}))
        for anew, figures in ((False, None), (True, "renewed")):
            Backup(folder, storage, pytest.fail, anew=anew).now()
            there = tmp_path / f"there {anew}" / "abc"
            assert fetch_candidate(storage, there)
            assert json.loads((there / "manifest.json").read_text()).get("figures") == figures
