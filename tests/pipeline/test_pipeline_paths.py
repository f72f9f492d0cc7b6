"""What a person types as a path means the same whoever uses it later, and from whatever folder."""

from __future__ import annotations

import contextlib
import os
import pickle
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from foundation.command import Parser, main_guard, shell
from foundation.errors import UserError
from foundation.files import cache_home
from foundation.plan import LayerPlan, Plan
from pipeline.networks.registry import load_model
from pipeline.review.tracking import Tracker
from pipeline.search import main as search
from pipeline.study import paths
from pipeline.study.command_line import parse, read_config
from pipeline.study.settings import Settings
from pipeline.study.study import Study
from pipeline.training.pretraining import default_cache
from quantizers.network import layer_names
from search_spaces.space import Space

AWKWARD = ("with space", "a%20b 100%", "what?x=y", '#1 it\'s "ü" ☃', "{curly} $HOME;a&b @:")
ROOT = Path(__file__).resolve().parents[2]
SPACE = Space(("first", "middle", "last"), bits=(4, 8))


@pytest.fixture(params=AWKWARD)
def awkward(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    folder.mkdir()
    return folder


@contextlib.contextmanager
def current(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def settings(*argv: str) -> Settings:
    return parse(list(argv), Parser(prog="test"))[0]


@pytest.mark.parametrize(
    ("flag", "typed", "meant"),
    [
        ("--out", "runs", "{here}/runs"),
        ("--out", "../other/", "{up}/other"),
        ("--out", "~/runs", "{home}/runs"),
        ("--data", "npz:images.npz", "npz:{here}/images.npz"),
        ("--data", "npz:data", "npz:{here}/data"),  # has the form of module:function, but npz is a registered data set
        ("--data", "imagefolder:~/images", "imagefolder:{home}/images"),
        ("--data", "cifar10:a:b", "cifar10:{here}/a:b"),
        ("--data", "digits", "digits"),
        ("--data", "package.module:function", "package.module:function"),
        ("--weights", "network.pt", "{here}/network.pt"),
        ("--weights", "folder/IMAGENET1K_V1", "{here}/folder/IMAGENET1K_V1"),
        ("--weights", "IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("--weights", "A_FILE", "{here}/A_FILE"),
        ("--tracking-uri", "sqlite:///tracked.db", "sqlite:///{here}/tracked.db"),
        ("--tracking-uri", "sqlite:////some/tracked.db", "sqlite:////some/tracked.db"),
        ("--tracking-uri", "sqlite:///tracked.db?timeout=9", "sqlite:///{here}/tracked.db?timeout=9"),
        ("--tracking-uri", "mlruns", "file://{here}/mlruns"),
        ("--tracking-uri", "file:mlruns", "file://{here}/mlruns"),
        ("--tracking-uri", "file:///some/mlruns", "file:///some/mlruns"),
        ("--tracking-uri", "http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("--tracking-uri", "databricks", "databricks"),
    ],
)  # fmt: skip
def test_a_flag_means_what_it_means_in_the_current_folder(
    flag: str, typed: str, meant: str, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "A_FILE").touch()
    with current(here):
        found = settings(flag, typed)
    value = str(getattr(found, flag[2:].replace("-", "_")))
    assert value == meant.format(here=here, up=tmp_path, home=Path.home())
    assert found.out.is_absolute()
    with current(tmp_path):  # what is resolved stays as it is
        again = Settings.from_dict(paths.settled(yaml.safe_load(yaml.safe_dump(found.as_dict()))))
    assert again == found


def test_dots_are_left_out_unless_a_link_gives_them_another_meaning(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    assert paths.absolute("real/inner/../x", tmp_path) == tmp_path / "real" / "x"
    assert paths.absolute("link/../x", tmp_path).resolve() == tmp_path / "real" / "x"
    assert paths.absolute("link/x", tmp_path) == tmp_path / "link" / "x"


def test_paths_in_a_settings_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    folder, here = tmp_path / "configs", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    (folder / "search.yaml").write_text(
        "out: ../runs\ndata: npz:images.npz\nweights: w.pt\ntracking-uri: sqlite:///t.db\nmodel: nets:make\n"
    )
    with current(here):
        found = settings("--config", "../configs/search.yaml", "--weights", "mine.pt")
    assert found.out == tmp_path / "runs"
    assert found.data == f"npz:{folder}/images.npz"
    assert found.weights == f"{here}/mine.pt"
    assert found.tracking_uri == f"sqlite:///{folder}/t.db"
    assert found.modules == folder
    (folder / "search.yaml").write_text("budget: 3\n")
    with current(here):
        assert settings("--config", "../configs/search.yaml").out == here / "runs"


def test_factories_are_looked_up_where_they_were_typed(tmp_path: Path) -> None:
    with current(tmp_path):
        assert settings("--model", "nets:make").modules == tmp_path
        assert settings("--data", "images:load", "--modules", "code").modules == tmp_path / "code"
        assert settings("--model", "resnet20").modules is None


def older(folder: Path, out: str, data: str) -> Path:
    """The settings of a study as they were kept before paths were made absolute."""
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(f"name: {folder.name}\nout: {out}\ndata: {data}\nweights: w.pt\n")
    return folder


def test_settings_of_an_older_study_mean_what_they_meant_where_it_was_started(tmp_path: Path) -> None:
    study = older(tmp_path / "there" / "some" / "runs" / "first", "./some/runs", "npz:images.npz")
    record = read_config(study / "settings.yaml")
    assert record["out"] == tmp_path / "there" / "some" / "runs"
    assert record["data"] == f"npz:{tmp_path}/there/images.npz"
    moved = older(tmp_path / "elsewhere" / "first", "some/runs", "npz:images.npz")
    with current(tmp_path):
        assert read_config(moved / "settings.yaml")["data"] == f"npz:{tmp_path}/images.npz"


def test_an_older_study_is_resumed_with_the_same_files_and_no_others(tmp_path: Path) -> None:
    study = older(tmp_path / "runs" / "first", "runs", "npz:images.npz")
    before = {"model": "resnet8", "data": "npz:images.npz", "weights": "w.pt"}
    Study(study, SPACE, identity=before).close()
    now = {**before, "data": f"npz:{tmp_path}/images.npz", "weights": f"{tmp_path}/w.pt"}
    with pytest.raises(UserError, match=r"data was .*images\.npz.*, now .*other\.npz"):
        Study(study, SPACE, identity={**now, "data": f"npz:{tmp_path}/other.npz"})
    Study(study, SPACE, identity=now).close()
    (study / "settings.yaml").unlink()  # a resumed search writes its own, with absolute paths
    Study(study, SPACE, identity=now).close()


def test_a_study_lies_in_its_folder_whatever_that_is_called(awkward: Path) -> None:
    with current(awkward):
        Study(Path("study"), SPACE, identity={}).close()
    assert sorted(path.name for path in awkward.iterdir()) == ["study"]
    assert (awkward / "study" / "study.db").stat().st_size > 0
    assert [path.name for path in awkward.parent.iterdir()] == [awkward.name]


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1))
def test_an_sqlite_address_leads_to_the_file_it_was_made_of(name: str) -> None:
    file = Path("/some") / f"{name}.db"
    uri = paths.sqlite_uri(file)
    assert paths.sqlite_file(uri) == file
    assert paths.tracking_uri(uri, Path("/other")) == uri


@pytest.mark.parametrize("typed", [False, True])
def test_mlflow_keeps_its_files_beside_each_other_and_nowhere_else(typed: bool, tmp_path: Path) -> None:
    folder, out, here = tmp_path / "what? it's a%20b #1 ü {x}", tmp_path / "out", tmp_path / "here"
    here.mkdir()
    uri = paths.sqlite_uri(folder / "tracked.db") if typed else None
    with current(here):
        tracker = Tracker(uri, out if typed else folder, "study")
        tracker.client.log_text(tracker.parent, "text", "folder/file.txt")
        assert [item.path for item in tracker.client.list_artifacts(tracker.parent)] == ["folder"]
    database = folder / ("tracked.db" if typed else "mlflow.db")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1,)
    (kept,) = (folder / "mlartifacts" / "dgms-arm-search").rglob("folder/file.txt")
    assert kept.read_text() == "text"
    expected = {folder, here, out} if typed else {folder, here}
    assert set(tmp_path.iterdir()) == expected and not list(here.iterdir())


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("localhost:5000", ["'localhost:5000'", "http://HOST:PORT"]),
        ("sqlite://runs/mlflow.db", ["'sqlite://runs/mlflow.db'", "sqlite:///relative/file.db"]),
        ("sqlite:///what?.db", ["'sqlite:///what?.db'", "%3F"]),
        ("sqlite://", ["'sqlite://'", "no database file"]),
        ("sqlite:file.db", ["'sqlite:file.db'", "sqlite:///relative/file.db"]),
    ],
)
def test_a_wrong_tracking_uri_is_refused_when_it_is_typed(uri: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        settings("--tracking-uri", uri)
    for word in words:
        assert word in str(caught.value)


def test_a_store_that_mlflow_refuses_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MLflow cannot use file:///.*mlruns: ") as caught:
        Tracker((tmp_path / "mlruns").as_uri(), tmp_path, "study")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["ftp://host", "mlruns", "http://127.0.0.1:9"])
