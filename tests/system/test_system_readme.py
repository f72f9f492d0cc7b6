"""The README is true, and so is what the programs print: commands are run as they stand, files are where they are said to be.

The commands are read from the README and from the output, so that a new one is tested or fails its test. They run in a folder
of its own with an awkward name, with relative paths; what the programs print is run from elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.datasets.images import normalize
from pipeline.networks.registry import find_network, load_model
from pipeline.study.settings import Settings
from tests.system.readme_commands import (
    BRIEF,
    ELSEWHERE,
    LARGE,
    LONG,
    README,
    ROOT,
    brief,
    file_names,
    filled,
    links,
    module_of,
    of_pages,
    shown,
    to_run,
)

VALUES = {"NAME": Settings.model, "TRIALS": "1"}
LABELLED = re.compile(r"^([A-Za-z]+) +(\S.*)$", re.MULTILINE)
TEXTS = (
    "fp32",
    "int8",
    "latency",
    "error",
    "best",
    "not",
    "study",
)  # lines of the output that are for reading only
Outputs = dict[str, str]
LIKE_THE_FIRST = (
    "python -m pipeline.search --model NAME --budget TRIALS"  # what it does is what make search does
)


def environment() -> dict[str, str]:
    """That of a person who has activated the virtual environment, and no cluster."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MAKEFLAGS")}
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT)}


def run(command: str, folder: Path, status: int = 0) -> str:
    """What a command typed in ``folder`` prints to its standard output."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def printed(output: str) -> Outputs:
    """What follows each label in a search's output."""
    return {label: rest for label, rest in LABELLED.findall(output) if label not in TEXTS and len(label) < 10}


