"""Any bytes in place of any file that a person names: read, or refused with one message that names the file."""

from __future__ import annotations

import io
import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundation.errors import UserError
from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.folder import load_candidate
from pipeline.datasets.cifar_files import PIXELS, read_cifar10
from pipeline.datasets.registry import load_data
from pipeline.detection.data import load_boxes
from pipeline.review.fronts import read_front
from pipeline.study.command_line import read_config
from pipeline.study.settings import Settings
from pipeline.study.study import Study, read_records
from pipeline.train import read_plan
from search_spaces.space import Space

TIMES = 120


def npz() -> bytes:
    stream = io.BytesIO()
    labels = np.arange(6) % 2
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez_compressed(
        stream, x_train=pixels, y_train=labels, x_val=pixels, y_val=labels, classes=["a", "b"]
    )
    return stream.getvalue()


def boxes() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, jpeg=np.zeros(4, np.uint8), offset=np.array([0, 4]), boxes=np.zeros((1, 6), np.float32))
    return stream.getvalue()


def database(path: Path) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("create table trials (trial_id integer, number integer)")
        connection.execute("create table trial_user_attributes (trial_id integer, key text, value_json text)")
        connection.execute("insert into trials values (1, 0)")
        record = {
            "number": 0,
            "plan": json.loads(PLAN),
            "status": "finished",
            "figures": {"error": 0.1},
            "curve": [],
        }
        connection.execute(
            "insert into trial_user_attributes values (1, 'record', ?)", [json.dumps(json.dumps(record))]
        )
    connection.close()
    return path.read_bytes()


PLAN = Plan({"conv": LayerPlan(4, components=16, zero_share=0.5), "fc": LayerPlan(8)}).to_json()
SETTINGS = "model: resnet20\nbudget: 12\nbits: [2, 4]\nmean: [0.5, 0.5, 0.5]\ntime_budget: 2h\nout: runs\n"
MANIFEST = {"format": 1, "hash": "abc", "model": "resnet8", "files": {"plan.json": "0" * 64}, "figures": {}}
FRONT = {"objectives": ["error", "size"], "points": [{"hash": "abc", "error": 0.1}], "references": []}

# Reader: the file's name, a sound content, and how it is read.
READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "images": ("data.npz", lambda _: npz(), lambda path: load_data(f"npz:{path}")),
    "boxes": ("boxes.npz", lambda _: boxes(), lambda path: load_boxes(path, 32)),
    "settings": (
        "search.yaml", lambda _: SETTINGS.encode(), lambda path: Settings.from_dict(read_config(path), str(path)),
    ),
    "plan": ("plan.json", lambda _: PLAN.encode(), read_plan),
    "manifest": ("manifest.json", lambda _: json.dumps(MANIFEST).encode(), lambda path: load_candidate(path.parent)),
    "front": ("front.json", lambda _: json.dumps(FRONT).encode(), lambda path: read_front(path.parent)),
    "study": ("study.db", database, lambda path: read_records(path.parent)),
    "cifar": (
        "test_batch.bin", lambda _: bytes(PIXELS + 1), lambda path: read_cifar10(path.parent),
    ),
}  # fmt: skip


def mangled(content: bytes, chance: random.Random) -> bytes:
    """Cut off, changed in places, with a value replaced by one of another kind, or other bytes altogether."""
    kind = chance.randrange(5)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        return chance.randbytes(chance.randrange(400))
    if kind == 2:
        places = [i for i, c in enumerate(content) if c in b"0123456789"] or [0]
        place = chance.choice(places)
        value = chance.choice((b"null", b"NaN", b"[]", b"{}", b'"x"', b"-1", b"1e999", b"true", b"9" * 30))
        return content[:place] + value + content[place + 1 :]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 4, 40))):
        changed[chance.randrange(min(len(changed), chance.choice((150, 10**9))))] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("kind", READERS)
def test_any_bytes_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    name, content, read = READERS[kind]
    path = tmp_path / name
    sound = content(path)
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(bytes(PIXELS + 1))
    chance, refused = random.Random(kind), 0
    hostile = [
        b"",
        b"\0" * 100,
        b"null",
        b"[]",
        b"[1]",
        b"3",
        b'"text"',
        b"[" * 5000,
        b"{" * 5000,
        b"<!DOCTYPE html>\n",
    ]
    for changed in [*hostile, *(mangled(sound, chance) for _ in range(TIMES))]:
        path.write_bytes(changed)
        for rest in tmp_path.glob("study.db-*"):
            rest.unlink()
        try:
            read(path)
        except UserError as error:
            assert path.name in str(error) or str(tmp_path) in str(error)
            refused += 1
    assert refused > TIMES // 4


def test_a_study_on_other_bytes_is_not_opened(tmp_path: Path) -> None:
    space = Space(("conv",))
    for content in (
        b"no database",
        b"SQLite format 3\0" + bytes(200),
        database(tmp_path / "other.db")[:2000],
    ):
        (tmp_path / "study.db").write_bytes(content)
        with pytest.raises(UserError, match=r"study\.db is no database of a study"):
            Study(tmp_path, space, objectives=("error", "size"), identity={}).__enter__()


def test_the_sound_files_are_read(tmp_path: Path) -> None:
    """Else the test above could pass by refusing all."""
    for kind, (name, content, read) in READERS.items():
        path = tmp_path / kind / name
        path.parent.mkdir()
        path.write_bytes(content(path))
        if kind == "manifest":
            (path.parent / "plan.json").write_text(PLAN)
            path.write_text(
                json.dumps({**MANIFEST, "files": {"plan.json": sha256(path.parent / "plan.json")}})
            )
        if kind == "cifar":
            for number in range(1, 6):
                (path.parent / f"data_batch_{number}.bin").write_bytes(bytes(PIXELS + 1))
        if kind != "boxes":  # its one stream is no JPEG
            read(path)
