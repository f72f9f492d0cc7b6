"""The one command ``dgms``: what is typed there does what ``python -m pipeline.X`` does."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from deploy_arm.target.kernel_sources import library_digest
from foundation.command import shell, typed
from pipeline.__main__ import COMMANDS, SHOWN, main, next_words

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script that pip would make; where ``LOG`` names a file it writes there what it was asked to do."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "dgms"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "if 'LOG' in os.environ and sys.argv[1] != 'completion':\n"
        "    sys.exit(open(os.environ['LOG'], 'w').write('\\n'.join(sys.argv[1:])) and 0)\n"
        "from pipeline.__main__ import run\nrun()\n"
    )
    script.chmod(0o755)
    return folder


def dgms(scripts: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run(["dgms", *words], capture_output=True, text=True, cwd=cwd, env=environment)


def test_every_command_is_there_by_the_name_of_its_module() -> None:
    for name, (module, _) in COMMANDS.items():
        assert importlib.util.find_spec(module), module
        assert module.removesuffix(".__main__").rpartition(".")[2] == name
    files = {file.stem for file in (ROOT / "pipeline").glob("*.py") if not file.stem.startswith("__")}
    assert files <= COMMANDS.keys(), "a command that dgms does not have"


@pytest.mark.parametrize("name", SHOWN)
def test_every_command_has_help_and_says_what_was_typed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/no/such/place/dgms", name, "--help"])
    with contextlib.suppress(SystemExit):
        main()
    assert (
        capsys.readouterr()
        .out.split("\n")[0]
        .startswith(f"usage: dgms {name}" if name == "completion" else f"usage: /no/such/place/dgms {name}")
    )


def test_the_overview_names_each_in_a_line(scripts: Path, tmp_path: Path) -> None:
    told = dgms(scripts, "--help", cwd=tmp_path)
    assert told.returncode == 0
    for name, what in SHOWN.items():
        assert any(line.split()[:1] == [name] and line.endswith(what) for line in told.stdout.splitlines())
    nothing = dgms(scripts, cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (2, "") and nothing.stderr == told.stdout


def test_the_version_is_that_of_the_project(scripts: Path, tmp_path: Path) -> None:
    told = dgms(scripts, "--version", cwd=tmp_path).stdout.splitlines()
    assert f'version = "{told[0].split()[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert "torch" in told[1] and "Python" in told[1]
    assert told[2].split()[:2] == ["kernel", "library"] and re.fullmatch(r"[0-9a-f]{12}", told[2].split()[2])
    assert dgms(scripts, "promote", "--version", cwd=tmp_path).stdout.splitlines() == told[:1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serach"], "error: unknown command 'serach'; did you mean search? (see dgms --help)\n"),
        (["§"], "error: unknown command '§'; there are: check,"),
        (["search", "--budgte", "3"], "(see dgms search --help)\n"),
        (["completion", "tcsh"], "error: completion tcsh: give one of bash, zsh, fish\n"),
    ],
)
def test_mistakes_are_one_line(scripts: Path, tmp_path: Path, words: list[str], says: str) -> None:
    done = dgms(scripts, *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_what_to_type_next_is_what_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "my tools" / "dgms"
    script.parent.mkdir()
    script.write_text("")
    script.chmod(0o755)
    assert typed("pipeline.search") == "python -m pipeline.search"
    assert shell("pipeline.search", "--name", "a b") == f"{sys.executable} -m pipeline.search --name 'a b'"
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert shell("pipeline.search", "--name", "a b") == f"'{script}' search --name 'a b'"
    assert shell("deploy_arm.toolchain") == f"'{script}' toolchain"
    assert shell("mlflow", "ui") == f"{sys.executable} -m mlflow ui"  # no command of ours
    monkeypatch.setenv("PATH", str(script.parent))
    assert shell("pipeline.search", "--name", "x") == "dgms search --name x"
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(sys, "argv", ["./dgms"])
    assert typed("pipeline.search") == "dgms search"


def test_names_are_completed_as_the_registries_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "settings.yaml").write_text("")
    assert next_words(["promote", ""]) == ["mine"]
    assert next_words(["search", "--model", "resnet2"]) == ["resnet20"]
    assert next_words(["search", "--data", "im"]) == ["imagefolder:"]
    assert "gaussian_mixture" in next_words(["search", "--quantizer", ""])
    assert next_words(["search", "--target", "a7"]) == ["a72", "a76"]
    assert next_words(["completion", "b"]) == ["bash"]
    assert next_words(["nonsense", ""]) == [] and "search" in next_words([])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_every_command_is_completed(name: str) -> None:
    assert {"--help", "--version", "--quiet"} <= set(next_words([name, "--"]))


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_a_real_shell_completes(scripts: Path, tmp_path: Path, shell_name: str) -> None:
    program = shutil.which(shell_name)
    if program is None:
        pytest.skip(f"{shell_name} is not installed")
    (tmp_path / "my images.npz").write_text("")
    start = {
        "bash": ([program, "--norc", "--noprofile", "-i"], 'eval "$(dgms completion bash)"'),
        "zsh": (
            [program, "-f", "-i"],
            'autoload -Uz compinit; compinit -u -D; eval "$(dgms completion zsh)"',
        ),
        "fish": ([program, "--no-config", "-i"], "dgms completion fish | source"),
    }[shell_name]
    keys = ["dgms sear\t", "--quan\t", "gaus\t", "--conf\t", "my\t"]
    wanted = ["search", "--quantizer", "gaussian_mixture", "--config", "my images.npz"]
    log = tmp_path / "typed"
    environment = {
        "PATH": f"{scripts}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C", "LOG": str(log),
    }  # fmt: skip
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(start[0][0], start[0], environment)
    try:
        os.write(terminal, (start[1] + "\n").encode())
        time.sleep(1.0)
        for key in keys:
            os.write(terminal, key.encode())
            time.sleep(0.8)
        os.write(terminal, b"\n")
        end = time.monotonic() + 10
        os.set_blocking(terminal, False)
        seen = b""
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                seen += os.read(terminal, 10_000)
    finally:
        os.close(terminal)  # the shell hears that its terminal is gone
        os.waitpid(child, 0)
    assert log.exists(), seen.decode(errors="replace")
    assert log.read_text().split("\n") == wanted


def test_quiet_leaves_the_result_alone(scripts: Path, tmp_path: Path) -> None:
    done = dgms(scripts, "devices", "--quiet", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("[")


@pytest.mark.parametrize("package", ["foundation", "search_spaces", "quantizers", "deploy_arm", "pipeline"])
def test_a_wheel_has_every_file_that_is_no_python(package: str) -> None:
    """Kernels, pages and costs are read where the package is installed; setuptools takes along only what is listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"].get(
        package, []
    )
    files = {
        file.relative_to(ROOT / package).as_posix()
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc", ".md")
    }
    taken = {
        file.relative_to(ROOT / package).as_posix() for glob in listed for file in (ROOT / package).glob(glob)
    }
    assert files <= taken, f"not in package-data of pyproject.toml: {sorted(files - taken)}"