def test_a_store_that_cannot_be_used_is_refused_before_the_work(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_guard(lambda: search(["--tracking-uri", uri])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and uri in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--tracking-uri", "--weights", "--out", "--data", "--modules"])
def test_an_empty_path_is_not_the_current_folder(flag: str) -> None:
    """As an unset variable of a shell gives it."""
    with pytest.raises(UserError, match=f"{flag} '': is empty"):
        settings(flag, "")


@pytest.mark.parametrize("command", ["search", "search --dry-run", "train --plan plan.json", "evaluate c"])
def test_where_results_cannot_be_written_is_said_before_the_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    layers = layer_names(load_model("resnet8", classes=10, image_size=32))
    (tmp_path / "plan.json").write_text(Plan.uniform(layers, LayerPlan(8)).to_json())
    flag = "--predictions" if command.startswith("evaluate") else "--out"
    done = subprocess.run(
        [sys.executable, "-m", *f"pipeline.{command}".split(), flag, "file/results"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {flag} {tmp_path}/file/results: {tmp_path}/file is not a folder; name one, or where "
        "one can be made\n"
    )


def test_a_printed_command_can_be_pasted(awkward: Path) -> None:
    command = shell("json.tool", awkward / "in.json", awkward / "out.json")
    (awkward / "in.json").write_text("[1]")
    assert shlex.split(command)[0] == sys.executable
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert (awkward / "out.json").is_file()


def test_a_relative_cache_folder_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_home() == Path.home() / ".cache" / "dgms-arm-search"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "dgms-arm-search" == default_cache().parent


SAVE = "import torch, typed_here; torch.save(typed_here.make(2).state_dict(), 'w.pt')"


def test_a_process_in_another_folder_finds_what_was_named_in_the_current_one(tmp_path: Path) -> None:
    """As a trial's process does, which gets nothing but the settings."""
    (tmp_path / "typed_here.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    x, y = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    with current(tmp_path):
        found = settings("--model", "typed_here:make", "--data", "npz:images.npz", "--weights", "w.pt")
    made = subprocess.run([sys.executable, "-c", SAVE], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (tmp_path / "settings.pickle").write_bytes(pickle.dumps(found))
    code = (
        "import pickle, sys; from pathlib import Path; from pipeline.candidate.workspace import Workspace;"
        "print(len(Workspace.open(pickle.loads(Path(sys.argv[1]).read_bytes())).data.train))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path / "settings.pickle")],
        cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "20\n", done.stderr


def test_a_network_of_timm_lies_in_no_module_of_the_users() -> None:
    assert "modules" not in paths.settled({"model": "timm:resnet18"})
    assert paths.settled({"model": "my.networks:small"})["modules"] == Path.cwd()