def colours(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that any network tells apart: noise on one of ten colours."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 10
    palette = np.random.default_rng(0).integers(30, 226, (10, 3))
    x = palette[y][:, None, None, :] + draw.integers(-25, 26, (count, 32, 32, 3))
    return x.astype(np.uint8), y


def write_weights(model: str, file: Path) -> None:
    """A network that is right on those images: random features, the last layer fitted to them."""
    x, y = colours(100, 1)
    network = load_model(model, classes=10, image_size=32)
    images = normalize(torch.from_numpy(x), *find_network(model).normalization)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()(images)
        network.eval()(images)
        hook.remove()
        inputs = torch.cat([features[-1], torch.ones(len(x), 1)], 1).double()
        ridge = inputs.T @ inputs + 1e-3 * torch.eye(inputs.shape[1])
        wanted = 10 * nn.functional.one_hot(torch.from_numpy(y), 10).double()
        solved = torch.linalg.solve(ridge, inputs.T @ wanted).float()
        last.weight.copy_(solved[:-1].T)
        last.bias.copy_(solved[-1])
        assert (network(images).argmax(1).numpy() == y).mean() > 0.9
    torch.save(network.state_dict(), file)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout without the code, which is installed, and with every file that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme") / "what? it's a b #1 ü"
    folder.mkdir()  # no % here, where the environment lies: MLflow cannot open a database from such a place
    for name in ("Makefile", "pyproject.toml", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "sweep.yaml").write_text("searches: [{model: vgg_tiny}]\n")
    x, y = colours(200, 1)
    x_val, y_val = colours(120, 2)
    for command in to_run():
        for file in re.findall(r"npz:(\S+)", command):
            np.savez(folder / file, x_train=x, y_train=y, x_val=x_val, y_val=y_val)
        for file in re.findall(r"--weights (\S+)", command):
            model = re.search(r"--model (\S+)", command)
            assert model, command
            write_weights(model[1], folder / file)
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def first(place: Path) -> Outputs:
    """What the README's first command prints; a search is broken off and gone on with in test_system_search.py."""
    return printed(run(brief(shown()[0]), place))


@pytest.fixture(scope="module")
def study(place: Path, first: Outputs) -> Path:
    (folder,) = [path for path in (place / "runs").iterdir() if (path / "front.json").is_file()]
    return folder


@pytest.fixture(scope="module")
def candidate(study: Path) -> Path:
    front = json.loads((study / "front.json").read_text())
    return study / front["points"][0]["candidate"]


@pytest.mark.parametrize("module", sorted({module for module in map(module_of, shown()) if module}))
def test_every_command_and_flag_exists(module: str) -> None:
    if module == "benchmarks.NAME":
        return  # the form of their names
    told = run(f"{shlex.quote(sys.executable)} -m {module} --help", ROOT)
    for command in shown():
        if module_of(command) == module:
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", command):
                assert re.search(rf"{flag}\b", told), f"{module} has no {flag}"
    for row in README.splitlines():
        if row.startswith(f"| `python -m {module}"):
            for flag in re.findall(r"`(--[a-z][a-z-]+)", row):
                assert re.search(rf"{flag}\b", told), f"{module} has no {flag}"


def test_the_main_commands_are_shown() -> None:
    assert shown()[0] == "make search" and "make test" in shown()
    assert {module_of(command) for command in to_run()} - {None} == set(BRIEF)
    assert any(LONG.match(module_of(command) or "") for command in shown())


def test_what_is_linked_and_named_in_the_repository_is_there() -> None:
    for target in links():
        assert (ROOT / target).is_file(), target
    for folder in re.findall(r"`([a-z_]+/)(?:[^`]*/)?`", README):
        assert (ROOT / folder).is_dir() or folder in ("train/", "val/", "runs/", "candidates/"), folder


def commands() -> Iterator[Any]:
    """All but the first, made short; those of a large network are slow, and a small one is in its place."""
    for command in to_run():
        typed = brief(command)
        if LARGE.search(command):
            yield pytest.param(typed, marks=pytest.mark.slow)
            yield LARGE.sub("resnet8", typed)
        elif command == LIKE_THE_FIRST:
            yield pytest.param(typed, marks=pytest.mark.slow)
        elif command != shown()[0]:
            yield typed


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs_as_it_stands(
    command: str, place: Path, study: Path, candidate: Path
) -> None:
    shutil.copyfile(candidate / "plan.json", place / "plan.json")
    known = {*place.iterdir()} | {place / "trained", place / "quantized"}
    named = {"STUDY": study.name, "CANDIDATE": str(candidate.relative_to(place))}
    output = run(filled(command, {**VALUES, **named}), place)
    assert output.strip()
    for label, value in printed(output).items():
        if label in ("report", "front", "bundle"):
            assert Path(value).exists() and Path(value).is_relative_to(place / "runs")
    assert {*place.iterdir()} <= known, "nothing is written beside the folders that are named"
    fronts = [json.loads(file.read_text()) for file in place.glob("runs/*/front.json")]
    assert all(front["points"] for front in fronts)
    for file in place.glob("runs/*/front.json"):
        for point in json.loads(file.read_text())["points"]:
            assert (file.parent / point["candidate"] / "manifest.json").is_file()


def test_what_a_search_printed_is_there_and_runs_as_printed(
    place: Path, study: Path, candidate: Path, first: Outputs, elsewhere: Path
) -> None:
    assert {"report", "front", "evaluate", "MLflow", "promote"} <= set(first)
    for label, value in first.items():
        if label in ("report", "front"):
            assert Path(value).is_file(), f"{label}: {value}"
        elif label == "MLflow":
            with served(value, elsewhere) as address:
                named = urlopen(
                    f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=dgms-arm-search"
                )
                experiment = json.load(named)["experiment"]["experiment_id"]
                wanted = json.dumps(
                    {
                        "experiment_ids": [experiment],
                        "filter": f"tags.kind = 'search' and tags.study = '{study.name}'",
                    }
                ).encode()
                asked = Request(
                    f"{address}/api/2.0/mlflow/runs/search", wanted, {"Content-Type": "application/json"}
                )
                (parent,) = json.load(urlopen(asked))["runs"]
                kept = urlopen(f"{address}/get-artifact?path=front.json&run_uuid={parent['info']['run_id']}")
                assert json.load(kept)["points"]
        else:
            output = run(value, elsewhere)
            assert output.strip()
            if label == "promote":
                bundle = Path(printed(output)["bundle"])
                assert bundle.is_relative_to(study / "promoted")
                for name in ("libnetwork.so", "runtime/network.h", "network.py"):
                    assert name in file_names("What you get") and (bundle / name).is_file()
    for name in file_names("What you get"):
        name = name.replace("STUDY", study.name).replace("HASH", candidate.name)
        places = (place, study, candidate, bundle)
        assert any((folder / name).exists() for folder in places), f"{name} is nowhere"
    assert not list(elsewhere.iterdir()), "nothing is written where a command happened to be typed"


@pytest.mark.parametrize(("page", "files"), ELSEWHERE.items())
def test_what_stands_in_other_pages_is_typed_by_other_files(page: str, files: tuple[str, ...]) -> None:
    typed = "".join((ROOT / "tests" / file).read_text() for file in files)
    shown_there = re.findall(
        r"^    python -m pipeline\.(\w+)", (ROOT / f"docs/{page}.md").read_text(), re.MULTILINE
    )
    assert shown_there
    for module in shown_there:
        assert f'"{module}"' in typed or f"pipeline.{module}" in typed, module


@pytest.mark.slow
def test_the_commands_of_the_pages_run_as_they_stand(place: Path, study: Path, candidate: Path) -> None:
    shutil.copyfile(candidate / "plan.json", place / "plan.json")
    (place / "examples").symlink_to(ROOT / "examples")
    (place / "nightly.yaml").write_text("searches: [{model: vgg_tiny}]\n")
    (place / "photos").mkdir()
    for number, pixels in enumerate(colours(80, 3)[0]):
        Image.fromarray(pixels).save(place / "photos" / f"{number}.png")
    named = {"STUDY": study.name, "HASH": candidate.name, "OUT": "quantized/it"}
    before = {*place.iterdir()}
    flags = {
        **BRIEF,
        "pipeline.export": "",
        "pipeline.quantize": f"{BRIEF['pipeline.quantize']} --out quantized/it",
    }
    run_here = of_pages()
    assert len(run_here) >= 8
    for command in run_here:
        printed_only = "--print" in command
        module = module_of(command) or ""
        typed = filled(command, named) if printed_only else f"{filled(command, named)} {flags[module]}"
        assert run(typed, place).strip(), command
    assert (place / "quantized" / "it" / "report.html").is_file()
    # Where --out is not given, what is made lies in the folder in which the command was typed, and its name says of what it is.
    new = {path.name for path in {*place.iterdir()} - before}
    assert {name for name in new if candidate.name not in name} <= {"quantized", "trained"}, new


@contextlib.contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """A server that a command starts, once it answers; at a free port, since others may use the usual one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One worker, and no helpers that nobody asks for anything.
    brief = {"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env={**environment(), "MLFLOW_PORT": str(port), **brief},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while True:
            try:
                urlopen(f"{address}/health", timeout=10).close()
                break
            except (URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, command
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