@pytest.mark.long
def test_a_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    """Built as ``pip wheel . --no-deps`` builds it, installed where nothing of this tree is, used from another folder."""
    tree, clean = tmp_path / "tree", tmp_path / "clean"
    packages = ("foundation", "search_spaces", "quantizers", "deploy_arm", "pipeline", "benchmarks")
    for name in packages:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", str(tree), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clean)], check=True)
    python = clean / "bin" / "python"
    install = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = next(clean.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")  # what the project depends on
    for name in packages[:-1]:
        for file in (ROOT / name).rglob("*"):
            if file.is_file() and file.suffix not in (".pyc", ".md"):
                assert (site / file.relative_to(ROOT)).read_bytes() == file.read_bytes(), file
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def typed_there(*words: str) -> str:
        command = [str(clean / "bin" / "dgms"), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = typed_there("--version").splitlines()
    assert told[0].startswith("dgms ") and told[2].split()[2] == library_digest()
    shutil.copytree(ROOT / "examples" / "recorded", tmp_path / "recorded")
    assert json.loads(typed_there("report", "recorded", "--format", "json"))["points"]
    page = (tmp_path / "recorded" / "report.html").read_text()
    assert (ROOT / "pipeline" / "report" / "page.css").read_text().split("{")[0].strip() in page
